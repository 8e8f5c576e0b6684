"""The live tree of a UFS volume; see ``backends.Files``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends._tsk_layout import linear
from imgfs.backends._tsk_list import Listings
from imgfs.backends.ufs.blocks import rows_of
from imgfs.backends.ufs.structures import ROOT, directory_entries, find_superblock, read_inode
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.limits import MAX_LINK
from imgfs.model import HOLE, LOST, Attr, Entry, FilesInfo, Inline, Kind, Layout, Page, TreeInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader
    from imgfs.backends.ufs.structures import Inode, Superblock

_DIRECTORY_MAX: Final = 256 << 20  # bytes of one directory: about ten million entries
_PIECE: Final = 64 * 1024  # a multiple of the directory block


class UfsFiles:
    """Files of UFS1 and UFS2."""

    def __init__(self, reader: Reader, sb: Superblock) -> None:
        self._reader = reader
        self._sb = sb
        self._listings = Listings(self._entries)
        self.info = FilesInfo(
            type=f"ufs{sb.version}",
            trees=(TreeInfo("root", ROOT),),
            block=sb.block,
            size=sb.size * sb.fragment,
            label=sb.label,
            uuid=sb.uuid,
            version="little-endian" if sb.order == "<" else "big-endian",
        )

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if self._inode(tree, inum, 0).attr.kind != Kind.DIR:
            raise NotFound(f"inode {inum} is no directory")
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of an inode."""
        return self._inode(tree, inum, stream).attr

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the content of an inode lies."""
        return (self._layout(self._inode(tree, inum, stream)),)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link: in the inode if it has no blocks."""
        inode = self._inode(tree, inum, 0)
        size = inode.attr.size
        if inode.attr.kind != Kind.LNK or size > MAX_LINK:
            raise Malformed(f"inode {inum}: no link, or a target of {size} bytes")
        if size <= len(inode.inline) and not inode.blocks:
            return inode.inline[:size]
        return b"".join(self._content(inode))

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return nothing: the extended attributes of UFS2 are not read."""
        self._inode(tree, inum, 0)
        return {}

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Refuse: every stream has a layout."""
        raise NotFound(f"tree {tree}, inode {inum}-{stream}: [{offset}, {offset + length}) is not foreign")

    def _inode(self, tree: int, inum: int, stream: int) -> Inode:
        if tree or stream:
            raise NotFound(f"tree {tree}, inode {inum}, stream {stream}")
        return read_inode(self._reader, self._sb, inum)

    def _layout(self, inode: Inode) -> Layout:
        if inode.attr.kind not in {Kind.REG, Kind.DIR} or not inode.attr.size:
            return Inline(b"")
        return linear(inode.attr.size, rows_of(self._reader, self._sb, inode))

    def _content(self, inode: Inode) -> Iterator[bytes]:
        for logical, length, target in rows_of(self._reader, self._sb, inode):
            if target == LOST:
                raise Malformed(
                    f"inode {inode.attr.inum}: bytes [{logical}, {logical + length}) leave the volume"
                )
            for at in range(0, length, _PIECE):
                take = min(_PIECE, length - at)
                yield bytes(take) if target == HOLE else self._reader.read(target + at, take)

    def _entries(self, inum: int) -> Iterator[Entry | str]:
        inode = read_inode(self._reader, self._sb, inum)
        if inode.attr.size > _DIRECTORY_MAX:
            yield f"directory {inum} claims {inode.attr.size} bytes"
            return
        try:
            for piece in self._content(inode):
                yield from self._piece(piece)
        except EvidenceError as why:
            yield why.message

    def _piece(self, data: bytes) -> Iterator[Entry | str]:
        for found in directory_entries(data, self._sb.order):
            if isinstance(found, str):
                yield found
                continue
            number, name = found
            if name not in {b".", b".."}:
                yield self._entry(number, name)

    def _entry(self, number: int, name: bytes) -> Entry:
        try:
            inode = read_inode(self._reader, self._sb, number)
        except (EvidenceError, NotFound) as why:
            return Entry(name, Attr(kind=Kind.REG, inum=number, nlink=0, damaged=why.message))
        layout = None
        # a map without indirect blocks costs no read
        if inode.attr.kind == Kind.REG and inode.attr.size <= 12 * self._sb.block:
            found = self._layout(inode)
            layout = (found,) if len(getattr(found, "logical", b"")) <= 16 else None
        return Entry(name, inode.attr, 0, layout)


def open_ufs(reader: Reader, _options: Options) -> UfsFiles:
    """Open a UFS volume.

    Raises:
        NotMine: no superblock.
        Malformed: no superblock with possible geometry.
    """
    return UfsFiles(reader, find_superblock(reader))
