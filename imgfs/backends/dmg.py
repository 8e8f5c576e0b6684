"""UDIF: Apple disk images, in chunks that are compressed one by one, in one file or in segments.

Only the trailer and the tables of chunks are read here. Verbatim chunks are runs of the file, compressed
ones units that the daemon decodes; ADC and LZFSE are decoded by the worker.

Source: libmodi, "Mac OS disk image types". It leaves segments out: that ``running`` places a segment in the
data fork of all, and that ``hdiutil`` names them X.dmg, X.002.dmgpart, was not seen in a real set.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._udif import KOLY, SECTOR, Table, Trailer, tables, trailer
from imgfs.backends._udif_chunks import NAMES, Chunks, Columns, Space
from imgfs.errors import EvidenceError, LostBytes, Malformed, NotMine
from imgfs.model import LOST, Linear, Media

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Bytes, Options, Reader
    from imgfs.backends._udif_foreign import ForeignChunks

_MAX_SECTORS: Final = limits.MAX_SIZE // SECTOR
_VARIANTS: Final = {1: "device", 2: "partition"}
_SHOWN: Final = 64  # checksums of parts that are said one by one


def open_dmg(reader: Reader, options: Options) -> Media | Bytes:  # noqa: ARG001  # the contract of `open`
    """Read the tables of an image, and of its further segments.

    Raises:
        NotMine: no trailer.
        Malformed: the trailer is impossible, or there is neither a table nor plain data.
    """
    end = trailer(reader)
    if end.version != 4:
        raise Malformed(f"a trailer of version {end.version}")
    notes: list[str] = []
    segments = _segments(reader, end, notes)
    found: list[Table] = []
    for segment in segments:
        if found := tables(segment.reader, segment.end, notes):
            break
    tickets = 1 + len(reader.others)
    fork = _Fork(segments, tickets)
    last = max((table.start + table.sectors for table in found), default=0)
    sectors = max(end.sectors, last)
    if found and last > end.sectors:
        notes.append(f"the tables reach to sector {last}, the trailer says {end.sectors}")
    if sectors > _MAX_SECTORS:
        raise Malformed(f"{sectors} sectors")
    size = sectors * SECTOR
    if not found:
        return _plain(end, fork, size, notes)
    columns = Columns(found)
    chunks = Chunks(size, fork.space, tickets + len(fork.layouts))
    chunks.lay(columns)
    layouts, rows = chunks.layouts()
    if rows:
        reader.write_table(rows)
    if chunks.free:
        notes.append(f"{chunks.free} bytes are free space that the writer left out: they read as zeros")
    media = Media(
        layouts=(*fork.layouts, *layouts),
        sector=SECTOR,
        version=_version(end, chunks),
        metadata=_facts(end, found, chunks),
        digests=_digests(end, found, chunks, size),
        lost=tuple(chunks.lost),
        notes=(*notes, *columns.notes, *chunks.notes, *_doubts(end, found)),
    )
    return _Decoding(media, chunks.foreign, fork) if chunks.foreign.size else media


@dataclass(frozen=True, slots=True)
class _Segment:
    """One file of an image: which ticket it is, and its trailer."""

    ticket: int
    reader: Reader
    end: Trailer


def _segments(reader: Reader, end: Trailer, notes: list[str]) -> list[_Segment]:
    """Return the segments at hand, in order."""
    found = {end.segment: _Segment(0, reader, end)}
    if end.segments <= 1:
        return list(found.values())
    for ticket, other in enumerate(reader.others, 1):
        try:
            its = trailer(other)
        except (EvidenceError, NotMine):
            notes.append(f"{other.name} is no segment: it has no trailer")
            continue
        if its.segment_id != end.segment_id or its.segments != end.segments:
            notes.append(f"{other.name} belongs to another image")
        elif its.segment in found:
            notes.append(f"{other.name} is segment {its.segment} again")
        else:
            found[its.segment] = _Segment(ticket, other, its)
    missing = end.segments - len(found)
    if missing > 0:
        some = [number for number in range(1, min(end.segments, 1000) + 1) if number not in found][:10]
        named = ", ".join(map(str, some)) + (", ..." if missing > len(some) else "")
        notes.append(f"{missing} of {end.segments} segments are missing: {named}")
    return [found[number] for number in sorted(found)]


class _Fork:
    """The data fork, in one file or laid over those of all segments."""

    def __init__(self, segments: Sequence[_Segment], tickets: int) -> None:
        self._parts: list[tuple[int, int, int, Reader]] = []  # start, stop, place in the file, the file
        self.layouts: tuple[Linear, ...] = ()
        if len(segments) == 1 and segments[0].end.segments <= 1:
            reader, end = segments[0].reader, segments[0].end
            # What the trailer says of the length is not needed, and wrong in images cut out of others.
            stop = max(reader.size - end.data_at, 0)
            self._parts = [(0, stop, end.data_at, reader)]
            self.space = Space(segments[0].ticket, end.data_at, ((0, stop),) if stop else ())
            return
        runs, which = [], []
        at = 0
        for segment in sorted(segments, key=lambda one: one.end.running):
            end = segment.end
            length = min(end.data_length, max(segment.reader.size - end.data_at, 0))
            start = max(end.running, at)
            length -= start - end.running
            if length <= 0 or start + length > limits.MAX_SIZE:
                continue
            place = end.data_at + start - end.running
            self._parts.append((start, start + length, place, segment.reader))
            runs.append((start, length, place))
            which.append(segment.ticket)
            at = start + length
        self.layouts = (Linear.of(at, runs, which),)
        self.space = Space(tickets, 0, tuple((start, stop) for start, stop, _, _ in self._parts))

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of the fork.

        Raises:
            LostBytes: no segment at hand has them.
            EvidenceError: they cannot be read.
        """
        parts = []
        for start, stop, place, reader in self._parts:
            if length and start <= offset < stop:
                taken = min(stop - offset, length)
                parts.append(reader.read(place + offset - start, taken))
                offset, length = offset + taken, length - taken
        if length:
            raise LostBytes("no segment at hand has it", start=offset, stop=offset + length)
        return b"".join(parts)


class _Decoding:
    """An image some of whose chunks the worker decodes: ``backends.Bytes``."""

    def __init__(self, media: Media, foreign: ForeignChunks, fork: _Fork) -> None:
        self.media = media
        self._foreign = foreign
        self._fork = fork

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of the decoded chunks; see ``ForeignChunks.read``."""
        return self._foreign.read(offset, length, self._fork.read)


def _plain(end: Trailer, fork: _Fork, size: int, notes: list[str]) -> Media:
    """Return an image without tables, whose data fork is the media.

    Raises:
        Malformed: it holds nothing.
    """
    if not end.data_length:
        raise Malformed("; ".join(["neither a table of chunks nor data", *notes]))
    size = size or end.data_length
    runs, which, lost = [], [], []
    at = 0
    for start, end_of in fork.space.held:
        stop = min(end_of, size, end_of if fork.layouts else end.data_length)
        if start > at:
            lost.append((at, start, "a segment is missing"))
        if stop > start:
            runs.append((start, stop - start, start + fork.space.shift))
            which.append(fork.space.which)
            at = stop
    if at < size:
        runs.append((at, size - at, LOST))
        which.append(0)
        lost.append((at, size, "the image has no data for it"))
    return Media(
        layouts=(*fork.layouts, Linear.of(size, runs, which)),
        sector=SECTOR,
        version=f"UDIF {end.version} without tables",
        metadata=_sums(end),
        lost=tuple(lost),
        notes=tuple(notes),
    )


def _version(end: Trailer, chunks: Chunks) -> str:
    kinds = [name for kind, name in NAMES.items() if kind >= 1 << 31 and kind in chunks.counts]
    return " ".join([f"UDIF {end.version}", ", ".join(kinds) or "uncompressed"])


def _sums(end: Trailer) -> dict[str, str]:
    facts = {}
    if end.segments > 1:
        facts["segments"] = f"{end.segments}, set {end.segment_id.hex()}"
    if end.variant in _VARIANTS:
        facts["image of"] = _VARIANTS[end.variant]
    for title, one in (("data fork", end.data_sum), ("master", end.master_sum)):
        if one.name:
            facts[f"{title} {one.name}"] = one.value
    return facts


def _facts(end: Trailer, found: Sequence[Table], chunks: Chunks) -> dict[str, str]:
    """Return what the image says of itself: checksums, parts, how many chunks are of which kind."""
    facts = _sums(end)
    facts["chunks"] = ", ".join(
        f"{number} {NAMES.get(kind, hex(kind))}" for kind, number in chunks.counts.items()
    )
    for number, table in enumerate(found[:_SHOWN]):
        said = f"sectors {table.start} to {table.start + table.sectors}"
        if table.checksum.name:
            said += f", {table.checksum.name} {table.checksum.value}"
        facts[f"part {number}"] = f"{table.name}: {said}" if table.name else said
    return facts


def _digests(end: Trailer, found: Sequence[Table], chunks: Chunks, size: int) -> dict[str, str]:
    """Return the digests that are of the whole media.

    The checksum of a part leaves free space out; that of the whole is the one of its only part. MD5 is
    stored by ``hdiutil`` for entire devices, in the trailer.
    """
    if end.master_sum.name == "md5":
        return {"md5": end.master_sum.value}
    if len(found) == 1 and not chunks.free and found[0].start == 0 and found[0].sectors * SECTOR == size:
        one = found[0].checksum
        return {one.name: one.value} if one.name else {}
    return {}


def _doubts(end: Trailer, found: Sequence[Table]) -> list[str]:
    """Compare the checksum over those of all parts, in the order they are listed."""
    if end.master_sum.name != "crc32" or any(table.checksum.name != "crc32" for table in found):
        return []
    joined = b"".join(bytes.fromhex(table.checksum.value) for table in found)
    if struct.pack(">I", zlib.crc32(joined)).hex() == end.master_sum.value:
        return []
    return ["the checksum over those of all parts differs: a table is damaged, missing, or was changed"]


def _siblings(name: str) -> str:
    """Return what the other segments of an image are called."""
    match = re.fullmatch(r"(.+?)(?:\.\d{3,}\.dmgpart|\.dmg)", name, re.IGNORECASE)
    if match is None:
        return ""
    stem = re.escape(match[1])
    return rf"(?i:{stem}\.\d{{3,}}\.dmgpart|{stem}\.dmg)"


BACKEND = Backend(
    name="dmg",
    title="Apple disk image",
    role=Role.MEDIA,
    rank=20,
    signatures=(Signature(-512, KOLY), Signature(0, KOLY + b"\0\0\0\x04\0\0\x02\0")),
    open=open_dmg,
    siblings=_siblings,
    imports=("plistlib", "xml.parsers.expat"),
    supports="UDIF 4: raw, zlib, bzip2, LZMA, ADC, LZFSE; property list or resource fork; segments",
    truth=("peer", "composed", "corpus"),
)
