"""An inode: its fields, and the attributes they mean.

Source: Linux Documentation/filesystems/ext4, "Index Nodes", "Inode Size", "Inode Timestamps".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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
UNUSUAL: Final = COMPRESSED | ENCRYPTED | INLINE  # content that i_block does not map

FSCRYPT: Final = "encrypted (fscrypt)"
_BASE: Final = struct.Struct("<HHIiiiIHHIII60sIIIIHHHHHH")
_WHOLE: Final = struct.Struct(_BASE.format + "HHIIIiI")  # i_extra_isize and what may follow
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
_DEVICES: Final = frozenset((Kind.CHR, Kind.BLK))
_RARE: Final = INLINE | ENCRYPTED
_SECOND: Final = 10**9
_EPOCH: Final = (1 << 32) * _SECOND  # what one of the two epoch bits of a time is worth


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


Fields = tuple[Any, ...]  # what Inode has from ``mode`` on, as a plain tuple: a page unpacks thousands


FLAGS: Final = Inode._fields.index("flags") - 2
DATA: Final = Inode._fields.index("data") - 2


def read_fields(tables: Tables, number: int) -> Fields:
    """Return the fields of an inode. Raises as ``Tables.located``."""
    data, at = tables.located(number)
    if tables.superblock.inode_size >= 256:
        return _WHOLE.unpack_from(data, at)
    return _BASE.unpack_from(data, at) + _NO_EXTRA


def read_inode(tables: Tables, number: int) -> Inode:
    """Return an inode. Raises as ``Tables.located``."""
    return Inode._make((number, tables.inode(number), *read_fields(tables, number)))


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
    return attr_of_fields(inode.number, inode[2:], tables, inum, deleted=deleted)


def attr_of_fields(number: int, fields: Fields, tables: Tables, inum: int, *, deleted: bool = False) -> Attr:
    """Return the attributes of inode ``number``; see ``attr_of``."""
    (
        mode, uid, size, atime, ctime, mtime, _, gid, links, sectors, flags, _, data, generation, _,
        size_high, _, blocks_high, _, uid_high, gid_high, _, _, extra, _, ctime_extra, mtime_extra,
        atime_extra, crtime, crtime_extra,
    ) = fields  # fmt: skip
    kind = _KINDS.get(mode & 0xF000)
    if kind is None:
        raise Malformed(f"inode {number}: mode {mode:#o} is no file type")
    damaged, sb = "", tables.superblock
    if size_high and (kind == Kind.REG or (kind == Kind.DIR and sb.incompat & LARGEDIR)):
        size |= size_high << 32
        if size > MAX_SIZE:
            damaged, size = f"inode {number}: size {size}", 0
    if sb.ro_compat & HUGE_FILE:
        sectors |= blocks_high << 32
        if flags & HUGE:
            sectors *= sb.block >> 9
    if flags & _RARE:
        if flags & INLINE and kind == Kind.REG:
            sectors += (size + 511) >> 9  # as stat says of files, so that nobody takes them for holes
        if flags & ENCRYPTED:
            damaged = damaged or FSCRYPT
    if number in tables.bad:
        damaged = damaged or f"inode {number}: its checksum differs"
    a_ns = atime * _SECOND
    c_ns = ctime * _SECOND
    m_ns = mtime * _SECOND
    b_ns: int | None = None
    if extra and extra <= sb.inode_size - 128:
        if extra >= 8:
            c_ns += (ctime_extra & 3) * _EPOCH + (ctime_extra >> 2)
        if extra >= 12:
            m_ns += (mtime_extra & 3) * _EPOCH + (mtime_extra >> 2)
        if extra >= 16:
            a_ns += (atime_extra & 3) * _EPOCH + (atime_extra >> 2)
        if extra >= 20:
            b_ns = crtime * _SECOND
            if extra >= 24:
                b_ns += (crtime_extra & 3) * _EPOCH + (crtime_extra >> 2)
    return Attr(
        kind=kind,
        inum=inum,
        generation=generation,
        size=size,
        allocated=min(sectors << 9, MAX_SIZE) if sectors else 0,
        mode=mode & 0o7777,
        uid=uid | uid_high << 16,
        gid=gid | gid_high << 16,
        nlink=links,
        m_ns=m_ns,
        a_ns=a_ns,
        c_ns=c_ns,
        b_ns=b_ns,
        rdev=_device(data) if kind in _DEVICES else 0,
        deleted=deleted or not links,
        damaged=damaged,
    )


def _device(data: bytes) -> int:
    """Return a device number as os.makedev packs it, from its old or its new encoding in i_block."""
    old = int.from_bytes(data[:4], "little")
    new = int.from_bytes(data[4:8], "little")
    if old:
        return (old >> 8 & 0xFF) << 8 | old & 0xFF
    major, minor = (new & 0xFFF00) >> 8, new & 0xFF | new >> 12 & 0xFFF00
    return minor & 0xFF | (major & 0xFFF) << 8 | (minor >> 8) << 20
