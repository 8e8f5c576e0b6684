"""RAID 10 of md: chunks in near, far and offset copies.

Source: md(4), section RAID10: near copies follow each other across the members; far copies repeat the whole
array in a later section of the members, shifted by as many members as there are near copies; offset copies
do the same row by row.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends._md_layouts import affordable
from imgfs.backends._md_super import IN_SYNC
from imgfs.errors import NotSupported
from imgfs.model import Striped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgfs.backends._md_layouts import Area, Plan, Range, Run
    from imgfs.backends._md_super import Shape

_EXCEPTIONS: Final = 50_000  # chunks that are read from another copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Copies:
    """Where copies lie. Units: rows of chunks; ``section`` of the members are one far copy."""

    members: int
    near: int
    far: int
    offset: bool
    chunks: int
    section: int

    @classmethod
    def of(cls, shape: Shape, rows: int) -> Copies:
        """Return the copies of a shape over members of so many rows.

        Raises:
            NotSupported: a layout nobody knows.
        """
        near, far, offset = shape.layout & 255, shape.layout >> 8 & 255, bool(shape.layout >> 16 & 1)
        if not near or not far or near * far > shape.members or shape.layout >> 17:
            raise NotSupported(f"RAID 10 of layout {shape.layout:#x}: cannot be laid out")
        chunks = rows // far * shape.members // near
        section = -(-chunks * near // shape.members)
        return cls(
            members=shape.members, near=near, far=far, offset=offset, chunks=chunks, section=max(section, 1)
        )

    @property
    def step(self) -> int:
        """Return the rows that as many chunks take as there are members."""
        return self.near * self.far if self.offset else self.near

    def places(self, number: int) -> list[Range]:
        """Return (member, row) of every copy of a chunk."""
        found = []
        for copy in range(self.near):
            row, member = divmod(number * self.near + copy, self.members)
            for again in range(self.far):
                down = row * self.far + again if self.offset else row + again * self.section
                found.append(((member + again * self.near) % self.members, down))
        return found

    def held(self, member: int, row: int) -> int:
        """Return the chunk of which a row of a member holds a copy, or a number that is no chunk."""
        again, down = (row % self.far, row // self.far) if self.offset else divmod(row, self.section)
        if again >= self.far:
            return self.chunks
        return (down * self.members + (member - again * self.near) % self.members) // self.near


def copied(plan: Plan, areas: Mapping[int, Area], shape: Shape, used: int) -> int:
    """Return the source of RAID 10.

    Raises:
        NotSupported: a layout nobody knows.
    """
    chunk = shape.chunk
    copies = Copies.of(shape, used // chunk)
    size = copies.chunks * chunk
    if not size:
        return plan.top(0, ())
    whole = {member: area for member, area in areas.items() if area.recovered == IN_SYNC}
    ends: list[int] = []
    terms: list[Range] = []
    for number in range(min(copies.members, copies.chunks)):
        found = [
            (whole[member].which, row * chunk) for member, row in copies.places(number) if member in whole
        ]
        terms += found[:1]
        ends.append(len(terms))
    main = plan.add(
        Striped(
            size=size,
            chunk=chunk,
            stride=copies.step * chunk,
            ends=array("I", ends).tobytes(),
            which=array("H", [term[0] for term in terms]).tobytes(),
            base=array("q", [term[1] for term in terms]).tobytes(),
            factor=bytes([1] * len(terms)),
        )
    )
    runs: list[Run] = []
    at = 0
    for number, (which, row) in sorted(_exceptions(plan, areas, copies, shape, used).items()):
        if at < number * chunk:
            runs.append((at, number * chunk - at, at, main))
        runs.append((number * chunk, chunk, row * chunk, which))
        at = (number + 1) * chunk
    if at < size:
        runs.append((at, size - at, at, main))
    return plan.top(size, runs)


def _exceptions(
    plan: Plan, areas: Mapping[int, Area], copies: Copies, shape: Shape, used: int
) -> dict[int, Range]:
    """Return (source, row) for chunks that have a copy with bad blocks, or only members half recovered."""
    spots: list[Range] = []
    for member, area in affordable(plan, areas, shape).items():
        doubtful = list(area.bad)
        if area.recovered != IN_SYNC:
            doubtful.append((0, area.recovered))
        for start, stop in doubtful:
            rows = range(start // shape.chunk, -(-min(stop, used) // shape.chunk))
            spots += [(member, row) for row in rows[: _EXCEPTIONS + 1 - len(spots)]]
    if len(spots) > _EXCEPTIONS:
        plan.notes.append(f"more than {_EXCEPTIONS} chunks are doubtful: some are not read from other copies")
    chunk = shape.chunk
    found: dict[int, Range] = {}
    for number in {copies.held(member, row) for member, row in spots}:
        if number < copies.chunks:
            for member, row in copies.places(number):
                if member in areas and areas[member].right(row * chunk, (row + 1) * chunk):
                    found[number] = (areas[member].which, row)
                    break
    return found
