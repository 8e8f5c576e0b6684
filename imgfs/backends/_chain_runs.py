"""What one image of a chain (QCOW, VMDK) says of its disk: runs in columns, compressed clusters in rows.

A disk of 64 TiB is a few runs while little of it is written: clusters that continue each other are one.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.model import HOLE, LOST, PACKED_CODED, Linear

if TYPE_CHECKING:
    from collections.abc import Iterable

# Kinds of runs. ``target`` is HOLE, LOST, the same place one image below, an offset in the file that
# holds the data, or one in the decoded bytes of the compressed clusters.
ZERO: Final = 0
GONE: Final = 1
BELOW: Final = 2
DATA: Final = 3
PACKED: Final = 4

MAX_RUNS: Final = limits.MAX_RUNS  # of a whole chain
MAX_ROWS: Final = 32 << 20  # compressed clusters: half the memory of a worker
_WOVEN: Final = 8  # verbatim clusters in a row that are read with compressed ones
MAX_LOST: Final = 1000  # ranges that are named; what is beyond is lost all the same

Lost = tuple[int, int, str]


class TooManyRuns(Exception):
    """A disk in more pieces than a reply can say; ``at`` is where the first piece without room starts."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


@dataclass(frozen=True, slots=True, kw_only=True)
class Below:
    """The next image of a chain: ``which`` lower it is, or ``why`` it is none.

    Units: ``size`` bytes.
    """

    which: int = -1
    size: int = 0
    lost: tuple[Lost, ...] = ()
    why: str = ""


class Runs:
    """Runs in order, without gaps. ``rows`` are those of ``model.Packed``."""

    __slots__ = (
        "_kinds",
        "_lengths",
        "_starts",
        "_targets",
        "_unit",
        "_which",
        "limit",
        "lost",
        "rows",
        "unlisted",
    )

    def __init__(self, limit: int = MAX_RUNS) -> None:
        self._starts = array("q")
        self._lengths = array("q")
        self._targets = array("q")
        self._kinds = array("B")
        self._which = array("H")
        self.rows = array("Q")
        self._unit = 1  # bytes of a compressed cluster, once there is one
        self.lost: list[Lost] = []
        self.unlisted = 0  # ranges that are lost and not in ``lost``
        self.limit = limit

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, start: int, length: int, kind: int, target: int) -> None:
        """Append a run behind the last one.

        Raises:
            TooManyRuns: there are as many as there may be.
        """
        if length <= 0:
            return
        if self._kinds and self._kinds[-1] == kind:
            step = self._lengths[-1] if kind >= BELOW else 0
            if self._targets[-1] + step == target:
                self._lengths[-1] += length
                return
        if len(self._starts) >= self.limit:
            raise TooManyRuns(start)
        self._starts.append(start)
        self._lengths.append(length)
        self._kinds.append(kind)
        self._targets.append(target)

    def zero(self, start: int, length: int) -> None:
        """Append what the image says is zero."""
        self.add(start, length, ZERO, HOLE)

    def below(self, start: int, length: int) -> None:
        """Append what the image leaves to the one below."""
        self.add(start, length, BELOW, start)

    def gone(self, start: int, length: int, why: str) -> None:
        """Append what the image does not say."""
        if length > 0:
            self.add(start, length, GONE, LOST)
            self._lose(start, start + length, why)

    def data(self, start: int, length: int, target: int, size: int) -> None:
        """Append verbatim bytes at ``target`` of a file of ``size`` bytes; what leaves the file is gone."""
        inside = max(0, min(length, size - target))
        if not self._woven(start, inside, target):
            self.add(start, inside, DATA, target)
        self.gone(start + inside, length - inside, "clusters beyond the end of the file")

    def coded(self, start: int, length: int, unit: int, offset: int, stored: int) -> None:
        """Append the first ``length`` bytes of a compressed cluster of ``unit`` bytes."""
        self.coded_all(start, length, unit, [offset], [stored])

    def coded_all(self, start: int, length: int, unit: int, offsets: list[int], stored: list[int]) -> None:
        """Append compressed clusters that follow each other in the disk: ``length`` bytes of them.

        Raises:
            TooManyRuns: there are as many as there may be.
        """
        self._unit = unit
        if not self._rows(start, length, offsets, [count | PACKED_CODED << 32 for count in stored]):
            raise TooManyRuns(start)

    def _woven(self, start: int, length: int, target: int) -> bool:
        """Append a few verbatim clusters behind compressed ones as rows among theirs: one read for all.

        Alone they would cut the reads, and the runs, at each of them.
        """
        unit = self._unit
        if not self._kinds or self._kinds[-1] != PACKED or length % unit or length > _WOVEN * unit:
            return False
        offsets = list(range(target, target + length, unit))
        return self._rows(start, length, offsets, [unit] * len(offsets))

    def _rows(self, start: int, length: int, offsets: list[int], seconds: list[int]) -> bool:
        """Append rows, and the run they are; False: there are as many as there may be."""
        first = len(self.rows) // 2
        if first + len(offsets) > MAX_ROWS:
            return False
        words = array("Q", bytes(16 * len(offsets)))
        words[::2] = array("Q", offsets)
        words[1::2] = array("Q", seconds)
        self.rows += words
        self.add(start, length, PACKED, first * self._unit)
        return True

    def give_up(self, at: int, size: int) -> None:
        """Say that nothing from ``at`` on could be told."""
        self.limit += 1
        self.gone(at, size - at, f"the disk is in more than {self.limit - 1} pieces")

    def settle(self, data: int, packed: int, below: Below | None) -> None:
        """Lay the runs over lowers ``data`` and ``packed`` and the image below; None: there is none."""
        which = {DATA: max(data, 0), PACKED: max(packed, 0)}
        if below is not None and below.which >= 0:
            which[BELOW] = below.which
        self._settle(below)
        self._which = array("H", [which.get(kind, 0) for kind in self._kinds])

    def linear(self, size: int, *, inline: bool) -> Linear:
        """Return the layout of settled runs; not ``inline``: its columns go to the memory file."""
        columns = [column.tobytes() if inline else b"" for column in self.columns()]
        logical, length, target, which = columns
        rows = 0 if inline else len(self._starts)
        return Linear(size=size, logical=logical, length=length, target=target, which=which, rows=rows)

    @property
    def ends_packed(self) -> bool:
        """Say whether the last run is of compressed clusters."""
        return bool(self._kinds) and self._kinds[-1] == PACKED

    def columns(self) -> tuple[array[int], array[int], array[int], array[int]]:
        """Return the columns of settled runs, as ``model.Linear`` orders them."""
        return self._starts, self._lengths, self._targets, self._which

    def _settle(self, below: Below | None) -> None:
        """Turn what is left to an image below into what that means."""
        if below is not None and below.which >= 0:
            self._split(below.size)
        left = [row for row, kind in enumerate(self._kinds) if kind == BELOW]
        ranges: list[Lost] = []
        for row in left:
            start, stop = self._starts[row], self._starts[row] + self._lengths[row]
            if below is None or (below.which >= 0 and start >= below.size):
                self._kinds[row], self._targets[row] = ZERO, HOLE
            elif below.which < 0:
                self._kinds[row], self._targets[row] = GONE, LOST
                ranges.append((start, stop, below.why))
            else:
                ranges.append((start, stop, ""))
        if below is not None and below.which >= 0:
            ranges = list(_shared(ranges, below.lost))
        if ranges:
            own, self.lost = [*self.lost, *ranges], []
            for start, stop, why in sorted(own):
                self._lose(start, stop, why)

    def _split(self, at: int) -> None:
        """Cut the run that is left to an image that ends at ``at``."""
        for row, kind in enumerate(self._kinds):
            start, length = self._starts[row], self._lengths[row]
            if kind == BELOW and start < at < start + length:
                self._lengths[row] = at - start
                columns = (self._starts, self._lengths, self._targets, self._kinds)
                for column, value in zip(columns, (at, start + length - at, at, BELOW), strict=True):
                    column.insert(row + 1, value)
                return

    def _lose(self, start: int, stop: int, why: str) -> None:
        if self.lost and self.lost[-1][1] == start and self.lost[-1][2] == why:
            self.lost[-1] = (self.lost[-1][0], stop, why)
        elif len(self.lost) < MAX_LOST:
            self.lost.append((start, stop, why))
        else:
            self.unlisted += 1


def _shared(ranges: Iterable[Lost], lost: Iterable[Lost]) -> Iterable[Lost]:
    """Return the parts of ``ranges`` that are lost; both are in order."""
    gone = list(lost)
    first = 0
    for start, stop, _ in ranges:
        while first < len(gone) and gone[first][1] <= start:
            first += 1
        row = first
        while row < len(gone) and gone[row][0] < stop:
            begin, end, why = gone[row]
            yield max(start, begin), min(stop, end), why
            row += 1
