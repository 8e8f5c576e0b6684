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
    from imgfs.backends._layouts import Row
    from imgfs.backends.ufs.structures import Inode, Superblock
    from imgfs.backends.ufs.tables import Tables


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


def rows_of(tables: Tables, inode: Inode, *, freed: bool = False) -> list[Row]:
    """Return where the content of an inode lies.

    ``freed``: the blocks belong to nobody any more; those in use hold something else, and are LOST.

    Raises:
        Malformed: the size is larger than any block map, or the map has more blocks than the volume.
    """
    rows = _Map(tables, inode, freed=freed).rows()
    return tables.only_free(rows) if freed else rows


class _Map:
    """The block map of one inode while it is read."""

    __slots__ = ("_budget", "_freed", "_inode", "_per", "_reader", "_runs", "_sb", "_tables")

    def __init__(self, tables: Tables, inode: Inode, *, freed: bool) -> None:
        self._tables = tables
        self._reader: Reader = tables.reader
        self._sb: Superblock = tables.superblock
        self._inode = inode
        self._freed = freed
        self._per = self._sb.block // struct.calcsize("=" + self._sb.pointer)
        # no file has more indirect blocks than the volume has blocks
        self._budget = self._reader.size // self._sb.block + INDIRECT
        self._runs = _Runs(inode.attr.size)

    def rows(self) -> list[Row]:
        per, runs, block = self._per, self._runs, self._sb.block
        if runs.size > (DIRECT + per + per**2 + per**3) * block:
            raise Malformed(
                f"inode {self._inode.attr.inum}: {runs.size} bytes are more than its block map can hold"
            )
        for pointer in self._inode.pointers[:DIRECT]:
            runs.add(block, self._target(pointer, min(block, runs.size - runs.at)))
        for level, pointer in enumerate(self._inode.pointers[DIRECT : DIRECT + INDIRECT]):
            self._indirect(pointer, level)
        return runs.rows

    def _target(self, pointer: int, length: int) -> int:
        if pointer == 0:
            return HOLE
        at = pointer * self._sb.fragment
        return at if at > 0 and at + max(length, 0) <= self._reader.size else LOST

    def _indirect(self, pointer: int, level: int) -> None:
        """Add what an indirect block of a level covers."""
        runs, sb = self._runs, self._sb
        if runs.at >= runs.size:
            return
        covered = sb.block * self._per ** (level + 1)
        at = self._target(pointer, sb.block)
        if at >= 0 and self._freed and not self._tables.is_free(at, sb.block):
            at = LOST  # it maps another file now, or holds anything else
        if at < 0:
            runs.add(covered, at)
            return
        if self._budget <= 0:
            raise Malformed("more indirect blocks than the volume has blocks")
        self._budget -= 1
        try:
            raw = self._reader.read(at, sb.block)
        except EvidenceError:
            runs.add(covered, LOST)
            return
        for below in struct.unpack(f"{sb.order}{self._per}{sb.pointer}", raw):
            if runs.at >= runs.size:
                break
            if level:
                self._indirect(below, level - 1)
            else:
                runs.add(sb.block, self._target(below, min(sb.block, runs.size - runs.at)))
