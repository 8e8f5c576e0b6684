"""The ``Files`` verbs of YAFFS2. Numbers of the live tree are object numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends._deleted import EMPTY
from imgfs.backends._layouts import linear
from imgfs.backends._listings import Listings
from imgfs.backends.yaffs2.deleted import TOP, Deleted
from imgfs.backends.yaffs2.history import Life, lives_of
from imgfs.backends.yaffs2.objects import Objects
from imgfs.backends.yaffs2.structures import ROOT, geometry_of
from imgfs.errors import NotFound
from imgfs.model import HOLE, Attr, Entry, FilesInfo, Kind, Layout, Page, TreeInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader
    from imgfs.backends.yaffs2.structures import Geometry


class YaffsFiles:
    """Live tree and deleted entries of a dump; see ``backends.Files``."""

    def __init__(self, reader: Reader, shape: Geometry) -> None:
        self._shape = shape
        lives, unread = lives_of(reader, shape)
        self._objects = Objects(lives)
        self._deleted = Deleted(self._objects, shape.page)
        self._listings = Listings(self._entries)
        self.info = FilesInfo(
            type="yaffs2",
            trees=(TreeInfo("root", ROOT), TreeInfo("deleted", TOP, deleted=True)),
            block=shape.page,
            size=reader.size,
            version=f"{shape.page}+{shape.spare}, {'little' if shape.order == '<' else 'big'}-endian",
            notes=(f"{unread} pages cannot be read: what they say is missing",) if unread else (),
        )

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if self._is_deleted(tree, 0):
            return self._deleted.list(inum, cursor, limit)
        if self._attr(inum).kind != Kind.DIR:
            raise NotFound(f"object {inum} is no directory")
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of an object."""
        return self._deleted.stat(inum) if self._is_deleted(tree, stream) else self._attr(inum)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say in which pages the content lies; chunks that were never written are holes."""
        if self._is_deleted(tree, stream):
            return self._deleted.layout(inum)
        attr, life = self._attr(inum), self._life(inum)
        if life is None or attr.kind != Kind.REG or not attr.size:
            return EMPTY
        return (linear(attr.size, life.rows(attr.size, self._shape.page, HOLE)),)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link."""
        if self._is_deleted(tree, 0):
            return self._deleted.link(inum)
        life = self._life(inum)
        if life is None or life.header is None or life.header.attr.kind != Kind.LNK:
            raise NotFound(f"object {inum} is no symbolic link")
        return life.header.target

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return where a deleted entry comes from: attributes in headers are not read."""
        if self._is_deleted(tree, 0):
            return self._deleted.xattrs(inum)
        self._attr(inum)
        return {}

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Refuse: every stream has a layout."""
        raise NotFound(f"tree {tree}, object {inum}-{stream}: [{offset}, {offset + length}) is not foreign")

    def _is_deleted(self, tree: int, stream: int) -> bool:
        if not 0 <= tree < len(self.info.trees) or stream:
            raise NotFound(f"tree {tree}, stream {stream}")
        return self.info.trees[tree].deleted

    def _life(self, inum: int) -> Life | None:
        """Return what a number means now, behind a hard link its other end. None: the unwritten root."""
        index = self._objects.live.get(inum)
        if index is None:
            if inum == ROOT:
                return None
            raise NotFound(f"object {inum}")
        life = self._objects.lives[index]
        other = self._objects.target_of(life)
        if other is None or other.header is None or other.gone is not None:
            raise NotFound(f"object {inum} is a link to an object which is none")
        return other

    def _attr(self, inum: int) -> Attr:
        life = self._life(inum)
        return self._objects.attr(life) if life is not None else Attr(kind=Kind.DIR, inum=ROOT, mode=0o755)

    def _entries(self, inum: int) -> Iterator[Entry | str]:
        for number in self._objects.children.get(inum, ()):
            header = self._objects.lives[self._objects.live[number]].header
            name = header.name if header is not None else b""
            try:
                yield Entry(name, self._attr(number))
            except NotFound as why:
                yield Entry(name, Attr(kind=Kind.REG, inum=number, nlink=0, damaged=why.message))


def open_yaffs2(reader: Reader, _options: Options) -> YaffsFiles:
    """Open a dump.

    Raises:
        NotMine: no geometry makes sense of the first pages.
        Malformed: more objects than a flash can hold.
    """
    return YaffsFiles(reader, geometry_of(reader))
