"""Maps of AFF4: which range of an image is which range of which stream.

A map of an image of terabytes has millions of points: they are handled as columns.

Source: AFF4 Standard v1.0a, section 4; the order of the fields that Rekall wrote from pyaff4 (Apache-2.0).
"""

from __future__ import annotations

import operator
from array import array
from bisect import bisect_right
from itertools import chain, compress, islice, repeat
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._aff4_plan import Runs, Target, lost
from imgfs.errors import Malformed
from imgfs.model import LOST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends._aff4_plan import Plan

POINT: Final = 28  # bytes of a point: mapped offset, length, target offset (64 bits each), target (32 bits)
MAX_MAP: Final = 256 * limits.MIB  # bytes of a map: 9.5 million points
_BLOCK: Final = 1 << 17  # points handled at once
_LOST_SHOWN: Final = 1000
_UNKNOWN: Final = "the map names a target that its index does not have"


class Map:
    """The points of a map, joined where they continue one another. Units: bytes."""

    def __init__(self, raw: bytes, targets: Sequence[Target], *, swapped: bool = False) -> None:
        self._targets = [*targets, lost(_UNKNOWN)]
        self._order = (0, 4, 2) if swapped else (0, 2, 4)  # words: mapped offset, length, target offset
        self._starts, self._lengths, self._offsets = array("q"), array("q"), array("q")
        self._ids = array("I")
        self.lost: list[tuple[int, int, str]] = []
        self.notes: list[str] = []
        if len(raw) % POINT:
            self.notes.append("the map ends within a point")
        for at in range(0, len(raw) - len(raw) % POINT, _BLOCK * POINT):
            self._block(raw[at : min(at + _BLOCK * POINT, len(raw) - len(raw) % POINT)])
        self._sort()

    @property
    def end(self) -> int:
        """Return where the last point ends."""
        return self._starts[-1] + self._lengths[-1] if self._starts else 0

    def runs(self, size: int, gap: Target, plan: Plan) -> Runs:
        """Return the runs of the image, with ``gap`` wherever no point is."""
        starts, lengths, offsets, ids = self._starts, self._lengths, self._offsets, self._ids
        number = len(self._targets)
        self._targets.append(gap)
        if self.end > size:
            kept = bisect_right(starts, size - 1)
            starts, lengths, offsets, ids = (column[:kept] for column in (starts, lengths, offsets, ids))
            if starts:
                lengths[-1] = min(lengths[-1], size - starts[-1])
            self.notes.append(f"the map goes on behind the image of {size} bytes")
        ends = array("q", map(operator.add, starts, lengths))
        befores = array("q", [0]) + ends
        afters = starts + array("q", [size])
        gaps = array("q", map(operator.sub, afters, befores))
        if any(gaps):
            offsets = _mixed(array("q", bytes(8 * len(gaps))), offsets, gaps, lengths)
            ids = _mixed(array("I", [number]) * len(gaps), ids, gaps, lengths)
            starts = _mixed(befores, starts, gaps, lengths)
            lengths = array("q", filter(None, _woven(gaps, lengths)))
        self._explain(starts, lengths, ids)
        return self._placed(starts, lengths, offsets, ids, plan)

    def _block(self, raw: bytes) -> None:
        """Take over points, joining those that go on where the one before ends."""
        words = array("I", raw)
        starts, lengths, offsets = (_wide(words, at) for at in self._order)
        ids = words[6::7]
        if (
            min(starts) < 0
            or min(lengths) <= 0
            or min(offsets) < 0
            or max(map(operator.add, starts, lengths)) > limits.MAX_SIZE
        ):
            kept = [
                start >= 0 < length and offset >= 0 and start + length <= limits.MAX_SIZE
                for start, length, offset in zip(starts, lengths, offsets, strict=True)
            ]
            if any(length < 0 or not ok for length, ok in zip(lengths, kept, strict=True) if length):
                self.notes.append("points of the map with impossible places are left out")
            starts, lengths, offsets = (
                array("q", compress(column, kept)) for column in (starts, lengths, offsets)
            )
            ids = array("I", compress(ids, kept))
            if not starts:
                return
        if max(ids) >= len(self._targets) - 1:
            ids = array("I", map(min, ids, repeat(len(self._targets) - 1)))
        follows = [int(target.follows) for target in self._targets]
        steady = set(ids) <= {number for number, step in enumerate(follows) if step}
        if not steady:  # what is the same everywhere has no places
            offsets = array("q", map(operator.mul, offsets, map(follows.__getitem__, ids)))
        steps = lengths if steady else map(operator.mul, lengths, map(follows.__getitem__, ids))
        begins = map(
            operator.or_,
            map(operator.ne, islice(starts, 1, None), map(operator.add, starts, lengths)),
            map(
                operator.or_,
                map(operator.ne, islice(ids, 1, None), ids),
                map(operator.ne, islice(offsets, 1, None), map(operator.add, offsets, steps)),
            ),
        )
        first = bytes(chain((1,), begins))
        if all(first):
            self._lengths += lengths
        else:
            ends = array("q", map(operator.add, starts, lengths))
            lasts = compress(ends, chain(islice(first, 1, None), (1,)))
            self._lengths += array("q", map(operator.sub, lasts, compress(starts, first)))
            starts, offsets = array("q", compress(starts, first)), array("q", compress(offsets, first))
            ids = array("I", compress(ids, first))
        self._starts += starts
        self._offsets += offsets
        self._ids += ids
        if len(self._starts) > limits.MAX_RUNS:
            raise Malformed(f"a map of more than {limits.MAX_RUNS} runs")

    def _sort(self) -> None:
        """Put points in order; what two of them claim for different places is lost."""
        starts = self._starts
        if not all(map(operator.le, starts, islice(starts, 1, None))):
            order = sorted(range(len(starts)), key=starts.__getitem__)
            for name in ("_starts", "_lengths", "_offsets", "_ids"):
                column = getattr(self, name)
                setattr(self, name, array(column.typecode, map(column.__getitem__, order)))
            starts = self._starts
        ends = map(operator.add, starts, self._lengths)
        if all(map(operator.le, ends, islice(starts, 1, None))):
            return
        self._overlapping()

    def _overlapping(self) -> None:
        """Cut points that overlap at their ends: a range claimed twice is shown if both claims agree."""
        number = len(self._targets)
        self._targets.append(lost("two points of the map claim this range"))
        points = list(zip(self._starts, self._lengths, self._offsets, self._ids, strict=True))
        self._starts, self._lengths, self._offsets = array("q"), array("q"), array("q")
        self._ids = array("I")
        edges = sorted({p[0] for p in points} | {p[0] + p[1] for p in points})
        active: list[tuple[int, int, int, int]] = []
        at = 0
        budget = 16 * len(points) + 1000
        for edge, after in zip(edges, islice(edges, 1, None), strict=False):
            active = [p for p in active if p[0] + p[1] > edge]
            while at < len(points) and points[at][0] <= edge:
                active.append(points[at])
                at += 1
            budget -= len(active)
            if budget < 0:
                raise Malformed("the points of a map overlap everywhere")
            claims = {(i, o + (edge - s) * self._targets[i].follows) for s, _, o, i in active}
            if claims:
                owner, offset = claims.pop() if len(claims) == 1 else (number, 0)
                self._starts.append(edge)
                self._lengths.append(after - edge)
                self._offsets.append(offset)
                self._ids.append(owner)
        self.notes.append("points of the map overlap")

    def _placed(
        self, starts: array[int], lengths: array[int], offsets: array[int], ids: array[int], plan: Plan
    ) -> Runs:
        """Turn targets and offsets into lowers and places; what leaves its stream is lost."""
        targets = self._targets
        sizes = [target.size for target in targets]
        near = not starts or max(offsets) + max(lengths) <= min(sizes)  # nothing can leave any of them
        if not near and any(
            map(operator.gt, map(operator.add, offsets, lengths), map(sizes.__getitem__, ids))
        ):
            starts, lengths, offsets, ids = self._clipped(starts, lengths, offsets, ids)
        longest: dict[int, int] = {}
        for number, target in enumerate(targets):
            if not target.follows and target.base == 0:
                reach = max(compress(lengths, map(number.__eq__, ids)), default=0)
                longest[target.which] = max(longest.get(target.which, 0), reach)
        for which, length in longest.items():
            plan.need(which, length)
        runs = Runs()
        bases = [target.base for target in targets]
        lowers = [target.which for target in targets]
        runs.logical, runs.length = starts, lengths
        runs.target = array("q", map(operator.add, offsets, map(bases.__getitem__, ids)))
        runs.which = array("H", map(lowers.__getitem__, ids))
        return runs

    def _clipped(
        self, starts: array[int], lengths: array[int], offsets: array[int], ids: array[int]
    ) -> tuple[array[int], array[int], array[int], array[int]]:
        number = len(self._targets)
        why = "the map goes on behind the end of the stream it names"
        self._targets.append(lost(why))
        clipped = (array("q"), array("q"), array("q"), array("I"))
        for start, length, offset, owner in zip(starts, lengths, offsets, ids, strict=True):
            inside = min(length, max(self._targets[owner].size - offset, 0))
            rows = ((start, inside, offset, owner), (start + inside, length - inside, 0, number))
            for row in rows:
                if row[1]:
                    for column, value in zip(clipped, row, strict=True):
                        column.append(value)
            if inside < length:
                self.lose(start + inside, start + length, why)
        return clipped

    def _explain(self, starts: array[int], lengths: array[int], ids: array[int]) -> None:
        reasons = {n: target.why for n, target in enumerate(self._targets) if target.base == LOST}
        if not reasons.keys() & set(ids):
            return
        for start, length, owner in compress(
            zip(starts, lengths, ids, strict=True), map(reasons.__contains__, ids)
        ):
            self.lose(start, start + length, reasons[owner])

    def lose(self, start: int, stop: int, why: str) -> None:
        """Record a lost range of the image; what is too much for a list is counted by its reader."""
        if self.lost and self.lost[-1][1:] == (start, why):
            self.lost[-1] = (self.lost[-1][0], stop, why)
        elif len(self.lost) < _LOST_SHOWN:
            self.lost.append((start, stop, why))
        elif len(self.lost) == _LOST_SHOWN:
            self.notes.append("more ranges are lost than are listed")
            self.lost.append((start, stop, why))


def _wide(words: array[int], at: int) -> array[int]:
    """Return 64-bit numbers whose low and high halves stand at words ``at`` and ``at + 1`` of each point."""
    halves = array("I", bytes(8 * (len(words) // 7)))
    halves[0::2], halves[1::2] = words[at::7], words[at + 1 :: 7]
    wide = array("q")
    wide.frombytes(halves.tobytes())
    return wide


def _woven(gaps: array[int], points: array[int]) -> array[int]:
    """Return gap, point, gap, point, ..., gap."""
    woven = array(points.typecode, bytes(points.itemsize * (len(gaps) + len(points))))
    woven[0::2], woven[1::2] = gaps, points
    return woven


def _mixed(fills: array[int], points: array[int], gaps: array[int], lengths: array[int]) -> array[int]:
    """Return a column with the values of gaps between those of points, where either is not empty."""
    return array(points.typecode, compress(_woven(fills, points), _woven(gaps, lengths)))
