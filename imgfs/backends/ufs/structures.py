"""Superblock, inodes and directory entries of UFS1 and UFS2, either byte order.

Source: FreeBSD ``sys/ufs/ffs/fs.h`` (struct fs, cgstart, ino_to_fsba), ``sys/ufs/ufs/dinode.h``
(ufs1_dinode, ufs2_dinode), ``sys/ufs/ufs/dir.h`` (struct direct).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends._times import nanoseconds
from imgfs.errors import Malformed, NotFound, NotMine
from imgfs.model import Attr, Kind

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends.ufs.tables import Tables

MAGICS: Final = {0x00011954: 1, 0x19540119: 2}
MAGIC_AT: Final = 1372
PLACES: Final = (65536, 8192, 0, 262144)  # SBLOCKSEARCH of fs.h
ROOT: Final = 2
DIRECT, INDIRECT = 12, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """Geometry. Units: ``block`` and ``fragment`` bytes; ``size`` and per-group numbers in fragments.

    ``typed``: directory entries state the type of their file; before 4.4BSD, and on Solaris, the length of
    the name has those eight bits too (fs_maxsymlinklen of fs.h, OLDDIRFMT of dir.h).
    """

    version: int
    order: str
    block: int
    fragment: int
    size: int
    groups: int
    inodes_per_group: int
    fragments_per_group: int
    group_block: int
    inode_block: int
    offset: int
    mask: int
    label: str
    uuid: str
    typed: bool

    @property
    def inode_size(self) -> int:
        """Return the bytes of one inode."""
        return 128 if self.version == 1 else 256

    @property
    def pointer(self) -> str:
        """Return the struct code of a block number."""
        return "i" if self.version == 1 else "q"

    def inode_at(self, inum: int) -> int:
        """Return where an inode lies.

        Raises:
            NotFound: no such inode number.
        """
        if not ROOT <= inum < self.groups * self.inodes_per_group:
            raise NotFound(f"inode {inum}")
        group, index = divmod(inum, self.inodes_per_group)
        return (self.group_start(group) + self.inode_block) * self.fragment + index * self.inode_size

    def group_start(self, group: int) -> int:
        """Return the fragment from which the places in a group are counted (cgstart)."""
        start = group * self.fragments_per_group
        if self.version == 1:  # old layouts stagger the groups over the platters
            start += self.offset * (group & ~self.mask & 0xFFFFFFFF)
        return start


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """One inode. ``pointers`` are the direct, then the indirect block numbers, in fragments."""

    attr: Attr
    pointers: tuple[int, ...]
    inline: bytes
    blocks: int


def find_superblock(reader: Reader) -> Superblock:
    """Return the first superblock that makes sense.

    Raises:
        NotMine: no magic number anywhere.
        Malformed: a magic number, but impossible geometry behind it.
    """
    damage = ""
    for at in PLACES:
        if at + 2048 > reader.size:
            continue
        raw = reader.read(at, 2048)
        for order in "<>":
            version = MAGICS.get(struct.unpack_from(order + "I", raw, MAGIC_AT)[0])
            if version is None:
                continue
            try:
                return _superblock(raw, order, version, reader.size)
            except Malformed as why:
                damage = f"superblock at {at}: {why.message}"
    if damage:
        raise Malformed(damage)
    raise NotMine("ufs")


def _superblock(raw: bytes, order: str, version: int, available: int) -> Superblock:
    group_block, inode_block = struct.unpack_from(order + "ii", raw, 12)
    offset, mask = struct.unpack_from(order + "iI", raw, 24)
    groups, block, fragment = struct.unpack_from(order + "Iii", raw, 44)
    per_group, fragments = struct.unpack_from(order + "Ii", raw, 184)
    size = (
        struct.unpack_from(order + "i", raw, 36)[0]
        if version == 1
        else struct.unpack_from(order + "q", raw, 1080)[0]
    )
    if block not in {1 << shift for shift in range(12, 17)} or fragment not in {
        block,
        block // 2,
        block // 4,
        block // 8,
    }:
        raise Malformed(f"blocks of {block}, fragments of {fragment} bytes")
    if not 0 < per_group <= 1 << 24 or not 0 < fragments <= 1 << 30 or not 0 < inode_block < fragments:
        raise Malformed(f"groups of {per_group} inodes, {fragments} fragments, inodes from {inode_block}")
    if per_group * (128 if version == 1 else 256) > fragments * fragment:
        raise Malformed(f"{per_group} inodes do not fit into a group of {fragments * fragment} bytes")
    if not 0 < groups <= 1 << 24 or not 0 < size <= 1 << 50 or not 0 <= offset < fragments:
        raise Malformed(f"{groups} groups, {size} fragments in all, stagger of {offset}")
    if (groups - 1) * fragments * fragment > available:
        raise Malformed(f"{groups} groups of {fragments * fragment} bytes in {available}")
    first, second = struct.unpack_from(order + "II", raw, 144)
    (link_length,) = struct.unpack_from(order + "i", raw, 1320)
    return Superblock(
        version=version,
        order=order,
        block=block,
        fragment=fragment,
        size=size,
        groups=groups,
        inodes_per_group=per_group,
        fragments_per_group=fragments,
        group_block=group_block,
        inode_block=inode_block,
        offset=offset,
        mask=mask,
        label=raw[680:712].split(b"\0", 1)[0].decode("utf-8", "replace"),
        uuid=f"{first:08x}{second:08x}" if first or second else "",
        typed=version == 2 or link_length > 0,
    )


def read_inode(tables: Tables, inum: int) -> Inode:
    """Return an inode.

    Raises:
        NotFound: outside the file system, or its mode is none of a file.
    """
    sb, raw = tables.superblock, tables.inode(inum)
    o = sb.order
    mode, nlink = struct.unpack_from(o + "HH", raw)
    kind = mode >> 12
    if kind not in Kind._value2member_map_:
        raise NotFound(f"inode {inum}: mode {mode:#o} is no file")
    born = None
    if sb.version == 1:
        (size,) = struct.unpack_from(o + "Q", raw, 8)
        atime, anano, mtime, mnano, ctime, cnano = struct.unpack_from(o + "6i", raw, 16)
        blocks, generation, uid, gid = struct.unpack_from(o + "4I", raw, 104)
        area = raw[40:100]
    else:
        uid, gid = struct.unpack_from(o + "II", raw, 4)
        size, blocks, atime, mtime, ctime, btime = struct.unpack_from(o + "QQ4q", raw, 16)
        mnano, anano, cnano, bnano, generation = struct.unpack_from(o + "4iI", raw, 64)
        born = _time(btime, bnano)
        area = raw[112:232]
    pointers = struct.unpack_from(o + f"15{sb.pointer}", area)
    attr = Attr(
        kind=Kind(kind),
        inum=inum,
        generation=generation,
        size=min(size, (1 << 63) - 1),
        allocated=min(blocks, 1 << 53) * 512,
        mode=mode & 0o7777,
        uid=uid,
        gid=gid,
        nlink=nlink,
        m_ns=_time(mtime, mnano),
        a_ns=_time(atime, anano),
        c_ns=_time(ctime, cnano),
        b_ns=born,
        rdev=pointers[0] & 0xFFFFFFFF if kind in {Kind.CHR, Kind.BLK} else 0,
    )
    return Inode(attr=attr, pointers=pointers, inline=area, blocks=blocks)


def _time(seconds: int, nano: int) -> int | None:
    return nanoseconds(seconds, nano) if 0 <= nano < 10**9 else None
