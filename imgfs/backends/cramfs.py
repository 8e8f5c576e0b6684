"""cramfs: compressed pages behind inodes of 12 bytes.

Source: Linux Documentation/filesystems/cramfs.rst, and the README beside it for the layout: bit fields lie as
compilers of the byte order lay them out. Tests build images of both byte orders with mkfs.cramfs.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._listings import Listings
from imgfs.errors import EvidenceError, Malformed, NotFound, NotMine, NotSupported
from imgfs.limits import MAX_LINK, MIB
from imgfs.model import (
    PACKED_CODED,
    PACKED_HOLE,
    PACKED_LOST,
    Attr,
    Codec,
    Entry,
    FilesInfo,
    Inline,
    Kind,
    Packed,
    TreeInfo,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader
    from imgfs.model import Layout, Page

_MAGIC: Final = 0x28CD3D45
_MARK: Final = b"Compressed ROMFS"
_STARTS: Final = (0, 512)  # the second: behind a boot sector
_INODE: Final = 12
_ROOT: Final = 64  # bytes into the superblock
_PAGE: Final = 4096
_KNOWN: Final = 0x1 | 0x2 | 0x100 | 0x200 | 0x400 | 0x800
_SIGNED: Final = 0x1  # the checksum is filled in
_EXTENDED: Final = 0x800  # pointers have flags
_VERBATIM, _DIRECT = 1 << 31, 1 << 30  # of pointers
_CHECKED: Final = 32 * MIB  # what has a checksum of all of it is compared up to here
_ROW: Final = struct.Struct("<QII")
_KINDS: Final = {kind << 12: kind for kind in Kind}
_DEVICES: Final = frozenset((Kind.CHR, Kind.BLK))
_EMPTY: Final = (Inline(b""),)


class _Inode(NamedTuple):
    kind: Kind
    mode: int
    uid: int
    gid: int
    size: int
    name: int  # bytes of the name behind it
    start: int


class CramFiles:
    """One file system; see ``backends.Files``. A file goes by the byte its inode lies at."""

    def __init__(self, reader: Reader, order: str, start: int) -> None:
        """Read the superblock at byte ``start``.

        Raises:
            NotSupported: it has flags nobody has described.
            Malformed: it contradicts itself.
        """
        self._reader = reader
        self._order = order
        raw = reader.read(start, _ROOT + _INODE)
        size, flags, _ = struct.unpack_from(order + "III", raw, 4)
        crc, _, blocks, _ = struct.unpack_from(order + "4I", raw, 32)
        if flags & ~_KNOWN:
            raise NotSupported(f"cramfs with flags {flags & ~_KNOWN:#x}")
        self._extended = bool(flags & _EXTENDED)
        notes = []
        if flags & _SIGNED:
            if size > reader.size:
                notes.append(f"the volume has {reader.size} bytes, the file system {size}")
            elif size <= _CHECKED and _checksum(reader, start, size) != crc:
                notes.append("the checksum of the file system is wrong")
        root = self._inode(start + _ROOT)
        if root.kind is not Kind.DIR:
            raise Malformed(
                "cramfs: the root is no directory", start=start + _ROOT, stop=start + _ROOT + _INODE
            )
        self._listings = Listings(self._names)
        self.info = FilesInfo(
            type="cramfs",
            trees=(TreeInfo("root", start + _ROOT),),
            block=_PAGE,
            size=size if flags & _SIGNED else blocks * _PAGE,
            label=raw[48:64].split(b"\0")[0].decode("utf-8", "replace"),
            version=f"{'little' if order == '<' else 'big'}-endian",
            notes=tuple(notes),
        )

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if tree:
            raise NotFound(f"tree {tree}")
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file."""
        return self._attr(self._found(tree, inum, stream), inum)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a file lie."""
        inode = self._found(tree, inum, stream)
        return self._packed(inode) if inode.kind is Kind.REG else _EMPTY

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link, which is one compressed page."""
        inode = self._found(tree, inum)
        if inode.kind is not Kind.LNK:
            raise NotFound(f"inode {inum} is no symbolic link")
        if inode.size > MAX_LINK:
            raise Malformed(f"inode {inum}: link target of {inode.size} bytes")
        parts = []
        for index, (start, stop, flags) in enumerate(self._pages(inode)):
            held = min(_PAGE, inode.size - index * _PAGE)
            stored = self._reader.read(start, max(stop - start, 0))
            data = bytes(held) if start == stop else stored if flags & _VERBATIM else _inflated(stored, held)
            if len(data) < held:
                raise Malformed(f"inode {inum}: link target of {len(data)} bytes")
            parts.append(data[:held])
        return b"".join(parts)

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return nothing: there are none."""
        self._found(tree, inum)
        return {}

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Refuse: there are no foreign bytes."""
        raise Malformed(f"inode {inum} of {tree}, stream {stream}: no bytes [{offset}, {offset + length})")

    def _found(self, tree: int, inum: int, stream: int = 0) -> _Inode:
        if tree or stream or inum % 4 or not _ROOT <= inum <= self._reader.size - _INODE:
            raise NotFound(f"inode {inum} of tree {tree}, stream {stream}")
        return self._inode(inum)

    def _inode(self, at: int) -> _Inode:
        return self._parsed(self._reader.read(at, _INODE), 0)

    def _parsed(self, raw: bytes, at: int) -> _Inode:
        one, two, three = struct.unpack_from(self._order + "III", raw, at)
        if self._order == "<":
            mode, uid = one & 0xFFFF, one >> 16
            size, gid = two & 0xFFFFFF, two >> 24
            name, start = three & 63, three >> 6
        else:
            mode, uid = one >> 16, one & 0xFFFF
            size, gid = two >> 8, two & 0xFF
            name, start = three >> 26, three & 0x3FFFFFF
        kind = _KINDS.get(mode & 0xF000)
        if kind is None:
            raise Malformed(f"an inode of mode {mode:#o}")
        return _Inode(kind, mode & 0o7777, uid, gid, size, 4 * name, 4 * start)

    def _attr(self, inode: _Inode, inum: int) -> Attr:
        device = inode.kind in _DEVICES  # whose size is their number, 8 bits each
        return Attr(
            kind=inode.kind,
            inum=inum,
            size=0 if device else inode.size,
            allocated=-(-inode.size // 512) * 512 if inode.kind is Kind.REG else 0,
            mode=inode.mode,
            uid=inode.uid,
            gid=inode.gid,
            rdev=inode.size & 0xFFFF if device else 0,
        )

    def _pages(self, inode: _Inode) -> Iterator[tuple[int, int, int]]:
        """Yield where the pages of a file lie: from, to, flags. A page that is nowhere is a hole."""
        count = -(-inode.size // _PAGE)
        if not count:
            return
        raw = self._reader.read(inode.start, 4 * count)
        before = inode.start + 4 * count
        for (word,) in struct.iter_unpack(self._order + "I", raw):
            flags = word & (_VERBATIM | _DIRECT) if self._extended else 0
            stop = word & ~flags
            if flags & _DIRECT:  # where it begins, in words; a compressed one has its length ahead
                before = 4 * stop
                stop = before + _PAGE
                if not flags & _VERBATIM:
                    (length,) = struct.unpack(self._order + "H", self._reader.read(before, 2))
                    before, stop = before + 2, before + 2 + length
            yield before, stop, flags
            before = stop

    def _packed(self, inode: _Inode) -> tuple[Layout, ...]:
        if not inode.size:
            return _EMPTY
        table = bytearray()
        for index, (start, stop, flags) in enumerate(self._pages(inode)):
            held = min(_PAGE, inode.size - index * _PAGE)
            if start == stop:
                table += _ROW.pack(0, 0, PACKED_HOLE)
            elif not start < stop <= start + 2 * _PAGE:
                table += _ROW.pack(0, 0, PACKED_LOST)
            else:
                length = held if flags & _VERBATIM and flags & _DIRECT else stop - start
                table += _ROW.pack(start, length, 0 if flags & _VERBATIM else PACKED_CODED)
        return (Packed(size=inode.size, unit=_PAGE, codec=Codec("zlib"), table=bytes(table)),)

    def _names(self, inum: int) -> Iterator[Entry | str]:
        folder = self._found(0, inum)
        if folder.kind is not Kind.DIR:
            raise NotFound(f"inode {inum} is no directory")
        if not folder.size:
            return
        stop = min(folder.start + folder.size, self._reader.size)
        if stop < folder.start + folder.size:
            yield f"directory {inum} leaves the source"
        data = self._reader.read(folder.start, max(stop - folder.start, 0))
        at = 0
        while at + _INODE <= len(data):
            number = folder.start + at
            try:
                inode = self._parsed(data, at)
            except EvidenceError as why:
                yield f"directory {inum}: {why.message}"
                return
            after = at + _INODE + inode.name
            name = data[at + _INODE : after].split(b"\0")[0]
            if after > len(data) or not name:
                yield f"directory {inum}: a name of {inode.name} bytes"
                return
            at = after
            layout = None
            if inode.kind is Kind.REG and inode.size <= 16 * _PAGE:
                try:
                    layout = self._packed(inode)
                except EvidenceError:
                    layout = None  # whoever opens it is told
            yield Entry(name, self._attr(inode, number), 0, layout)


def _inflated(stored: bytes, most: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(stored, most)
    except zlib.error as why:
        raise Malformed(f"a page does not decode: {why}") from why


def _checksum(reader: Reader, start: int, size: int) -> int:
    """Return the CRC-32 of bytes [start, size), zeros in its own place."""
    value = 0
    for at in range(start, size, MIB):
        data = bytearray(reader.read(at, min(MIB, size - at)))
        if at == start:
            data[32:36] = bytes(4)
        value = zlib.crc32(data, value)
    return value


def open_cramfs(reader: Reader, _options: Options) -> CramFiles:
    """Open a file system of either byte order.

    Raises:
        NotMine: no superblock.
        NotSupported: flags nobody has described.
        Malformed: it contradicts itself.
    """
    for start in _STARTS:
        if start + _ROOT + _INODE > reader.size:
            break
        raw = reader.read(start, 32)
        for order in "<>":
            if struct.unpack_from(order + "I", raw)[0] == _MAGIC:
                return CramFiles(reader, order, start)
    raise NotMine("cramfs")


BACKEND = Backend(
    name="cramfs",
    title="cramfs",
    role=Role.FILES,
    rank=35,
    signatures=tuple(
        Signature(start, _MAGIC.to_bytes(4, order)) for start in _STARTS for order in ("little", "big")
    ),
    open=open_cramfs,
    supports="both byte orders, holes, flags of pointers",
    truth=("composed", "corpus"),
)
