"""Checksums of data: where they lie, for whoever reads to compare.

Source: btrfs.readthedocs.io, "On-disk format" (Csum item), "Checksumming".
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.btrfs.nodes import Gap
from imgfs.block.sums import SUMS
from imgfs.errors import EvidenceError
from imgfs.model import LOST, Inline, Linear, Summed

if TYPE_CHECKING:
    from imgfs.backends.btrfs.nodes import Key, Leaf, Nodes
    from imgfs.backends.btrfs.space import Range, Space, Stack
    from imgfs.backends.btrfs.superblock import Root, Superblock

_CSUM: Final = 128
_NUMBER: Final = (1 << 64) - 10
_HELD: Final = 64 << 10  # bytes of checksums that travel with a layout; more are read where they lie


class Part(NamedTuple):
    """Checksums that lie one behind the other: in ``leaf`` at ``start``; None: there are none."""

    length: int
    leaf: Leaf | None = None
    start: int = 0


class Checksums:
    """The tree of checksums of one file system."""

    __slots__ = ("_nodes", "_root", "_sector", "_space", "_super", "_width")

    def __init__(self, nodes: Nodes, space: Space, root: Root, superblock: Superblock) -> None:
        self._nodes = nodes
        self._root = root
        self._space = space
        self._super = superblock
        self._sector = superblock.sector
        self._width = SUMS[superblock.checksum][0]

    def over(self, stack: Stack, ranges: list[Range], stored: int) -> int:
        """Return the number of the layout of ranges of addresses whose checksums are compared.

        ``stored`` is that of the ranges as they are. A sector without a checksum is lost: one that should
        have it cannot be told from one that was overwritten.
        """
        size = sum(length for _, length in ranges)
        parts = [part for logical, length in ranges for part in self.parts(logical, length)]
        sums = self._held(stack, parts) if size // self._sector * self._width <= _HELD else None
        if sums is None:
            places = [(part.leaf.at + part.start if part.leaf else LOST, part.length) for part in parts]
            ways = [part.leaf.way if part.leaf else 0 for part in parts]
            sums = stack.add(self._space.layout(stack, places, ways))
        also = array("H")
        for way in range(1, self._space.ways(ranges)):
            also.append(stack.add(self._space.layout(stack, ranges, [way] * len(ranges))))
        claim = Summed(
            size=size,
            sector=self._sector,
            kind=self._super.checksum,
            which=stored,
            sums=sums,
            also=also.tobytes(),
        )
        return stack.add(claim)

    def _held(self, stack: Stack, parts: list[Part]) -> int:
        """Return the number of a layout that holds the checksums themselves."""
        kept, rows, at = [], [], 0
        inside = 0
        for part in parts:
            if part.leaf is None:
                rows.append((at, part.length, LOST))
            else:
                kept.append(part.leaf.data[part.start : part.start + part.length])
                rows.append((at, part.length, inside))
                inside += part.length
            at += part.length
        which = stack.add(Inline(b"".join(kept)))
        if len(kept) == len(parts):
            return which
        return stack.add(Linear.of(at, rows, [which] * len(rows)))

    def parts(self, logical: int, length: int) -> list[Part]:
        """Return where the checksums of a range of addresses lie, all of it in order."""
        stop, at = logical + length, logical
        found: list[Part] = []
        for item in self._nodes.items(self._root, self._first(logical), (_NUMBER, _CSUM, stop)):
            if isinstance(item, Gap):
                continue  # there are none, which is said below
            start, width = item.key[2], self._width
            place, size = item.leaf.places[item.row]
            until = min(start + size // width * self._sector, stop)
            if item.key[:2] != (_NUMBER, _CSUM) or until <= at or (at - start) % self._sector:
                continue
            if start > at:
                found.append(Part((start - at) // self._sector * width))
                at = start
            skip = (at - start) // self._sector * width
            found.append(Part((until - at) // self._sector * width, item.leaf, place + skip))
            at = until
        if at < stop:
            found.append(Part((stop - at) // self._sector * self._width))
        return found

    def _first(self, logical: int) -> Key:
        """Return the key of the item that may hold the checksum of an address."""
        key = (_NUMBER, _CSUM, logical)
        try:
            leaf = self._nodes.leaf_of(self._root, key)
        except EvidenceError:
            return key
        row = bisect_right(leaf.keys, key) - 1
        return leaf.keys[row] if row >= 0 else key
