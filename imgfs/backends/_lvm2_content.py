"""Bytes of a body, read in the worker: metadata that lies in logical volumes may lie on stripes or mirrors.

What this reads is bounded by whoever asks; volumes themselves are read by the daemon, through their layouts.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from imgfs.block.galois import multiples
from imgfs.errors import LostBytes, Truncated
from imgfs.layouts import HOLE, Linear, Striped

if TYPE_CHECKING:
    from imgfs.backends._lvm2_bodies import Body, Run, Stack

_DEPTH: Final = 32


class Content:
    """A body as something to read; like a ``Reader``."""

    __slots__ = ("_body", "_stack", "size")

    def __init__(self, stack: Stack, body: Body) -> None:
        self._stack = stack
        self._body = body
        self.size = body.size

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes.

        Raises:
            Truncated: the range leaves the body.
            LostBytes: nobody has part of it.
        """
        if not 0 <= start <= start + length <= self.size:
            raise Truncated("outside the volume", start=start, stop=start + length)
        return b"".join(self._run(run, 0) for run in self._body.cut(start, length))

    def _run(self, run: Run, depth: int) -> bytes:
        at, length, lower, target = run
        if target == HOLE:
            return bytes(length)
        if target < 0 or depth > _DEPTH:
            raise LostBytes("nobody has the range", start=at, stop=at + length)
        count = len(self._stack.tickets)
        if lower < count:
            return self._stack.tickets[lower].read(target, length)
        match self._stack.layouts[lower - count]:
            case Striped() as striped:
                return self._dealt(striped, target, length, depth + 1)
            case Linear(rows=0) as linear:
                return b"".join(self._run(each, depth + 1) for each in _cut(linear, target, length))
            case layout:  # one of millions of runs: no metadata lies there
                raise LostBytes(f"in a layout of kind {type(layout).__name__}", start=at, stop=at + length)

    def _dealt(self, striped: Striped, start: int, length: int, depth: int) -> bytes:
        ends = array("I", striped.ends)
        which, base = array("H", striped.which), array("q", striped.base)
        parts = []
        stop = start + length
        while start < stop:
            number, skip = divmod(start, striped.chunk)
            count = min(striped.chunk - skip, stop - start)
            turn, chunk = divmod(number, len(ends))
            terms = range(ends[chunk - 1] if chunk else 0, ends[chunk])
            if not terms:
                raise LostBytes("nobody has a stripe", start=start, stop=start + count)
            shift = turn * striped.stride + skip
            read = [self._run((start, count, which[term], base[term] + shift), depth) for term in terms]
            parts.append(_sum(read, striped.factor[terms.start : terms.stop]))
            start += count
        return b"".join(parts)


def _sum(terms: list[bytes], factors: bytes) -> bytes:
    """Return the sum in GF(2^8) of terms of one length, each multiplied by its factor."""
    if factors == b"\1":
        return terms[0]
    total = 0
    for term, factor in zip(terms, factors, strict=True):
        total ^= int.from_bytes(term if factor == 1 else term.translate(multiples(factor)), "little")
    return total.to_bytes(len(terms[0]), "little")


def _cut(linear: Linear, start: int, length: int) -> list[Run]:
    """Return the runs of a range of a layout, gaps as they are: lost."""
    logical, lengths, target = (array("q", c) for c in (linear.logical, linear.length, linear.target))
    which = array("H", linear.which) if linear.which else array("H", bytes(2 * len(logical)))
    found: list[Run] = []
    stop = start + length
    row = max(bisect_right(logical, start) - 1, 0)
    while start < stop:
        if row >= len(logical) or not logical[row] <= start < logical[row] + lengths[row]:
            raise LostBytes("no run covers the range", start=start, stop=stop)
        skip = start - logical[row]
        count = min(lengths[row] - skip, stop - start)
        place = target[row]
        found.append((start, count, which[row], place + skip if place >= 0 else place))
        start += count
        row += 1
    return found
