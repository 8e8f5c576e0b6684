"""The superblock: where trees begin, what the file system may use, which device this is.

Source: btrfs.readthedocs.io, "Btrfs design / On-disk format" (Superblock, Backup roots, Dev item); the
features of its page btrfs(5), "FILESYSTEM FEATURES".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.block.sums import SUMS
from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported

if TYPE_CHECKING:
    from imgfs.backends import Reader

AT: Final = 0x1_0000
MAGIC: Final = b"_BHRfS_M"
_COPIES: Final = (AT, 0x400_0000, 0x40_0000_0000)
_SIZE: Final = 4096
_MAGIC_AT: Final = 0x40
_HEAD: Final = struct.Struct("<32s16sQQ8s9Q5I4QH3B")
_DEVICE: Final = struct.Struct("<3Q3I3QI2B16s16s")
_DEVICE_AT, _LABEL_AT, _METADATA_AT, _CHUNKS_AT, _BACKUPS_AT = 0xC9, 0x12B, 0x23B, 0x32B, 0xB2B
_CHUNKS_MAX: Final = 2048
_BACKUP: Final = struct.Struct("<15Q32x6B10x")
SUM_OF: Final = {0: "crc32c", 1: "xxh64", 2: "sha256", 3: "blake2b"}

METADATA_UUID: Final = 1 << 10
STRIPE_TREE: Final = 1 << 14
_FEATURES: Final = {
    0: "mixed-backref",
    1: "default-subvol",
    2: "mixed-groups",
    3: "compress-lzo",
    4: "compress-zstd",
    5: "big-metadata",
    6: "extended-iref",
    7: "raid56",
    8: "skinny-metadata",
    9: "no-holes",
    10: "metadata-uuid",
    11: "raid1c34",
    12: "zoned",
    13: "extent-tree-v2",
    14: "raid-stripe-tree",
    16: "simple-quota",
    17: "remap-tree",
}
_REFUSED: Final = 1 << 13 | 1 << 17  # where things lie is told in another way
_SAID: Final = {
    12: "zoned: superblocks are a log at the start of zones; the one at 64 KiB is read",
    14: "raid-stripe-tree: where data of profiles with several stripes lies is not read, it is lost",
}
_SEED: Final = 1 << 32  # of the flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """Where a tree begins: the logical address of its first node, its level and generation."""

    at: int
    level: int
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a superblock says of the device it lies on. Units: bytes."""

    number: int
    size: int
    uuid: bytes

    @property
    def key(self) -> tuple[int, bytes]:
        """Return what chunks name it by."""
        return self.number, self.uuid


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """The newest valid copy on one device. ``roots`` are those of backups, newest first."""

    fsid: bytes
    metadata_uuid: bytes
    generation: int
    root: Root
    chunks: Root
    log: int
    size: int
    devices: int
    sector: int
    node: int
    incompat: int
    checksum: str
    device: Device
    label: str
    system: bytes
    backups: tuple[tuple[Root, Root], ...]
    notes: tuple[str, ...]

    @property
    def uuid(self) -> str:
        """Return the file system's name for itself."""
        return str(UUID(bytes=self.fsid))


def read_superblock(reader: Reader) -> Superblock:
    """Return the newest of the copies whose checksums are right.

    Raises:
        NotMine: none has the mark.
        Malformed: those that have it are damaged.
        NotSupported: it is laid out in a way that is not read.
    """
    found: list[Superblock] = []
    wrong: list[str] = []
    for at in _COPIES:
        if at + _SIZE > reader.size:
            break
        try:
            data = reader.read(at, _SIZE)
            if data[_MAGIC_AT : _MAGIC_AT + len(MAGIC)] == MAGIC:
                found.append(_parsed(data, at))
        except EvidenceError as why:
            wrong.append(f"superblock at {at}: {why.message}")
    if not found:
        if wrong:
            raise Malformed("; ".join(wrong))
        raise NotMine("btrfs")
    best = max(found, key=lambda one: one.generation)
    unknown = [
        _FEATURES.get(bit, f"bit {bit}")
        for bit in range(64)
        if best.incompat >> bit & 1 and (bit not in _FEATURES or _REFUSED >> bit & 1)
    ]
    if unknown:
        raise NotSupported(f"btrfs with {', '.join(unknown)}")
    said = [text for bit, text in _SAID.items() if best.incompat >> bit & 1]
    notes = (*wrong, *best.notes, *said)
    return _with_notes(best, notes)


def _with_notes(block: Superblock, notes: tuple[str, ...]) -> Superblock:
    values = {name: getattr(block, name) for name in Superblock.__slots__}
    return Superblock(**(values | {"notes": notes}))


def _parsed(data: bytes, at: int) -> Superblock:
    (
        stored, fsid, place, flags, _, generation, root, chunk_root, log, _, size, _, _, devices,
        sector, node, _, _, system, chunk_generation, _, _, incompat, kind, level, chunk_level, _,
    ) = _HEAD.unpack_from(data)  # fmt: skip
    name = SUM_OF.get(kind)
    if name is None:
        raise NotSupported(f"btrfs with checksums of type {kind}")
    length, summed = SUMS[name]
    if summed(data[32:], _SIZE - 32) != stored[:length]:
        raise Malformed("checksum", start=at, stop=at + _SIZE)
    if place != at:
        raise Malformed(f"it says to lie at {place}", start=at, stop=at + _SIZE)
    if sector & (sector - 1) or node & (node - 1) or not 512 <= sector <= node <= 65536:
        raise Malformed(f"sectors of {sector} bytes, nodes of {node}")
    if system > _CHUNKS_MAX:
        raise Malformed(f"{system} bytes of system chunks")
    number, device_size, *_, uuid, _ = _DEVICE.unpack_from(data, _DEVICE_AT)
    label = data[_LABEL_AT : _LABEL_AT + 256].split(b"\0")[0]
    backups = []
    for index in range(4):
        row = _BACKUP.unpack_from(data, _BACKUPS_AT + index * _BACKUP.size)
        if row[0] and row[2]:
            older = Root(at=row[0], level=row[15], generation=row[1])
            backups.append((older, Root(at=row[2], level=row[16], generation=row[3])))
    backups.sort(key=lambda pair: -pair[0].generation)
    return Superblock(
        fsid=fsid,
        metadata_uuid=data[_METADATA_AT : _METADATA_AT + 16] if incompat & METADATA_UUID else fsid,
        generation=generation,
        root=Root(at=root, level=level, generation=generation),
        chunks=Root(at=chunk_root, level=chunk_level, generation=chunk_generation),
        log=log,
        size=size,
        devices=devices,
        sector=sector,
        node=node,
        incompat=incompat,
        checksum=name,
        device=Device(number=number, size=device_size, uuid=uuid),
        label=label.decode("utf-8", "replace"),
        system=data[_CHUNKS_AT : _CHUNKS_AT + system],
        backups=tuple(backups),
        notes=("a seed: other devices may be laid over it",) if flags & _SEED else (),
    )
