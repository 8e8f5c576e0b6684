"""Orphans: inodes that hold a deleted file and that no directory names any more.

Source: Linux Documentation/filesystems/ext4, "Block and Inode Bitmaps", "Index Nodes" (i_dtime,
i_links_count).
"""

from __future__ import annotations

import time
from array import array
from typing import TYPE_CHECKING, Final

from imgfs.backends.ext.directory import Name, deleted_names, live_names
from imgfs.backends.ext.inode import Inode, read_inode
from imgfs.errors import EvidenceError, NotFound
from imgfs.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.ext.tables import Tables

_STEPS: Final = 20  # bits of a cursor that count pages spent on reading names
_SCAN: Final = 1024  # inodes looked at between two looks at the clock
_DIRECTORY: Final = 4  # st_mode >> 12


class Orphans:
    """The orphans of one file system, in the order of their numbers.

    All names are read first, as pages without entries: a page ends when its time does.
    """

    __slots__ = ("_named", "_source", "_tables")

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._named: set[int] = set()  # freed inodes some directory names
        self._source: Iterator[None] | None = self._read_names()

    def page(self, cursor: int, limit: int, deadline: float) -> tuple[list[Inode], int]:
        """Return at most ``limit`` orphans and the cursor of the next page, -1: there is none."""
        if self._source is not None:
            for _ in self._source:
                if time.monotonic() > deadline:
                    return [], cursor + 1
            self._source = None
        found: list[Inode] = []
        at = cursor >> _STEPS
        for first, modes in self._scan(at + 1):
            for index, mode in enumerate(modes):
                number = first + index
                if not mode or number in self._named:
                    continue
                inode = self.inode(number)
                if inode is not None:
                    found.append(inode)
                    if len(found) >= limit:
                        return found, number << _STEPS
            at = first + len(modes) - 1
            if time.monotonic() > deadline:
                return found, at << _STEPS
        return found, -1

    def inode(self, number: int) -> Inode | None:
        """Return an inode that holds a file and belongs to nobody, None when it does not.

        An allocated inode without links is one: the file was deleted while somebody had it open.
        """
        tables = self._tables
        if number < tables.superblock.first_inode:
            return None
        try:
            inode = read_inode(tables, number)
            if inode.kind is None or not (inode.dtime or inode.ctime):
                return None
            return inode if not inode.links or not tables.is_allocated(number) else None
        except (EvidenceError, NotFound):
            return None

    def _read_names(self) -> Iterator[None]:
        """Note which freed inodes are named, directory by directory."""
        tables, named = self._tables, self._named
        for first, modes in self._scan(1):
            for index, mode in enumerate(modes):
                if mode >> 12 != _DIRECTORY:
                    continue
                try:
                    inode = read_inode(tables, first + index)
                    if inode.kind != Kind.DIR or (
                        first + index < tables.superblock.first_inode and first + index != 2
                    ):
                        continue
                    for source in (live_names, deleted_names):
                        for count, found in enumerate(source(inode, tables)):
                            if isinstance(found, Name) and not self._in_use(found.inode):
                                named.add(found.inode)
                            if not count & 1023:
                                yield
                except (EvidenceError, NotFound):
                    continue
            yield

    def _in_use(self, number: int) -> bool:
        try:
            return self._tables.is_allocated(number)
        except (EvidenceError, NotFound):
            return False

    def _scan(self, number: int) -> Iterator[tuple[int, array[int]]]:
        """Yield the modes of inodes from ``number`` on, for slices of tables that can be read."""
        tables = self._tables
        sb = tables.superblock
        stride = sb.inode_size // 2
        group, index = divmod(number - 1, sb.inodes_per_group)
        while group < sb.groups and group * sb.inodes_per_group < sb.inodes:
            try:
                place = tables.group(group)
                table, used = place.table * sb.block, place.used
            except EvidenceError:
                table = used = 0
            while index < used:
                count = min(used - index, _SCAN)
                first = group * sb.inodes_per_group + index + 1
                modes = array("H", bytes(2 * count))
                try:
                    data = tables.read(table + index * sb.inode_size, count * sb.inode_size)
                    modes = array("H", data)[::stride]
                except EvidenceError:
                    pass
                yield first, modes
                index += count
            group, index = group + 1, 0
            if not group & 255:
                yield group * sb.inodes_per_group + 1, array("H")  # only time has passed
