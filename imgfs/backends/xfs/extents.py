"""Which blocks a fork has: lists of extents and trees of them, as runs.

Every pointer is compared with the file system before it is believed. Work is bounded by what is allocated:
a hole costs nothing however large, and no block of a tree is visited twice.

Source: XFS Algorithms and Data Structures, 3rd edition, "Data Extents".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends.xfs.inode import BTREE, EXTENTS, Inode
from imgfs.backends.xfs.volume import LONG
from imgfs.errors import EvidenceError, Malformed
from imgfs.limits import MAX_RUNS
from imgfs.model import HOLE, LOST

if TYPE_CHECKING:
    from imgfs.backends.xfs.volume import Volume

Row = tuple[int, int, int]  # logical, length, target: bytes

_PAIR: Final = struct.Struct(">QQ")
_DEPTH: Final = 9  # levels of a tree: more than 2^54 blocks never need them
_NODES: Final = 1_000_000  # blocks of one tree: 4 TiB in single blocks of 4 KiB need four thousand
_OFFSET: Final = (1 << 54) - 1
_COUNT: Final = (1 << 21) - 1


class _Runs:
    """Runs of one fork, ascending, joined, gaps declared holes. Units: blocks in, bytes out."""

    __slots__ = ("_bits", "_inode", "_volume", "at", "rows", "start", "stop", "visited")

    def __init__(self, inode: Inode, volume: Volume, start: int, stop: int) -> None:
        self._inode = inode.number
        self._volume = volume
        self._bits = volume.superblock.block_bits
        self.start, self.stop = start, stop
        self.at = start  # blocks said something about
        self.rows: list[list[int]] = []
        self.visited: set[int] = set()

    def add(self, first: int, count: int, number: int) -> None:
        """Say that blocks from ``first`` lie from block ``number`` on, or HOLE, or LOST.

        Raises:
            Malformed: something was said about them before, or there are too many runs.
        """
        if first < self.start:
            skip = min(self.start - first, count)
            first, count = first + skip, count - skip
            number += skip if number >= 0 else 0
        count = min(count, self.stop - first)
        if count <= 0:
            return
        if first < self.at:
            raise Malformed(f"inode {self._inode}: two places for block {first}")
        if first > self.at:
            self._put(self.at, first - self.at, HOLE)
        self.at = first + count
        if number < 0:
            self._put(first, count, number)
            return
        sb = self._volume.superblock
        at = sb.linear(number)
        if at <= 0:
            self._put(first, count, LOST)
            return
        group = number >> sb.group_bits
        end = min(group * sb.group_blocks + sb.group_size(group), self._volume.limit >> self._bits)
        inside = min(count, max(end - at, 0))
        if inside:
            self._put(first, inside, at << self._bits)
        if inside < count:  # it leaves its allocation group, or the volume ends before
            self._put(first + inside, count - inside, LOST)

    def _put(self, first: int, count: int, target: int) -> None:
        logical, length = first << self._bits, count << self._bits
        if self.rows:
            last = self.rows[-1]
            if target == last[2] if target < 0 else last[2] >= 0 and last[2] + last[1] == target:
                last[1] += length
                return
        if len(self.rows) >= MAX_RUNS:
            raise Malformed(f"inode {self._inode}: more than {MAX_RUNS} runs")
        self.rows.append([logical, length, target])

    def lose(self, first: int, end: int) -> None:
        """Declare lost what nothing was said about in [first, end)."""
        first = max(first, self.at)
        if first < end:
            self.add(first, end - first, LOST)

    def enter(self, number: int) -> None:
        """Note a visit to a block of the tree. Raises Malformed when it was visited before."""
        if number in self.visited or len(self.visited) >= _NODES:
            raise Malformed(
                f"inode {self._inode}: block {number} is twice in its own tree, or it has too many"
            )
        self.visited.add(number)

    def records(self, data: bytes, at: int, count: int, stop: int) -> None:
        """Add ``count`` extents from byte ``at``, none of them from block ``stop`` on."""
        add = self.add
        for high, low in _PAIR.iter_unpack(data[at : at + 16 * count]):
            first, blocks = high >> 9 & _OFFSET, low & _COUNT
            if not blocks or first + blocks > stop:
                raise Malformed(f"inode {self._inode}: {blocks} blocks at {first}, of less than {stop}")
            if first >= self.stop:
                return
            add(first, blocks, HOLE if high >> 63 else (high & 0x1FF) << 43 | low >> 21)

    def finish(self) -> list[Row]:
        """Return all runs, up to the end."""
        if self.at < self.stop:
            self._put(self.at, self.stop - self.at, HOLE)
        return [(logical, length, target) for logical, length, target in self.rows]


def blocks_of(inode: Inode, volume: Volume, start: int, stop: int, *, attributes: bool = False) -> list[Row]:
    """Return the runs of blocks [start, stop) of a fork in bytes, covering them without gaps.

    A damaged part of a tree makes LOST what it would say.

    Raises:
        Malformed: the fork has no extents, its root is damaged, or it contradicts itself.
    """
    fork = inode.attributes if attributes else inode.data
    shape = inode.attribute_format if attributes else inode.format
    runs = _Runs(inode, volume, start, stop)
    if shape == EXTENTS:
        count = inode.counts[attributes]
        if count > len(fork) // 16:
            raise Malformed(f"inode {inode.number}: {count} extents in {len(fork)} bytes")
        runs.records(fork, 0, count, _OFFSET + 1)
    elif shape == BTREE:
        _root(runs, volume, inode, fork)
    else:
        raise Malformed(f"inode {inode.number}: a fork of format {shape}")
    return runs.finish()


def rows_of(inode: Inode, volume: Volume, size: int) -> list[Row]:
    """Return the runs of the first ``size`` bytes of the data; raises as ``blocks_of``."""
    bits = volume.superblock.block_bits
    rows = blocks_of(inode, volume, 0, -(-size >> bits))
    if rows:
        logical, _, target = rows[-1]
        rows[-1] = logical, size - logical, target
    return rows


def single(data: bytes, size: int, volume: Volume) -> int:
    """Return where a file of ``size`` bytes lies whose fork has one extent, -1: ask ``rows_of``."""
    high, low = _PAIR.unpack_from(data)
    sb = volume.superblock
    if high >= 0x200 or (low & _COUNT) << sb.block_bits < size:  # unwritten, not from the start, or short
        return -1
    number = high << 43 | low >> 21
    group, at = number >> sb.group_bits, number & (1 << sb.group_bits) - 1
    if group >= sb.groups or at + (low & _COUNT) > sb.group_size(group):
        return -1
    place = (group * sb.group_blocks + at) << sb.block_bits
    return place if place > 0 and place + size <= volume.limit else -1


def _root(runs: _Runs, volume: Volume, inode: Inode, fork: bytes) -> None:
    level, count = struct.unpack_from(">HH", fork) if len(fork) >= 4 else (0, 0)
    most = (len(fork) - 4) // 16
    if not 0 < level <= _DEPTH or not 0 < count <= most:
        raise Malformed(f"inode {inode.number}: a root of {count} entries, {level} levels high")
    _children(runs, volume, inode, fork, (4, 4 + most * 8, count), level - 1, _OFFSET + 1)


def _children(
    runs: _Runs,
    volume: Volume,
    inode: Inode,
    node: bytes,
    where: tuple[int, int, int],
    level: int,
    stop: int,
) -> None:
    """Add what the children of a node say, which is responsible for blocks before ``stop``."""
    keys_at, pointers_at, count = where
    keys = struct.unpack_from(f">{count}Q", node, keys_at)
    pointers = struct.unpack_from(f">{count}Q", node, pointers_at)
    for index, (first, number) in enumerate(zip(keys, pointers, strict=True)):
        end = keys[index + 1] if index + 1 < count else stop
        if not first < end <= stop:
            raise Malformed(f"inode {inode.number}: an entry for [{first}, {end}), of less than {stop}")
        if first >= runs.stop:
            return
        if end <= runs.start:
            continue
        try:
            runs.enter(number)
            _node(runs, volume, inode, number, level, end)
        except EvidenceError:
            runs.lose(first, end)


def _node(runs: _Runs, volume: Volume, inode: Inode, number: int, level: int, stop: int) -> None:
    sb = volume.superblock
    node = volume.block(number)
    if sb.checked:
        volume.verify(node, LONG, volume.place(number), inode.number)
    head = 72 if sb.checked else 24
    magic, stated, count = struct.unpack_from(">4sHH", node)
    most = (len(node) - head) // 16
    if magic != (b"BMA3" if sb.checked else b"BMAP") or stated != level or count > most:
        raise Malformed(f"inode {inode.number}: block {number} is no node of level {level}")
    if level:
        _children(runs, volume, inode, node, (head, head + most * 8, count), level - 1, stop)
    else:
        runs.records(node, head, count, stop)
