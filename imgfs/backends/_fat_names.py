"""Long names of FAT that TSK cuts: it takes no more than 15 entries of one, 195 characters.

Source: Microsoft FAT specification 1.03 (fatgen103), Long Directory Entries, Checksum.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Final

from imgfs.backends._tsk_files import ROOT, TskFiles
from imgfs.errors import ImgfsError
from imgfs.model import Entry, Linear, Page

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends._tsk_format import Format
    from imgfs.model import FilesInfo

_FIRST: Final = 3  # TSK's number of the first slot behind the tables
_SLOT: Final = 32
_SUSPECT: Final = 180  # bytes of a name: one that TSK has cut keeps 15 entries, the last of them full
_ENTRIES: Final = 20
_LONG: Final = 0x0F
_LAST: Final = 0x40


class FatFiles(TskFiles):
    """A FAT volume through TSK, with whole names. Units: ``start``, of the first slot, bytes."""

    def __init__(
        self, fs: Any, form: Format, info: FilesInfo, volume: int, *, reader: Reader, start: int
    ) -> None:
        super().__init__(fs, form, info, volume)
        self._reader = reader
        self._start = start

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        page = super().list(tree, inum, cursor, limit)
        if tree != ROOT or not any(len(entry.name) >= _SUSPECT for entry in page.entries):
            return page
        try:
            rows = self._rows(inum)
        except ImgfsError as why:
            damaged = page.damaged or f"names of more than 195 characters may be cut: {why.message}"
            return Page(page.entries, page.next, damaged)
        return Page([self._whole(entry, rows) for entry in page.entries], page.next, page.damaged)

    def _rows(self, inum: int) -> tuple[tuple[int, int, int], ...]:
        layout = self.layout(ROOT, inum, 0)[-1]
        if not isinstance(layout, Linear):
            return ()
        columns = (array("q", column) for column in (layout.logical, layout.length, layout.target))
        return tuple(zip(*columns, strict=True))

    def _whole(self, entry: Entry, rows: tuple[tuple[int, int, int], ...]) -> Entry:
        if len(entry.name) < _SUSPECT:
            return entry
        at = self._start + (entry.attr.inum - _FIRST) * _SLOT
        try:
            short = self._reader.read(at, _SLOT)
            name = long_name(short, self._before(at, rows))
        except ImgfsError:
            return entry
        return Entry(name, entry.attr, entry.stream, entry.layout) if name else entry

    def _before(self, at: int, rows: tuple[tuple[int, int, int], ...]) -> bytes:
        """Return up to twenty slots of the directory that precede the one at ``at`` of the volume."""
        data = b""
        for index, (_, length, target) in enumerate(rows):
            if target < 0 or not target <= at < target + length:
                continue
            stop = at
            while len(data) < _ENTRIES * _SLOT:
                take = min(stop - target, _ENTRIES * _SLOT - len(data))
                data = self._reader.read(stop - take, take) + data
                index -= 1  # noqa: PLW2901  # back through the runs; the loop over them ends here
                if index < 0 or rows[index][2] < 0:
                    break
                target = rows[index][2]  # noqa: PLW2901
                stop = target + rows[index][1]
            break
        return data


def long_name(short: bytes, before: bytes) -> bytes:
    """Assemble the long name of a short entry from the slots before it, empty: they do not belong to it.

    Shapes: ``before`` up to twenty slots of 32 bytes, the nearest last.
    """
    checksum = 0
    for byte in short[:11]:
        checksum = ((checksum & 1) << 7 | checksum >> 1) + byte & 0xFF
    units = b""
    for order in range(1, _ENTRIES + 1):
        slot = before[len(before) - order * _SLOT :][:_SLOT] if order * _SLOT <= len(before) else b""
        if not slot or slot[0] & ~_LAST != order or slot[11] & 0x3F != _LONG or slot[13] != checksum:
            return b""
        units += slot[1:11] + slot[14:26] + slot[28:32]
        if slot[0] & _LAST:
            break
    else:
        return b""
    text = units.decode("utf-16-le", "surrogatepass").split("\0", 1)[0]
    return text.encode("utf-8", "surrogatepass")
