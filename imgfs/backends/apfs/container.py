"""The container: its superblock, in the newest state that can be read.

Source: Apple File System Reference (2020-06-22), "Container": "Mounting an Apple File System Partition",
nx_superblock_t, checkpoint_map_phys_t.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.backends.apfs.btree import SINGLES, Nodes, Tree
from imgfs.backends.apfs.objects import EXTENT_LIST_TREE, SUPERBLOCK, Blocks, checked, fletcher, head_of
from imgfs.backends.apfs.omap import ObjectMap
from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

MAGIC: Final = b"NXSB"
MAGIC_AT: Final = 32
_SUPER: Final = struct.Struct("<4sI4Q16sQQIIQQ6I3QII")  # behind the header, up to the first volume
_VOLUMES_AT, _VOLUMES = 184, 100
_LATER: Final = struct.Struct("<QQ16sQQ")  # flags, EFI jumpstart, Fusion, place of the keybag
_LATER_AT: Final = 1264
SUPER: Final = 1408  # bytes of the whole
_BLOCK_LEAST, _BLOCK_MOST = 4096, 65536
_SCATTERED: Final = 1 << 31  # of the length of the area: it is a tree
_AREA_MOST: Final = 1 << 14  # blocks of the area that are looked at: some hundreds are usual
_VERSION1, _VERSION2, _FUSION = 1, 2, 0x100
_TRIED: Final = 16  # states that are tried
CRYPTO_SW: Final = 4
MAX_BLOCKS: Final = (1 << 63) // _BLOCK_MOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What a container says of itself. Units: ``block`` bytes; ``count`` and ``keybag`` blocks."""

    xid: int
    block: int
    count: int
    uuid: bytes
    area: tuple[int, int]  # where other superblocks lie, and how many blocks that is
    omap: int
    volumes: tuple[int, ...]
    incompatible: int
    flags: int
    fusion: bytes
    keybag: tuple[int, int]

    @property
    def name(self) -> str:
        """Return its identifier as text."""
        return str(UUID(bytes=self.uuid))


@dataclass(frozen=True, slots=True)
class Container:
    """A container in the state that is read."""

    head: Superblock
    blocks: Blocks
    nodes: Nodes
    omap: ObjectMap
    notes: tuple[str, ...]


def parsed(data: bytes) -> Superblock:
    """Read a superblock.

    Raises:
        NotMine: it is none.
        Malformed: its block size or count is impossible.
    """
    fields = _SUPER.unpack_from(data, MAGIC_AT)
    (magic, block, count, _, _, incompatible, uuid, _, _, length, _, area, _) = fields[:13]
    if magic != MAGIC:
        raise NotMine("apfs")
    if not _BLOCK_LEAST <= block <= _BLOCK_MOST or block & (block - 1) or not 0 < count <= MAX_BLOCKS:
        raise Malformed(f"apfs: {count} blocks of {block} bytes", start=0, stop=SUPER)
    most = min(fields[-1], _VOLUMES)
    volumes = struct.unpack_from(f"<{most}Q", data, _VOLUMES_AT)
    flags, _, fusion, keybag, bags = _LATER.unpack_from(data, _LATER_AT)
    return Superblock(
        xid=head_of(data).xid,
        block=block,
        count=count,
        uuid=uuid,
        area=(area, length),
        omap=fields[20],
        volumes=tuple(oid for oid in volumes if oid),
        incompatible=incompatible,
        flags=flags,
        fusion=fusion,
        keybag=(keybag, bags),
    )


def open_container(reader: Reader) -> Container:
    """Return the newest state of a container that can be read.

    Raises:
        NotMine: no superblock at the start.
        NotSupported: a Fusion drive, or the version before the release.
        Malformed: no superblock leads to a map of its volumes.
    """
    if reader.size < SUPER:
        raise NotMine("apfs")
    first = parsed(reader.read(0, SUPER))
    blocks = Blocks(reader, first.block, first.count)
    nodes = Nodes(blocks)
    notes: list[str] = []
    if blocks.held < first.block * first.count:
        notes.append(f"the image ends after {blocks.held} bytes of {first.block * first.count}")
    found: dict[int, Superblock] = {}
    try:
        checked(blocks.read(0), 0, (SUPERBLOCK,))
        found[first.xid] = first
    except EvidenceError as why:
        notes.append(f"the superblock at the start: {why.message}")
    damaged: list[tuple[int, str]] = []
    found |= {one.xid: one for one in _states(blocks, nodes, first, damaged)}
    if not found:
        raise Malformed(
            "; ".join(["apfs: no superblock is intact", *notes, *(why for _, why in damaged)])[:1000]
        )
    for number, xid in enumerate(sorted(found, reverse=True)[:_TRIED]):
        head = found[xid]
        _known(head)
        try:
            omap = ObjectMap(blocks, nodes, head.omap)
            for oid in head.volumes[:1]:
                omap.place(oid, xid)
        except EvidenceError as why:
            notes.append(f"the state of transaction {xid} cannot be read: {why.message}")
            continue
        notes += [why for broken, why in damaged if broken > xid][:_TRIED]
        if number or any(broken > xid for broken, _ in damaged):
            notes.append(f"read in an older state, of transaction {xid}")
        return Container(head, blocks, nodes, omap, tuple(notes))
    raise Malformed("; ".join(["apfs: no state can be read", *notes])[:1000])


def _known(head: Superblock) -> None:
    """Refuse what is laid out in another way. Raises NotSupported."""
    if head.incompatible & _FUSION:
        raise NotSupported("APFS on a Fusion drive: its blocks lie on two devices")
    if head.incompatible & _VERSION1 and not head.incompatible & _VERSION2:
        raise NotSupported("APFS of the version before its release")
    if odd := head.incompatible & ~(_VERSION1 | _VERSION2):
        raise NotSupported(f"APFS with container features {odd:#x}, which are not known here")


def _states(
    blocks: Blocks, nodes: Nodes, first: Superblock, damaged: list[tuple[int, str]]
) -> Iterator[Superblock]:
    """Yield the superblocks of the checkpoint descriptor area that are intact, and say which are not."""
    for at in _area(nodes, first):
        try:
            if blocks.read(at, SUPER)[MAGIC_AT : MAGIC_AT + 4] != MAGIC:
                continue
            data = blocks.read(at)
        except EvidenceError:
            continue  # what lay there nobody knows
        xid = head_of(data).xid
        try:
            if fletcher(data) != data[:8]:
                raise Malformed(f"block {at}: checksum")
            head = parsed(data)
        except EvidenceError as why:
            damaged.append((xid, f"the superblock of transaction {xid}: {why.message}"))
            continue
        if head.block == first.block and head.count == first.count and head.uuid == first.uuid:
            yield head  # others are of what was here before


def _area(nodes: Nodes, first: Superblock) -> Iterator[int]:
    """Yield the blocks of the checkpoint descriptor area."""
    base, length = first.area
    if not length & _SCATTERED:
        yield from range(base, base + min(length, _AREA_MOST))
        return
    left = _AREA_MOST
    for found in Tree(nodes, base, EXTENT_LIST_TREE, SINGLES).leaves(0, 1 << 64):
        if isinstance(found, str):
            continue
        node, low, high = found
        for row in range(low, high):
            value = node.value(row)
            if len(value) != 16:
                continue
            start, count = struct.unpack("<QQ", value)
            count = min(count, left)
            left -= count
            yield from range(start, start + count)
