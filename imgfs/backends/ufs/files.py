"""The ``Files`` verbs of UFS1 and UFS2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends._deleted import SHIFT, Deleted
from imgfs.backends._deleted_source import Damage
from imgfs.backends._listings import Listings
from imgfs.backends.ufs.content import layout_of, target_of
from imgfs.backends.ufs.deleted import DeletedUfs
from imgfs.backends.ufs.directory import live_names
from imgfs.backends.ufs.structures import DIRECT, ROOT, find_superblock, read_inode
from imgfs.backends.ufs.tables import Tables
from imgfs.errors import EvidenceError, NotFound
from imgfs.model import Attr, Entry, FilesInfo, Kind, Layout, Page, TreeInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader
    from imgfs.backends.ufs.structures import Inode, Superblock


class UfsFiles:
    """Live tree and deleted entries of one file system; see ``backends.Files``."""

    def __init__(self, reader: Reader, sb: Superblock) -> None:
        self._tables = Tables(reader, sb)
        self._deleted = Deleted(DeletedUfs(self._tables), ROOT)
        self._listings = Listings(self._entries)
        self.info = FilesInfo(
            type=f"ufs{sb.version}",
            trees=(TreeInfo("root", ROOT), TreeInfo("deleted", ROOT << SHIFT, deleted=True)),
            block=sb.block,
            size=sb.size * sb.fragment,
            label=sb.label,
            uuid=sb.uuid,
            version="little-endian" if sb.order == "<" else "big-endian",
        )

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if self._is_deleted(tree, 0):
            return self._deleted.list(inum, max(cursor, 0), max(limit, 1))
        if self._inode(inum).attr.kind != Kind.DIR:
            raise NotFound(f"inode {inum} is no directory")
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of an inode."""
        if self._is_deleted(tree, stream):
            return self._deleted.stat(inum)
        return self._inode(inum).attr

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the content of an inode lies."""
        if self._is_deleted(tree, stream):
            return self._deleted.layout(inum)
        return layout_of(self._inode(inum), self._tables)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link."""
        if self._is_deleted(tree, 0):
            return self._deleted.link(inum)
        return target_of(self._inode(inum), self._tables)

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return where a deleted entry comes from: the extended attributes of UFS2 are not read."""
        if self._is_deleted(tree, 0):
            return self._deleted.xattrs(inum)
        self._inode(inum)
        return {}

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Refuse: every stream has a layout."""
        raise NotFound(f"tree {tree}, inode {inum}-{stream}: [{offset}, {offset + length}) is not foreign")

    def _is_deleted(self, tree: int, stream: int) -> bool:
        if not 0 <= tree < len(self.info.trees) or stream:
            raise NotFound(f"tree {tree}, stream {stream}")
        return self.info.trees[tree].deleted

    def _inode(self, inum: int) -> Inode:
        return read_inode(self._tables, inum)

    def _entries(self, inum: int) -> Iterator[Entry | str]:
        try:
            for found in live_names(self._inode(inum), self._tables):
                if isinstance(found, Damage):
                    yield found.text
                elif found is not None:
                    yield self._entry(found.inode, found.name)
        except EvidenceError as why:
            yield why.message

    def _entry(self, number: int, name: bytes) -> Entry:
        try:
            inode = self._inode(number)
            attr, layout = inode.attr, None
            # a map without indirect blocks costs no read
            if attr.kind == Kind.REG and attr.size <= DIRECT * self._tables.superblock.block:
                found = layout_of(inode, self._tables)
                layout = found if len(getattr(found[0], "logical", b"")) <= 16 else None  # two runs
        except (EvidenceError, NotFound) as why:
            return Entry(name, Attr(kind=Kind.REG, inum=number, nlink=0, damaged=why.message))
        return Entry(name, attr, 0, layout)


def open_ufs(reader: Reader, _options: Options) -> UfsFiles:
    """Open a UFS volume.

    Raises:
        NotMine: no superblock.
        Malformed: no superblock with possible geometry.
    """
    return UfsFiles(reader, find_superblock(reader))
