"""A cache of writes alone: what a fast volume holds is newer than the origin, and is read from there.

Source: kernel documentation admin-guide/device-mapper/writecache.rst; lvmcache(7); the fields by comparing
what a kernel wrote with what it read. There are no checksums: places and counts are all that can be tried.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Final

from imgfs.backends._lvm2_cache import overlaid, places
from imgfs.backends._lvm2_content import Content
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from imgfs.backends._lvm2_bodies import Body
    from imgfs.backends._lvm2_group import Logical, Segment
    from imgfs.backends._lvm2_volumes import Volumes

_SUPERBLOCK: Final = struct.Struct("<IIIIQQ")
_MAGIC: Final = 0x2348_9321
_ENTRIES_AT: Final = 64
_ENTRY: Final = 16
_EMPTY: Final = (1 << 64) - 1
_BLOCKS: Final = 4_000_000
_SECTOR: Final = 512
_SIZES: Final = (512, 1024, 2048, 4096)


def body(volumes: Volumes, volume: Logical, segment: Segment) -> Body:
    """Return the origin with what was committed to the cache over it.

    Raises:
        EvidenceError: what is in the cache cannot be said.
    """
    origin = volumes.part(volumes.body(segment.text("origin")), 0, segment.length)
    cache = volumes.body(segment.text("writecache"))
    try:
        mapped, block, data_at = _mapped(Content(volumes.stack, cache))
    except EvidenceError as why:
        raise Malformed(f"its cache cannot be read: {why.message}; its origin may be older") from None
    where = places([old * block for old in mapped], block, origin.size)
    volumes.say(volume.name, f"cached writes: {len(mapped)} blocks are newer in the cache{where}")
    data = volumes.part(cache, data_at, cache.size - data_at)
    return overlaid(volumes, origin, data, mapped, block, known=True)


def _mapped(content: Content) -> tuple[dict[int, int], int, int]:
    """Return where the cache has which block, the bytes of a block, and where its data begins."""
    head = _SUPERBLOCK.unpack(content.read(0, _SUPERBLOCK.size))
    magic, version, block, _, count, committed = head
    if magic != _MAGIC or version != 1 or block not in _SIZES or not 0 < count <= _BLOCKS:
        raise Malformed(f"version {version} of kind {magic:#x}, {count} blocks of {block} bytes")
    data_at = -(-(_ENTRIES_AT + _ENTRY * count) // block) * block
    if data_at + count * block > content.size:
        raise Malformed(f"{count} blocks of {block} bytes in {content.size}")
    words = array("Q", content.read(_ENTRIES_AT, _ENTRY * count))
    newest: dict[int, tuple[int, int]] = {}
    for number, (sector, turn) in enumerate(zip(words[::2], words[1::2], strict=True)):
        if sector == _EMPTY or turn >= committed:
            continue  # free, or not committed: after a crash the kernel forgets it, too
        old, rest = divmod(sector, block // _SECTOR)
        if rest:
            raise Malformed(f"block {number} is of sector {sector}")
        if old not in newest or newest[old][0] < turn:
            newest[old] = turn, number
    return {old: number for old, (_, number) in newest.items()}, block, data_at
