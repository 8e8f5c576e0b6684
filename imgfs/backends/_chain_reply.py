"""The layouts of one reply about images that lie over each other, the lowest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.backends._chain_runs import Below
from imgfs.model import LINEAR_ROW, Linear, Packed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgfs.backends import Reader
    from imgfs.backends._chain_runs import Runs
    from imgfs.model import Codec, Layout


class Reply:
    """Layouts in order. Runs and rows that are too many for a message go to the memory file.

    ``tickets`` is how many sources the worker has; ``runs`` are all that will be laid.
    """

    __slots__ = ("_inline", "_tables", "_tickets", "layouts")

    def __init__(self, tickets: int, runs: Iterable[Runs]) -> None:
        self.layouts: list[Layout] = []
        self._tickets = tickets
        self._tables: list[memoryview] = []
        self._inline = sum(8 * len(one.rows) + LINEAR_ROW * len(one) for one in runs) <= limits.TABLE_INLINE

    @property
    def last(self) -> int:
        """Return the number of the last layout among the lowers."""
        return self._tickets + len(self.layouts) - 1

    def lay(self, runs: Runs, size: int, data: int, packed: int, below: Below | None) -> int:
        """Add runs over sources ``data``, ``packed`` and the image below; returns their number."""
        runs.settle(data, packed, below)
        inline = self._inline or not len(runs)
        self.layouts.append(runs.linear(size, inline=inline))
        if not inline:
            self._tables += [memoryview(column).cast("B") for column in runs.columns()]
        return self.last

    def pack(self, runs: Runs, codec: Codec, unit: int, short: int, data: int) -> int:
        """Add the compressed units of runs, the last of which is ``short`` bytes shorter; -1: none."""
        if not runs.rows:
            return -1
        table = runs.rows.tobytes() if self._inline else b""
        size = len(runs.rows) // 2 * unit - short
        self.layouts.append(Packed(size=size, unit=unit, codec=codec, table=table, which=data))
        if not self._inline:
            self._tables.append(memoryview(runs.rows).cast("B"))
        return self.last

    def join(self, size: int, rows: list[tuple[int, int, int]], which: list[int]) -> int:
        """Add a few runs (logical, length, target) of sources ``which``; returns their number."""
        self.layouts.append(Linear.of(size, rows, which))
        return self.last

    def view(self, below: Below | None, base: int, size: int) -> Below | None:
        """Return the ``size`` bytes at ``base`` of the image below; what that does not reach is lost."""
        if below is None or below.which < 0 or (not base and below.size == size):
            return below
        covered = max(0, min(size, below.size - base))
        cut = ((max(a - base, 0), min(b - base, covered), why) for a, b, why in below.lost)
        lost = [row for row in cut if row[0] < row[1]]
        if covered < size:
            lost.append((covered, size, "the parent ends before it"))
        rows = [(0, covered, base)] if covered else []
        which = self.join(size, rows, [below.which] if covered else [])
        return Below(which=which, size=size, lost=tuple(lost))

    def write(self, reader: Reader) -> None:
        """Write what is not in the message into the memory file."""
        if self._tables:
            reader.write_table(_slices(self._tables))


def _slices(tables: list[memoryview]) -> Iterator[bytes]:
    for raw in tables:
        for at in range(0, len(raw), limits.MIB):
            yield bytes(raw[at : at + limits.MIB])
