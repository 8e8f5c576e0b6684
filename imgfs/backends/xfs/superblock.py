"""The superblock of XFS: what it says of the whole file system, and whether to believe it.

Owns features, sizes, and the arithmetic of block and inode numbers. Knows no inode.

Source: XFS Algorithms and Data Structures, 3rd edition, "Superblocks".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.backends.xfs.checksum import intact
from imgfs.limits import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC: Final = b"XFSB"
LENGTH: Final = 512
CHECKSUM: Final = 224  # byte of sb_crc
NO_INODE: Final = (1 << 64) - 1

_HEAD: Final = struct.Struct(">4sIQQQ16sQQQQIIIIIHHHH12s8B4Q2QHBBIIIBBHIII")
_FIFTH: Final = struct.Struct(">IIII4xIQQ16s")  # from byte 208 on, sb_crc skipped

# sb_versionnum, sb_features2
_ALIGNED: Final = 0x0080
_LOG2: Final = 0x0400
_DIRECTORIES2: Final = 0x2000
_MORE: Final = 0x8000
_FTYPE2: Final = 0x200
# sb_features_incompat
FTYPE: Final = 0x1
META_UUID: Final = 0x4
NEEDS_REPAIR: Final = 0x10
METADIR: Final = 0x100
KNOWN: Final = {
    FTYPE: "ftype",
    0x2: "spinodes",
    META_UUID: "meta_uuid",
    0x8: "bigtime",
    NEEDS_REPAIR: "needsrepair",
    0x20: "nrext64",
    0x40: "exchange",
    0x80: "parent",
    METADIR: "metadir",
}
_UNREAD: Final = {0x200: "zoned", 0x400: "zone_gaps"}
_BLOCKS: Final = (9, 16)  # log2 of the smallest and the largest block
_INODES: Final = (8, 11)
_SECTORS: Final = (9, 15)
_DIRECTORY: Final = 1 << 16  # bytes of the largest directory block


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """A plausible superblock.

    Units: ``block``, ``sector``, ``inode`` and ``directory`` bytes; ``blocks``, ``group_blocks`` and ``log``
    blocks; ``log_start`` the number of a block, 0: on another device; ``*_bits`` base-2 logarithms. ``copy``
    is the allocation group this copy lies in.
    """

    version: int
    block: int
    block_bits: int
    sector: int
    inode: int
    inode_bits: int  # of inodes per block
    directory: int
    blocks: int
    groups: int
    group_blocks: int
    group_bits: int
    root: int
    log_start: int
    log: int
    log_headers: bool  # the log's version is 2
    aligned: int
    typed: bool
    realtime: int
    metadir: bool
    old_directories: bool
    incompat: int
    uuid: str
    meta_uuid: bytes
    label: str
    intact: bool
    unfinished: bool
    copy: int

    @property
    def size(self) -> int:
        """Return the bytes of the file system."""
        return self.blocks * self.block

    @property
    def checked(self) -> bool:
        """Say whether metadata carries checksums."""
        return self.version == 5

    @property
    def unread(self) -> str:
        """Return the names of features without which nothing can be read, empty: there is none."""
        rest = self.incompat & ~sum(KNOWN)
        named = [name for bit, name in _UNREAD.items() if rest & bit]
        rest &= ~sum(_UNREAD)
        if self.old_directories:
            named.append("directories of version 1")
        return ", ".join([*named, f"incompatible {rest:#x}"] if rest else named)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what an analyst should know."""
        found = []
        if self.copy:
            found.append(f"the superblock is damaged: the one of allocation group {self.copy} is used")
        if not self.intact:
            found.append("the checksum of the superblock differs")
        if self.unfinished:
            found.append("mkfs has not finished this file system")
        if self.incompat & NEEDS_REPAIR:
            found.append("marked as in need of repair")
        if self.metadir:
            found.append("metadata directories (metadir): internal files are not shown")
        if self.realtime:
            found.append(
                f"files on a real-time device of {self.realtime} blocks cannot be read without that device"
            )
        return tuple(found)

    def group_size(self, group: int) -> int:
        """Return the blocks of an allocation group: the last may be shorter."""
        return min(self.group_blocks, self.blocks - group * self.group_blocks)

    def linear(self, number: int) -> int:
        """Return where a block lies, counted from the first; -1: no group has it."""
        group, at = number >> self.group_bits, number & (1 << self.group_bits) - 1
        if group >= self.groups or at >= self.group_size(group):
            return -1
        return group * self.group_blocks + at


def parse(raw: bytes, copy: int = 0) -> Superblock | None:
    """Return the superblock that the sectors ``raw`` begin with, None when it contradicts itself."""
    if len(raw) < LENGTH or raw[:4] != MAGIC:
        return None
    (
        _, block, blocks, rt_blocks, _, uuid, log_start, root, _, _, _, group_blocks, groups, _, log,
        version, sector, inode, per_block, label, block_bits, sector_bits, inode_bits, per_bits,
        group_bits, _, unfinished, _, _, _, _, _, _, _, _, _, _, aligned, _, _, dir_bits, _, _, _, more, _,
    ) = _HEAD.unpack_from(raw)  # fmt: skip
    number = version & 15
    if not (
        number in (4, 5)
        and _BLOCKS[0] <= block_bits <= _BLOCKS[1]
        and block == 1 << block_bits
        and _SECTORS[0] <= sector_bits <= _SECTORS[1]
        and sector == 1 << sector_bits
        and _INODES[0] <= inode_bits <= _INODES[1]
        and inode == 1 << inode_bits <= block
        and per_block == block >> inode_bits
        and per_bits == block_bits - inode_bits
        and block << dir_bits <= _DIRECTORY
        and 0 < group_blocks <= 1 << group_bits < 1 << 32
        and groups
        and (groups - 1) * group_blocks < blocks <= groups * group_blocks
        and blocks * block <= MAX_SIZE
    ):
        return None
    incompat, meta, metadir, good = 0, uuid, False, True
    if number == 5:
        _, _, incompat, _, _, _, _, meta_uuid = _FIFTH.unpack_from(raw, 208)
        meta = meta_uuid if incompat & META_UUID else uuid
        metadir = bool(incompat & METADIR)
        good = len(raw) >= sector and intact(raw[:sector], CHECKSUM)
    return Superblock(
        version=number,
        block=block,
        block_bits=block_bits,
        sector=sector,
        inode=inode,
        inode_bits=per_bits,
        directory=block << dir_bits,
        blocks=blocks,
        groups=groups,
        group_blocks=group_blocks,
        group_bits=group_bits,
        root=root,
        log_start=log_start,
        log=log,
        log_headers=number == 5 or bool(version & _LOG2),
        aligned=aligned if number == 5 or version & _ALIGNED else 0,
        typed=bool(incompat & FTYPE) if number == 5 else bool(version & _MORE and more & _FTYPE2),
        realtime=rt_blocks,
        metadir=metadir,
        old_directories=number == 4 and not version & _DIRECTORIES2,
        incompat=incompat,
        uuid=str(UUID(bytes=uuid)),
        meta_uuid=meta,
        label=label.split(b"\0")[0].decode("utf-8", "replace"),
        intact=good,
        unfinished=bool(unfinished) and not copy,  # mkfs never takes it back in the copies
        copy=copy,
    )


def places(raw: bytes, size: int) -> Iterator[tuple[int, int]]:
    """Yield allocation groups and the bytes where their superblocks may lie, of a volume of ``size`` bytes.

    ``raw`` are its first sectors: what is left of the superblock there, and the length that the free space
    header behind it (AGF) states of its group, are asked; then how mkfs divides a volume.
    """
    steps: dict[int, None] = {}
    (stated,) = struct.unpack_from(">I", raw, 84)
    lengths = [stated]
    for bits in range(*_SECTORS):
        at = 1 << bits
        if raw[at : at + 4] == b"XAGF":
            lengths.insert(0, int.from_bytes(raw[at + 12 : at + 16], "big"))
    for length in lengths:
        for bits in (12, *range(_BLOCKS[0], _BLOCKS[1] + 1)):
            steps[length << bits] = None
    for count in (4, 1, 2, 8, 16, 32, 64, 128):
        for bits in (12, 10, 9, 11, 16):
            steps[-(-(size >> bits) // count) << bits] = None
    for step in steps:
        if step >= LENGTH:
            for group in range(1, 9):
                if group * step + LENGTH > size:
                    break
                yield group, group * step
            last = (size - 1) // step
            if last > 8:  # the groups tried before
                yield last, last * step
