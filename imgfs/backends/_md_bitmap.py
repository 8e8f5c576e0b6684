"""The write-intent bitmap of md: where parity may not fit the data of an array that nobody shut down.

Source: md(4), "BITMAP WRITE-INTENT LOGGING"; mdadm(8) ``--examine-bitmap``, whose output names every field. A
bit stands for as many bytes of each member as the header says, and is set before they are written.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from imgfs.backends._md_super import SECTOR
from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends._md_super import Super

_HEAD: Final = struct.Struct("<4sI16sQQQII")  # magic, version, array, events, cleared, size, state, chunk
_BITS_AT: Final = 256
_VERSIONS: Final = (3, 4)  # 5 is that of a cluster: one for each node
_MOST_BITS: Final = 1 << 24
_MOST_RANGES: Final = 256  # what lies between ranges that are more counts as dirty, too


def dirty(reader: Reader, block: Super) -> tuple[tuple[int, int], ...] | None:
    """Return the ranges of a member's data area that may have been in the middle of a write.

    None: the array has no bitmap that can be relied on.
    """
    at = block.bitmap
    try:
        if at <= 0 or at + _BITS_AT > reader.size:
            return None
        magic, version, uuid, events, _, size, state, chunk = _HEAD.unpack(reader.read(at, _HEAD.size))
        words = [uuid[word : word + 4] for word in range(0, 16, 4)]
        named = {b"".join(words).hex(), b"".join(word[::-1] for word in words).hex()}  # 0.90 shows numbers
        if magic != b"bitm" or version not in _VERSIONS or block.uuid.replace(":", "") not in named:
            return None
        if state or events < block.events or size * SECTOR != block.size or chunk < SECTOR:
            return None
        count = -(-block.size // chunk)
        if count > _MOST_BITS:
            return None
        bits = int.from_bytes(reader.read(at + _BITS_AT, -(-count // 8)), "little") & (1 << count) - 1
    except EvidenceError:
        return None
    return ranges(f"{bits:b}"[::-1], chunk)


def ranges(bits: str, chunk: int) -> tuple[tuple[int, int], ...]:
    """Return the ranges of set bits, the nearest of them merged until there are few."""
    found: list[tuple[int, int]] = []
    at = bits.find("1")
    while at >= 0:
        stop = bits.find("0", at)
        stop = len(bits) if stop < 0 else stop
        found.append((at, stop))
        at = bits.find("1", stop)
    if len(found) > _MOST_RANGES:
        gaps = sorted(after[0] - before[1] for before, after in pairwise(found))
        least = gaps[-_MOST_RANGES]
        merged = [found[0]]
        for start, stop in found[1:]:
            if start - merged[-1][1] <= least:
                merged[-1] = (merged[-1][0], stop)
            else:
                merged.append((start, stop))
        found = merged
    return tuple([(start * chunk, stop * chunk) for start, stop in found])
