"""From the members of an array to layouts: what every level makes of its members' data areas.

Source: md(4), sections LINEAR to RAID10; for RAID 4, 5 and 6 see ``_parity``. Units: bytes.

Data areas are layouts of their own, in which blocks that could not be written, and what a cut member ends
before, are LOST. Where parity or another copy has what is missing, ranges of rows are laid out each with the
members that are right there.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from imgfs.backends._md_super import IN_SYNC
from imgfs.backends._parity import dealt, stripes
from imgfs.block.striped import countable
from imgfs.errors import Malformed, NotSupported
from imgfs.limits import MAX_SIZE
from imgfs.model import LOST, Linear, Striped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgfs.backends._md_super import Shape
    from imgfs.model import Layout

_TERMS: Final = 1 << 20  # of all layouts together: 11 bytes each, and a message holds 16 MiB
_MOST_PARITY: Final = 384
_BAD: Final = 16_384  # ranges of bad blocks times members times members, for which others are looked up

Range = tuple[int, int]
Run = tuple[int, int, int, int]  # logical, length, target or LOST, source


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """The data area of a member that takes part: ``which`` source it is, and how far it can be trusted."""

    which: int
    length: int
    recovered: int = IN_SYNC
    bad: tuple[Range, ...] = ()  # within the area, sorted, apart

    def right(self, start: int, stop: int) -> bool:
        """Say whether bytes [start, stop) were recovered, and none of them is known to be bad."""
        after = bisect_left(self.bad, (stop, 0))  # the ranges are sorted and apart
        return self.reached(stop) and (not after or self.bad[after - 1][1] <= start)

    def reached(self, stop: int) -> bool:
        """Say whether recovery got beyond what lies before ``stop``."""
        return self.recovered == IN_SYNC or stop <= self.recovered


@dataclass(slots=True)
class Plan:
    """Layouts in the making; sources are counted from the tickets on."""

    tickets: int
    layouts: list[Layout] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    terms: int = 0

    def add(self, layout: Layout) -> int:
        """Append a layout and return the number of the source it is.

        Raises:
            NotSupported: the array is larger than its reply may be.
        """
        if isinstance(layout, Striped):
            self.terms += len(layout.factor)
            if self.terms > _TERMS or not countable(layout.size, layout.chunk):
                message = f"{layout.size} bytes of {self.terms} places in chunks of {layout.chunk}"
                raise NotSupported(f"an array of {message}: cannot be laid out")
        if not 0 <= layout.size <= MAX_SIZE:
            raise Malformed(f"an array of {layout.size} bytes")
        self.layouts.append(layout)
        return self.tickets + len(self.layouts) - 1

    def area(self, ticket: int, held: int, start: int, length: int, bad: Iterable[Range]) -> int:
        """Append the data area of a member that holds ``held`` bytes; return its source."""
        runs: list[tuple[int, int, int]] = []
        at, stop = 0, max(min(length, held - start), 0) if start >= 0 else 0
        for first, last in [*sorted(bad), (stop, stop)]:
            if at < min(first, stop):
                runs.append((at, min(first, stop) - at, start + at))
            at = max(at, last)
        return self.add(Linear.of(length, runs, [ticket] * len(runs)))

    def top(self, size: int, runs: Iterable[Run]) -> int:
        """Append runs of earlier sources; what none covers is LOST."""
        kept = [run for run in runs if run[2] != LOST]
        return self.add(Linear.of(size, [run[:3] for run in kept], [run[3] for run in kept]))


def concatenated(plan: Plan, areas: Mapping[int, Area], shape: Shape) -> list[tuple[int, str]]:
    """Return the sources of a linear array: what lies behind a missing member has no known place."""
    parts: list[tuple[list[Run], str]] = [([], "")]
    for place in range(shape.members):
        if place not in areas:
            parts.append(([], f"-behind-{place}"))
            continue
        runs, _ = parts[-1]
        length = areas[place].length
        length -= length % shape.chunk if shape.chunk > 0 else 0
        if length:
            runs.append((sum(runs[-1][:2]) if runs else 0, length, 0, areas[place].which))
    shown = [(runs, name) for runs, name in parts if runs]
    if len(parts) > 1:
        plan.notes.append(f"it is given in {len(shown)} parts: how long a missing member was nobody knows")
    return [(plan.top(sum(runs[-1][:2]), runs), name) for runs, name in shown]


def affordable(plan: Plan, areas: Mapping[int, Area], shape: Shape) -> Mapping[int, Area]:
    """Return areas without their bad blocks where those are too many: then they stay lost."""
    if sum(len(area.bad) for area in areas.values()) * shape.members**2 <= _BAD:
        return areas
    plan.notes.append("so many bad blocks that they are lost also where others have them")
    return {place: replace(area, bad=()) for place, area in areas.items()}


def mirrored(plan: Plan, areas: Mapping[int, Area], shape: Shape, size: int) -> int:
    """Return the source of a mirror: the first member, others for what it lacks."""
    runs: list[Run] = []
    areas = affordable(plan, areas, shape)
    for start, stop in _cuts(areas.values(), size, 1):
        here = [area for area in areas.values() if area.right(start, stop)]
        if here and runs and runs[-1][3] == here[0].which and sum(runs[-1][:2]) == start:
            runs[-1] = (runs[-1][0], stop - runs[-1][0], runs[-1][2], runs[-1][3])
        elif here:
            runs.append((start, stop - start, start, here[0].which))
    return plan.top(size, runs)


def protected(
    plan: Plan, areas: Mapping[int, Area], shape: Shape, used: int, unsure: tuple[Range, ...] = ()
) -> int:
    """Return the source of an array with parity, which does not fit the data in ``unsure`` ranges of members.

    Raises:
        NotSupported: a layout nobody knows, or too many members.
    """
    rows = stripes(shape.level, shape.layout, shape.members) if shape.members <= _MOST_PARITY else None
    if rows is None:
        raise NotSupported(
            f"RAID {shape.level} of layout {shape.layout} over {shape.members} members: cannot be laid out"
        )
    redundant = 2 if shape.level == 6 else 1
    chunk, across = shape.chunk, len(rows[0].data)
    count = used // chunk
    runs: list[Run] = []
    areas = affordable(plan, areas, shape)
    doubt = Area(which=0, length=used, bad=unsure)
    parts = _cuts([*areas.values(), doubt], count * chunk, chunk)
    merged: list[tuple[int, int, frozenset[int], bool]] = []
    for start, stop in parts:
        there = frozenset(place for place, area in areas.items() if area.right(start, stop))
        if shape.members - len(there) > redundant:  # then of the bad ones what is good
            there = frozenset(place for place, area in areas.items() if area.reached(stop))
        computed = doubt.right(start, stop)
        if merged and merged[-1][2] == there and merged[-1][3] == computed:
            merged[-1] = (merged[-1][0], stop, merged[-1][2], computed)
        else:
            merged.append((start, stop, there, computed))
    for start, stop, there, computed in merged:
        which = {place: areas[place].which for place in there}
        first, turns = start // chunk, (stop - start) // chunk
        part = plan.add(dealt(rows, which, chunk=chunk, first=first, count=turns, computed=computed))
        runs.append((start * across, (stop - start) * across, 0, part))
    if any(not computed and shape.members > len(there) for _, _, there, computed in merged):
        plan.notes.append("where parity may not fit the data, what the missing members held is lost")
    return plan.top(count * chunk * across, runs)


def striped(plan: Plan, areas: Mapping[int, Area], shape: Shape, *, original: bool) -> int:
    """Return the source of RAID 0. Where sizes differ, zones follow that span the larger members only.

    ``original``: in later zones members take turns by the number of the chunk in the array, as before Linux
    3.14, else by its number in the zone.

    Raises:
        Malformed: members are missing. Nothing says how large they were, and where all chunks lie depends
            on it; who knows can say so in a table for ``imgfs map``.
    """
    chunk = shape.chunk
    if len(areas) < shape.members:
        raise Malformed("a member is missing: where chunks lie depends on its size, which nobody recorded")
    sizes = {place: areas[place].length // chunk for place in areas}
    runs: list[Run] = []
    done = size = 0  # rows of all members so far, bytes of the array
    while left := sorted(place for place, rows in sizes.items() if rows > done):
        rows = min(sizes[place] for place in left) - done
        turn = size // chunk % len(left) if original else 0
        order = left[turn:] + left[:turn]
        layout = Striped(
            size=rows * chunk * len(order),
            chunk=chunk,
            stride=chunk,
            ends=array("I", range(1, len(order) + 1)).tobytes(),
            which=array("H", [areas[place].which for place in order]).tobytes(),
            base=array("q", [done * chunk] * len(order)).tobytes(),
            factor=bytes([1] * len(order)),
        )
        runs.append((size, layout.size, 0, plan.add(layout)))
        size += layout.size
        done += rows
    return plan.top(size, runs)


def ambiguous(areas: Mapping[int, Area], shape: Shape) -> bool:
    """Say whether it matters which of the two layouts of RAID 0 an array has."""
    if len(areas) < shape.members:
        return False  # then zone 0 is all there is
    sizes = sorted(area.length // shape.chunk for area in areas.values())
    done = total = 0
    for number, rows in enumerate(sizes):
        if rows == done:
            continue
        left = len(sizes) - number
        if done and total % left:
            return True
        total += (rows - done) * left
        done = rows
    return False


def _cuts(areas: Iterable[Area], size: int, grain: int) -> Iterable[Range]:
    """Return ranges of [0, size), in whole rows of ``grain``: each is right or wrong throughout."""
    cuts = {0, size}
    for area in areas:
        if area.recovered != IN_SYNC:
            cuts.add(area.recovered // grain * grain)
        for start, stop in area.bad:
            cuts |= {start // grain * grain, -(-stop // grain) * grain}
    return pairwise(sorted(at for at in cuts if 0 <= at <= size))
