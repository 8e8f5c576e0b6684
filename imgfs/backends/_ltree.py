"""The tree of files in logical evidence: lines of UTF-16, read where they lie.

Only where lines begin is remembered, so that a million files cost their text and 12 bytes each.

Source: Expert Witness Compression Format specification (EWF), Joachim Metz, chapters "Ltree section", "Ltree
data"; keramics format documentation, same chapters; EWF2 specification, "Single files data".
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from imgfs.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

_MOST: Final = 384 << 20  # bytes of text: a worker has 1 GiB
_ENTRIES: Final = 8_000_000
_ROWS: Final = 100_000  # rows of one of the smaller categories
_LINE: Final = 1 << 20  # bytes of one line
_STEP: Final = 4 << 20
_HEAD: Final = 64 << 10
_END: Final = "\n".encode("utf-16-le")
_BOM: Final = b"\xff\xfe"
_ESCAPES: Final = str.maketrans("\1\2\3", "\n\r\t")

Row = dict[str, str]


def total(reader: Reader, start: int, stop: int) -> int:
    """Return the bytes of the data of all files, as the records say; -1: they do not.

    Source: chapter "Records category", value ``tb``.
    """
    lines = _text(reader.read(start, min(stop - start, _HEAD)).removeprefix(_BOM)).split("\n")
    for index, line in enumerate(lines[:-2]):
        if line == "rec":
            told = dict(zip(lines[index + 1].split("\t"), lines[index + 2].split("\t"), strict=False))
            return _decimal(told["tb"]) if told.get("tb", "").isdecimal() else -1
    return -1


class Ltree:
    """Entries in the order of their lines: depth first, so that children follow their parent.

    Shapes:
        _lines uint64[n]: where the values of an entry lie in the text
        _after uint32[n]: the first entry that is not below it
    """

    def __init__(self, reader: Reader, start: int, stop: int) -> None:
        """Read the text in bytes [start, stop) of a segment.

        Raises:
            Malformed: it is too long, or holds no entries.
        """
        if stop - start > _MOST:
            raise Malformed(f"a tree of {stop - start} bytes", start=start, stop=stop)
        self.text = bytearray(stop - start)
        for at in range(start, stop, _STEP):
            part = reader.read(at, min(_STEP, stop - at))
            self.text[at - start : at - start + len(part)] = part
        self.notes: list[str] = []
        self.sources: dict[str, Row] = {}
        self.permissions: list[list[Row]] = []
        self._tags: list[str] = []
        self._lines = array("Q")
        self._after = array("I")
        self._read()
        if not self._lines:
            raise Malformed("the tree holds no entries", start=start, stop=stop)

    def __len__(self) -> int:
        """Return the number of entries; entry 0 is the root."""
        return len(self._lines)

    def children(self, index: int) -> Iterator[int]:
        """Return the entries directly below one."""
        stop, child = self._after[index], index + 1
        while child < stop:
            yield child
            child = self._after[child]

    def values(self, index: int) -> Row:
        """Return the values of an entry by their tags, as stored."""
        line, _ = self._line(self._lines[index])
        return dict(zip(self._tags, line.split("\t"), strict=False))

    def _line(self, at: int) -> tuple[str, int]:
        """Return the line at ``at``, and where the next begins."""
        end = self._end(at)
        return _text(self.text[at : min(end, at + _LINE)]), end + len(_END)

    def _end(self, at: int) -> int:
        end = self.text.find(_END, at)
        while end & 1 and end > 0:  # the halves of two characters
            end = self.text.find(_END, end + 1)
        return end if end >= 0 else len(self.text)

    def _read(self) -> None:
        at = len(_BOM) if self.text.startswith(_BOM) else 0
        _, at = self._line(at)  # how many categories there are
        while at < len(self.text):
            name, at = self._line(at)
            match name:
                case "entry":
                    at = self._entries(at)
                case "srce":
                    rows, at = self._rows(at)
                    self.sources = {row["id"]: row for _, row in rows if row.get("id")}
                case "perm":
                    rows, at = self._rows(at)
                    self._permit(rows)
                case "":
                    continue
                case _:
                    at = self._skip(at)

    def _skip(self, at: int) -> int:
        while at < len(self.text):
            line, at = self._line(at)
            if not line:
                break
        return at

    def _rows(self, at: int) -> tuple[list[tuple[int, Row]], int]:
        """Return (children, values) of all rows of a category, and where it ends."""
        _, at = self._line(at)
        line, at = self._line(at)
        tags = line.split("\t")
        rows: list[tuple[int, Row]] = []
        while at < len(self.text):
            line, at = self._line(at)
            if not line:
                break
            values, at = self._line(at)
            if len(rows) >= _ROWS:
                continue
            cells = [cell.translate(_ESCAPES) for cell in values.split("\t")]
            rows.append((_decimal(line.partition("\t")[2]), dict(zip(tags, cells, strict=False))))
        return rows, at

    def _permit(self, rows: list[tuple[int, Row]]) -> None:
        """Keep permissions in their groups: the category's root, then groups and what is in each."""
        at = 1
        while at < len(rows):
            held = min(rows[at][0], len(rows) - at - 1)
            self.permissions.append([row for _, row in rows[at + 1 : at + 1 + held]])
            at += 1 + held

    def _entries(self, at: int) -> int:
        """Remember where entries lie; a line that makes no sense ends them, and is said."""
        _, at = self._line(at)
        line, at = self._line(at)
        self._tags = line.split("\t")
        text, lines, after = self.text, self._lines, self._after
        above: list[list[int]] = []  # entry, children still to come
        while at < len(text):
            end = self._end(at)
            counts = bytes(text[at : min(end, at + 128)])
            at = end + len(_END)
            if not counts:
                break
            held = counts[::2].partition(b"\t")[2]
            if len(held) > 9 or not held.isdigit() or counts[1::2].strip(b"\0") or len(lines) >= _ENTRIES:
                self.notes.append(f"the tree ends after {len(lines)} entries: {_text(counts)[:40]!r}")
                at = self._skip(at)
                break
            if lines and not above:
                self.notes.append("there are entries outside the tree: they are left out")
                at = self._skip(at)
                break
            index = len(lines)
            lines.append(at)
            after.append(index + 1)
            at = self._end(at) + len(_END)
            if above:
                above[-1][1] -= 1
            if children := int(held):
                above.append([index, children])
            while above and not above[-1][1]:
                after[above.pop()[0]] = index + 1
        if above:
            self.notes.append(f"{above[-1][1]} entries of the tree are missing, or more")
            for index, _ in above:
                after[index] = len(lines)
        return at


def _text(raw: bytes | bytearray) -> str:
    raw = raw[: len(raw) & ~1]
    try:
        return raw.decode("utf-16-le", "surrogatepass")
    except UnicodeDecodeError:
        return raw.decode("utf-16-le", "replace")


def _decimal(value: str) -> int:
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else 0
