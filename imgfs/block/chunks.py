"""Units of one size, each decoded from where it is stored. Pure arithmetic (INV-1, INV-2).

The table of a large image has hundreds of millions of entries: it stays the bytes that came from
the worker, and is checked entry by entry when a plan needs one.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import islice
from operator import sub
from typing import TYPE_CHECKING, Self

from imgfs.block.columns import column
from imgfs.block.hostfile import HostFile
from imgfs.block.pieces import Coded, Lost, Stored, StoredUnit, Strip, Zeros
from imgfs.block.units import FEWEST, UnitMap, check_units
from imgfs.errors import Malformed
from imgfs.model import CODED, PACKED_CODED, PACKED_PLAIN, UNIT_HOLE, UNIT_LOST

if TYPE_CHECKING:
    from array import array
    from collections.abc import Sequence

    from imgfs.block.pieces import ByteSource, Piece
    from imgfs.model import Chunked

_OFFSET = CODED - 1
# How many entries without stored bytes are skipped to find where a unit ends. Behind so many the
# group's end is taken: a decoder ignores what follows its unit.
_LOOK_AHEAD = 1024


class ChunkMap(UnitMap):
    """A ByteSource in units over ``lowers``; see ``model.Chunked`` for the columns."""

    __slots__ = ("_base", "_ends", "_first", "_lowers", "_table", "_which")

    def __init__(
        self,
        claim: Chunked,
        table: memoryview,
        columns: tuple[array[int], array[int], array[int], array[int] | None],
        lowers: tuple[ByteSource, ...],
        spec: str,
    ) -> None:
        """Take over checked columns; see ``checked``."""
        super().__init__(claim.size, claim.unit, claim.codec, spec)
        self._table = table
        self._first, self._base, self._ends, self._which = columns
        self._lowers = lowers

    @classmethod
    def checked(
        cls, claim: Chunked, lowers: Sequence[ByteSource], spec: str, table: bytes | memoryview
    ) -> Self:
        """Accept a claim about units. ``table`` holds the entries; they are checked when planned.

        Raises:
            Malformed: sizes, columns or groups contradict each other, a group leaves its source, or
                the codec is not one the daemon runs.
        """
        count = check_units(claim, table, 4, spec)
        first, base, ends = (column("q", c, spec) for c in (claim.first, claim.base, claim.ends))
        which = column("H", claim.which, spec) if claim.which else None
        groups = len(first)
        if not len(base) == len(ends) == groups or (which is not None and len(which) != groups):
            raise Malformed(f"columns of {groups}, {len(base)}, {len(ends)} groups", spec=spec)
        if bool(groups) != bool(count) or (groups and first[0] != 0):
            raise Malformed("units without a group", spec=spec)
        for group in range(groups):
            number = which[group] if which is not None else 0
            if number >= len(lowers):
                raise Malformed(f"group {group} is in source {number} of {len(lowers)}", spec=spec)
            after = first[group + 1] if group + 1 < groups else count
            if not first[group] < after <= count:
                raise Malformed(f"group {group} has units [{first[group]}, {after}) of {count}", spec=spec)
            if not 0 <= base[group] <= ends[group] <= lowers[number].size:
                message = f"group {group} leaves its source of {lowers[number].size} bytes"
                raise Malformed(message, spec=spec, start=base[group], stop=ends[group])
        entries = memoryview(table).cast("B").cast("I")
        return cls(claim, entries, (first, base, ends, which), tuple(lowers), spec)

    def units(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie, unit by unit; see ``UnitSource``."""
        pieces: list[Piece] = []
        if start >= stop:
            return pieces
        unit, size, first = self.unit, self.size, self._first
        index = start // unit
        group = bisect_right(first, index) - 1
        after = self._after(group)
        while start < stop:
            if index == after:
                group += 1
                after = self._after(group)
            at = index * unit
            held = min(unit, size - at)
            taken = min(at + held, stop) - start
            entry = self._table[index]
            if entry == UNIT_HOLE:
                pieces.append(Zeros(taken))
            elif entry == UNIT_LOST:
                pieces.append(Lost(taken, f"{self.spec} [{start}, {start + taken}): not in the image"))
            else:
                pieces.append(self._unit(index, group, after, entry, held, start - at, taken))
            start += taken
            index += 1
        return pieces

    def _after(self, group: int) -> int:
        """Return the first unit behind a group."""
        return self._first[group + 1] if group + 1 < len(self._first) else len(self._table)

    def _strip(self, number: int) -> Strip | None:
        """Return a strip; None: its units are not plain neighbours in one group and one host file."""
        index = number * self._per_strip
        following = min(index + self._per_strip, len(self._table))
        group = bisect_right(self._first, index) - 1
        after = self._after(group)
        entries = self._table[index:following].tolist()
        if len(entries) < FEWEST or following > after or max(entries) >= UNIT_LOST:
            return None
        base = self._base[group]
        cuts = [base + (entry & _OFFSET) for entry in entries]
        cuts.append(self._end(group, following, after))
        steps = list(map(sub, islice(cuts, 1, None), cuts))
        if min(steps) <= 0 or max(steps[:-1]) > self._longest:
            return None
        start, stop = cuts[0], min(cuts[-1], cuts[-2] + self._longest)
        lower = self._lowers[self._which[group] if self._which is not None else 0]
        stored = lower.plan(start, stop)
        if len(stored) != 1 or not isinstance(piece := stored[0], Stored):
            return None
        cuts[-1] = stop
        return Strip(
            key=self._number | number,
            source=self,
            index=index,
            length=min(following * self.unit, self.size) - index * self.unit,
            stored=piece,
            starts=tuple([cut - start for cut in cuts[:-1]]),
            ends=tuple([cut - start for cut in cuts[1:]]),
            flags=tuple([PACKED_CODED if entry >= CODED else PACKED_PLAIN for entry in entries]),
        )

    def _end(self, group: int, following: int, after: int) -> int:
        """Return where the unit before ``following`` ends at the latest."""
        for index in range(following, min(after, following + _LOOK_AHEAD)):
            beyond = self._table[index]
            if beyond < UNIT_LOST:
                return min(self._base[group] + (beyond & _OFFSET), self._ends[group])
        return self._ends[group]

    def _unit(
        self, index: int, group: int, after: int, entry: int, held: int, skip: int, taken: int
    ) -> Piece:
        """Return the piece for ``taken`` bytes of a unit, behind its first ``skip``."""
        stored_at = self._base[group] + (entry & _OFFSET)
        end = self._end(group, index + 1, after)
        if not self._base[group] <= stored_at < end:
            at = index * self.unit
            why = (
                f"{self.spec} [{at}, {at + held}): unit {index} is said to be stored in [{stored_at}, {end})"
            )
            return Lost(taken, why)
        end = min(end, stored_at + self._longest)
        lower = self._lowers[self._which[group] if self._which is not None else 0]
        if type(lower) is HostFile:
            stored: tuple[Piece, ...] = (Stored(lower, stored_at, end - stored_at),)
        else:
            stored = tuple(lower.plan(stored_at, end))
        unit = StoredUnit(self._number | index, self, index, held, self.codec, entry >= CODED, stored)
        return Coded(unit, skip, taken)
