"""One file of EnCase logical evidence: its values, as numbers and words.

Source: Expert Witness Compression Format specification (EWF), Joachim Metz, chapters "File entries category",
"File entry flags", "Binary extents value", "Permissions category", "Extended attributes value".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._ltree import Ltree, Row

FOLDER: Final = 0x0200_0000
_SPARSE: Final = 0x0400_0000
_DELETED: Final = 0x80
_FLAGS: Final = {
    0x1: "read-only",
    0x2: "hidden",
    0x4: "system",
    0x8: "archive",
    0x10: "link",
    _DELETED: "deleted",
    0x1000: "hard-linked",
    0x2000: "stream",
    0x10_0000: "internal",
    0x20_0000: "unallocated",
    FOLDER: "folder",
    _SPARSE: "sparse",
}
_ESCAPES: Final = str.maketrans("\1\2\3", "\n\r\t")
_EXTENTS: Final = 4096
_WORDS: Final = {"mid": "guid", "id": "entry", "ent": "entropy"}
_SOURCE: Final = {
    "n": "name",
    "ev": "evidence",
    "loc": "location",
    "mo": "model",
    "se": "serial",
    "gu": "guid",
}
_TYPES: Final = {"": "owner", "1": "group", "2": "allow", "6": "other"}
_NODE: Final = struct.Struct("<IBII")


class Item:
    """Values of one entry. Units: ``size`` and ``extents`` (start, length) bytes of the media."""

    __slots__ = ("damaged", "extents", "flags", "size", "values")

    def __init__(self, values: Row) -> None:
        self.values = values
        self.damaged = ""
        self.flags = self._number("opr")
        self.size = self._number("ls")
        self.extents = self._places()

    @property
    def folder(self) -> bool:
        """Say whether it is a directory."""
        return self.values.get("p") == "1" or bool(self.flags & FOLDER)

    @property
    def deleted(self) -> bool:
        """Say whether the source held it as deleted."""
        return bool(self.flags & _DELETED)

    @property
    def name(self) -> bytes:
        """Return the name with the delimiters back that were escaped; dot names are what no listing holds."""
        name = self.values.get("n", "").translate(_ESCAPES) or "NoName"
        if name in {".", ".."}:
            name = name.replace(".", "%2E")
        return name.encode("utf-8", "surrogatepass")[: 4 * limits.MAX_NAME]

    @property
    def fills(self) -> bool:
        """Say whether the one byte of its data stands for all of them."""
        return (
            bool(self.flags & _SPARSE)
            and self.size > 1
            and len(self.extents) == 1
            and self.extents[0][1] == 1
        )

    def time(self, tag: str) -> int | None:
        """Return a time in nanoseconds since 1970, None: not recorded."""
        value = self.values.get(tag, "")
        known = value.isascii() and value.removeprefix("-").isdecimal() and len(value) < 12
        moment = int(value) * 10**9 if known else 0
        return moment if moment and -(1 << 63) <= moment < 1 << 63 else None

    def owner(self, tree: Ltree, kind: str) -> int:
        """Return the number of the owner (``kind`` empty) or group (1) of POSIX permissions, else 0."""
        for row in self._permissions(tree):
            sid = row.get("s", "").strip()
            if row.get("pr", "") == kind and sid.endswith(":") and sid[:-1].isdecimal() and len(sid) < 11:
                return int(sid[:-1])
        return 0

    def _number(self, tag: str) -> int:
        value = self.values.get(tag, "")
        if not value:
            return 0
        if not value.isascii() or not value.isdigit() or (len(value) > 18 and int(value) > limits.MAX_SIZE):
            self.damaged = self.damaged or f"{tag} is {value[:40]!r}"
            return 0
        return int(value)

    def _places(self) -> list[tuple[int, int]]:
        """Return where the data lies; a sparse file that repeats another's data lies where that one does."""
        words = self.values.get("be", "").split(" ", 2 * _EXTENTS + 1)
        try:
            numbers = [int(word, 16) for word in words if word]
        except ValueError:
            self.damaged = self.damaged or f"extents are {self.values['be'][:40]!r}"
            return []
        if len(numbers) < 3:  # the first entry of a tree holds one number
            return []
        pairs = list(zip(numbers[1::2], numbers[2::2], strict=False))
        if numbers[0] != len(pairs) or len(numbers) % 2 == 0 or min(numbers) < 0:
            self.damaged = self.damaged or f"{numbers[0]} extents in {len(numbers)} numbers"
            return []
        other = self.values.get("du", "")
        if self.flags & _SPARSE and other.isascii() and other.isdigit() and len(other) < 19:
            pairs = [(int(other), self.size)]
        return [(start, length) for start, length in pairs if length and start + length <= limits.MAX_SIZE]

    def _permissions(self, tree: Ltree) -> list[Row]:
        index = self.values.get("pm", "")
        if (
            not index.isascii()
            or not index.isdigit()
            or len(index) > 9
            or int(index) >= len(tree.permissions)
        ):
            return []
        return tree.permissions[int(index)]

    def permissions(self, tree: Ltree) -> str:
        """Return permissions: kind, who, name, access mask of each."""
        return "; ".join(
            " ".join(
                (
                    _TYPES.get(row.get("pr", ""), row.get("pr", "")),
                    row.get("s", "").strip() or "-",
                    row.get("n", "") or "-",
                    row.get("nta", "") or "-",
                )
            )
            for row in self._permissions(tree)
        )


def facts(item: Item, tree: Ltree) -> dict[bytes, bytes]:
    """Return what is recorded of a file beside its stat, under user.imgfs.*."""
    found: dict[str, str] = {}
    values = item.values
    for tag, name in (("ha", "md5"), ("sha", "sha1")):
        if values.get(tag, "").strip("0"):
            found[name] = values[tag].lower()
    if item.flags:
        found["flags"] = f"{item.flags:#x} " + " ".join(
            word for bit, word in _FLAGS.items() if item.flags & bit
        )
    found |= {name: values[tag] for tag, name in _WORDS.items() if values.get(tag)}
    for tag, name in (("dl", "deleted-at"), ("aq", "acquired-at")):
        seconds = item.time(tag)
        if seconds is not None:
            found[name] = str(seconds // 10**9)
    short = values.get("snh", "").partition(" ")[2]
    if short:
        found["short-name"] = short
    source = tree.sources.get(values.get("src", ""), {})
    found["source"] = "; ".join(f"{name}: {source[tag]}" for tag, name in _SOURCE.items() if source.get(tag))
    found["permissions"] = item.permissions(tree)
    for name, value in _attributes(values.get("ea", "")):
        found.setdefault(f"attribute.{name}", value)
    shown: dict[bytes, bytes] = {}
    left = limits.MAX_XATTRS // 2
    for name, text in found.items():
        raw = text.encode("utf-8", "surrogatepass")
        left -= len(raw) + len(name)
        if text and len(name) < 200 and left >= 0:
            shown[b"user.imgfs." + name.encode("utf-8", "surrogatepass")] = raw
    return shown


def _attributes(value: str) -> Iterator[tuple[str, str]]:
    """Return the names and values of extended attributes: leaves of a tree that is stored flat."""
    try:
        raw = bytes.fromhex(value)
    except ValueError:
        return
    at = 0
    while at + _NODE.size <= len(raw):
        _, branch, name_length, value_length = _NODE.unpack_from(raw, at)
        at += _NODE.size
        name = raw[at : at + 2 * name_length]
        at += 2 * name_length
        text = raw[at : at + 2 * value_length]
        at += 2 * value_length
        if at > len(raw):
            return
        words = [part.decode("utf-16-le", "replace").rstrip("\0") for part in (name, text)]
        if not branch and words[0] and "\0" not in words[0]:
            yield words[0], words[1]
