"""Runs of a stream as columns of machine integers: how they are taken in, and how they grow.

Knows nothing of planning. A run ends where the next one starts; for LOST runs the ``which`` column
counts reasons instead of sources.
"""

from __future__ import annotations

from array import array
from itertools import repeat
from operator import gt
from typing import TYPE_CHECKING, Literal

from imgfs.errors import Malformed
from imgfs.model import HOLE, LOST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.block.pieces import ByteSource


def column(code: Literal["q", "H"], data: bytes, spec: str) -> array[int]:
    """Return a column of int64 or uint16.

    Raises:
        Malformed: the bytes are no whole number of items.
    """
    items = array(code)
    if len(data) % items.itemsize:
        raise Malformed(f"a column of {len(data)} bytes", spec=spec)
    items.frombytes(data)
    return items


def check_targets(
    targets: array[int], ends: array[int], which: array[int], lowers: Sequence[ByteSource], spec: str
) -> None:
    """Check that every run that is stored lies inside its lower source.

    Raises:
        Malformed: one does not, or there is no lower source.
    """
    smallest = min((lower.size for lower in lowers), default=-1)
    if not any(map(gt, ends, repeat(smallest))):
        return
    for run, (target, end, number) in enumerate(zip(targets, ends, which, strict=True)):
        if target < 0:
            continue
        if not lowers:
            raise Malformed(f"run {run} of no source", spec=spec)
        if end > lowers[number].size:
            message = f"run {run} ends at {end}, source {number} ends at {lowers[number].size}"
            raise Malformed(message, spec=spec)


class Runs:
    """Gap-free columns that grow at the end; runs that continue the one before are merged with it.

    Shapes:
        starts  int64[n]: first byte of each run
        targets int64[n]: offset in lowers[which], or HOLE, or LOST
        which  uint16[n]
    """

    __slots__ = ("_lower_numbers", "_reason_numbers", "lowers", "reasons", "starts", "targets", "which")

    def __init__(self) -> None:
        self.starts = array("q")
        self.targets = array("q")
        self.which = array("H")
        self.lowers: list[ByteSource] = []
        self.reasons: list[str] = []
        self._lower_numbers: dict[int, int] = {}
        self._reason_numbers: dict[str, int] = {}

    def add(self, start: int, target: int, which: int) -> None:
        """Append a run whose ``which`` is a number this object gave out."""
        if self.targets:
            last = self.targets[-1]
            continues = last if last < 0 else last + start - self.starts[-1]
            if which == self.which[-1] and target == continues and (target < 0) == (last < 0):
                return
        self.starts.append(start)
        self.targets.append(target)
        self.which.append(which)

    def add_stored(self, start: int, target: int, lower: ByteSource) -> None:
        """Append a run of a lower source."""
        self.add(start, target, self.number(lower))

    def add_hole(self, start: int) -> None:
        """Append zeros."""
        self.add(start, HOLE, 0)

    def add_lost(self, start: int, reason: str) -> None:
        """Append what the image does not say."""
        number = self._reason_numbers.setdefault(reason, len(self.reasons))
        if number == len(self.reasons):
            self.reasons.append(reason)
        self.add(start, LOST, number)

    def number(self, lower: ByteSource) -> int:
        """Return the number of a lower source, by identity."""
        number = self._lower_numbers.setdefault(id(lower), len(self.lowers))
        if number == len(self.lowers):
            self.lowers.append(lower)
        return number
