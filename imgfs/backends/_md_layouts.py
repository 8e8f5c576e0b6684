"""From the members of an array to layouts: what every level makes of its members' data areas.

Source: md(4), sections LINEAR to RAID10; for RAID 4, 5 and 6 see ``_parity``. Units: bytes.

Data areas are layouts of their own, in which blocks that could not be written, and what a cut member ends
before, are LOST. Where parity or another copy has what is missing, ranges of rows are laid out each with the
members that are right there.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from imgfs.backends._md_super import IN_SYNC
from imgfs.backends._parity import dealt, stripes
from imgfs.errors import NotSupported
from imgfs.model import LOST, Linear, Striped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from imgfs.backends._md_super import Shape
    from imgfs.backends._parity import Stripe
    from imgfs.model import Layout

_TERMS: Final = 1 << 20  # of all layouts together: 11 bytes each, and a message holds 16 MiB
_EXCEPTIONS: Final = 50_000  # chunks that are read from another copy
_MOST_PARITY: Final = 384

Range = tuple[int, int]
Run = tuple[int, int, int, int]  # logical, length, target or LOST, source


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """The data area of a member that takes part: ``which`` source it is, and how far it can be trusted."""

    which: int
    length: int
    recovered: int = IN_SYNC
    bad: tuple[Range, ...] = ()  # within the area

    def right(self, start: int, stop: int) -> bool:
        """Say whether bytes [start, stop) were recovered, and none of them is known to be bad."""
        return self.reached(stop) and not any(a < stop and start < b for a, b in self.bad)

    def reached(self, stop: int) -> bool:
        """Say whether recovery got beyond what lies before ``stop``."""
        return self.recovered == IN_SYNC or stop <= self.recovered


Areas = "Mapping[int, Area]"  # by place in the array


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
        if self.terms > _TERMS:
            raise NotSupported(f"an array of more than {_TERMS} places of chunks: imgfs cannot lay it out")
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


def concatenated(plan: Plan, areas: Mapping[int, Area], shape: Shape) -> int:
    """Return the source of a linear array: what lies behind a missing member has no known place."""
    runs: list[Run] = []
    at = 0
    for place in range(shape.members):
        if place not in areas:
            plan.notes.append(f"what lies behind missing member {place} has no known place and is left out")
            break
        length = areas[place].length
        length -= length % shape.chunk if shape.chunk else 0
        if length:
            runs.append((at, length, 0, areas[place].which))
        at += length
    return plan.top(at, runs)


def mirrored(plan: Plan, areas: Mapping[int, Area], size: int) -> int:
    """Return the source of a mirror: the first member, others for what it lacks."""
    runs: list[Run] = []
    for start, stop in _cuts(areas.values(), size, 1):
        here = [area for area in areas.values() if area.right(start, stop)]
        if here and runs and runs[-1][3] == here[0].which and sum(runs[-1][:2]) == start:
            runs[-1] = (runs[-1][0], stop - runs[-1][0], runs[-1][2], runs[-1][3])
        elif here:
            runs.append((start, stop - start, start, here[0].which))
    return plan.top(size, runs)


def protected(plan: Plan, areas: Mapping[int, Area], shape: Shape, used: int, resynced: int) -> int:
    """Return the source of an array with parity.

    Raises:
        NotSupported: a layout nobody knows, or too many members.
    """
    rows = stripes(shape.level, shape.layout, shape.members) if shape.members <= _MOST_PARITY else None
    if rows is None:
        raise NotSupported(
            f"RAID {shape.level} of layout {shape.layout} over {shape.members} members: imgfs cannot lay it out"
        )
    spare = 2 if shape.level == 6 else 1
    chunk, across = shape.chunk, len(rows[0].data)
    count = used // chunk
    runs: list[Run] = []
    parts = list(_cuts(areas.values(), count * chunk, chunk, resynced))
    merged: list[tuple[int, int, frozenset[int], bool]] = []
    for start, stop in parts:
        there = {place for place, area in areas.items() if area.right(start, stop)}
        if shape.members - len(there) > spare:  # then of the bad ones what is good
            there = {place for place, area in areas.items() if area.reached(stop)}
        computed = resynced == IN_SYNC or stop <= resynced
        if merged and merged[-1][2] == there and merged[-1][3] == computed:
            merged[-1] = (merged[-1][0], stop, merged[-1][2], computed)
        else:
            merged.append((start, stop, frozenset(there), computed))
    for start, stop, there, computed in merged:
        which = {place: areas[place].which for place in there}
        part = _dealt(plan, rows, which, chunk, start // chunk, (stop - start) // chunk, computed=computed)
        if part is not None:
            runs.append((start * across, (stop - start) * across, 0, part))
        if not computed and shape.members > len(there):
            plan.notes.append(
                f"rows from {start} on: parity was not in sync, what the missing members held is lost"
            )
    return plan.top(count * chunk * across, runs)


def _dealt(
    plan: Plan, rows: Sequence[Stripe], which: Mapping[int, int], chunk: int, first: int, count: int,
    *, computed: bool,
) -> int | None:  # fmt: skip
    return (
        plan.add(dealt(rows, which, chunk=chunk, first=first, count=count, computed=computed))
        if count
        else None
    )


def copied(plan: Plan, areas: Mapping[int, Area], shape: Shape, used: int) -> int:
    """Return the source of RAID 10: near, far and offset copies.

    Raises:
        NotSupported: a layout nobody knows.
    """
    near, far, offset = shape.layout & 255, shape.layout >> 8 & 255, bool(shape.layout >> 16 & 1)
    members, chunk = shape.members, shape.chunk
    if not near or not far or near * far > members or shape.layout >> 17:
        raise NotSupported(f"RAID 10 of layout {shape.layout:#x}: imgfs cannot lay it out")
    rows = used // chunk
    chunks = rows // far * members // near
    section = -(-chunks * near // members)  # rows of one far copy
    step = near * far if offset else near  # rows that ``members`` chunks take

    def copies(number: int) -> list[Range]:
        """Return (place, row) of every copy of a chunk."""
        found = []
        for copy in range(near):
            row, place = divmod(number * near + copy, members)
            for again in range(far):
                down = row * far + again if offset else row + again * section
                found.append(((place + again * near) % members, down))
        return found

    whole = {place: area for place, area in areas.items() if area.recovered == IN_SYNC}
    ends: list[int] = []
    terms: list[Range] = []
    for number in range(min(members, chunks)):
        terms += [(whole[p].which, row * chunk) for p, row in copies(number) if p in whole][:1]
        ends.append(len(terms))
    if not chunks:
        return plan.top(0, ())
    striped = Striped(
        size=chunks * chunk,
        chunk=chunk,
        stride=step * chunk,
        ends=array("I", ends).tobytes(),
        which=array("H", [term[0] for term in terms]).tobytes(),
        base=array("q", [term[1] for term in terms]).tobytes(),
        factor=bytes([1] * len(terms)),
    )
    main = plan.add(striped)
    other = _other_copies(plan, areas, whole, shape, rows, section, offset=offset, copies=copies)
    runs: list[Run] = []
    at = 0
    for number in sorted(n for n in other if n < chunks):
        if at < number * chunk:
            runs.append((at, number * chunk - at, at, main))
        runs.append((number * chunk, chunk, other[number][1] * chunk, other[number][0]))
        at = (number + 1) * chunk
    if at < chunks * chunk:
        runs.append((at, chunks * chunk - at, at, main))
    return plan.top(chunks * chunk, runs)


def _other_copies(
    plan: Plan, areas: Mapping[int, Area], whole: Mapping[int, Area], shape: Shape, rows: int, section: int,
    *, offset: bool, copies,
) -> dict[int, Range]:  # fmt: skip
    """Return (source, row) for chunks whose first copy has bad blocks or was not recovered everywhere."""
    near, far, chunk = shape.layout & 255, shape.layout >> 8 & 255, shape.chunk
    found: dict[int, Range] = {}
    spots = [
        (place, row)
        for place, area in areas.items()
        for a, b in (area.bad if place in whole else [(0, area.recovered), *area.bad])
        for row in range(a // chunk, min(-(-b // chunk), rows, a // chunk + _EXCEPTIONS))
    ]
    if len(spots) > _EXCEPTIONS:
        plan.notes.append(f"more than {_EXCEPTIONS} chunks with bad blocks: some are not read from copies")
    for place, row in spots[:_EXCEPTIONS]:
        again, down = (row % far, row // far) if offset else (row // max(section, 1), row % max(section, 1))
        if again >= far:
            continue
        number = (down * shape.members + (place - again * near) % shape.members) // near
        for there, at in copies(number):
            if there in areas and areas[there].right(at * chunk, (at + 1) * chunk):
                found[number] = (areas[there].which, at)
                break
    return found


def striped(plan: Plan, areas: Mapping[int, Area], shape: Shape, *, original: bool) -> int:
    """Return the source of RAID 0. Where sizes differ, zones follow that span the larger members only.

    ``original``: in later zones members take turns by the number of the chunk in the array, as before Linux
    3.14, else by its number in the zone.
    """
    chunk = shape.chunk
    least = min([area.length // chunk for area in areas.values()], default=0)
    sizes = {place: least for place in range(shape.members)}
    if len(areas) == shape.members:
        sizes = {place: areas[place].length // chunk for place in areas}
    elif len({area.length // chunk for area in areas.values()}) > 1:
        plan.notes.append("what the larger members hold behind the end of the smallest has no known place")
    runs: list[Run] = []
    done = size = 0  # rows of all members so far, bytes of the array
    while left := sorted(place for place, rows in sizes.items() if rows > done):
        rows = min(sizes[place] for place in left) - done
        turn = size // chunk % len(left) if original else 0
        order = left[turn:] + left[:turn]
        there = [place in areas for place in order]
        layout = Striped(
            size=rows * chunk * len(order),
            chunk=chunk,
            stride=chunk,
            ends=array("I", [sum(there[: number + 1]) for number in range(len(order))]).tobytes(),
            which=array("H", [areas[place].which for place in order if place in areas]).tobytes(),
            base=array("q", [done * chunk] * sum(there)).tobytes(),
            factor=bytes([1] * sum(there)),
        )
        runs.append((size, layout.size, 0, plan.add(layout)))
        size += layout.size
        done += rows
    return plan.top(size, runs)


def ambiguous(areas: Mapping[int, Area], shape: Shape) -> bool:
    """Say whether it matters which of the two layouts of RAID 0 an array has."""
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


def _cuts(areas: Iterable[Area], size: int, grain: int, *more: int) -> Iterable[Range]:
    """Return ranges of [0, size), in whole rows of ``grain``, in which areas are right or wrong throughout."""
    cuts = {0, size}
    for area in areas:
        if area.recovered != IN_SYNC:
            cuts.add(area.recovered // grain * grain)
        for start, stop in area.bad:
            cuts |= {start // grain * grain, -(-stop // grain) * grain}
    cuts |= {at // grain * grain for at in more if at != IN_SYNC}
    return pairwise(sorted(at for at in cuts if 0 <= at <= size))
