"""Blocks of device-mapper's metadata: each with a checksum and its own number; trees and arrays of them.

What fails its checksum costs the keys beneath it, and they are named. How many blocks are visited is bounded
by a budget, their depth and order by the tree itself: a key outside the range its parent gives is damage, so
that no tree of a hostile image is walked twice or for ever.

Source: kernel documentation admin-guide/device-mapper/persistent-data.rst and thin-provisioning.rst (what is
kept, copy on write, B-trees of 64-bit keys); the fields by comparing the XML of thin_dump(8) and
cache_dump(8) with what the kernel wrote.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from imgfs.backends._crc32c import crc32c, crc32c_all
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BLOCK: Final = 4096
NODES: Final = 150_000  # blocks of one pool or cache, 600 MB: what thirty seconds are enough for
_NODE_SALT: Final = 121_107
_ARRAY_SALT: Final = 595_846_735
_NODE: Final = struct.Struct("<IIQIII4x")
_ARRAY: Final = struct.Struct("<IIIIQ")
_INTERNAL: Final = 1
_LEAF: Final = 2
_DEPTH: Final = 12
_TOGETHER: Final = 32  # nodes from which on it is faster to check them together
_END: Final = 1 << 64


class Source(Protocol):
    """Where metadata lies."""

    size: int

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; raises EvidenceError."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """Keys [low, high) of a tree: those that are there and their values; ``why`` they are lost instead."""

    low: int
    high: int
    keys: array[int]
    values: bytes
    why: str = ""


class Blocks:
    """The blocks of one metadata device."""

    __slots__ = ("_checked", "_source", "budget", "count")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._checked: set[tuple[int, int]] = set()  # trees share blocks, and checksums are slow
        self.budget = NODES
        self.count = source.size // BLOCK

    def read(self, number: int, salt: int, place: int) -> bytes:
        """Return a block that is what it should be. ``place`` is where in it its number stands.

        Raises:
            Malformed: it fails its checksum, or is another block.
        """
        if not 0 <= number < self.count:
            raise Malformed(f"block {number} of {self.count}")
        self.budget -= 1
        if self.budget < 0:
            raise Malformed(f"more than {NODES} blocks of metadata")
        raw = self._source.read(number * BLOCK, BLOCK)
        if (number, salt) not in self._checked:
            if checksum(raw[4:], salt) != int.from_bytes(raw[:4], "little"):
                raise Malformed(f"block {number}: checksum")
            if int.from_bytes(raw[place : place + 8], "little") != number:
                raise Malformed(f"block {number}: it is another block")
            self._checked.add((number, salt))
        return raw

    def _check(self, numbers: Sequence[int]) -> None:
        """Compare the checksums of nodes all at once; whoever reads a bad one finds it so."""
        salt = _NODE_SALT
        wanted = [n for n in dict.fromkeys(numbers) if n < self.count and (n, salt) not in self._checked]
        if len(wanted) < _TOGETHER or len(wanted) > self.budget:
            return
        blocks = []
        for number in wanted:
            try:
                blocks.append(self._source.read(number * BLOCK, BLOCK))
            except EvidenceError:
                blocks.append(bytes(BLOCK))
        sums = crc32c_all([raw[4:] for raw in blocks])
        for number, raw, crc in zip(wanted, blocks, sums, strict=True):
            stored, _, own = struct.unpack_from("<IIQ", raw)
            if stored == crc ^ 0xFFFF_FFFF ^ salt and own == number:
                self._checked.add((number, salt))

    def leaves(self, root: int, size: int, stop: int = _END) -> Iterator[Leaf]:
        """Return the leaves of a tree with values of ``size`` bytes, in the order of keys below ``stop``."""
        stack = [(root, 0, _END, 0)]
        while stack:
            number, low, high, depth = stack.pop()
            if low >= stop:
                return
            try:
                keys, values, inner = self._node(number, size, low, high)
                if inner and depth >= _DEPTH:
                    raise Malformed(f"block {number}: a tree {depth} deep")
            except EvidenceError as why:
                yield Leaf(low, high, array("Q"), b"", why.message)
                continue
            if not inner:
                yield Leaf(low, high, keys, values)
                continue
            children = array("Q", values)
            self._check(children[: sum(map(stop.__gt__, keys))])
            ends = [*keys[1:], high]
            stack += reversed(
                [(child, key, end, depth + 1) for child, key, end in zip(children, keys, ends, strict=True)]
            )

    def find(self, root: int, key: int, size: int) -> bytes | None:
        """Return the value of a key; None: the tree has none.

        Raises:
            EvidenceError: a block on the way is damaged.
        """
        number, low, high = root, 0, _END
        for _ in range(_DEPTH):
            keys, values, inner = self._node(number, size, low, high)
            row = sum(1 for each in keys if each <= key) - 1
            if row < 0:
                return None
            if not inner:
                return values[row * size :][:size] if keys[row] == key else None
            number = int.from_bytes(values[row * 8 :][:8], "little")
            low, high = keys[row], keys[row + 1] if row + 1 < len(keys) else high
        raise Malformed(f"block {number}: a tree {_DEPTH} deep")

    def _node(self, number: int, size: int, low: int, high: int) -> tuple[array[int], bytes, bool]:
        """Return the keys and the values of a node, and whether they are further nodes.

        Raises:
            Malformed: it is none, or its keys are not those its parent says.
        """
        raw = self.read(number, _NODE_SALT, 8)
        _, flags, _, count, most, width = _NODE.unpack_from(raw)
        inner = flags == _INTERNAL
        expected = 8 if inner else size
        if flags not in (_INTERNAL, _LEAF) or width != expected:
            raise Malformed(f"block {number}: a node of kind {flags}, values of {width} bytes")
        if not count <= most <= (BLOCK - _NODE.size) // (8 + width) or (inner and not count):
            raise Malformed(f"block {number}: {count} of {most} keys")
        keys = array("Q", raw[_NODE.size : _NODE.size + 8 * count])
        ordered = all(map(int.__lt__, keys, keys[1:]))
        if count and (not ordered or keys[0] < low or keys[-1] >= high):
            raise Malformed(f"block {number}: keys out of order")
        start = _NODE.size + 8 * most
        return keys, raw[start : start + width * count], inner

    def array(self, root: int, count: int, size: int) -> tuple[list[tuple[int, bytes]], list[str]]:
        """Return what is there of an array of ``count`` entries of ``size`` bytes, and why the rest is not.

        Parts are (first index, bytes), in order.
        """
        each = (BLOCK - _ARRAY.size) // size
        parts: list[tuple[int, bytes]] = []
        damage: list[str] = []
        found = 0
        for leaf in self.leaves(root, 8, -(-count // each)):
            if leaf.why:
                damage.append(leaf.why)
            for index, number in zip(leaf.keys, array("Q", leaf.values), strict=True):
                if index * each >= count:
                    break
                try:
                    raw = self.read(number, _ARRAY_SALT, 16)
                    _, most, filled, width, _ = _ARRAY.unpack_from(raw)
                    if width != size or not filled <= most or most != each:
                        raise Malformed(f"block {number}: {filled} of {most} entries of {width} bytes")
                except EvidenceError as why:
                    damage.append(why.message)
                    continue
                filled = min(filled, count - index * each)
                parts.append((index * each, raw[_ARRAY.size :][: filled * size]))
                found += filled
        if found < count and not damage:
            damage.append(f"{found} of {count} entries")
        return parts, damage


def checksum(data: bytes, salt: int) -> int:
    """Return what a block's first field holds: a CRC-32C that is not inverted, with a salt by its kind."""
    return crc32c(data) ^ 0xFFFF_FFFF ^ salt
