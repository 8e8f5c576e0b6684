"""A stream laid over lower sources in runs: check, plan, flatten. Pure arithmetic (INV-1, INV-2).

Runs are kept in columns of machine integers, gap-free: a run ends where the next one starts. A run
is a range of a lower source, or HOLE, or LOST; for LOST the ``which`` column counts the reasons.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from itertools import islice
from operator import add, eq, le, sub
from typing import TYPE_CHECKING, Self

from imgfs import limits
from imgfs.block.columns import Runs, check_targets, column
from imgfs.block.hostfile import HostFile
from imgfs.block.memory import Memory
from imgfs.block.pieces import Lost, Stored, Zeros
from imgfs.errors import Malformed
from imgfs.model import HOLE, LOST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imgfs.block.pieces import ByteSource, Piece
    from imgfs.model import Linear


def verbatim(source: ByteSource) -> bool:
    """Say whether every byte of a source is as it is in a host file or memory, compared or not; or lost."""
    return isinstance(source, HostFile | Memory) or bool(getattr(source, "stored_only", False))


class ExtentMap:
    """A ByteSource in runs over ``lowers``. O(log n) to plan.

    Shapes:
        _starts  int64[n + 1]: first byte of each run, then the size
        _targets int64[n]: offset in lowers[which], or HOLE, or LOST
        _which  uint16[n]: index of the lower source; of the reason where the target is LOST
    """

    __slots__ = ("_lowers", "_reasons", "_starts", "_targets", "_which", "size", "spec")

    def __init__(
        self,
        starts: array[int],
        targets: array[int],
        which: array[int],
        lowers: tuple[ByteSource, ...],
        spec: str,
        reasons: tuple[str, ...] = (),
    ) -> None:
        """Take over checked columns; see ``checked``, ``window`` and ``concat``."""
        self._starts = starts
        self._targets = targets
        self._which = which
        self._lowers = lowers
        self._reasons = reasons or (spec,)
        self.spec = spec
        self.size = starts[-1]

    @classmethod
    def checked(cls, claim: Linear, lowers: Sequence[ByteSource], spec: str) -> Self:
        """Accept a claim about runs.

        Raises:
            Malformed: columns differ in length; runs are empty, overlap, go backwards, or leave
                the stream or their lower source.
        """
        if not 0 <= claim.size <= limits.MAX_SIZE:
            raise Malformed(f"a stream of {claim.size} bytes", spec=spec)
        logical = column("q", claim.logical, spec)
        length = column("q", claim.length, spec)
        target = column("q", claim.target, spec)
        count = len(logical)
        which = column("H", claim.which, spec) if claim.which else array("H", bytes(2 * count))
        if not len(length) == len(target) == len(which) == count <= limits.MAX_RUNS:
            raise Malformed(f"columns of {count}, {len(length)}, {len(target)}, {len(which)} runs", spec=spec)
        if not count:
            return cls._gapless((), claim.size, (), spec)
        if min(length) <= 0 or logical[0] < 0 or min(target) < LOST or max(which) >= max(len(lowers), 1):
            raise Malformed("a run without length, of negative position, or of no source", spec=spec)
        try:
            ends = array("q", map(add, logical, length))
            target_ends = array("q", map(add, target, length))
        except OverflowError:
            raise Malformed("a run leaves the range of 64 bits", spec=spec) from None
        if ends[-1] > claim.size or not all(map(le, ends, islice(logical, 1, None))):
            raise Malformed("runs overlap, go backwards or leave the stream", spec=spec)
        check_targets(target, target_ends, which, lowers, spec)
        if logical[0] == 0 and ends[-1] == claim.size and all(map(eq, ends, islice(logical, 1, None))):
            logical.append(claim.size)
            if LOST in target:  # their column counts reasons, and there is one
                which = array("H", [w if t >= 0 else 0 for t, w in zip(target, which, strict=True)])
            return cls(logical, target, which, tuple(lowers), spec)
        rows = zip(logical, ends, target, which, strict=True)
        return cls._gapless(rows, claim.size, tuple(lowers), spec)

    @classmethod
    def window(cls, source: ByteSource, start: int, stop: int, spec: str = "") -> ExtentMap:
        """Return bytes [start, stop) of a source: a volume.

        Raises:
            Malformed: the range leaves the source.
        """
        if not 0 <= start <= stop <= source.size:
            raise Malformed(f"a window outside the {source.size} bytes", spec=spec, start=start, stop=stop)
        if start == stop:
            return cls(array("q", [0]), array("q"), array("H"), (), spec)
        size = stop - start
        return cls(array("q", [0, size]), array("q", [start]), array("H", [0]), (source,), spec).compose()

    @classmethod
    def concat(cls, sources: Sequence[ByteSource], spec: str = "") -> ExtentMap:
        """Return sources one after the other: segments.

        Raises:
            Malformed: more sources or bytes than can be counted.
        """
        kept = [source for source in sources if source.size]
        size = sum(source.size for source in kept)
        if len(kept) > limits.MAX_SEGMENTS or size > limits.MAX_SIZE:
            raise Malformed(f"{len(kept)} segments of {size} bytes", spec=spec)
        starts = array("q", [0])
        for source in kept:
            starts.append(starts[-1] + source.size)
        count = len(kept)
        return cls(
            starts, array("q", bytes(8 * count)), array("H", range(count)), tuple(kept), spec
        ).compose()

    def plan(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie; see ``ByteSource``."""
        if start >= stop:
            return []
        starts, targets = self._starts, self._targets
        run = bisect_right(starts, start) - 1
        if stop <= starts[run + 1] and (target := targets[run]) >= 0:
            lower = self._lowers[self._which[run]]
            at = target + start - starts[run]
            if type(lower) is HostFile:
                return [Stored(lower, at, stop - start)]
            return lower.plan(at, at + stop - start)
        pieces: list[Piece] = []
        while start < stop:
            until = min(starts[run + 1], stop)
            target = targets[run]
            if target >= 0:
                at = target + start - starts[run]
                lower = self._lowers[self._which[run]]
                if type(lower) is HostFile:
                    _extend_stored(pieces, lower, at, until - start)
                else:
                    pieces += lower.plan(at, at + until - start)
            elif target == HOLE:
                if pieces and type(pieces[-1]) is Zeros:
                    pieces[-1] = Zeros(pieces[-1].length + until - start)
                else:
                    pieces.append(Zeros(until - start))
            else:
                pieces.append(Lost(until - start, self._why(run, start, until)))
            start = until
            run += 1
        return pieces

    def compose(self) -> ExtentMap:
        """Return the same bytes over the lowest sources; self where that would grow out of bounds."""
        if not any(isinstance(lower, ExtentMap) for lower in self._lowers):
            return self
        flat = [lower.compose() if isinstance(lower, ExtentMap) else lower for lower in self._lowers]
        if all(not isinstance(lower, ExtentMap) or lower._is_window for lower in flat):
            return self._shifted(flat)
        runs = Runs()
        for logical, length, target, which in self._rows():
            if target == HOLE:
                runs.add_hole(logical)
            elif target == LOST:
                runs.add_lost(logical, self._reasons[which])
            else:
                lower = flat[which]
                if isinstance(lower, ExtentMap):
                    lower._copy_into(runs, logical, target, target + length)
                else:
                    runs.add_stored(logical, target, lower)
            if len(runs.starts) > limits.MAX_RUNS or len(runs.lowers) > limits.MAX_SEGMENTS:
                return self
        runs.starts.append(self.size)
        return ExtentMap(
            runs.starts, runs.targets, runs.which, tuple(runs.lowers), self.spec, tuple(runs.reasons)
        )

    @property
    def run_count(self) -> int:
        """Return the number of runs."""
        return len(self._targets)

    def runs(self) -> Iterator[tuple[int, int, ByteSource | None, int]]:
        """Return (logical, length, lower, target) of every run; lower is None for HOLE and LOST."""
        lowers = self._lowers
        return ((a, n, lowers[w] if t >= 0 else None, t) for a, n, t, w in self._rows())

    @property
    def stored_only(self) -> bool:
        """Return whether every byte is verbatim in a host file or memory, a hole, or lost."""
        return all(verbatim(lower) for lower in self._lowers)

    def below(self) -> tuple[ByteSource, int] | None:
        """Return the source and the offset in it where all of this map lies; None: it is no window."""
        return (self._lowers[self._which[0]], self._targets[0]) if self._is_window else None

    @property
    def _is_window(self) -> bool:
        return len(self._targets) == 1 and self._targets[0] >= 0

    def _rows(self) -> Iterator[tuple[int, int, int, int]]:
        starts = self._starts
        lengths = map(sub, islice(starts, 1, None), starts)
        return zip(starts, lengths, self._targets, self._which, strict=False)

    def _shifted(self, flat: list[ByteSource]) -> ExtentMap:
        """Compose where every lower map is one run: the usual stack of a file on a volume."""
        runs = Runs()
        shifts, numbers = [], []
        for lower in flat:
            if isinstance(lower, ExtentMap):
                shifts.append(lower._targets[0])
                numbers.append(runs.number(lower._lowers[lower._which[0]]))
            else:
                shifts.append(0)
                numbers.append(runs.number(lower))
        targets, which = self._targets, self._which
        if len(flat) == 1:
            shift = shifts[0]
            targets = array("q", [t + shift if t >= 0 else t for t in targets])
        else:
            pairs = list(zip(targets, which, strict=True))
            targets = array("q", [t + shifts[w] if t >= 0 else t for t, w in pairs])
            which = array("H", [numbers[w] if t >= 0 else w for t, w in pairs])
        return ExtentMap(self._starts, targets, which, tuple(runs.lowers), self.spec, self._reasons)

    def _copy_into(self, runs: Runs, logical: int, start: int, stop: int) -> None:
        """Append what [start, stop) of this map is made of, at ``logical`` of a map above."""
        starts, targets = self._starts, self._targets
        run = bisect_right(starts, start) - 1
        while start < stop:
            until = min(starts[run + 1], stop)
            target, which = targets[run], self._which[run]
            if target >= 0:
                runs.add_stored(logical, target + start - starts[run], self._lowers[which])
            elif target == HOLE:
                runs.add_hole(logical)
            else:
                runs.add_lost(logical, self._reasons[which])
            if len(runs.starts) > limits.MAX_RUNS:
                return  # the caller gives up on composing
            logical += until - start
            start = until
            run += 1

    def _why(self, run: int, start: int, stop: int) -> str:
        reason = self._reasons[self._which[run]]
        by = f" by {reason}" if reason != self.spec else ""
        return f"{self.spec} [{start}, {stop}): lost{by}"

    @classmethod
    def _gapless(
        cls,
        rows: Iterable[tuple[int, int, int, int]],
        size: int,
        lowers: tuple[ByteSource, ...],
        spec: str,
    ) -> Self:
        """Build from checked (start, end, target, which); what none of them covers is LOST."""
        runs = Runs()
        at = 0
        for start, end, target, which in rows:
            if start > at:
                runs.add_lost(at, spec)
            runs.add(start, target, which if target >= 0 else 0)
            at = end
        if at < size:
            runs.add_lost(at, spec)
        runs.starts.append(size)
        return cls(runs.starts, runs.targets, runs.which, lowers, spec)


def donation(source: ByteSource) -> list[tuple[HostFile, int, int, int]] | None:
    """Say how a worker may read a source by itself: (file, logical, length, offset) of every run.

    The offset is HOLE or LOST where nothing is stored (the file then means nothing). None: some
    bytes are coded, foreign or in memory, and only the daemon can bring them.
    """
    if isinstance(source, HostFile):
        return [(source, 0, source.size, 0)]
    if not isinstance(source, ExtentMap):
        return None
    flat = source.compose()
    files = [lower for lower in flat._lowers if isinstance(lower, HostFile)]
    if not files or len(files) != len(flat._lowers):
        return None
    return [(files[w] if t >= 0 else files[0], a, n, t) for a, n, t, w in flat._rows()]


def _extend_stored(pieces: list[Piece], file: HostFile, offset: int, length: int) -> None:
    """Append a stored piece, merged with the one before where the file goes on."""
    if pieces:
        last = pieces[-1]
        if type(last) is Stored and last.file is file and last.offset + last.length == offset:
            pieces[-1] = Stored(file, last.offset, last.length + length)
            return
    pieces.append(Stored(file, offset, length))
