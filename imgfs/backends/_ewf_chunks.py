"""From the tables of EWF segments to the layouts of their media.

Source: Expert Witness Compression Format specification (EWF), Joachim Metz, version 0.0.83.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.backends._ewf import MAGIC, Group, Segment, read_segment
from imgfs.errors import NotMine
from imgfs.model import UNIT_LOST, Chunked, Codec, Layout, Linear

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Reader


@dataclass(frozen=True, slots=True)
class Region:
    """Chunks [start, stop) of the media and where they are."""

    start: int
    stop: int
    groups: tuple[Group, ...]


def collect(members: Sequence[Reader], notes: list[str], magic: bytes = MAGIC) -> list[Segment]:
    """Return the segments of one set by number; what does not belong to it is said and left out."""
    found: dict[int, Segment] = {}
    twice: set[int] = set()
    set_id = b""
    for ticket, member in enumerate(members):
        try:
            segment = read_segment(member, ticket, magic)
        except NotMine:
            if not ticket:
                raise
            notes.append(f"{member.name or ticket}: no EWF segment")
            continue
        own = segment.geometry.set_id if segment.geometry is not None else b""
        set_id = set_id or own
        if own and own != set_id:
            notes.append(f"{member.name or ticket}: segment {segment.number} of another set")
        elif segment.number in found:  # nothing says which one is right
            notes.append(f"{member.name or ticket}: a second segment {segment.number}; both are left out")
            twice.add(segment.number)
        elif segment.number:
            found[segment.number] = segment
        else:
            notes.append(f"{member.name or ticket}: segments are numbered from 1")
    return [found[number] for number in sorted(found) if number not in twice]


def sequence(segments: Sequence[Segment], notes: list[str]) -> list[Group]:
    """Return the groups of all segments in order, with a lost group wherever something is missing."""
    groups: list[Group] = []
    expected = 1
    for segment in segments:
        if segment.number > expected:
            missing = f"{expected}" if segment.number == expected + 1 else f"{expected}-{segment.number - 1}"
            notes.append(f"segment {missing} is missing")
            groups.append(Group(-1, why=f"segment {missing} is missing"))
        groups += segment.groups
        if not segment.complete:
            groups.append(Group(-1, why=f"segment {segment.number} is damaged or cut short"))
        expected = segment.number + 1
    if segments and segments[-1].complete and not segments[-1].done:
        notes.append(f"segments from {expected} on are missing")
        groups.append(Group(-1, why=f"segments from {expected} on are missing"))
    return groups


def place(
    groups: Sequence[Group], count: int, notes: list[str], *, certain: bool
) -> tuple[list[Region], list[tuple[int, int, str]]]:
    """Give every group its chunks; return regions and lost ranges, in chunks.

    A table does not say which chunks it holds. What comes before the first gap of unknown length is
    counted from the start; what comes after the last one from the end, because the volume section
    says how many there are (unless it is not ``certain``, because it contradicts itself). What lies
    between two such gaps cannot be placed, and is lost.
    """
    gaps = [index for index, group in enumerate(groups) if group.count < 0]
    head = groups[: gaps[0]] if gaps else groups
    tail = groups[gaps[-1] + 1 :] if gaps and certain else ()
    head_stop = sum(group.count for group in head)
    tail_start = count - sum(group.count for group in tail)
    reason = "; ".join(dict.fromkeys(groups[index].why for index in gaps)) or "no table holds these chunks"
    if head_stop > count or tail_start < head_stop:
        notes.append("the tables hold more chunks than the volume section says; the last ones are left out")
        tail, tail_start = (), count
    if len(gaps) > 1 and gaps[-1] - gaps[0] >= len(gaps):
        notes.append(
            f"tables between missing parts cannot be placed: chunks [{head_stop}, {tail_start}) are lost"
        )
    lost: list[tuple[int, int, str]] = []
    regions = [r for r in (_region(head, 0, count, lost), _region(tail, tail_start, count, lost)) if r]
    stop = regions[0].stop if regions and regions[0].start == 0 else 0
    if stop < tail_start:
        lost.append((stop, tail_start, reason))
    return regions, sorted(lost)


def _region(
    groups: Sequence[Group], start: int, count: int, lost: list[tuple[int, int, str]]
) -> Region | None:
    """Return groups one after the other from chunk ``start`` on, none beyond ``count``."""
    kept: list[Group] = []
    at = start
    for group in groups:
        taken = min(group.count, count - at)
        if taken <= 0:
            continue
        if not group.entries:
            lost.append((at, at + taken, group.why))
        elif taken < group.count:
            kept.append(Group(taken, group.base, group.end, group.entries[: 4 * taken], group.segment))
            at += taken
            continue
        kept.append(Group(taken, group.base, group.end, group.entries, group.segment, group.why))
        at += taken
    return Region(start, at, tuple(kept)) if kept else None


def layouts(regions: Sequence[Region], size: int, unit: int, reader: Reader) -> tuple[Layout, ...]:
    """Return a Chunked per region, and a Linear above them unless one covers all."""
    rows = [row for region in regions for row in (_entries(group) for group in region.groups)]
    inline = sum(map(len, rows)) <= limits.TABLE_INLINE
    found: list[Layout] = []
    runs: list[tuple[int, int, int]] = []
    for region in regions:
        start, stop = region.start * unit, min(region.stop * unit, size)
        firsts, at = array("q"), 0
        for group in region.groups:
            firsts.append(at)
            at += group.count
        chunked = Chunked(
            size=stop - start,
            unit=unit,
            codec=Codec("ewf", {"unit": unit}),
            table=b"".join(map(_entries, region.groups)) if inline else b"",
            first=firsts.tobytes(),
            base=array("q", [group.base for group in region.groups]).tobytes(),
            ends=array("q", [group.end for group in region.groups]).tobytes(),
            which=array("H", [group.segment for group in region.groups]).tobytes(),
        )
        found.append(chunked)
        runs.append((start, stop - start, 0))
    if not inline:
        reader.write_table(rows)
    if len(runs) == 1 and runs[0][1] == size:
        return tuple(found)
    tickets = 1 + len(reader.others)
    return (*found, Linear.of(size, runs, range(tickets, tickets + len(runs))))


def _entries(group: Group) -> bytes:
    return group.entries or UNIT_LOST.to_bytes(4, "little") * group.count
