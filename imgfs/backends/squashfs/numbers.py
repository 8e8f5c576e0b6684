"""Numbers of inodes: those the file system counts by, where something leads from them to places.

That is the export table, or without one a look at all inodes, if they are not too many. Version 2 has no
numbers. Then, and where table and inode contradict each other, the place of an inode in the inode table is
its number: no image can make one file out of two.

Source: "Squashfs Binary Format" (dr-emann.github.io/squashfs), Export Table.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from imgfs.backends.squashfs.inode import NO_FRAGMENT
from imgfs.backends.squashfs.metadata import BLOCK
from imgfs.backends.squashfs.superblock import NONE
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.backends.squashfs.inode import Inode
    from imgfs.backends.squashfs.metadata import Metadata, Place
    from imgfs.backends.squashfs.superblock import Superblock

_BEYOND: Final = 1 << 47  # numbers of places begin here where others begin at 1
_ROW: Final = 8
_ROWS: Final = BLOCK // _ROW
_MOST: Final = 500_000  # inodes that are looked at when the table is missing: two to three seconds
_KEPT: Final = 256  # blocks of the table: 260,000 places, about 10 MiB


class Numbers:
    """Numbers to places and back, for one file system."""

    __slots__ = ("_base", "_blocks", "_count", "_found", "_kept", "_metadata", "_order")

    def __init__(self, metadata: Metadata, superblock: Superblock, read: Callable[[int], Inode]) -> None:
        """Find out what leads from numbers to places; ``read`` returns the inode at a place."""
        self._metadata = metadata
        self._order = superblock.order
        self._count = superblock.inodes
        self._blocks: list[int] = []
        self._kept: OrderedDict[int, tuple[int, ...]] = OrderedDict()
        table = superblock.export_table
        if table not in (0, NONE):
            try:
                self._blocks = metadata.table(table, superblock.inodes, _ROW, "Q")
            except EvidenceError:
                self._count = 0
        self._found: dict[int, int] = {}
        if not self._blocks and superblock.major > 2 and superblock.inodes <= _MOST:
            self._found = scanned(metadata, superblock, read)
        self._base = _BEYOND if self._blocks or self._found else 1

    def place(self, inum: int) -> int:
        """Return the place of an inode: its block in the inode table, shifted, and its byte in that.

        Raises:
            NotFound: no inode has this number.
        """
        place = inum - self._base
        if self._base == _BEYOND and 0 < inum < _BEYOND:
            place = self._exported(inum)
        if not 0 <= place < _BEYOND or place & 0xFFFF >= BLOCK:
            raise NotFound(f"inode {inum}")
        return place

    def number(self, inode: Inode, place: int) -> int:
        """Return the number of the inode at a place. Raises Malformed for what can be no place."""
        if self._exported(inode.number) == place:
            return inode.number
        return self.of(place)

    def of(self, place: int) -> int:
        """Return the number of a place, whatever lies there. Raises Malformed for what can be none."""
        if place >= _BEYOND:
            raise Malformed(f"an inode at {place >> 16} of the inode table")
        return self._base + place

    def _exported(self, number: int) -> int:
        """Return the place the table has for a number, -1: none."""
        if not self._blocks:
            return self._found.get(number, -1)
        if not 0 < number <= self._count:
            return -1
        index, row = divmod(number - 1, _ROWS)
        rows = self._kept.get(index)
        if rows is None:
            try:
                data = self._metadata.block(self._blocks[index])[0]
                rows = struct.unpack_from(f"{self._order}{len(data) // _ROW}Q", data)
            except EvidenceError:
                rows = ()
            self._kept[index] = rows
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return rows[row] if row < len(rows) else -1


def scanned(metadata: Metadata, superblock: Superblock, read: Callable[[int], Inode]) -> dict[int, int]:
    """Return the places of inodes by their numbers, as far as the inode table can be followed.

    Of two inodes that claim one number, the first has it.
    """
    found: dict[int, int] = {}
    at, offset = superblock.inode_table, 0
    try:
        while at < superblock.directory_table and len(found) < superblock.inodes:
            place = at - superblock.inode_table << 16 | offset
            inode = read(place)
            if found.setdefault(inode.number, place) != place:
                break
            at, offset = _behind(metadata, superblock, inode)
    except EvidenceError:
        pass  # inodes further on have places
    return found


def _behind(metadata: Metadata, superblock: Superblock, inode: Inode) -> Place:
    """Return the place behind an inode."""
    kind, place = inode.kind, inode.behind
    length = 0
    if kind is Kind.REG:
        count, tail = divmod(inode.size, superblock.block)
        length = 4 * (count + (1 if tail and inode.fragment == NO_FRAGMENT else 0))
    elif kind is Kind.LNK:
        length = inode.size + (4 if inode.long and superblock.major == 4 else 0)
    elif kind is Kind.DIR:
        width = 12 if superblock.major == 4 else 9
        form = superblock.order + ("III" if width == 12 else "IIB")
        for _ in range(inode.indexed):
            size = struct.unpack(form, metadata.read(place, width))[2]
            place = metadata.moved(place, width + size + 1)
    return metadata.moved(place, length)
