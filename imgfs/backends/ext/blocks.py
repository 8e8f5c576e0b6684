"""Which blocks a file has: extent trees and maps of indirect blocks, as runs.

Every pointer is compared with the file system before it is believed. Work is bounded by what is
allocated: a hole costs nothing however large, and no block of a tree is visited twice.

Source: Linux Documentation/filesystems/ext4, "Extent Tree", "Direct/Indirect Block Addressing".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends.ext.inode import EXTENTS, Inode
from imgfs.errors import EvidenceError, Malformed
from imgfs.limits import MAX_RUNS
from imgfs.model import HOLE, LOST, Linear

if TYPE_CHECKING:
    from imgfs.backends.ext.tables import Tables

Row = tuple[int, int, int]  # logical, length, target: bytes
_HEADER: Final = struct.Struct("<HHHHI")
_ENTRY: Final = struct.Struct("<IHHI")  # leaf: block, len, start_hi, start_lo
_INDEX: Final = struct.Struct("<IIHH")  # block, leaf_lo, leaf_hi, unused
_MAGIC: Final = 0xF30A
_DEPTH: Final = 5  # "ee_depth ... must be <= 5"
_INITIALISED: Final = 0x8000  # a longer ee_len: written to nothing yet, reads as zeros
_NODES: Final = 1_600_000  # blocks of one tree: 4 TiB in indirect blocks of 4 KiB need a million
_ONE: Final = struct.Struct("=q")
_ZERO: Final = _ONE.pack(0)
_FIRST: Final = struct.Struct("<HHHHIIHHI")  # header and first extent of a root


class _Runs:
    """Runs of one file, ascending, joined, gaps declared holes. Units: blocks in, bytes out."""

    __slots__ = ("_block", "_first", "_inode", "_limit", "_stop", "at", "owner", "rows", "visited")

    def __init__(self, inode: Inode, tables: Tables, size: int) -> None:
        block = tables.superblock.block
        self._inode = inode.number
        self.owner = inode.number, inode.generation
        self._block = block
        self._first = tables.superblock.first
        self._limit = tables.limit
        self._stop = -(-size // block)
        self.at = 0  # blocks said something about
        self.rows: list[list[int]] = []
        self.visited: set[int] = set()

    @property
    def ended(self) -> bool:
        return self.at >= self._stop

    def add(self, first: int, count: int, number: int) -> None:
        """Say that blocks from ``first`` lie from block ``number`` on, or HOLE, or LOST.

        Raises:
            Malformed: something was said about them before, or there are too many runs.
        """
        if first < self.at:
            raise Malformed(f"inode {self._inode}: two places for block {first}")
        count = min(count, self._stop - first)
        if count <= 0:
            return
        if first > self.at:
            self._put(self.at, first - self.at, HOLE)
        self.at = first + count
        if number < 0:
            self._put(first, count, number)
            return
        if number <= self._first:
            self._put(first, count, LOST)
            return
        inside = min(count, max(self._limit // self._block - number, 0))
        if inside:
            self._put(first, inside, number * self._block)
        if inside < count:  # it leaves the file system, or the volume ends before
            self._put(first + inside, count - inside, LOST)

    def _put(self, first: int, count: int, target: int) -> None:
        logical, length = first * self._block, count * self._block
        if self.rows:
            last = self.rows[-1]
            if target == last[2] if target < 0 else last[2] >= 0 and last[2] + last[1] == target:
                last[1] += length
                return
        if len(self.rows) >= MAX_RUNS:
            raise Malformed(f"inode {self._inode}: more than {MAX_RUNS} runs")
        self.rows.append([logical, length, target])

    def enter(self, number: int) -> None:
        """Note a visit to a block of the tree. Raises Malformed when it was visited before."""
        if number in self.visited or len(self.visited) >= _NODES:
            raise Malformed(
                f"inode {self._inode}: block {number} is twice in its own tree, or it has too many"
            )
        self.visited.add(number)

    def finish(self, size: int) -> list[Row]:
        """Return all runs, clipped to ``size`` bytes."""
        if self.at < self._stop:
            self._put(self.at, self._stop - self.at, HOLE)
        if self.rows:
            self.rows[-1][1] = size - self.rows[-1][0]
        return [(logical, length, target) for logical, length, target in self.rows]


def rows_of(inode: Inode, tables: Tables, size: int) -> list[Row]:
    """Return the runs of a file in bytes, covering [0, size) without gaps.

    A damaged part of a tree makes LOST what it would say.

    Raises:
        Malformed: the root of the tree is damaged, or the tree contradicts itself.
    """
    runs = _Runs(inode, tables, size)
    if inode.flags & EXTENTS:
        depth = _HEADER.unpack_from(inode.data)[3]
        if depth > _DEPTH:
            raise Malformed(f"inode {inode.number}: extent tree of depth {depth}")
        _extents(runs, tables, inode.data, depth, 0, 1 << 32)
    else:
        _mapped(runs, tables, inode.data)
    return runs.finish(size)


def linear(size: int, rows: list[Row]) -> Linear:
    """Build the columns; the single run of most files without the general machinery."""
    if len(rows) == 1:
        _, length, target = rows[0]
        return Linear(size=size, logical=_ZERO, length=_ONE.pack(length), target=_ONE.pack(target))
    return Linear.of(size, rows)


def single_extent(flags: int, data: bytes, size: int, tables: Tables) -> Linear | None:
    """Return the layout of a file in one extent told by ``data``, its i_block; None: it is another."""
    if not flags & EXTENTS:
        return None
    magic, entries, _, depth, _, first, count, high, low = _FIRST.unpack_from(data)
    block = tables.superblock.block
    if magic != _MAGIC or depth or entries != 1 or first or count > _INITIALISED or count * block < size:
        return None
    number = high << 32 | low
    if number <= tables.superblock.first or number * block + size > tables.limit:
        return None
    return Linear(size=size, logical=_ZERO, length=_ONE.pack(size), target=_ONE.pack(number * block))


def quick_layout(inode: Inode, tables: Tables, size: int) -> Linear | None:
    """Return the layout when i_block alone tells it in a run or two; None: ask ``rows_of``."""
    if inode.flags & EXTENTS:
        magic, entries, _, depth, _ = _HEADER.unpack_from(inode.data)
        if magic != _MAGIC or depth or entries > 2:
            return None
    elif size > 12 * tables.superblock.block:
        return None
    try:
        rows = rows_of(inode, tables, size)
    except EvidenceError:
        return None
    return linear(size, rows) if len(rows) <= 2 else None


def _extents(runs: _Runs, tables: Tables, node: bytes, depth: int, start: int, stop: int) -> None:
    """Add the runs of a node that is responsible for blocks [start, stop).

    Raises:
        Malformed: the node is damaged, or extents overlap.
    """
    magic, entries, _, stated, _ = _HEADER.unpack_from(node)
    if magic != _MAGIC or stated != depth or entries > len(node) // 12 - 1:
        raise Malformed(f"extent node of depth {depth} with {entries} entries of depth {stated}")
    if not depth:
        for at in range(12, 12 + 12 * entries, 12):
            first, count, high, low = _ENTRY.unpack_from(node, at)
            length = count if count <= _INITIALISED else count - _INITIALISED
            if not length or not start <= first < stop:
                raise Malformed(f"extent of {length} blocks at {first}, of [{start}, {stop})")
            runs.add(first, length, high << 32 | low if count <= _INITIALISED else HOLE)
        return
    for number in range(entries):
        if runs.ended:
            return
        first, low, high, _ = _INDEX.unpack_from(node, 12 + 12 * number)
        end = _INDEX.unpack_from(node, 24 + 12 * number)[0] if number + 1 < entries else stop
        if not start <= first < end <= stop:
            raise Malformed(f"index entry [{first}, {end}) in [{start}, {stop})")
        child = high << 32 | low
        try:
            runs.enter(child)
            block = tables.block(child)
            if tables.sums is not None and not tables.sums.extents(*runs.owner, block):
                raise Malformed(f"the checksum of block {child}, which says where bytes lie, differs")
            _extents(runs, tables, block, depth - 1, first, end)
        except EvidenceError:
            _lose(runs, first, end)


def _lose(runs: _Runs, first: int, end: int) -> None:
    """Declare lost what nothing was said about in [first, end)."""
    first = max(first, runs.at)
    if first < end:
        runs.add(first, end - first, LOST)


def _mapped(runs: _Runs, tables: Tables, data: bytes) -> None:
    pointers = struct.unpack("<15I", data)
    for number, pointer in enumerate(pointers[:12]):
        if pointer:
            runs.add(number, 1, pointer)
    fan, first = tables.superblock.block // 4, 12
    for depth, pointer in enumerate(pointers[12:], 1):
        if pointer and not runs.ended:
            _indirect(runs, tables, pointer, depth, first)
        first += fan**depth


def _indirect(runs: _Runs, tables: Tables, number: int, depth: int, first: int) -> None:
    """Add the runs below an indirect block that is responsible for blocks from ``first`` on."""
    fan = tables.superblock.block // 4
    try:
        runs.enter(number)
        pointers = struct.unpack(f"<{fan}I", tables.block(number))
    except EvidenceError:
        _lose(runs, first, first + fan**depth)
        return
    if depth > 1:
        for index, pointer in enumerate(pointers):
            if runs.ended:
                return
            if pointer:
                _indirect(runs, tables, pointer, depth - 1, first + index * fan ** (depth - 1))
        return
    start = pointers[0]
    if start and pointers == tuple(range(start, start + fan)):  # how a file written at once lies
        runs.add(first, fan, start)
        return
    for index, pointer in enumerate(pointers):
        if pointer:
            runs.add(first + index, 1, pointer)
