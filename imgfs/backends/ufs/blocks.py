"""Block maps of UFS: direct pointers and up to three levels of indirect blocks, as runs.

TSK walks the whole tree of a sparse file; here a hole costs one comparison whatever it covers.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from imgfs.backends.ufs.structures import DIRECT, INDIRECT
from imgfs.errors import EvidenceError, Malformed
from imgfs.limits import MAX_RUNS
from imgfs.model import HOLE, LOST

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends._tsk_layout import Row
    from imgfs.backends.ufs.structures import Inode, Superblock


class _Runs:
    """Rows under construction, joined as they come."""

    __slots__ = ("at", "rows", "size")

    def __init__(self, size: int) -> None:
        self.rows: list[Row] = []
        self.size = size
        self.at = 0

    def add(self, length: int, target: int) -> None:
        length = min(length, self.size - self.at)
        if length <= 0:
            return
        if self.rows:
            logical, had, where = self.rows[-1]
            if target == where if target < 0 else where >= 0 and where + had == target:
                self.rows[-1] = (logical, had + length, where)
                self.at += length
                return
            if len(self.rows) >= MAX_RUNS:
                raise Malformed(f"more than {MAX_RUNS} runs")
        self.rows.append((self.at, length, target))
        self.at += length


def rows_of(reader: Reader, sb: Superblock, inode: Inode) -> list[Row]:
    """Return where the content of an inode lies.

    Raises:
        Malformed: the size is larger than any block map, or the map has more blocks than the volume.
    """
    size = inode.attr.size
    per = sb.block // struct.calcsize("=" + sb.pointer)
    if size > (DIRECT + per + per**2 + per**3) * sb.block:
        raise Malformed(f"inode {inode.attr.inum}: {size} bytes are more than its block map can hold")
    runs = _Runs(size)
    budget = reader.size // sb.block + INDIRECT  # no file has more indirect blocks than the volume has blocks
    for pointer in inode.pointers[:DIRECT]:
        runs.add(sb.block, _target(reader, sb, pointer, min(sb.block, size - runs.at)))
    for level, pointer in enumerate(inode.pointers[DIRECT : DIRECT + INDIRECT]):
        budget = _indirect(reader, sb, runs, pointer, level, per, budget)
    return runs.rows


def _target(reader: Reader, sb: Superblock, pointer: int, length: int) -> int:
    if pointer == 0:
        return HOLE
    at = pointer * sb.fragment
    return at if at > 0 and at + max(length, 0) <= reader.size else LOST


def _indirect(  # recursive and private
    reader: Reader, sb: Superblock, runs: _Runs, pointer: int, level: int, per: int, budget: int
) -> int:
    """Add what an indirect block of a level covers; returns how many more may be read."""
    if runs.at >= runs.size:
        return budget
    covered = sb.block * per ** (level + 1)
    at = _target(reader, sb, pointer, sb.block)
    if at < 0:
        runs.add(covered, at)
        return budget
    if budget <= 0:
        raise Malformed("more indirect blocks than the volume has blocks")
    budget -= 1
    try:
        raw = reader.read(at, sb.block)
    except EvidenceError:
        runs.add(covered, LOST)
        return budget
    for below in struct.unpack(f"{sb.order}{per}{sb.pointer}", raw):
        if runs.at >= runs.size:
            break
        if level:
            budget = _indirect(reader, sb, runs, below, level - 1, per, budget)
        else:
            runs.add(sb.block, _target(reader, sb, below, min(sb.block, runs.size - runs.at)))
    return budget
