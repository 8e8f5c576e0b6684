"""What a logical volume consists of: runs over tickets and earlier layouts, and the layouts of one reply.

A body is a claim that can be cut and laid under another. Runs are written out as a layout only where
something lies over more than one of them, so that a linear volume is runs over the images themselves.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.errors import Malformed
from imgfs.layouts import HOLE, LOST, Linear, Striped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imgfs.backends import Reader
    from imgfs.layouts import Layout

Run = tuple[int, int, int, int]  # logical, length, lower, target; the lower means nothing for HOLE and LOST
Range = tuple[int, int]  # [start, stop)

MAX_LAYOUTS: Final = 12_000  # of one reply: what builds them counts to 20,000
_RUNS: Final = 2 * limits.MAX_RUNS  # of all layouts of a reply
_REPEATED: Final = 1_000_000  # runs that flattening them adds: a microsecond of the daemon's each
_RANGES: Final = 2000  # of what is lost in one volume, for those who look for another copy
_READS: Final = 1024  # of the sources, for one byte: of sums of sums
_LAYERS: Final = 32  # layouts over each other
_BLOCK: Final = 4096
_MOST_BLOCKS: Final = 1 << 40  # of stripes: as many as the block layer counts
_TERMS: Final = 1_000_000  # of all stripes


@dataclass(slots=True)
class Body:
    """The bytes of a logical volume. ``runs`` leave no gap.

    ``lower`` is the layout they were written out as. ``weight``: runs once flattened, at most. ``depth``: how
    many volumes lie within each other. ``inner``: ranges that are lost within its lowers.

    Units: ``size`` bytes.
    """

    size: int
    runs: list[Run]
    weight: int
    inner: tuple[Range, ...] = ()
    lower: tuple[int, int] | None = field(default=None)  # which, and where in it the body begins
    depth: int = 0

    def laid(self, size: int) -> int:
        """Return how many runs it becomes, at most, where ``size`` bytes in all are laid over parts of it."""
        return self.weight * (size // max(self.size, 1) + 1) if self.weight > 1 else 0

    def lost(self) -> list[Range]:
        """Return the ranges nobody has, in order, merged."""
        found = [(at, at + length) for at, length, _, target in self.runs if target == LOST]
        return merged([*found, *self.inner])

    def cut(self, start: int, length: int) -> Iterator[Run]:
        """Return the runs of a range, counted from its start; what is beyond the end is lost."""
        stop = start + length
        row = bisect_right(self.runs, start, key=itemgetter(0)) - 1
        for at, count, lower, target in self.runs[max(row, 0) :]:
            if at >= stop:
                break
            first, last = max(at, start), min(at + count, stop)
            if first < last:
                yield first - start, last - first, lower, target + first - at if target >= 0 else target
        if stop > self.size:
            first = max(start, self.size)
            yield first - start, stop - first, 0, LOST


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Return ranges in order; those that touch or overlap are one."""
    found: list[Range] = []
    for start, stop in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


def inherited(runs: Iterable[Run], stack: Stack, bodies: Iterable[Body]) -> tuple[Range, ...]:
    """Return what of ``runs`` is lost because the bodies they lie over lost it."""
    gone: dict[int, list[Range]] = {}
    for body in bodies:
        if lost := body.lost():
            which, base = stack.lower(body)
            gone.setdefault(which, []).extend((base + start, base + stop) for start, stop in lost)
    if not gone:
        return ()
    gone = {which: merged(ranges) for which, ranges in gone.items()}
    found: list[Range] = []
    for at, length, lower, target in runs:
        if target < 0 or lower not in gone:
            continue
        ranges = gone[lower]
        row = max(bisect_right(ranges, (target, limits.MAX_SIZE)) - 1, 0)
        while row < len(ranges) and ranges[row][0] < target + length:
            start, stop = max(ranges[row][0], target), min(ranges[row][1], target + length)
            if start < stop:
                found.append((at + start - target, at + stop - target))
            row += 1
        if len(found) > _RANGES:
            found = _fewer(merged(found))
    return tuple(merged(found))


def _fewer(ranges: list[Range]) -> list[Range]:
    """Return ranges with every second gap closed until they are few: more is called lost than is."""
    while len(ranges) > _RANGES // 2:
        pairs = (ranges[at : at + 2] for at in range(0, len(ranges), 2))
        ranges = [(pair[0][0], pair[-1][1]) for pair in pairs]
    return ranges


def lost_body(size: int) -> Body:
    """Return bytes that nobody has."""
    return Body(size, [(0, size, 0, LOST)] if size else [], 1)


def hole_body(size: int) -> Body:
    """Return bytes that are zeros."""
    return Body(size, [(0, size, 0, HOLE)] if size else [], 1)


class Stack:
    """The layouts of one reply, which count the tickets first.

    Runs lie in the message up to a size, then in the memory file of the reply.
    """

    __slots__ = ("_inline", "_repeated", "_runs", "_tables", "_takes", "_terms", "layouts", "tickets")

    def __init__(self, tickets: Sequence[Reader]) -> None:
        self.tickets = tickets
        self.layouts: list[Layout] = []
        self._tables: list[array[int]] = []
        self._inline = limits.TABLE_INLINE // 2
        self._terms = _TERMS
        self._runs = _RUNS
        self._repeated = _REPEATED
        self._takes: list[tuple[int, int]] = []

    def whole(self, body: Body) -> int:
        """Return the number of a lower that is exactly this body."""
        if len(body.runs) == 1 and body.runs[0][3] == 0 and body.runs[0][1] == self.size(body.runs[0][2]):
            return body.runs[0][2]
        which, start = self.lower(body)
        if start or which < len(self.tickets) or self.size(which) != body.size:
            return self._laid(body)
        return which

    def lower(self, body: Body) -> tuple[int, int]:
        """Return where the bytes of a body lie: a lower, and where in it the body begins."""
        if body.lower is None:
            if len(body.runs) == 1 and body.runs[0][3] >= 0:
                body.lower = body.runs[0][2], body.runs[0][3]
            else:
                body.lower = self._laid(body), 0
        return body.lower

    def _laid(self, body: Body) -> int:
        """Add the runs of a body as a layout; returns its number.

        Raises:
            Malformed: what lies below is in so many pieces that flattening it takes too long.
        """
        self.repeat(body.weight - len(body.runs))
        return self.lay(body.size, body.runs)

    def repeat(self, count: int) -> None:
        """Take note of runs that flattening will add.

        Raises:
            Malformed: they are too many.
        """
        if count > self._repeated:
            raise Malformed(f"in more than {count} pieces")
        self._repeated -= max(count, 0)

    def size(self, which: int) -> int:
        """Return the size of a lower in bytes."""
        count = len(self.tickets)
        return self.tickets[which].size if which < count else self.layouts[which - count].size

    def lay(self, size: int, runs: list[Run]) -> int:
        """Add runs as a layout; returns its number."""
        logical, length, which, target = _columns(runs)
        columns = (array("q", logical), array("q", length), array("q", target), array("H", which))
        return self.lay_columns(size, columns)

    def lay_columns(self, size: int, columns: tuple[array[int], array[int], array[int], array[int]]) -> int:
        """Add columns, as ``model.Linear`` orders them, as a layout; returns its number.

        Raises:
            Malformed: there are too many runs or layouts for a reply.
        """
        rows = len(columns[0])
        if rows > min(limits.MAX_RUNS, self._runs):
            raise Malformed(f"in {rows} pieces")
        self._runs -= rows
        cost = 26 * rows
        if cost <= self._inline:
            self._inline -= cost
            logical, length, target, which = (column.tobytes() for column in columns)
            made = Linear(size=size, logical=logical, length=length, target=target, which=which)
        else:
            made = Linear(size=size, logical=b"", length=b"", target=b"", rows=rows)
        number = self.add(made, 1, set(columns[3]))
        self._tables += columns if made.rows else ()
        return number

    def deal(
        self, size: int, chunk: int, stride: int, terms: Sequence[Sequence[tuple[int, int, int]]]
    ) -> int:
        """Add stripes: of each chunk of the period its terms (lower, base, factor); returns their number.

        Raises:
            Malformed: there are too many terms or layouts for a reply.
        """
        if -(-size // chunk) * -(-chunk // _BLOCK) > _MOST_BLOCKS:
            raise Malformed(f"{size} bytes in chunks of {chunk}")
        ends = array("I")
        flat: list[tuple[int, int, int]] = []
        for each in terms:
            flat += each
            ends.append(len(flat))
        self._terms -= len(flat) + len(terms)
        if self._terms < 0:
            raise Malformed("stripes of too many parts")
        which, base, factor = _transposed(flat)
        made = Striped(
            size=size,
            chunk=chunk,
            stride=stride,
            ends=ends.tobytes(),
            which=array("H", which).tobytes(),
            base=array("q", base).tobytes(),
            factor=bytes(factor),
        )
        return self.add(made, max(map(len, terms)), set(which))

    def write(self, reader: Reader) -> None:
        """Write what is not in the message into the memory file."""
        if self._tables:
            reader.write_table(_slices(self._tables))

    def add(self, layout: Layout, terms: int, lowers: set[int]) -> int:
        """Add a layout whose bytes take ``terms`` reads of its lowers each.

        Raises:
            Malformed: they would take too many of the sources, or there are too many layouts.
        """
        if len(self.layouts) >= MAX_LAYOUTS:
            raise Malformed(f"a group of more than {MAX_LAYOUTS} layouts")
        first = len(self.tickets)
        below = [self._takes[lower - first] for lower in lowers if lower >= first]
        most = max(terms, 1) * max((take for take, _ in below), default=1)
        depth = 1 + max((deep for _, deep in below), default=0)
        if most > _READS or depth > _LAYERS:
            raise Malformed(f"sums of {most} parts in {depth} layers")
        self._takes.append((most, depth))
        self.layouts.append(layout)
        return len(self.tickets) + len(self.layouts) - 1


def joined(size: int, runs: Iterable[Run]) -> list[Run]:
    """Return runs in order, neighbours that continue each other as one, gaps as lost."""
    found: list[Run] = []
    end = 0
    for at, length, lower, target in runs:
        if length <= 0:
            continue
        if at > end:
            _append(found, (end, at - end, 0, LOST))
        _append(found, (at, length, lower, target))
        end = at + length
    if end < size:
        _append(found, (end, size - end, 0, LOST))
    return found


def _append(runs: list[Run], run: Run) -> None:
    if runs:
        at, length, lower, target = runs[-1]
        follows = target + length if target >= 0 else target
        if run[3] == follows and (run[2] == lower or target < 0):
            runs[-1] = (at, length + run[1], lower, target)
            return
    runs.append(run)


def _columns(runs: list[Run]) -> list[tuple[int, ...]]:
    return list(zip(*runs, strict=True)) if runs else [()] * 4


def _transposed(terms: list[tuple[int, int, int]]) -> list[tuple[int, ...]]:
    return list(zip(*terms, strict=True)) if terms else [()] * 3


def _slices(tables: list[array[int]]) -> Iterator[bytes]:
    for table in tables:
        raw = memoryview(table).cast("B")
        for at in range(0, len(raw), limits.MIB):
            yield bytes(raw[at : at + limits.MIB])
