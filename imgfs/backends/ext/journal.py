"""What the journal of ext3 or ext4 holds that was never written to its place: counted, said, not replayed.

Source: Linux Documentation/filesystems/ext4/journal.rst (JBD2): superblock, descriptor, commit and revocation
blocks, all big-endian; fast commits are in a part of their own.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends.ext.blocks import rows_of
from imgfs.backends.ext.inode import read_inode, size_of
from imgfs.errors import EvidenceError, NotFound

if TYPE_CHECKING:
    from imgfs.backends.ext.tables import Tables

_MAGIC: Final = 0xC03B_3998
_DESCRIPTOR, _COMMIT, _SUPER_1, _SUPER_2, _REVOKE = range(1, 6)
_HEAD: Final = struct.Struct(">III")
_MOST_BLOCKS: Final = 262_144  # a journal of 1 GiB in blocks of 4 KiB: as large as mkfs makes them
_FAST: Final = 0x20  # incompatible feature: fast commits
_LAST: Final = 8  # flag of a tag: the last one
_NO_UUID: Final = 2


def said(tables: Tables) -> str:
    """Return what the journal holds, in words for the analyst; empty: nothing can be said of it."""
    try:
        return _Journal(tables).said()
    except (EvidenceError, NotFound, struct.error):
        return "its journal cannot be read"


class _Journal:
    """The journal's blocks, by their number in it."""

    def __init__(self, tables: Tables) -> None:
        inode = read_inode(tables, tables.superblock.journal_inode)
        self._tables = tables
        self._block = tables.superblock.block
        self._runs = [
            (logical, length, target)
            for logical, length, target in rows_of(inode, tables, size_of(inode, tables))
            if target >= 0
        ]
        head = self.block(0)
        magic, kind, _ = _HEAD.unpack_from(head)
        if magic != _MAGIC or kind not in (_SUPER_1, _SUPER_2):
            raise struct.error("no superblock of a journal")
        _, length, self.first, self.sequence, self.start = struct.unpack_from(">5I", head, 12)
        self.incompat = struct.unpack_from(">I", head, 40)[0] if kind == _SUPER_2 else 0
        fast = struct.unpack_from(">I", head, 84)[0] if self.incompat & _FAST else 0
        self.last = min(length - (fast or (256 if self.incompat & _FAST else 0)), _MOST_BLOCKS)
        if not 0 < self.first < self.last:
            raise struct.error("a journal of no blocks")

    def block(self, number: int) -> bytes:
        """Return a block of the journal."""
        at = number * self._block
        for logical, length, target in self._runs:
            if logical <= at and at + self._block <= logical + length:
                return self._tables.read(target + at - logical, self._block)
        return bytes(self._block)

    def said(self) -> str:
        """Walk the log from its start, as recovery would, and count what is whole."""
        if not self.start:
            return "the journal is empty"
        at, sequence, left = self.start, self.sequence, self.last - self.first
        committed = blocks = held = 0
        while left > 0:
            head = self.block(at)
            magic, kind, number = _HEAD.unpack_from(head)
            if magic != _MAGIC or number != sequence:
                break
            step = 1
            if kind == _DESCRIPTOR:
                count = self._tags(head)
                held += count
                step += count
            elif kind == _COMMIT:
                committed, blocks, held = committed + 1, blocks + held, 0
                sequence += 1
            elif kind != _REVOKE:
                break
            left -= step
            at = self.first + (at + step - self.first) % (self.last - self.first)
        words = f"{committed} committed transactions" if committed != 1 else "1 committed transaction"
        rest = f", and {held} of one that was not committed" if held else ""
        numbers = f" ({self.sequence} to {sequence - 1})" if committed else ""
        return f"it holds {words}{numbers} with {blocks} blocks{rest}"

    def _tags(self, head: bytes) -> int:
        """Return how many blocks follow a descriptor. Tags differ in length by feature."""
        third = bool(self.incompat & 0x10)  # checksums of version 3
        wide = bool(self.incompat & 2)  # numbers of 64 bits
        size = 16 if third else 12 if wide else 8
        stop = self._block - (4 if self.incompat & 0x18 else 0)
        at, count = _HEAD.size, 0
        while at + size <= stop:
            (flags,) = struct.unpack_from(">I" if third else ">H", head, at + 4 if third else at + 6)
            count += 1
            at += size if flags & _NO_UUID else size + 16
            if flags & _LAST:
                break
        return count
