"""The superblock of ext2, ext3 and ext4: what it says of the whole file system, and whether to believe it.

Owns features, sizes and where copies of descriptors lie. Knows no inode.

Source: Linux Documentation/filesystems/ext4, "Super Block", "Layout", "Block Group Descriptors".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.backends._crc32c import crc32c
from imgfs.errors import EvidenceError, NotMine, NotSupported
from imgfs.limits import MAX_SIZE

if TYPE_CHECKING:
    from imgfs.backends import Reader

AT: Final = 1024  # bytes from the start of the volume
LENGTH: Final = 1024
MAGIC: Final = b"\x53\xef"

# s_feature_compat
HAS_JOURNAL: Final = 0x4
SPARSE_SUPER2: Final = 0x200
# s_feature_incompat
COMPRESSION: Final = 0x1
FILETYPE: Final = 0x2
RECOVER: Final = 0x4
JOURNAL_DEV: Final = 0x8
META_BG: Final = 0x10
BIT64: Final = 0x80
CSUM_SEED: Final = 0x2000
LARGEDIR: Final = 0x4000
_KNOWN_INCOMPAT: Final = 0x3F7DF
# s_feature_ro_compat
SPARSE_SUPER: Final = 0x1
HUGE_FILE: Final = 0x8
GDT_CSUM: Final = 0x10
METADATA_CSUM: Final = 0x400

# What ext2 and ext3 may have, as blkid tells the three apart: sparse_super, large_file, btree_dir;
# filetype, meta_bg, and for ext3 a journal to be recovered.
_EXT3_RO: Final = 0x7
_EXT2_INCOMPAT: Final = FILETYPE | META_BG
_EXT3_INCOMPAT: Final = _EXT2_INCOMPAT | RECOVER

_HEAD: Final = struct.Struct(
    "<7I3I"
)  # inodes .. log_block_size, log_cluster_size, blocks and clusters per group
_COPIES: Final = (1, 3, 5, 7)  # groups that hold a copy whichever way copies are placed
_BLOCKS_MAX: Final = 6  # log2 of 64 KiB / 1 KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """A plausible superblock.

    Units: ``block``, ``inode_size``, ``descriptor`` and ``size`` bytes; ``first`` the number of the
    first data block; ``copy`` the group this copy lies in; ``checksum_seed`` what checksums of metadata
    go on from.
    """

    block: int
    blocks: int
    first: int
    inodes: int
    blocks_per_group: int
    inodes_per_group: int
    first_inode: int
    inode_size: int
    descriptor: int
    first_meta_bg: int
    backups: tuple[int, int]
    compat: int
    incompat: int
    ro_compat: int
    uuid: str
    label: str
    journal_inode: int
    checksum_seed: int
    copy: int
    intact: bool

    @property
    def size(self) -> int:
        """Return the bytes of the file system."""
        return self.blocks * self.block

    @property
    def groups(self) -> int:
        """Return the number of block groups."""
        return -(-(self.blocks - self.first) // self.blocks_per_group)

    @property
    def type(self) -> str:
        """Return ext2, ext3 or ext4, as blkid decides."""
        if not self.ro_compat & ~_EXT3_RO:
            if not self.compat & HAS_JOURNAL and not self.incompat & ~_EXT2_INCOMPAT:
                return "ext2"
            if self.compat & HAS_JOURNAL and not self.incompat & ~_EXT3_INCOMPAT:
                return "ext3"
        return "ext4"

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what an analyst should know."""
        notes = []
        if self.copy:
            notes.append(
                f"superblock or descriptors at the start are damaged: the copy in group {self.copy} is used"
            )
        if not self.intact:
            notes.append("the checksum of the superblock differs")
        if self.incompat & RECOVER:
            notes.append("unreplayed journal: the files are shown as they lie, without the last transactions")
        if self.compat & HAS_JOURNAL and not self.journal_inode:
            notes.append("the journal is on another volume")
        unknown = self.incompat & ~_KNOWN_INCOMPAT
        if unknown:
            notes.append(f"unknown incompatible features {unknown:#x}")
        return tuple(notes)

    def descriptor_block(self, index: int) -> int:
        """Return the block that holds descriptors ``index * (block // descriptor)`` and following."""
        if not self.incompat & META_BG or index < self.first_meta_bg:
            base = self.first + self.copy * self.blocks_per_group if self.copy else AT // self.block
            return base + 1 + index
        group = index * (self.block // self.descriptor)
        skip = int(self._has_copy(group))
        if self.block == AT and not group and not self.first:
            skip += 1  # blocks of 1 KiB counted from 0 (bigalloc): the boot block is in group 0 too
        return self.first + group * self.blocks_per_group + skip

    def _has_copy(self, group: int) -> bool:
        if not group:
            return True
        if self.compat & SPARSE_SUPER2:
            return group in self.backups
        if not self.ro_compat & SPARSE_SUPER or group == 1:
            return True
        for base in (3, 5, 7):
            power = base
            while power < group:
                power *= base
            if power == group:
                return True
        return False


def read_superblock(reader: Reader) -> Superblock:
    """Return the primary superblock, or the first plausible copy.

    Raises:
        NotMine: no superblock is plausible.
        NotSupported: this is the journal of another file system.
    """
    if reader.size < AT + LENGTH:
        raise NotMine("ext")
    raw = reader.read(AT, LENGTH)
    if raw[56:58] != MAGIC:
        raise NotMine("ext")
    found = parse(raw)
    if found is None:
        found = next(iter(copies(reader)), None)
    if found is None:
        raise NotMine("ext: no plausible superblock")
    if found.incompat & JOURNAL_DEV:
        raise NotSupported("an external journal of ext3 or ext4 (jbd): it holds no files of its own")
    return found


def copies(reader: Reader) -> list[Superblock]:
    """Return the plausible backup copies, for all block sizes, where mkfs puts them."""
    found = []
    for shift in range(_BLOCKS_MAX + 1):
        block = 1024 << shift
        for group in _COPIES:
            at = (group * 8 * block + (block == 1024)) * block
            if at + LENGTH > reader.size:
                break
            try:
                raw = reader.read(at, LENGTH)
            except EvidenceError:
                continue
            if raw[56:58] != MAGIC or int.from_bytes(raw[90:92], "little") != group:
                continue
            copy = parse(raw, group)
            if copy is not None and copy.block == block:
                found.append(copy)
    return found


def parse(raw: bytes, copy: int = 0) -> Superblock | None:
    """Return a superblock, None when it contradicts itself."""
    inodes, blocks, _, _, _, first, shift, cluster, per_group, _ = _HEAD.unpack_from(raw)
    (inodes_per_group,) = struct.unpack_from("<I", raw, 40)
    (revision,) = struct.unpack_from("<I", raw, 76)
    first_inode, inode_size, _, compat, incompat, ro_compat = struct.unpack_from("<IHHIII", raw, 84)
    if shift > _BLOCKS_MAX or revision > 1:
        return None
    block, descriptor = 1024 << shift, 32
    if revision == 0:  # "Super Block": the original format has fixed inodes and no features
        first_inode, inode_size, compat, incompat, ro_compat = 11, 128, 0, 0, 0
    if incompat & BIT64:
        blocks |= struct.unpack_from("<I", raw, 0x150)[0] << 32
        descriptor = max(int.from_bytes(raw[254:256], "little"), 32)
    if incompat & JOURNAL_DEV:
        inodes, inodes_per_group, inode_size = 1, 1, 128  # a journal device has none
        first, per_group = 0, max(per_group, 1)
    elif not 128 <= inode_size <= block or inode_size & inode_size - 1:
        return None
    ratio = max(cluster - shift, 0) if ro_compat & 0x200 else 0  # bigalloc: a bitmap bit is a cluster
    if (
        ratio > 20
        or descriptor & descriptor - 1
        or descriptor > block
        or not first < blocks
        or first > 1
        or blocks * block > MAX_SIZE
        or not 0 < per_group <= 8 * block << ratio
        or not 0 < inodes_per_group <= 8 * block
        or not 0 < inodes <= -(-(blocks - first) // per_group) * inodes_per_group
    ):
        return None
    uuid = UUID(bytes=raw[104:120])
    seed = (
        struct.unpack_from("<I", raw, 0x270)[0]
        if incompat & CSUM_SEED
        else crc32c(raw[104:120]) ^ 0xFFFF_FFFF
    )
    return Superblock(
        block=block,
        blocks=blocks,
        first=first,
        inodes=inodes,
        blocks_per_group=per_group,
        inodes_per_group=inodes_per_group,
        first_inode=first_inode,
        inode_size=inode_size,
        descriptor=descriptor,
        first_meta_bg=struct.unpack_from("<I", raw, 0x104)[0],
        backups=struct.unpack_from("<II", raw, 0x24C),
        compat=compat,
        incompat=incompat,
        ro_compat=ro_compat,
        uuid=str(uuid) if uuid.int else "",
        label=raw[120:136].split(b"\0", 1)[0].decode("utf-8", "replace"),
        journal_inode=struct.unpack_from("<I", raw, 0xE0)[0],
        checksum_seed=seed,
        copy=copy,
        intact=not ro_compat & METADATA_CSUM
        or crc32c(raw[:0x3FC]) ^ 0xFFFF_FFFF == int.from_bytes(raw[0x3FC:], "little"),
    )
