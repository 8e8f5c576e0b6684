"""The ``Files`` verbs of EROFS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends._listings import Listings
from imgfs.backends.erofs.content import Contents
from imgfs.backends.erofs.directory import names
from imgfs.backends.erofs.inode import Inode, Inodes, Metadata, attr_of
from imgfs.backends.erofs.superblock import read_superblock
from imgfs.backends.erofs.xattr import Xattrs
from imgfs.errors import EvidenceError, ImgfsError, Malformed, NotFound, NotSupported
from imgfs.limits import MAX_LINK
from imgfs.model import Attr, Entry, FilesInfo, Kind, TreeInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader
    from imgfs.backends.erofs.superblock import Superblock
    from imgfs.model import Layout, Page

_KINDS: Final = (
    Kind.REG,
    Kind.REG,
    Kind.DIR,
    Kind.CHR,
    Kind.BLK,
    Kind.FIFO,
    Kind.SOCK,
    Kind.LNK,
)  # file_type
_LARGEST: Final = (1 << 63) - 1


class ErofsFiles:
    """One file system; see ``backends.Files``."""

    def __init__(self, reader: Reader, superblock: Superblock) -> None:
        """Read the root directory's inode.

        Raises:
            Malformed: there is none.
        """
        metadata = Metadata(reader)
        self._superblock = superblock
        self._inodes = Inodes(metadata, superblock)
        self._contents = Contents(reader, metadata, superblock, self._inodes)
        self._xattrs = Xattrs(metadata, superblock, self._packed)
        self._listings = Listings(self._names)
        try:
            root = self._inodes.read(superblock.root)
        except NotFound as why:
            raise Malformed("erofs: there is no root directory") from why
        if root.kind is not Kind.DIR:
            raise Malformed("erofs: the root is no directory")
        self.info = FilesInfo(
            type="erofs",
            trees=(TreeInfo("root", superblock.root),),
            block=superblock.block,
            size=superblock.size,
            label=superblock.label,
            uuid=superblock.uuid,
            notes=superblock.notes,
        )

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        self._only(tree)
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file."""
        return attr_of(self._inode(tree, inum, stream), self._superblock.block)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a file lie."""
        return self._contents.layout(self._inode(tree, inum, stream))

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link."""
        inode = self._inode(tree, inum)
        if inode.kind is not Kind.LNK:
            raise NotFound(f"inode {inum} is no symbolic link")
        if inode.size > MAX_LINK:
            raise Malformed(f"inode {inum}: link target of {inode.size} bytes")
        return self._contents.read(inode, 0, inode.size)

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return extended attributes."""
        return self._xattrs.get(self._inode(tree, inum))

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Return bytes of a file of which the daemon cannot decode all."""
        inode = self._inode(tree, inum, stream)
        if inode.kind is not Kind.REG or offset < 0 or length < 0 or offset + length > inode.size:
            raise Malformed(f"inode {inum}: no bytes [{offset}, {offset + length})")
        return self._contents.read(inode, offset, length) if length else b""

    def _only(self, tree: int) -> None:
        if tree:
            raise NotFound(f"tree {tree}")

    def _inode(self, tree: int, inum: int, stream: int = 0) -> Inode:
        self._only(tree)
        if stream:
            raise NotFound(f"inode {inum} has no stream {stream}")
        return self._inodes.read(inum)

    def _packed(self, offset: int, length: int) -> bytes:
        inode = self._inodes.read(self._superblock.packed)
        if offset + length > inode.size:
            raise Malformed(f"bytes [{offset}, {offset + length}) of a packed file of {inode.size}")
        return self._contents.read(inode, offset, length)

    def _names(self, inum: int) -> Iterator[Entry | str]:
        inode = self._inode(0, inum)
        if inode.kind is not Kind.DIR:
            raise NotFound(f"inode {inum} is no directory")
        read, block, listed = self._inodes.read, self._superblock.block, self._contents.listed
        for found in names(inode, self._contents, self._superblock.folder_block):
            if isinstance(found, str):
                yield found
                continue
            name, number, kind = found
            try:
                child = read(number)
            except (EvidenceError, NotFound) as why:
                shown = _KINDS[kind] if kind < len(_KINDS) else Kind.REG
                yield Entry(name, Attr(kind=shown, inum=min(number, _LARGEST), damaged=why.message))
                continue
            layout = None
            if child.kind is Kind.REG:
                try:
                    layout = listed(child)
                except (ImgfsError, NotSupported):
                    layout = None  # whoever opens it is told
            yield Entry(name, attr_of(child, block), 0, layout)


def open_erofs(reader: Reader, _options: Options) -> ErofsFiles:
    """Open a file system.

    Raises:
        NotMine: no superblock.
        NotSupported: features that change where things lie.
        Malformed: it contradicts itself, or has no root directory.
    """
    return ErofsFiles(reader, read_superblock(reader))
