"""Expert Witness (EnCase E01, SMART S01): chunks of compressed media in segment files.

Only the tables are read here; chunks are decoded by the daemon. Variants that are not understood are
read by libewf, as foreign bytes.

Source: Expert Witness Compression Format specification (EWF), Joachim Metz, version 0.0.83.
"""

from __future__ import annotations

import re
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._ewf import MAGIC, Group, NotUnderstood, Segment, read_segment
from imgfs.backends._yal import ReaderFile
from imgfs.errors import Malformed, NotMine
from imgfs.model import UNIT_LOST, Chunked, Codec, Foreign, Layout, Linear, Media

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Bytes, Options, Reader
    from imgfs.backends._ewf import Geometry


@dataclass(frozen=True, slots=True)
class _Region:
    """Chunks [start, stop) of the media and where they are."""

    start: int
    stop: int
    groups: tuple[Group, ...]


def open_ewf(reader: Reader, options: Options) -> Media | Bytes:  # noqa: ARG001  # the contract of `open`
    """Read the tables of all segments at hand; ``reader.others`` may come in any order, with gaps.

    Raises:
        NotMine: no EWF signature.
        Malformed: no segment says how large the media is.
    """
    notes: list[str] = []
    try:
        segments = _collect(reader, notes)
    except NotUnderstood as why:
        return _Library(reader, str(why))
    geometry = next((s.geometry for s in segments if s.geometry is not None), None)
    if geometry is None:
        raise Malformed("no readable volume section in any segment")
    size, unit = geometry.size, geometry.unit
    if not 0 < unit <= limits.MAX_UNIT or not 0 < size <= limits.MAX_SIZE:
        raise Malformed(f"{size} bytes in chunks of {unit}")
    count = -(-size // unit)
    if geometry.chunks != count:
        notes.append(f"the volume section says {geometry.chunks} chunks, its sectors are {count}")
    regions, lost = _place(_sequence(segments, notes), count, notes, certain=geometry.chunks == count)
    lost_bytes = tuple((a * unit, min(b * unit, size), why) for a, b, why in lost)
    metadata: dict[str, str] = {}
    digests: dict[str, str] = {}
    for segment in reversed(segments):  # the first one's words win
        notes += segment.notes
        metadata |= segment.metadata
        digests |= segment.digests
    if geometry.set_id.strip(b"\0"):
        metadata["set"] = geometry.set_id.hex()
    return Media(
        layouts=_layouts(regions, geometry, reader),
        sector=geometry.sector,
        version="EWF-E01" if geometry.set_id else "EWF-S01",
        metadata=metadata,
        digests=digests,
        lost=lost_bytes,
        notes=tuple(notes),
    )


def _collect(reader: Reader, notes: list[str]) -> list[Segment]:
    """Return the segments of one set by number; what does not belong to it is said and left out."""
    found: dict[int, Segment] = {}
    twice: set[int] = set()
    set_id = b""
    for ticket, member in enumerate((reader, *reader.others)):
        try:
            segment = read_segment(member, ticket)
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


def _sequence(segments: Sequence[Segment], notes: list[str]) -> list[Group]:
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


def _place(
    groups: Sequence[Group], count: int, notes: list[str], *, certain: bool
) -> tuple[list[_Region], list[tuple[int, int, str]]]:
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
) -> _Region | None:
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
    return _Region(start, at, tuple(kept)) if kept else None


def _layouts(regions: Sequence[_Region], geometry: Geometry, reader: Reader) -> tuple[Layout, ...]:
    """Return a Chunked per region, and a Linear above them unless one covers all."""
    size, unit = geometry.size, geometry.unit
    rows = [row for region in regions for row in (_entries(group) for group in region.groups)]
    inline = sum(map(len, rows)) <= limits.TABLE_INLINE
    layouts: list[Layout] = []
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
        layouts.append(chunked)
        runs.append((start, stop - start, 0))
    if not inline:
        reader.write_table(rows)
    if len(runs) == 1 and runs[0][1] == size:
        return tuple(layouts)
    tickets = 1 + len(reader.others)
    return (*layouts, Linear.of(size, runs, range(tickets, tickets + len(runs))))


def _entries(group: Group) -> bytes:
    return group.entries or UNIT_LOST.to_bytes(4, "little") * group.count


class _Library:
    """Media read by libewf: ``backends.Bytes``."""

    def __init__(self, reader: Reader, why: str) -> None:
        import pyewf

        self._files = [ReaderFile(member) for member in (reader, *reader.others)]
        self._handle = pyewf.handle()
        try:
            self._handle.open_file_objects(self._files)
            size = self._handle.get_media_size()
        except OSError as reason:
            raise Malformed(f"{why}; libewf: {reason}") from reason
        self.media = Media(layouts=(Foreign(size=size, why=why),), version="EWF", notes=(why,))

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of the media.

        Raises:
            Malformed: libewf cannot read them.
        """
        try:
            data: bytes = self._handle.read_buffer_at_offset(length, offset)
        except OSError as why:
            raise Malformed(f"libewf: {why}", start=offset, stop=offset + length) from why
        if len(data) != length:
            raise Malformed(f"libewf reads {len(data)} bytes", start=offset, stop=offset + length)
        return data


def siblings(name: str) -> str:
    """Return the pattern of the other segments' names: E01-E99, EAA-ZZZ, and s01 likewise.

    Source: chapter "Segment file extensions".
    """
    match = re.fullmatch(r"(.+)\.([eEsS])(?:[0-9]{2}|[a-zA-Z]{2})", name)
    if match is None:
        return ""
    return rf"{re.escape(match[1])}\.[{match[2].lower()}-z{match[2].upper()}-Z](?:[0-9]{{2}}|[a-zA-Z]{{2}})"


BACKEND = Backend(
    name="ewf",
    title="Expert Witness (EnCase E01, SMART S01)",
    role=Role.MEDIA,
    rank=10,
    signatures=(Signature(0, MAGIC),),
    siblings=siblings,
    open=open_ewf,
    imports=("pyewf",),
    supports="EnCase 1-7, linen, FTK, SMART; missing segments; damaged tables; stored digests",
    truth=("peer", "corpus"),
)
