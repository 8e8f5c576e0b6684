"""An inode: its fields, and the attributes they mean.

Source: Linux Documentation/filesystems/ext4, "Index Nodes", "Inode Size", "Inode Timestamps".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.ext.superblock import HUGE_FILE, LARGEDIR
from imgfs.errors import Malformed
from imgfs.limits import MAX_SIZE
from imgfs.model import Attr, Kind

if TYPE_CHECKING:
    from imgfs.backends.ext.tables import Tables

# i_flags
COMPRESSED: Final = 0x200  # e2compr: stored compressed
ENCRYPTED: Final = 0x800
INDEXED: Final = 0x1000  # a directory with a hash tree
HUGE: Final = 0x40000  # i_blocks counts blocks of the file system
EXTENTS: Final = 0x80000
EA_INODE: Final = 0x200000
INLINE: Final = 0x10000000

FSCRYPT: Final = "encrypted (fscrypt)"
_BASE: Final = struct.Struct("<HHIiiiIHHIII60sIIIIHHHHHH")
_EXTRA: Final = struct.Struct("<HHIIIiI")  # i_extra_isize and what may follow
_NO_EXTRA: Final = (0, 0, 0, 0, 0, 0, 0)
_KINDS: Final = {kind << 12: kind for kind in Kind}
# "Directory Entries": file_type
KIND_OF_TYPE: Final = {
    1: Kind.REG,
    2: Kind.DIR,
    3: Kind.CHR,
    4: Kind.BLK,
    5: Kind.FIFO,
    6: Kind.SOCK,
    7: Kind.LNK,
}
_SECOND: Final = 10**9


class Inode(NamedTuple):
    """The fields of an inode in the order they lie. ``whole`` is all of it, for attributes inside."""

    number: int
    whole: bytes
    mode: int
    uid_low: int
    size_low: int
    atime: int
    ctime: int
    mtime: int
    dtime: int
    gid_low: int
    links: int
    blocks_low: int
    flags: int
    version: int
    data: bytes  # i_block
    generation: int
    acl_low: int
    size_high: int
    fragment: int
    blocks_high: int
    acl_high: int
    uid_high: int
    gid_high: int
    checksum: int
    reserved: int
    extra: int
    checksum_high: int
    ctime_extra: int
    mtime_extra: int
    atime_extra: int
    crtime: int
    crtime_extra: int

    @property
    def kind(self) -> Kind | None:
        """Return the file type, None when the mode has none."""
        return _KINDS.get(self.mode & 0xF000)

    @property
    def extra_size(self) -> int:
        """Return the bytes of fields behind the first 128 that are in use."""
        return self.extra if self.extra <= len(self.whole) - 128 else 0

    @property
    def holds_link(self) -> bool:
        """Say whether the target of a symbolic link lies in i_block ("The Contents of inode.i_block")."""
        if self.flags & INLINE or self.size_low >= 60 or self.size_high:
            return False
        return not (self.flags & EXTENTS and self.data[:2] == b"\x0a\xf3")


def read_inode(tables: Tables, number: int) -> Inode:
    """Return an inode. Raises as ``Tables.located``."""
    data, at = tables.located(number)
    size = tables.superblock.inode_size
    fields = _BASE.unpack_from(data, at)
    extra = _EXTRA.unpack_from(data, at + 128) if size >= 152 else _NO_EXTRA
    return Inode._make((number, data[at : at + size], *fields, *extra))


def size_of(inode: Inode, tables: Tables) -> int:
    """Return the size: 64 bits for files, 32 for the rest unless directories may be large.

    Raises:
        Malformed: larger than any file can be.
    """
    size = inode.size_low
    kind = inode.mode & 0xF000
    if kind == 0x8000 or (kind == 0x4000 and tables.superblock.incompat & LARGEDIR):
        size |= inode.size_high << 32
        if size > MAX_SIZE:
            raise Malformed(f"inode {inode.number}: size {size}")
    return size


def attr_of(inode: Inode, tables: Tables, inum: int, *, deleted: bool = False) -> Attr:
    """Return the attributes of an inode as the kernel shows them.

    Raises:
        Malformed: the mode names no file type.
    """
    kind = _KINDS.get(inode.mode & 0xF000)
    if kind is None:
        raise Malformed(f"inode {inode.number}: mode {inode.mode:#o} is no file type")
    damaged, size, flags = "", inode.size_low, inode.flags
    if inode.size_high:
        try:
            size = size_of(inode, tables)
        except Malformed as why:
            damaged, size = why.message, 0
    sectors = inode.blocks_low
    if tables.superblock.ro_compat & HUGE_FILE:
        sectors |= inode.blocks_high << 32
        if flags & HUGE:
            sectors *= tables.superblock.block >> 9
    if flags & INLINE and kind == Kind.REG:
        sectors += (size + 511) >> 9  # as stat says of files, so that nobody takes them for holes
    if flags & ENCRYPTED:
        damaged = damaged or FSCRYPT
    extra = inode.extra_size
    c_ns, m_ns, a_ns, b_ns = inode.ctime * _SECOND, inode.mtime * _SECOND, inode.atime * _SECOND, None
    if extra >= 8:
        c_ns += _more(inode.ctime_extra)
    if extra >= 12:
        m_ns += _more(inode.mtime_extra)
    if extra >= 16:
        a_ns += _more(inode.atime_extra)
    if extra >= 20:
        b_ns = inode.crtime * _SECOND
        if extra >= 24:
            b_ns += _more(inode.crtime_extra)
    return Attr(
        kind=kind,
        inum=inum,
        generation=inode.generation,
        size=size,
        allocated=min(sectors << 9, MAX_SIZE),
        mode=inode.mode & 0o7777,
        uid=inode.uid_low | inode.uid_high << 16,
        gid=inode.gid_low | inode.gid_high << 16,
        nlink=inode.links,
        m_ns=m_ns,
        a_ns=a_ns,
        c_ns=c_ns,
        b_ns=b_ns,
        rdev=_device(inode.data) if kind in (Kind.CHR, Kind.BLK) else 0,
        deleted=deleted or not inode.links,
        damaged=damaged,
    )


def _more(extra: int) -> int:
    """Return what the second field of a time adds: two bits of epoch, thirty of nanoseconds."""
    return ((extra & 3) << 32) * _SECOND + (extra >> 2)


def _device(data: bytes) -> int:
    """Return a device number as os.makedev packs it, from its old or its new encoding in i_block."""
    old = int.from_bytes(data[:4], "little")
    new = int.from_bytes(data[4:8], "little")
    if old:
        return (old >> 8 & 0xFF) << 8 | old & 0xFF
    major, minor = (new & 0xFFF00) >> 8, new & 0xFF | new >> 12 & 0xFFF00
    return minor & 0xFF | (major & 0xFFF) << 8 | (minor >> 8) << 20
