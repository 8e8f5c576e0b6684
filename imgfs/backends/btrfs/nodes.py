"""Nodes of trees: verified, from whichever copy is whole; looked up, and walked along.

Source: btrfs.readthedocs.io, "On-disk format" (Header, Node, Leaf, Key).
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.block.sums import SUMS
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.btrfs.space import Space
    from imgfs.backends.btrfs.superblock import Root, Superblock

Key = tuple[int, int, int]  # objectid, type, offset
LAST: Final[Key] = ((1 << 64) - 1, 255, (1 << 64) - 1)
HEADER: Final = 101
_HEADER: Final = struct.Struct("<32s16sQQ16sQQIB")
_ITEM: Final = struct.Struct("<QBQII")
_POINTER: Final = struct.Struct("<QBQQQ")
_LEVELS: Final = 8
_KEPT: Final = 32 << 20  # bytes of nodes
INODE_ITEM: Final = 1
_INODE: Final = 160  # bytes of such an item: a shorter one is none


class Leaf:
    """A leaf: keys, and where their items lie in ``data``.

    ``inodes``: rows of inode items, by number. ``gaps``: keys whose items contradict the leaf.
    """

    __slots__ = ("at", "data", "gaps", "inodes", "keys", "places", "way")

    def __init__(self, at: int, data: bytes, count: int, way: int) -> None:
        self.at = at
        self.way = way  # which of the copies it is
        self.data = data
        raw = memoryview(data)[HEADER : HEADER + count * _ITEM.size]
        self.keys: list[Key] = []
        self.places: list[tuple[int, int]] = []
        self.inodes: dict[int, int] = {}
        self.gaps: list[Gap] = []
        room, before = len(data) - HEADER, (-1, 0, 0)
        bad = False
        for number, kind, offset, start, length in _ITEM.iter_unpack(raw):
            key = (number, kind, offset)
            if key <= before or start + length > room:
                bad = True
                continue
            if bad:
                self._gap(before, key)
                bad = False
            before = key
            if kind == INODE_ITEM and not offset and length >= _INODE:
                self.inodes[number] = len(self.keys)
            self.keys.append(key)
            self.places.append((HEADER + start, length))
        if bad:
            self._gap(before, LAST)

    def _gap(self, before: Key, stop: Key) -> None:
        """Note that items between two keys contradict the leaf or its order."""
        first = (before[0], before[1], before[2] + 1) if self.keys else (0, 0, 0)
        self.gaps.append(Gap(first, stop, f"leaf {self.at}: an item leaves it or its order"))

    def item(self, row: int) -> bytes:
        """Return the bytes of an item."""
        start, length = self.places[row]
        return self.data[start : start + length]


class Gap(NamedTuple):
    """Keys [first, stop) that cannot be read, and why."""

    first: Key
    stop: Key
    why: str


class Inner(NamedTuple):
    """A node that is no leaf."""

    keys: list[Key]
    places: list[tuple[int, int]]  # address, generation


class Item(NamedTuple):
    """An item of a tree, and where it lies."""

    key: Key
    leaf: Leaf
    row: int

    @property
    def data(self) -> bytes:
        """Return its bytes."""
        return self.leaf.item(self.row)


class Nodes:
    """The nodes of one file system."""

    __slots__ = ("_kept", "_length", "_room", "_space", "_summed", "_super")

    def __init__(self, space: Space, superblock: Superblock) -> None:
        self._space = space
        self._super = superblock
        self._length, self._summed = SUMS[superblock.checksum]
        self._kept: OrderedDict[tuple[int, int], Leaf | Inner] = OrderedDict()
        self._room = max(_KEPT // superblock.node, 64)

    def node(self, at: int, level: int, generation: int, first: Key | None = None) -> Leaf | Inner:
        """Return a node, whose first key is ``first``.

        Raises:
            EvidenceError: no copy of it is whole, or it is another.
        """
        key = (at, level)
        found = self._kept.get(key)
        if found is None:
            found = self._read(at, level, generation)
            while len(self._kept) >= self._room:
                self._kept.popitem(last=False)
            self._kept[key] = found
        else:
            self._kept.move_to_end(key)
        # No two pointers lead to one node: walks end, and cost no more than there are nodes.
        if first is not None and (not found.keys or found.keys[0] != first):
            raise Malformed(f"node {at}: it does not begin as its parent says")
        return found

    def _read(self, at: int, level: int, generation: int) -> Leaf | Inner:
        chunk = self._space.chunk(at)
        failed: EvidenceError = Malformed(f"node {at}: no chunk holds it")
        for way in range(chunk.ways if chunk else 0):
            try:
                data = self._space.read(at, self._super.node, way)
                return self._parsed(data, at, level, generation, way)
            except EvidenceError as why:
                failed = why
        raise failed

    def _parsed(self, data: bytes, at: int, level: int, generation: int, way: int) -> Leaf | Inner:
        stored, fsid, place, _, _, written, _, count, depth = _HEADER.unpack_from(data)
        if self._summed(data[32:], len(data) - 32) != stored[: self._length]:
            raise Malformed(f"node {at}: checksum")
        if place != at or fsid != self._super.metadata_uuid:
            raise Malformed(f"node {at}: it is node {place}, or of another file system")
        if depth != level:
            raise Malformed(f"node {at}: of level {depth}, {level} expected")
        if generation and written != generation:
            raise Malformed(f"node {at}: of generation {written}, {generation} expected")
        if not level:
            if HEADER + count * _ITEM.size > len(data):
                raise Malformed(f"leaf {at}: {count} items")
            return Leaf(at, data, count, way)
        if not 0 < count <= (len(data) - HEADER) // _POINTER.size:
            raise Malformed(f"node {at}: {count} pointers")
        rows = list(_POINTER.iter_unpack(data[HEADER : HEADER + count * _POINTER.size]))
        keys = [(row[0], row[1], row[2]) for row in rows]
        if any(keys[row] >= keys[row + 1] for row in range(count - 1)):
            raise Malformed(f"node {at}: keys out of order")
        return Inner(keys, [(row[3], row[4]) for row in rows])

    def find(self, root: Root, key: Key) -> Item | None:
        """Return the item of a key, None: there is none. Raises EvidenceError: what would say is damaged."""
        leaf = self.leaf_of(root, key)
        row = bisect_left(leaf.keys, key)
        return Item(key, leaf, row) if row < len(leaf.keys) and leaf.keys[row] == key else None

    def leaf_of(self, root: Root, key: Key) -> Leaf:
        """Return the leaf that would hold a key.

        Raises:
            EvidenceError: it cannot be read.
        """
        at, level, generation = root.at, root.level, root.generation
        if not 0 <= level < _LEVELS:
            raise Malformed(f"a tree of {level} levels")
        node = self.node(at, level, generation)
        while isinstance(node, Inner):
            row = max(bisect_right(node.keys, key) - 1, 0)
            at, generation = node.places[row]
            level -= 1
            node = self.node(at, level, generation, node.keys[row])
        return node

    def items(self, root: Root, first: Key, stop: Key = LAST) -> Iterator[Item | Gap]:
        """Yield the items of keys [first, stop), ascending; what cannot be read is a gap."""
        if not 0 <= root.level < _LEVELS:
            yield Gap(first, stop, f"a tree of {root.level} levels")
            return
        yield from self._below(root.at, root.level, root.generation, None, first, stop, None)

    def _below(
        self, at: int, level: int, generation: int, own: Key | None, first: Key, stop: Key, end: Key | None
    ) -> Iterator[Item | Gap]:
        """Yield what lies in [first, stop) below a node that begins with ``own`` and ends before ``end``."""
        try:
            node = self.node(at, level, generation, own)
            if end is not None and node.keys[-1] >= end:
                raise Malformed(f"node {at}: it does not end where the next begins")
        except EvidenceError as why:
            yield Gap(first, stop, why.message)
            return
        if isinstance(node, Leaf):
            yield from _in_leaf(node, first, stop)
            return
        keys, places = node.keys, node.places
        for row in range(max(bisect_right(keys, first) - 1, 0), len(keys)):
            start = keys[row]
            if start >= stop:
                return
            behind = keys[row + 1] if row + 1 < len(keys) else end
            until = stop if behind is None else min(behind, stop)
            child, written = places[row]
            yield from self._below(child, level - 1, written, start, max(start, first), until, behind)


def _in_leaf(leaf: Leaf, first: Key, stop: Key) -> Iterator[Item | Gap]:
    """Yield what a leaf holds of keys [first, stop)."""
    keys = leaf.keys
    gaps = [gap for gap in leaf.gaps if gap.first < stop and gap.stop > first]
    for row in range(bisect_left(keys, first), len(keys)):
        key = keys[row]
        while gaps and gaps[0].first <= key:
            gap = gaps.pop(0)
            yield Gap(max(gap.first, first), min(gap.stop, stop), gap.why)
        if key >= stop:
            return
        yield Item(key, leaf, row)
    for gap in gaps:
        yield Gap(max(gap.first, first), min(gap.stop, stop), gap.why)
