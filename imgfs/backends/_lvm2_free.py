"""Extents of a physical volume that no logical volume uses: what lies there was somebody's once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends._lvm2_bodies import joined, merged
from imgfs.errors import Malformed
from imgfs.layouts import LOST

if TYPE_CHECKING:
    from imgfs.backends._lvm2_bodies import Range, Run
    from imgfs.backends._lvm2_group import Group, Segment
    from imgfs.backends._lvm2_volumes import Volumes


def free(volumes: Volumes, name: str) -> list[Run]:
    """Return the free extents of a physical volume one behind the other, as far as its source reaches."""
    group = volumes.group
    physical = group.physical[name]
    ticket = volumes.present[name]
    end = min(physical.extents * group.extent, volumes.stack.tickets[ticket].size - physical.start)
    runs: list[Run] = []
    at = start = 0
    for first, last in [*merged(_used(group, name)), (end, end)]:
        length = min(first, end) - start
        if length > 0:
            runs.append((at, length, ticket, physical.start + start))
            at += length
        start = max(start, last)
    return [run for run in joined(at, runs) if run[3] != LOST]


def _used(group: Group, name: str) -> list[Range]:
    found: list[Range] = []
    for logical in group.logical.values():
        for segment in logical.segments:
            try:
                found += _areas(segment, name)
            except Malformed:
                continue  # said where the volume is read
    return found


def _areas(segment: Segment, name: str) -> list[Range]:
    """Return the ranges of a physical volume, counted from its first extent, that a segment uses."""
    if segment.kind == "mirror":
        return [(a.start, a.start + segment.length) for a in segment.areas("mirrors") if a.name == name]
    if "stripes" not in segment.section:
        return []
    areas = segment.areas("stripes")
    share = -(-segment.length // len(areas))
    return [(area.start, area.start + share) for area in areas if area.name == name]
