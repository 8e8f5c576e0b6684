"""MFT records no directory shows: found from the records themselves, without a walk of all names.

A record out of use is an orphan when the record of the directory it names as its parent was given to
another file; one in use when that directory is not in use, or does not name it.

Source: NTFS documentation of the Linux-NTFS project, "FILE record", "$FILE_NAME", "File reference".
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from imgfs.backends._ntfs_record import DATA, FILE_NAME, REFERENCE, parse
from imgfs.errors import EvidenceError, ImgfsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.backends._ntfs_record import Attribute, Mft

FIRST: Final = 24  # records below are the file system's own or reserved
_BATCH: Final = 64  # records between two looks at the clock
_KEPT: Final = 500_000  # references of directories looked into last
_IN_USE, _DIRECTORY = 1, 2
_STATE = struct.Struct("<H4xH")  # from byte 16: sequence, then flags
_SHORT: Final = 2
_DEPTH: Final = 256  # deleted directories in each other; deeper ones are orphans


class Orphans:
    """Tells orphans. ``references`` gives what the index of a directory refers to."""

    __slots__ = ("_held", "_kept", "_mft", "_references")

    def __init__(self, mft: Mft, references: Callable[[int], frozenset[int]]) -> None:
        self._mft = mft
        self._references = references
        self._held = 0
        self._kept: OrderedDict[int, frozenset[int]] = OrderedDict()

    def next_orphan(self, number: int) -> int:
        """Return the first orphan from ``number`` on, or where to go on looking."""
        if number < FIRST:
            return FIRST
        stop = number + _BATCH
        return next((at for at in range(number, stop) if self._is_orphan(at)), stop)

    def name(self, number: int) -> bytes:
        """Return the number and, behind it, the name the record itself states."""
        try:
            names = [a.content for a in self._mft.attributes(number) if _is_name(a)]
        except EvidenceError:
            names = []
        names.sort(key=lambda content: content[65] == _SHORT)
        if not names:
            return b"%d" % number
        text = names[0][66 : 66 + 2 * names[0][64]].decode("utf-16-le", "surrogatepass")
        return b"%d-%s" % (number, text.encode("utf-8", "surrogatepass"))

    def _is_orphan(self, number: int) -> bool:
        try:
            record = self._mft.record(number)
            sequence, flags = _STATE.unpack_from(record, 16)
            if int.from_bytes(record[32:38], "little"):
                return False  # part of another file's attributes
            attributes = list(parse(record))
            names = [a.content for a in attributes if _is_name(a)]
            if not names:
                attributes = self._mft.attributes(number)
                names = [a.content for a in attributes if _is_name(a)]
        except EvidenceError:
            return False
        if not names:
            return bool(flags & _IN_USE) or any(a.type == DATA for a in attributes)
        own = sequence << 48 | number if flags & _IN_USE else 0
        return not any(self._is_shown(int.from_bytes(content[:8], "little"), own) for content in names)

    def _is_shown(self, parent: int, own: int) -> bool:
        """Say whether a parent is a live directory, and names the reference if there is one."""
        number = parent & REFERENCE
        if self._is_directory(parent, deleted=False):
            return not own or own in self._named(number)
        return not own and self._is_below_deleted(parent)

    def _is_below_deleted(self, parent: int) -> bool:
        """Say whether a parent is a deleted directory that can be reached itself.

        It is shown where it was, or as an orphan, and its files in it. Directories that name each
        other in a circle would hide all of them.
        """
        seen: set[int] = set()
        while self._is_directory(parent, deleted=True):
            if parent in seen or len(seen) >= _DEPTH:
                return False
            seen.add(parent)
            names = [a.content for a in parse(self._mft.record(parent & REFERENCE)) if _is_name(a)]
            if not names:
                break
            parent = int.from_bytes(names[0][:8], "little")
        return bool(seen)

    def _is_directory(self, reference: int, *, deleted: bool) -> bool:
        """Say whether a reference is to a directory; releasing a record counts its sequence up."""
        try:
            sequence, flags = _STATE.unpack_from(self._mft.record(reference & REFERENCE), 16)
        except EvidenceError:
            return False
        if not flags & _DIRECTORY or bool(flags & _IN_USE) is deleted:
            return False
        return bool(sequence == (reference >> 48) + deleted)

    def _named(self, number: int) -> frozenset[int]:
        found = self._kept.get(number)
        if found is None:
            try:
                found = self._references(number)
            except ImgfsError:
                found = frozenset()
            self._kept[number] = found
            self._held += len(found) + 1
            while len(self._kept) > 1 and self._held > _KEPT:
                self._held -= len(self._kept.popitem(last=False)[1]) + 1
        self._kept.move_to_end(number)
        return found


def _is_name(attribute: Attribute) -> bool:
    content = attribute.content
    return attribute.type == FILE_NAME and len(content) >= 66 and 66 + 2 * content[64] <= len(content)
