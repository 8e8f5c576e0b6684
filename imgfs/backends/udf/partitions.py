"""Partition maps: from the logical blocks of a partition to bytes of the volume.

Source: ECMA-167 3rd edition, 3/10.7 (partition maps); OSTA UDF 2.60, 2.2.8 (virtual), 2.2.9 (sparable),
2.2.10 (metadata), 2.2.12 (sparing table).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from imgfs.model import LOST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgfs.backends._layouts import Row

Run = tuple[int, int]  # length in bytes, byte of the volume or LOST


class Space(Protocol):
    """What a partition map maps. ``copies``: how often its blocks are stored."""

    @property
    def copies(self) -> int:
        """Return 1, or 2 where there is a mirror."""

    def runs(self, block: int, length: int, copy: int = 0) -> list[Run]:
        """Say where ``length`` bytes from a logical block on are stored. Runs sum to ``length``."""


@dataclass(frozen=True, slots=True)
class Physical:
    """A partition as it lies on the volume. Units: bytes of the volume, ``block`` bytes per block."""

    start: int
    stop: int
    block: int
    copies: int = 1

    def runs(self, block: int, length: int, copy: int = 0) -> list[Run]:
        """Say where blocks are stored."""
        del copy
        at = self.start + block * self.block
        if at + length <= self.stop:
            return [(length, at)]
        inside = max(self.stop - at, 0)
        found = [(inside, at)] if inside else []
        return [*found, (length - inside, LOST)]


@dataclass(frozen=True, slots=True)
class Sparable:
    """A partition some of whose packets are stored elsewhere.

    ``moved`` maps the first block of such a packet to its byte of the volume. Units: ``packet`` blocks.
    """

    below: Physical
    packet: int
    moved: Mapping[int, int]
    limit: int  # bytes of the volume
    copies: int = 1

    def runs(self, block: int, length: int, copy: int = 0) -> list[Run]:
        """Say where blocks are stored, packet by packet where one of them was moved."""
        size = self.below.block
        if not self.moved:
            return self.below.runs(block, length, copy)
        found: list[Run] = []
        while length > 0:
            first = block - block % self.packet
            take = min(length, (first + self.packet - block) * size)
            place = self.moved.get(first)
            if place is None:
                found += self.below.runs(block, take, copy)
            else:
                at = place + (block - first) * size
                inside = max(min(take, self.limit - at), 0)
                found += [(inside, at)] if inside else []
                found += [(take - inside, LOST)] if inside < take else []
            block, length = first + self.packet, length - take
        return merged(found)


@dataclass(frozen=True, slots=True)
class Virtual:
    """Blocks of which each is looked up in the virtual allocation table."""

    below: Space
    table: Sequence[int]
    block: int
    copies: int = 1

    def runs(self, block: int, length: int, copy: int = 0) -> list[Run]:
        """Say where blocks are stored; one that the table does not know is LOST, with what follows."""
        found: list[Run] = []
        while length > 0:
            if block >= len(self.table) or self.table[block] == 0xFFFF_FFFF:
                unknown = length if block >= len(self.table) else min(length, self.block)
                found.append((unknown, LOST))
                length -= unknown
            else:
                take = min(length, self.block)
                found += self.below.runs(self.table[block], take, copy)
                length -= take
            block += 1
        return merged(found)


class Metadata:
    """Blocks of a file, the metadata file, of which there may be a mirror."""

    __slots__ = ("_block", "_files", "copies")

    def __init__(self, files: Sequence[tuple[int, Sequence[Row]]], block: int) -> None:
        """Take size and rows of the main file, and of its mirror when that has blocks of its own."""
        self._files = [(size, rows, [row[0] for row in rows]) for size, rows in files]
        self._block = block
        self.copies = len(self._files)

    def runs(self, block: int, length: int, copy: int = 0) -> list[Run]:
        """Say where blocks are stored."""
        _, rows, starts = self._files[copy]
        at, stop = block * self._block, block * self._block + length
        found: list[Run] = []
        index = max(bisect_right(starts, at) - 1, 0)
        while at < stop and index < len(rows):
            logical, size, target = rows[index]
            skip = at - logical
            take = min(stop - at, size - skip)
            if skip >= 0 and take > 0:
                found.append((take, target + skip if target >= 0 else LOST))
                at += take
            index += 1
        return merged([*found, (stop - at, LOST)] if at < stop else found)


def merged(runs: Sequence[Run]) -> list[Run]:
    """Return the same bytes in as few runs as possible."""
    found: list[Run] = []
    for length, target in runs:
        if found:
            before, start = found[-1]
            if (target == LOST == start) or (target >= 0 and start >= 0 and start + before == target):
                found[-1] = before + length, start
                continue
        found.append((length, target))
    return found
