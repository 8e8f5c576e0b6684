"""An inode: its fields, and the attributes they mean.

Source: XFS Algorithms and Data Structures, 3rd edition, "On-disk Inode", "Timestamps", "Inode Flags".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imgfs.errors import Malformed
from imgfs.limits import MAX_SIZE
from imgfs.model import Attr, Kind

if TYPE_CHECKING:
    from imgfs.backends.xfs.volume import Volume

# di_format, di_aformat
DEVICE: Final = 0
LOCAL: Final = 1
EXTENTS: Final = 2
BTREE: Final = 3
# di_flags
REALTIME: Final = 0x1
FLAGS: Final = {
    REALTIME: "realtime",
    0x2: "prealloc",
    0x8: "immutable",
    0x10: "append",
    0x20: "sync",
    0x40: "noatime",
    0x80: "nodump",
    0x100: "rtinherit",
    0x200: "projinherit",
    0x400: "nosymlinks",
    0x800: "extsize",
    0x1000: "extszinherit",
    0x2000: "nodefrag",
    0x4000: "filestream",
}
# di_flags2
BIGTIME: Final = 0x8
NREXT64: Final = 0x10
INTERNAL: Final = 0x20  # a file of the file system itself
FLAGS2: Final = {0x1: "dax", 0x2: "reflink", 0x4: "cowextsize", INTERNAL: "metadata"}

OLD_CORE: Final = 100  # bytes before the data fork
CORE: Final = 176
_BASE: Final = struct.Struct(">2xHBBHIIIHHQqqqQQIIHBbIHHI")  # up to di_gen
_MORE: Final = struct.Struct(">QI12xq")  # di_flags2, di_cowextsize, di_crtime: byte 120
KINDS: Final = {kind << 12: kind for kind in Kind}
# "Directory Entries": the file type of a name
KIND_OF_TYPE: Final = {
    1: Kind.REG,
    2: Kind.DIR,
    3: Kind.CHR,
    4: Kind.BLK,
    5: Kind.FIFO,
    6: Kind.SOCK,
    7: Kind.LNK,
    8: Kind.CHR,  # a white-out
}
_SECOND: Final = 10**9
_ALL: Final = (1 << 64) - 1
_BIG_EPOCH: Final = (1 << 31) * _SECOND  # bigtime counts nanoseconds from 1901 on
_LOW: Final = 0xFFFF_FFFF
_HUGE: Final = 1 << 44  # blocks: more than any file system of 2^63 bytes has


class Inode(NamedTuple):
    """The fields of an inode in the order they lie. ``whole`` is all of it, forks too.

    Units: ``size`` bytes, ``blocks``, ``extsize`` and ``cowextsize`` blocks; times as they are stored.
    """

    number: int
    whole: bytes
    mode: int
    version: int
    format: int
    old_links: int
    uid: int
    gid: int
    links: int
    project_low: int
    project_high: int
    many: int  # di_big_nextents
    atime: int
    mtime: int
    ctime: int
    size: int
    blocks: int
    extsize: int
    extents: int
    attribute_extents: int
    fork: int  # words of 8 bytes
    attribute_format: int
    event_mask: int
    state: int
    flags: int
    generation: int
    flags2: int
    cowextsize: int
    crtime: int

    @property
    def kind(self) -> Kind | None:
        """Return the file type, None when the mode has none."""
        return KINDS.get(self.mode & 0xF000)

    @property
    def project(self) -> int:
        """Return the project: 16 bits in old file systems, whose other half is zero."""
        return self.project_high << 16 | self.project_low if self.version > 1 else 0

    @property
    def counts(self) -> tuple[int, int]:
        """Return how many extents the data and the attributes have."""
        if self.flags2 & NREXT64:
            return self.many, self.extents
        return self.extents, self.attribute_extents

    @property
    def data(self) -> bytes:
        """Return the fork of the data."""
        core = CORE if self.version > 2 else OLD_CORE
        return self.whole[core : core + self.fork * 8 if self.fork else len(self.whole)]

    @property
    def attributes(self) -> bytes:
        """Return the fork of the attributes, empty: there is none."""
        core = CORE if self.version > 2 else OLD_CORE
        return self.whole[core + self.fork * 8 :] if self.fork else b""


Fields = tuple[Any, ...]  # what Inode has from ``mode`` on, as a plain tuple: a page unpacks thousands
_NO_MORE: Final = (0, 0, 0)


def read_fields(volume: Volume, number: int) -> tuple[Fields, bytes, int]:
    """Return the fields of an inode, and where it lies in which bytes. Raises as ``Volume.located``."""
    data, at = volume.located(number)
    fields = _BASE.unpack_from(data, at)
    return fields + (_MORE.unpack_from(data, at + 120) if fields[1] > 2 else _NO_MORE), data, at


def read_inode(volume: Volume, number: int) -> Inode:
    """Return an inode that holds a file. Raises as ``Volume.located``."""
    fields, data, at = read_fields(volume, number)
    return Inode._make((number, data[at : at + volume.superblock.inode], *fields))


def attr_of(inode: Inode, volume: Volume) -> Attr:
    """Return the attributes of an inode. Raises Malformed when the mode names no file type."""
    return attr_of_fields(inode.number, inode[2:], inode.whole, 0, volume)


def attr_of_fields(number: int, fields: Fields, data: bytes, at: int, volume: Volume) -> Attr:
    """Return the attributes of inode ``number``, which lies at ``at`` of ``data``; see ``attr_of``."""
    (
        mode, version, shape, old_links, uid, gid, links, _, _, _, atime, mtime, ctime, size, blocks,
        _, _, _, _, _, _, _, _, generation, flags2, _, crtime,
    ) = fields  # fmt: skip
    kind = KINDS.get(mode & 0xF000)
    if kind is None:
        raise Malformed(f"inode {number}: mode {mode:#o} is no file type")
    damaged = ""
    if size > MAX_SIZE:
        damaged, size = f"inode {number}: size {size}", 0
    if blocks > _HUGE:
        damaged, blocks = damaged or f"inode {number}: {blocks} blocks", 0
    rdev = 0
    if shape == DEVICE:
        size = 0
        if kind in (Kind.CHR, Kind.BLK):
            core = CORE if version > 2 else OLD_CORE
            rdev = _device(int.from_bytes(data[at + core : at + core + 4], "big"))
    b_ns: int | None = None
    if flags2 & BIGTIME:
        a_ns = (atime & _ALL) - _BIG_EPOCH
        m_ns = (mtime & _ALL) - _BIG_EPOCH
        c_ns = (ctime & _ALL) - _BIG_EPOCH
        b_ns = (crtime & _ALL) - _BIG_EPOCH
    else:
        a_ns = (atime >> 32) * _SECOND + (atime & _LOW)
        m_ns = (mtime >> 32) * _SECOND + (mtime & _LOW)
        c_ns = (ctime >> 32) * _SECOND + (ctime & _LOW)
        if version > 2:
            b_ns = (crtime >> 32) * _SECOND + (crtime & _LOW)
    return Attr(
        kind=kind,
        inum=number,
        generation=generation,
        size=size,
        allocated=blocks << volume.superblock.block_bits,
        mode=mode & 0o7777,
        uid=uid,
        gid=gid,
        nlink=links if version > 1 else old_links,
        m_ns=m_ns,
        a_ns=a_ns,
        c_ns=c_ns,
        b_ns=b_ns,
        rdev=rdev,
        damaged=damaged,
    )


def _device(stored: int) -> int:
    """Return a device number as os.makedev packs it: 14 bits of major and 18 of minor number are stored."""
    major, minor = stored >> 18, stored & 0x3FFFF
    return minor & 0xFF | (major & 0xFFF) << 8 | (minor >> 8) << 20 | (major >> 12) << 44
