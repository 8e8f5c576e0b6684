"""Cached volumes: blocks of a slow origin that a fast volume holds, some of them newer than the origin's.

Writethrough: the origin has everything. Otherwise a block that is mapped is read from the cache, as the
kernel does, and how many of them the origin lacks is said.

Source: kernel documentation admin-guide/device-mapper/cache.rst; lvmcache(7); the fields by comparing
cache_dump(8) with what the kernel wrote.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends._dm_blocks import BLOCK, Blocks, checksum
from imgfs.backends._lvm2_bodies import Body, inherited, joined, merged
from imgfs.backends._lvm2_content import Content
from imgfs.backends._lvm2_label import SECTOR
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from imgfs.backends._lvm2_bodies import Run
    from imgfs.backends._lvm2_group import Logical, Segment
    from imgfs.backends._lvm2_volumes import Volumes

_SUPERBLOCK: Final = struct.Struct("<IIQ16sQI16sI128sQQQQQIIIIII16s12sQ")
_SALT: Final = 9_031_977
_MAGIC: Final = 0o6142003
_CLEAN: Final = 1
_NEEDS_CHECK: Final = 2
_VALID: Final = 1
_DIRTY: Final = 2
_FLAG_BITS: Final = 16
_NAMED: Final = 6  # ranges, in what is said
_BLOCKS: Final = 4_000_000  # of one cache


@dataclass(frozen=True, slots=True)
class _Parts:
    """Where a cache lies: its metadata, its data, and the section that describes it."""

    meta: Body
    data: Body
    section: Segment


def body(volumes: Volumes, volume: Logical, segment: Segment) -> Body:
    """Return the bytes of a cached segment.

    Raises:
        EvidenceError: nothing can be said of them.
    """
    origin = volumes.part(volumes.body(segment.text("origin")), 0, segment.length)
    name = volume.name
    try:
        parts = _parts(volumes, segment)
    except EvidenceError as why:
        raise Malformed(f"its cache cannot be read: {why.message}; its origin may be older") from None
    mode = parts.section.text("cache_mode") or "writethrough"
    if mode != "writeback":
        volumes.say(name, f"cached, {mode}: read from its origin")
        return origin
    return _written_back(volumes, name, origin, parts)


def _parts(volumes: Volumes, segment: Segment) -> _Parts:
    pool = volumes.group.logical.get(segment.text("cache_pool"))
    if pool is None or not pool.segments:
        raise Malformed(f"no cache {segment.text('cache_pool')!r}")
    if "metadata_start" in segment.section:  # one volume holds both
        whole = volumes.body(pool.name)
        meta = volumes.part(whole, segment.sectors("metadata_start"), segment.sectors("metadata_len"))
        data = volumes.part(whole, segment.sectors("data_start"), segment.sectors("data_len"))
        return _Parts(meta, data, segment)
    inner = pool.segments[0]
    return _Parts(volumes.body(inner.text("metadata")), volumes.body(inner.text("data")), inner)


def _written_back(volumes: Volumes, name: str, origin: Body, parts: _Parts) -> Body:
    """Return the origin with the blocks of the cache over it; of a damaged map only they are known."""
    content = Content(volumes.stack, parts.meta)
    raw = content.read(0, BLOCK)
    fields = _SUPERBLOCK.unpack_from(raw)
    crc, flags, number, _, magic, version = fields[:6]
    root, sectors, count, dirty_root = fields[9], fields[14], fields[16], fields[22]
    if magic != _MAGIC or crc != checksum(raw[4:], _SALT) or number or version not in (1, 2):
        raise Malformed("the metadata of its cache is damaged: which blocks are newer there is not known")
    block = sectors * SECTOR
    if not 0 < count <= _BLOCKS or block <= 0 or count * block > parts.data.size:
        raise Malformed(f"a cache of {count} blocks of {sectors} sectors")
    if flags & _NEEDS_CHECK:
        volumes.say(name, "the metadata of its cache asks for a check")
    blocks = Blocks(content)
    entries, damage = blocks.array(root, count, 8)
    dirty = set()
    unsure = not flags & _CLEAN
    if version > 1 and not unsure:
        words, lost = blocks.array(dirty_root, -(-count // 64), 8)
        unsure = bool(lost)
        for first, data in words:
            bits = int.from_bytes(data, "little")
            while bits:
                low = bits & -bits
                dirty.add(first * 64 + low.bit_length() - 1)
                bits ^= low
    mapped: dict[int, int] = {}
    for first, data in entries:
        for index, entry in enumerate(array("Q", data), first):
            if not entry & _VALID:
                continue
            old = entry >> _FLAG_BITS
            mapped[old] = index if old not in mapped else -1
            if version == 1 and entry & _DIRTY:
                dirty.add(index)
    newer = [old * block for old, index in mapped.items() if unsure or index in dirty]
    said = f"{len(mapped)} blocks are read from the cache, {len(newer)} of them are newer there"
    volumes.say(name, f"cached, writeback: {said}{_places(newer, block, origin.size)}")
    if unsure:
        volumes.say(name, "its cache was not closed: all of its blocks count as newer")
    if damage:
        volumes.say(name, f"the map of its cache is damaged ({damage[0]}): what it does not name is lost")
    return _overlaid(volumes, origin, parts.data, mapped, block, known=not damage)


def _places(starts: list[int], block: int, size: int) -> str:
    """Return where blocks lie, the first few ranges."""
    ranges = merged((start, min(start + block, size)) for start in starts if start < size)
    named = ", ".join(f"[{start}, {stop})" for start, stop in ranges[:_NAMED])
    more = f" and {len(ranges) - _NAMED} more ranges" if len(ranges) > _NAMED else ""
    return f": {named}{more}" if named else ""


def _overlaid(
    volumes: Volumes, origin: Body, data: Body, mapped: dict[int, int], block: int, *, known: bool
) -> Body:
    below, base = volumes.stack.lower(origin)
    above, at = volumes.stack.lower(data)
    size = origin.size
    runs: list[Run] = []
    end = 0
    for old in sorted(mapped):
        start = old * block
        if start >= size:
            break
        if end < start and known:
            runs.append((end, start - end, below, base + end))
        length = min(block, size - start)
        if mapped[old] >= 0:
            runs.append((start, length, above, at + mapped[old] * block))
        end = start + length
    if end < size and known:
        runs.append((end, size - end, below, base + end))
    weight = len(runs) + origin.laid(0) + data.laid(len(mapped) * block)
    runs = joined(size, runs)
    return Body(size, runs, weight, inherited(runs, volumes.stack, (origin, data)))
