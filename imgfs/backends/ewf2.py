"""Expert Witness version 2 (EnCase Ex01): chunks of compressed media in segment files.

Only the tables are read here; chunks are decoded by the daemon. Tables say which chunks they hold, so that
whatever is missing costs its own range and nothing else.

Source: Expert Witness Compression Format version 2 (EWF2) specification, Joachim Metz, version 0.0.9.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature, _said
from imgfs.backends._ewf2 import MAGIC, Kind, Segment, number, read_segment
from imgfs.backends._ewf2_tables import Table, lost_rows, read_header, rows
from imgfs.errors import Malformed, NotMine
from imgfs.model import PACKED_ROW, Codec, Layout, Linear, Media, Packed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgfs.backends import Options, Reader

_NEAR: Final = 4096  # chunks of a gap that is written as lost rows; a wider one divides a region
_MOST_REGIONS: Final = limits.MAX_SEGMENTS // 2  # layouts of the reply


@dataclass(slots=True)
class Region:
    """Tables of one segment that follow each other, and how many of their chunks count."""

    ticket: int
    start: int
    stop: int
    tables: list[tuple[Table | None, int]] = field(default_factory=list)  # None: a gap


def open_ewf2(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Read the tables of all segments at hand; ``reader.others`` may come in any order, with gaps.

    Raises:
        NotMine: no EWF2 signature.
        NotSupported: it is encrypted.
        Malformed: no segment says how large the media is.
    """
    notes: list[str] = []
    segments = collect((reader, *reader.others), notes)
    told = told_by(segments)
    sector, size, unit = _geometry(told)
    metadata: dict[str, str] = {}
    digests: dict[str, str] = {}
    for segment in reversed(segments):  # the first one's words win
        metadata |= segment.metadata
        digests |= segment.digests
    if any(segments[0].set_id):
        metadata["set"] = segments[0].set_id.hex()
    count = -(-size // unit)
    if told.get("tb", "") not in ("", str(count)):
        notes.append(f"the case data says {told['tb']} chunks, the sectors of the device are {count}")
    layouts, lost = chunks(reader, segments, size, unit, notes)
    return Media(
        layouts=layouts,
        sector=sector,
        version="EWF2-Ex01",
        metadata=_said.metadata(metadata),
        digests=digests,
        lost=_said.lost((a * unit, min(b * unit, size), why) for a, b, why in lost),
        notes=_said.notes(notes, *(segment.notes for segment in segments)),
    )


def collect(members: Sequence[Reader], notes: list[str]) -> list[Segment]:
    """Return the segments of one set by number; what does not belong to it is said and left out.

    Raises:
        NotMine, NotSupported: what the first one is.
        Malformed: no segment has a number.
    """
    found: dict[int, Segment] = {}
    twice: set[int] = set()
    first: Segment | None = None
    for ticket, member in enumerate(members):
        try:
            segment = read_segment(member, ticket)
        except NotMine:
            if first is None:
                raise
            notes.append(f"{member.name or ticket}: no EWF2 segment")
            continue
        first = first or segment
        if segment.set_id != first.set_id or segment.logical != first.logical:
            notes.append(f"{member.name or ticket}: segment {segment.number} of another set")
        elif segment.method != first.method:
            notes.append(f"{member.name or ticket}: compression {segment.method}, not {first.method}")
        elif segment.number in found:  # nothing says which one is right
            notes.append(f"{member.name or ticket}: a second segment {segment.number}; both are left out")
            twice.add(segment.number)
        elif segment.number:
            found[segment.number] = segment
        else:
            notes.append(f"{member.name or ticket}: segments are numbered from 1")
    kept = [found[key] for key in sorted(found) if key not in twice]
    if not kept:
        raise Malformed("no segment that can be used")
    _missing(kept, notes)
    return kept


def _missing(segments: Sequence[Segment], notes: list[str]) -> None:
    expected = 1
    for segment in segments:
        if segment.number > expected:
            last = segment.number - 1
            notes.append(f"segment {expected if expected == last else f'{expected}-{last}'} is missing")
        if not segment.complete:
            notes.append(f"segment {segment.number} is damaged or cut short")
        expected = segment.number + 1
    if segments[-1].complete and not segments[-1].done:
        notes.append(f"segments from {expected} on are missing")


def told_by(segments: Sequence[Segment]) -> dict[str, str]:
    """Return device information and case data; the first segment's words win."""
    told: dict[str, str] = {}
    for segment in reversed(segments):
        told |= segment.device | segment.case
    return told


def _geometry(told: dict[str, str]) -> tuple[int, int, int]:
    """Return bytes per sector, of the media and per chunk.

    Raises:
        Malformed: nobody says, or they are impossible.
    """
    sector = number(told, "bp")
    size, unit = number(told, "ts") * sector, number(told, "sb") * sector
    if not 0 < unit <= limits.MAX_UNIT or not 0 < size <= limits.MAX_SIZE:
        raise Malformed(f"{size} bytes in chunks of {unit}: device information and case data do not say more")
    return sector, size, unit


def chunks(
    reader: Reader, segments: Sequence[Segment], size: int, unit: int, notes: list[str]
) -> tuple[tuple[Layout, ...], list[tuple[int, int, str]]]:
    """Return the layouts of the media, and the lost ranges in chunks."""
    count = -(-size // unit)
    tables = [
        table
        for segment in segments
        for section in segment.sections
        if section.kind == Kind.TABLE and (table := read_header(segment, section)) is not None and table.count
    ]
    lost: list[tuple[int, int, str]] = []
    regions = _regions(_distinct(tables, count, notes), notes)
    at = 0
    said = [*notes, *(note for segment in segments for note in segment.notes)]
    why = "; ".join([note for note in said if "segment" in note or "sector table" in note][:3])
    why = why or "no table holds these chunks"
    for start, stop in [*((r.start, r.stop) for r in regions), (count, count)]:
        if start > at:
            lost.append((at, start, why))
        at = stop
    inside = PACKED_ROW * sum(region.stop - region.start for region in regions) <= limits.TABLE_INLINE
    written = (piece for region in regions for piece in _rows(region, lost, why))
    method = segments[0].method
    inline = b"".join(written) if inside else b""
    if not inside:
        reader.write_table(written)
    layouts: list[Layout] = []
    runs: list[tuple[int, int, int]] = []
    taken = 0
    for region in regions:
        start, stop = region.start * unit, min(region.stop * unit, size)
        rows_stop = taken + PACKED_ROW * (region.stop - region.start)
        codec = Codec("ewf2", {"unit": unit, "method": method})
        part = inline[taken:rows_stop]
        layouts.append(Packed(size=stop - start, unit=unit, codec=codec, table=part, which=region.ticket))
        runs.append((start, stop - start, 0))
        taken = rows_stop
    if len(runs) == 1 and runs[0][1] == size:
        return tuple(layouts), sorted(lost)
    tickets = 1 + len(reader.others)
    return (*layouts, Linear.of(size, runs, range(tickets, tickets + len(runs)))), sorted(lost)


def _distinct(tables: list[Table], count: int, notes: list[str]) -> list[tuple[Table, int]]:
    """Return tables by their chunks, with how many of these count.

    Chunks that two tables claim are nobody's: both tables are left out.
    """
    kept: list[tuple[Table, int]] = []
    stop = 0
    for table in sorted(tables, key=lambda table: (table.first, table.count)):
        if table.first + table.count > count:
            notes.append(f"a sector table holds chunks up to {table.first + table.count} of {count}")
        taken = min(table.count, count - table.first)
        if taken <= 0:
            continue
        if table.first < stop:
            notes.append(f"chunks [{table.first}, {min(stop, table.first + taken)}) are in two sector tables")
            if kept and kept[-1][0].first + kept[-1][1] == stop:
                kept.pop()
        else:
            kept.append((table, taken))
        stop = max(stop, table.first + taken)
    return kept


def _regions(tables: list[tuple[Table, int]], notes: list[str]) -> list[Region]:
    """Return tables of one segment that are near each other as one region each."""
    regions: list[Region] = []
    for table, taken in tables:
        last = regions[-1] if regions else None
        if last is None or last.ticket != table.segment.ticket or table.first - last.stop > _NEAR:
            if len(regions) >= _MOST_REGIONS:
                notes.append(f"chunks from {table.first} on are in too many places")
                break
            last = Region(table.segment.ticket, table.first, table.first)
            regions.append(last)
        if table.first > last.stop:
            last.tables.append((None, table.first - last.stop))
        last.tables.append((table, taken))
        last.stop = table.first + taken
    return regions


def _rows(region: Region, lost: list[tuple[int, int, str]], why: str) -> Iterator[bytes]:
    at = region.start
    for table, taken in region.tables:
        if table is None:
            lost.append((at, at + taken, why))
            yield from lost_rows(taken)
        else:
            yield from rows(table, taken, lost)
        at += taken


def siblings(name: str) -> str:
    """Return the pattern of the other segments' names: Ex01-Ex99, ExAA-EzZZ.

    Source: chapter "Segment file extensions".
    """
    match = re.fullmatch(r"(.+)\.([eE])[x-zX-Z](?:[0-9]{2}|[a-zA-Z]{2})", name)
    if match is None:
        return ""
    return (
        rf"{re.escape(match[1])}\.[{match[2].lower()}{match[2].upper()}][x-zX-Z](?:[0-9]{{2}}|[a-zA-Z]{{2}})"
    )


BACKEND = Backend(
    name="ewf2",
    title="Expert Witness 2 (EnCase Ex01)",
    role=Role.MEDIA,
    rank=11,
    signatures=(Signature(0, MAGIC),),
    siblings=siblings,
    open=open_ewf2,
    supports="EnCase 7 and later; zlib, bzip2, patterns; missing segments; damaged tables; stored digests; "
    "encrypted ones are named",
    truth=("peer", "composed", "corpus"),
)
