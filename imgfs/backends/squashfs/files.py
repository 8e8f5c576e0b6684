"""The ``Files`` verbs of SquashFS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends._listings import Listings
from imgfs.backends.squashfs.content import Contents
from imgfs.backends.squashfs.directory import Directories
from imgfs.backends.squashfs.inode import KINDS, Inode, Inodes, attr_of
from imgfs.backends.squashfs.metadata import Metadata
from imgfs.backends.squashfs.numbers import Numbers
from imgfs.backends.squashfs.older import OlderInodes
from imgfs.backends.squashfs.superblock import read_superblock
from imgfs.backends.squashfs.tables import ids_of
from imgfs.backends.squashfs.unpacking import BY_NUMBER, UNSAID
from imgfs.backends.squashfs.xattr import Xattrs
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.limits import MAX_LINK, MAX_SIZE
from imgfs.model import Attr, Entry, FilesInfo, Kind, TreeInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader
    from imgfs.backends.squashfs.superblock import Superblock
    from imgfs.backends.squashfs.unpacking import Compressor
    from imgfs.model import Layout, Page


class SquashFiles:
    """One file system; see ``backends.Files``."""

    def __init__(self, reader: Reader, superblock: Superblock, compressor: Compressor, order: str) -> None:
        """Read the owners and the root directory. ``order``: see ``Metadata``.

        Raises:
            EvidenceError: they are damaged.
        """
        metadata = Metadata(reader, superblock, compressor, order)
        notes: list[str] = []
        users: list[int]
        try:
            users, groups = ids_of(reader, metadata, superblock)
        except EvidenceError as why:
            raise Malformed(f"squashfs: no table of owners: {why.message}") from why
        self._metadata = metadata
        self._inodes: Inodes | OlderInodes = (
            Inodes(metadata, superblock, users)
            if superblock.major == 4
            else OlderInodes(metadata, superblock, users, groups)
        )
        self._directories = Directories(metadata, superblock)
        self._contents = Contents(reader, metadata, superblock, compressor)
        self._xattrs = Xattrs(reader, metadata, superblock)
        self._listings = Listings(self._names)
        self._numbers = Numbers(metadata, superblock, self._inodes.read)
        top = self._inodes.read(superblock.root)
        if top.kind is not Kind.DIR:
            raise Malformed("squashfs: the root is no directory")
        root = self._numbers.number(top, superblock.root)
        if superblock.size > reader.size:
            notes.append(f"the volume has {reader.size} bytes, the file system {superblock.size}")
        self.info = FilesInfo(
            type="squashfs",
            trees=(TreeInfo("root", root),),
            block=superblock.block,
            size=min(superblock.size, MAX_SIZE),
            version=f"{superblock.major}.{superblock.minor} {compressor.name}",
            notes=tuple(notes),
        )

    def sample(self, superblock: Superblock) -> None:
        """Decode one of everything: what opened so far may have been stored verbatim.

        Raises:
            EvidenceError: something does not decode.
        """
        for place in (superblock.inode_table, superblock.directory_table):
            self._metadata.block(place)
        if superblock.fragments:
            self._contents.fragment(0)

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        self._only(tree)
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file."""
        return attr_of(self._inode(tree, inum, stream), inum)

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
        return self._metadata.read(inode.behind, inode.size)

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return extended attributes, and the number of the inode where it goes by another one."""
        inode = self._inode(tree, inum)
        own = {b"user.imgfs.inode": b"%d" % inode.number} if inode.number not in (0, inum) else {}
        return self._xattrs.get(inode.xattr) | own

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Return bytes of a file whose compressor only a worker decodes."""
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
        return self._inodes.read(self._numbers.place(inum))

    def _names(self, inum: int) -> Iterator[Entry | str]:
        inode = self._inode(0, inum)
        if inode.kind is not Kind.DIR:
            raise NotFound(f"inode {inum} is no directory")
        read, listed, numbers = self._inodes.read, self._contents.listed, self._numbers
        for found in self._directories.names(inode):
            if isinstance(found, str):
                yield found
                continue
            name, place, kind = found
            try:
                child = read(place)
                attr = attr_of(child, numbers.number(child, place))
            except EvidenceError as why:
                shown = KINDS[(kind - 1) % 7] if 0 < kind <= 14 else Kind.REG
                yield Entry(name, Attr(kind=shown, inum=numbers.of(place), damaged=why.message))
                continue
            layout = None
            if attr.kind is Kind.REG:
                try:
                    layout = listed(child)
                except EvidenceError:
                    layout = None  # whoever opens it is told
            yield Entry(name, attr, 0, layout)


def open_squashfs(reader: Reader, _options: Options) -> SquashFiles:
    """Open a file system; versions 2 and 3 with the compressor that its root directory decodes with.

    Raises:
        NotMine: no superblock.
        NotSupported: version 1, or an unknown compressor.
        Malformed: owners or root directory cannot be read.
    """
    superblock = read_superblock(reader)
    order = superblock.order
    compressors = (BY_NUMBER[superblock.compressor],) if superblock.compressor else UNSAID
    ways = [(found, order) for found in compressors]
    if superblock.major == 4 and order == ">":  # AVM's routers write all but these lengths big-endian
        ways += [(found, "<") for found, _ in ways]
    opened: list[SquashFiles] = []
    damage: list[EvidenceError] = []
    for compressor, lengths in ways:
        try:
            files = SquashFiles(reader, superblock, compressor, lengths)
            opened.append(files)
            files.sample(superblock)
        except EvidenceError as why:
            damage.append(why)
        else:
            return files
    if opened:  # damaged, whatever it is compressed with
        return opened[0]
    raise damage[0]
