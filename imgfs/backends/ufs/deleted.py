"""What UFS says of deleted entries: see ``_deleted_source.Source``.

FreeBSD clears mode, size and map of an inode when its last user is gone; what is left then is the name.
Mode and map stay in inodes that somebody still had open, in images of a running system, and where
another writer deleted. Soft updates write the directory first: when the power goes just then, an inode
is in use with a link and without a name.

Source: FreeBSD ``sys/ufs/ffs/fs.h`` (cg_inosused, cg_blksfree, cg_initediblk), ``sys/ufs/ufs/dinode.h``
(di_mode, di_nlink).
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

import msgspec

from imgfs.backends._deleted import EMPTY, WIPED
from imgfs.backends.ufs.content import deleted_layout_of, target_of
from imgfs.backends.ufs.directory import deleted_names, live_names
from imgfs.backends.ufs.structures import ROOT, read_inode
from imgfs.errors import EvidenceError, NotFound
from imgfs.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._deleted_source import Found, Name
    from imgfs.backends.ufs.structures import Inode
    from imgfs.backends.ufs.tables import Tables
    from imgfs.model import Attr, Layout

_UNREFERENCED: Final = "in use, and no directory names it"
_SCAN: Final = 1024  # inodes looked at between two looks at the clock
_KINDS: Final = {int(kind): kind for kind in Kind}  # DT_ of dir.h are the nibbles of st_mode


class DeletedUfs:
    """Inodes and directories of one file system, for the tree of deleted entries."""

    __slots__ = ("_tables",)

    label = b"ufs"
    names_all = True

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def inode(self, number: int) -> Inode:
        """Return an inode. Raises NotFound when there is none, or nothing is left of it."""
        if not any(self._tables.inode(number)[:2]):
            raise NotFound(WIPED)
        return read_inode(self._tables, number)

    def number(self, inode: Inode) -> int:
        """Return the number of an inode."""
        return inode.attr.inum

    def kind(self, inode: Inode) -> Kind | None:
        """Return the file type."""
        return inode.attr.kind

    def kind_of(self, name: Name) -> Kind | None:
        """Return the file type an entry states, None: it states none."""
        return _KINDS.get(name.type)

    def is_in_use(self, number: int) -> bool:
        """Say what the bitmap of its cylinder group says."""
        return self._tables.is_in_use(number)

    def is_linked(self, inode: Inode) -> bool:
        """Say whether its count of links is not zero."""
        return bool(inode.attr.nlink)

    def is_file(self, inode: Inode) -> bool:
        """Say whether there is more of it than a mode: a time, a size or blocks."""
        attr = inode.attr
        return attr.inum > ROOT and bool(attr.c_ns or attr.size or inode.blocks)

    def is_searched(self, number: int) -> bool:
        """Say whether a directory of this number holds names of files."""
        return number >= ROOT

    def names(self, inode: Inode, *, deleted: bool) -> Iterator[Found]:
        """Yield the entries that count, or those that were left behind."""
        return (deleted_names if deleted else live_names)(inode, self._tables, freed=self._is_freed(inode))

    def attr(self, inode: Inode, inum: int, *, deleted: bool) -> Attr:
        """Return the attributes under a number of the tree."""
        lost = deleted and inode.attr.nlink and not self._is_freed(inode)
        return msgspec.structs.replace(
            inode.attr, inum=inum, deleted=deleted, damaged=_UNREFERENCED if lost else ""
        )

    def layout(self, inode: Inode) -> tuple[Layout, ...]:
        """Say where the content lies, LOST where a block is in use though the inode is free."""
        return deleted_layout_of(inode, self._tables, freed=self._is_freed(inode))

    def listed(self, inode: Inode) -> tuple[Layout, ...] | None:
        """Return the layout of an empty file."""
        del inode
        return EMPTY

    def link(self, inode: Inode) -> bytes:
        """Return the target of a symbolic link."""
        return target_of(inode, self._tables, freed=self._is_freed(inode))

    def xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        """Return nothing: the extended attributes of UFS2 are not read."""
        del inode
        return {}

    def _is_freed(self, inode: Inode) -> bool:
        """Say whether an inode lost its blocks: one in use that nobody names still owns them."""
        try:
            return not self._tables.is_in_use(inode.attr.inum)
        except (EvidenceError, NotFound):
            return True

    def scan(self, number: int) -> Iterator[tuple[int, array[int]]]:
        """Yield the modes of inodes from ``number`` on, for slices of tables that can be read."""
        tables = self._tables
        sb = tables.superblock
        group, index = divmod(max(number, ROOT), sb.inodes_per_group)
        for which in range(group, sb.groups):
            first, index = which * sb.inodes_per_group + index, 0
            stop = which * sb.inodes_per_group + self._initialised(which)
            for at in range(first, stop, _SCAN):
                yield at, self._modes(at, min(_SCAN, stop - at))
            if not which & 255:
                yield max(first, stop), array("H")  # only time has passed

    def _initialised(self, group: int) -> int:
        try:
            return self._tables.group(group).initialised
        except EvidenceError:  # no bitmap says what is free there
            return self._tables.superblock.inodes_per_group

    def _modes(self, number: int, count: int) -> array[int]:
        tables = self._tables
        sb = tables.superblock
        modes = array("H", bytes(2 * count))
        try:
            data = tables.reader.read(sb.inode_at(number), count * sb.inode_size)
        except EvidenceError:
            return modes
        modes = array("H", data)[:: sb.inode_size // 2]
        if sb.order == ">":
            modes.byteswap()
        return modes
