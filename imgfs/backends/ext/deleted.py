"""What ext says of deleted entries: see ``_deleted_source.Source``.

Source: Linux Documentation/filesystems/ext4, "Block and Inode Bitmaps", "Index Nodes" (i_dtime,
i_links_count).
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from imgfs.backends._deleted import WIPED
from imgfs.backends.ext.content import layout_of, listed_layout, target_of
from imgfs.backends.ext.directory import deleted_names, live_names
from imgfs.backends.ext.facts import facts_of
from imgfs.backends.ext.inode import KIND_OF_TYPE, Inode, attr_of, read_inode
from imgfs.backends.ext.xattr import xattrs_of
from imgfs.errors import EvidenceError, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._deleted_source import Found, Name
    from imgfs.backends.ext.tables import Tables
    from imgfs.model import Attr, Kind, Layout

ROOT: Final = 2  # "Special inodes"
_SCAN: Final = 1024  # inodes looked at between two looks at the clock


class DeletedExt:
    """Inodes and directories of one file system, for the tree of deleted entries."""

    __slots__ = ("_tables",)

    label = b"ext"
    names_all = False  # journal, quotas, values of attributes, the orphan file

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def inode(self, number: int) -> Inode:
        """Return an inode. Raises NotFound when there is none, or nothing is left of it."""
        inode = read_inode(self._tables, number)
        if inode.kind is None and not (inode.links and self._tables.is_allocated(number)):
            raise NotFound(WIPED)
        return inode

    def number(self, inode: Inode) -> int:
        """Return the number of an inode."""
        return inode.number

    def kind(self, inode: Inode) -> Kind | None:
        """Return the file type, None: it has none."""
        return inode.kind

    def kind_of(self, name: Name) -> Kind | None:
        """Return the file type an entry states, None: it states none."""
        return KIND_OF_TYPE.get(name.type)

    def is_in_use(self, number: int) -> bool:
        """Say what the inode bitmap says."""
        return self._tables.is_allocated(number)

    def is_linked(self, inode: Inode) -> bool:
        """Say whether its count of links is not zero."""
        return bool(inode.links)

    def is_file(self, inode: Inode) -> bool:
        """Say whether an inode without a name may be a file, and no special one."""
        return inode.number >= self._tables.superblock.first_inode and bool(inode.dtime or inode.ctime)

    def is_searched(self, number: int) -> bool:
        """Say whether a directory of this number holds names of files."""
        return number >= self._tables.superblock.first_inode or number == ROOT

    def names(self, inode: Inode, *, deleted: bool) -> Iterator[Found]:
        """Yield the entries that count, or those that were left behind."""
        return (deleted_names if deleted else live_names)(inode, self._tables)

    def attr(self, inode: Inode, inum: int, *, deleted: bool) -> Attr:
        """Return the attributes under a number of the tree."""
        return attr_of(inode, self._tables, inum, deleted=deleted)

    def layout(self, inode: Inode) -> tuple[Layout, ...]:
        """Say where the content of a deleted file lies."""
        return layout_of(inode, self._tables, deleted=True)

    def listed(self, inode: Inode) -> tuple[Layout, ...] | None:
        """Return the layout of an empty file."""
        return listed_layout(inode, self._tables, 0)

    def link(self, inode: Inode) -> bytes:
        """Return the target of a symbolic link."""
        return target_of(inode, self._tables)

    def xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        """Return extended attributes, flags and project, and when the inode was freed.

        Units: ``user.imgfs.ext.dtime`` seconds since 1970-01-01 UTC.
        """
        found = xattrs_of(inode, self._tables) | facts_of(inode, self._tables)
        if inode.dtime:
            found[b"user.imgfs.ext.dtime"] = b"%d" % inode.dtime
        return found

    def scan(self, number: int) -> Iterator[tuple[int, array[int]]]:
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
