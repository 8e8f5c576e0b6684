"""Inodes of EROFS, compact and extended.

Source: erofs.docs.kernel.org, Core on-disk format, Inodes, Inode data layouts.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends._times import BEYOND, nanoseconds
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.limits import MAX_SIZE
from imgfs.model import Attr, Kind

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends.erofs.superblock import Superblock

FLAT, FULL, INLINE, COMPACT, CHUNKS = range(5)  # data layouts
_SLOT: Final = 32
_COMPACT: Final = struct.Struct("<HHHHI4sII HH4s")
_EXTENDED: Final = struct.Struct("<HHHHQIIIIQII")
_KINDS: Final = {kind << 12: kind for kind in Kind}
_DEVICES: Final = frozenset((Kind.CHR, Kind.BLK))
_WINDOW: Final = 32_768  # bytes of metadata kept at a time
_KEPT: Final = 64
_BEYOND: Final = 1 << 47  # no inode has such a number: its place would not fit 64 bits


class Inode(NamedTuple):
    """An inode. ``word`` is its layout's; ``xattr_at`` and ``behind`` are bytes of the image."""

    number: int
    kind: Kind
    mode: int
    layout: int
    size: int
    word: int
    uid: int
    gid: int
    nlink: int
    made_ns: int | None  # None: it cannot be shown
    xattr_at: int
    behind: int


def device(word: int) -> int:
    """Return a device number as os.makedev packs it: 12 bits of major, 20 of minor, 8 of them first."""
    major, minor = word >> 8 & 0xFFF, word & 0xFF | word >> 12 & 0xFFF00
    return major << 8 | minor & 0xFF | (minor & ~0xFF) << 12


class Metadata:
    """Reads of what is no data, some of which is kept: inodes are 32 bytes, and lie together."""

    __slots__ = ("_kept", "_reader", "size")

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.size = reader.size
        self._kept: dict[int, bytes] = {}

    def read(self, at: int, length: int) -> bytes:
        """Return exactly ``length`` bytes. Raises EvidenceError."""
        number, offset = divmod(at, _WINDOW)
        if at < 0 or offset + length > _WINDOW:
            return self._reader.read(at, length)
        held = self._kept.get(number)
        if held is None:
            start = number * _WINDOW
            try:
                held = self._reader.read(start, max(min(_WINDOW, self.size - start), 0))
            except EvidenceError:  # what is damaged may be something else
                return self._reader.read(at, length)
            if len(self._kept) >= _KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[number] = held
        if offset + length > len(held):
            return self._reader.read(at, length)  # says what is wrong
        return held[offset : offset + length]


class Inodes:
    """All inodes of one file system."""

    __slots__ = ("_metadata", "_superblock")

    def __init__(self, metadata: Metadata, superblock: Superblock) -> None:
        self._metadata = metadata
        self._superblock = superblock

    def read(self, number: int) -> Inode:
        """Return an inode.

        Raises:
            NotFound: no inode can have this number.
            EvidenceError: it is damaged.
        """
        at = self._superblock.meta_at + number * _SLOT
        if not 0 <= number < _BEYOND or at + _SLOT > self._metadata.size:
            raise NotFound(f"inode {number}")
        raw = self._metadata.read(at, _SLOT)
        form, icount, mode = struct.unpack_from("<HHH", raw)
        layout = form >> 1 & 7
        if form >> 4 or layout > CHUNKS:
            raise Malformed(f"inode {number}: format {form:#x}", start=at, stop=at + 2)
        kind = _KINDS.get(mode & 0xF000)
        if kind is None:
            raise Malformed(f"inode {number}: mode {mode:#o}", start=at + 4, stop=at + 6)
        if form & 1:
            raw = self._metadata.read(at, _EXTENDED.size)
            _, _, _, _, size, word, _, uid, gid, seconds, rest, nlink = _EXTENDED.unpack(raw)
            if size > MAX_SIZE:
                raise Malformed(f"inode {number}: {size} bytes", start=at + 8, stop=at + 16)
            seconds -= (seconds >> 63) << 64  # signed
            made = nanoseconds(seconds, rest % 10**9)
            length = 64
        else:
            nlink, size = struct.unpack_from("<HI", raw, 6)
            word, _, uid, gid = struct.unpack_from("<IIHH", raw, 16)
            made, length = self._superblock.made_ns, _SLOT
        xattrs = 12 + 4 * (icount - 1) if icount else 0
        return Inode(
            number,
            kind,
            mode & 0o7777,
            layout,
            size,
            word,
            uid,
            gid,
            nlink,
            made,
            at + length if icount else -1,
            at + length + xattrs,
        )


def attr_of(inode: Inode, block: int) -> Attr:
    """Return the attributes; the only time there is, is that of the last modification. Units: bytes."""
    packed = inode.layout in (FULL, COMPACT)
    blocks = inode.word if packed else -(-inode.size // block)
    return Attr(
        kind=inode.kind,
        inum=inode.number,
        size=inode.size,
        allocated=min(blocks * block, MAX_SIZE) if inode.kind is Kind.REG else 0,
        mode=inode.mode,
        uid=inode.uid,
        gid=inode.gid,
        nlink=inode.nlink,
        m_ns=inode.made_ns,
        rdev=device(inode.word) if inode.kind in _DEVICES else 0,
        damaged=BEYOND if inode.made_ns is None else "",
    )
