"""Sections of an EWF segment file: descriptors, geometry, tables, what the examiner wrote.

Source: Expert Witness Compression Format specification (EWF), Joachim Metz, version 0.0.83, chapters
"Segment file", "The sections". All numbers are little-endian; checksums are Adler-32.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import lt
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.model import CODED, UNIT_LOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

MAGIC: Final = b"EVF\x09\x0d\x0a\xff\x00"
MAGIC_LOGICAL: Final = b"LVF\x09\x0d\x0a\xff\x00"
_DESCRIPTOR: Final = struct.Struct("<16sQQ40xI")
_FILE_HEADER: Final = 13
_TABLE_HEADER: Final = struct.Struct("<I4xQ4xI")
_MAX_SECTIONS: Final = 1_000_000  # 16,375 chunks of one sector each in 2 GiB: far fewer are real
_MAX_TEXT: Final = 4 << 20  # EnCase stops at 3,000 characters a value; descriptions of 1 MiB exist
_MAX_ERRORS_SHOWN: Final = 100

_WORDS: Final = {
    "a": "description",
    "c": "case_number",
    "n": "evidence_number",
    "e": "examiner",
    "t": "notes",
    "md": "model",
    "sn": "serial_number",
    "l": "device_label",
    "av": "software_version",
    "ov": "platform",
    "m": "acquired",
    "u": "system_date",
    "pid": "process_identifier",
}


class NotUnderstood(Exception):
    """A variant this reader does not know; libewf may."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the volume section says. Units: ``unit`` and ``sector`` bytes."""

    sector: int
    unit: int
    sectors: int
    chunks: int
    set_id: bytes

    @property
    def size(self) -> int:
        """Return the bytes of the media."""
        return self.sectors * self.sector


@dataclass(frozen=True, slots=True)
class Group:
    """Consecutive chunks of one segment: entries of a table. Empty ``entries``: lost, ``why`` says so.

    ``count`` -1: nobody knows how many are lost.
    """

    count: int
    base: int = 0
    end: int = 0
    entries: bytes = b""
    segment: int = 0
    why: str = ""


@dataclass(slots=True)
class Segment:
    """What one segment file holds."""

    number: int
    ticket: int
    geometry: Geometry | None = None
    groups: list[Group] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    done: bool = False  # the last of its set
    complete: bool = False  # the chain of sections reached its end
    ltree: range = range(0)  # logical evidence: where the tree of its files lies


def segment_number(reader: Reader, magic: bytes = MAGIC) -> int:
    """Return the number in the file header.

    Raises:
        NotMine: no EWF signature.

    Source: chapter "File header".
    """
    if reader.size < _FILE_HEADER or reader.read(0, len(magic)) != magic:
        raise NotMine("ewf")
    return int.from_bytes(reader.read(9, 2), "little")


def read_segment(reader: Reader, ticket: int, magic: bytes = MAGIC) -> Segment:
    """Read all sections of a segment file but the chunks.

    Raises:
        NotMine: no EWF signature.
        NotUnderstood: a table is of a kind that only libewf reads.
    """
    segment = Segment(segment_number(reader, magic), ticket)
    sectors = range(0)
    pending: Group | None = None  # a damaged table that table2 may replace
    for kind, start, stop in _sections(reader, segment):
        match kind:
            case "volume" | "disk" | "data":
                with suppress(EvidenceError):
                    segment.geometry = segment.geometry or _geometry(reader, start, stop)
            case "sectors":
                sectors = range(start, stop)
            case "table" | "table2":
                if kind == "table2" and pending is None:
                    continue  # the mirror of a table that was good
                if kind == "table" and pending is not None:
                    segment.groups.append(pending)
                group = _table(reader, start, stop, sectors, segment)
                if group.entries or not group.count:
                    segment.groups.append(group)
                    if pending is not None:
                        segment.notes.append(f"segment {segment.number}: {pending.why}; its copy is used")
                    pending = None
                else:
                    known = pending is not None and pending.count >= 0
                    pending = pending if known else group
            case "header" | "header2":
                segment.metadata |= _header(reader, start, stop, wide=kind == "header2")
            case "hash" | "digest":
                segment.digests |= _digests(reader, start, stop, with_sha1=kind == "digest")
            case "error2":
                segment.notes += _errors(reader, start, stop)
            case "ltree":
                segment.ltree = range(start, stop)
            case "done":
                segment.done = segment.complete = True
            case "next":
                segment.complete = True
            case _:
                pass  # session, xheader and what else there may be holds no chunks
    if pending is not None:
        segment.groups.append(pending)
    return segment


def _sections(reader: Reader, segment: Segment) -> Iterator[tuple[str, int, int]]:
    """Return (kind, start, stop) of what follows each descriptor; positions ascend, so it ends.

    Source: chapter "Section descriptor". Expert Witness 1.35 leaves the size 0: the next section's
    offset is what counts.
    """
    at = _FILE_HEADER
    for _ in range(_MAX_SECTIONS):
        if at + _DESCRIPTOR.size > reader.size:
            segment.notes.append(f"segment {segment.number}: ends at {reader.size}, without a last section")
            return
        raw = reader.read(at, _DESCRIPTOR.size)
        name, following, size, checksum = _DESCRIPTOR.unpack(raw)
        if zlib.adler32(raw[:-4]) != checksum:
            segment.notes.append(f"segment {segment.number}: section descriptor at {at}: checksum")
            return
        kind = name.split(b"\0")[0].decode("ascii", "replace")
        stop = following if following > at else at + size
        yield kind, at + _DESCRIPTOR.size, max(at + _DESCRIPTOR.size, min(stop, reader.size))
        if kind in {"next", "done"}:
            return
        if following <= at:
            segment.notes.append(f"segment {segment.number}: section at {at} leads back to {following}")
            return
        at = following
    segment.notes.append(f"segment {segment.number}: more than {_MAX_SECTIONS} sections")


def _geometry(reader: Reader, start: int, stop: int) -> Geometry:
    """Read a volume, disk or data section: 1,052 bytes, or 94 as ASR Data specified it (SMART).

    Raises:
        Malformed: length, checksum or sizes are impossible.
    """
    length = 1052 if stop - start >= 1052 else 94
    if stop - start < length:
        raise Malformed("volume section", start=start, stop=stop)
    raw = reader.read(start, length)
    if zlib.adler32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        raise Malformed("checksum of the volume section", start=start, stop=stop)
    chunks, per_chunk, sector, sectors = struct.unpack_from("<4xIIIQ" if length == 1052 else "<4xIIII", raw)
    if not sector or not per_chunk:
        raise Malformed(f"{per_chunk} sectors of {sector} bytes a chunk", start=start, stop=stop)
    set_id = raw[64:80] if length == 1052 else b""
    return Geometry(sector, sector * per_chunk, sectors or chunks * per_chunk, chunks, set_id)


def _table(reader: Reader, start: int, stop: int, sectors: range, segment: Segment) -> Group:
    """Read a table; a damaged one is a group without entries.

    Raises:
        NotUnderstood: offsets that do not ascend: EnCase 6.7.1 let them overflow into the bit that
            means compressed.

    Source: chapter "Table section".
    """
    place = f"table at {start} of segment {segment.number}"
    if stop - start < _TABLE_HEADER.size:
        return Group(-1, why=f"{place} is cut short")
    raw = reader.read(start, _TABLE_HEADER.size)
    count, base, checksum = _TABLE_HEADER.unpack(raw)
    if zlib.adler32(raw[:-4]) != checksum:
        return Group(-1, why=f"{place}: header checksum")
    entries_at = start + _TABLE_HEADER.size
    entries_stop = entries_at + 4 * count
    if entries_stop > stop:
        return Group(-1, why=f"{place}: {count} entries in {stop - entries_at} bytes")
    if not count:
        return Group(0)
    entries = reader.read(entries_at, 4 * count)
    lost = Group(count, why=f"{place}: checksum of the entries")
    masked = _offsets(entries)
    inside = masked[0] + base < stop and masked[0] + base >= entries_stop
    # Tables as first specified (SMART, EnCase 1) hold the chunks themselves, and have no checksum.
    if not inside:
        if stop - entries_stop < 4:
            return lost
        if zlib.adler32(entries) != int.from_bytes(reader.read(entries_stop, 4), "little"):
            return lost
    if max(array("I", entries)) >= UNIT_LOST or not all(map(lt, masked, masked[1:])):
        raise NotUnderstood(f"{place}: offsets that do not ascend")
    last = base + masked[-1]
    end = stop if inside else sectors.stop if last in sectors else reader.size
    if not base <= last < end <= reader.size:
        return Group(count, why=f"{place}: chunks up to {last} of {reader.size} bytes")
    return Group(count, base, end, entries, segment.ticket)


def _offsets(entries: bytes) -> array[int]:
    """Return the entries without the bit that means compressed, all at once."""
    mask = int.from_bytes((CODED - 1).to_bytes(4, "little") * (len(entries) // 4), "little")
    return array("I", (int.from_bytes(entries, "little") & mask).to_bytes(len(entries), "little"))


def _header(reader: Reader, start: int, stop: int, *, wide: bool) -> dict[str, str]:
    """Return what the examiner wrote; nothing if it does not decode.

    Source: chapters "Header section", "Header2 section": zlib, then lines; the one after ``main``
    names the values of the next, separated by tabs.
    """
    try:
        raw = zlib.decompressobj().decompress(reader.read(start, min(stop - start, _MAX_TEXT)), _MAX_TEXT)
    except (zlib.error, EvidenceError):
        return {}
    lines = raw.decode("utf-16" if wide else "latin-1", "replace").replace("\r", "").split("\n")
    found: dict[str, str] = {}
    for index, line in enumerate(lines[:-2]):
        if line.strip() == "main":
            names, values = lines[index + 1].split("\t"), lines[index + 2].split("\t")
            for name, value in zip(names, values, strict=False):
                if name in _WORDS and value:
                    found[_WORDS[name]] = _date(value) if name in {"m", "u"} else value
            break
    return found


def _date(value: str) -> str:
    """Return a date as ISO 8601: header2 counts seconds, header spells local time in six numbers."""
    with suppress(ValueError, OverflowError, OSError):
        numbers = [int(part) for part in value.split()]
        if len(numbers) == 1:
            return datetime.fromtimestamp(numbers[0], UTC).isoformat()
        if len(numbers) == 6:
            year, month, day, hour, minute, second = numbers
            return datetime(year, month, day, hour, minute, second).isoformat()  # noqa: DTZ001  # no zone stored
    return value


def _digests(reader: Reader, start: int, stop: int, *, with_sha1: bool) -> dict[str, str]:
    """Return stored digests of the media; nothing if the section is damaged.

    Source: chapters "Digest section", "Hash section".
    """
    length = 80 if with_sha1 else 36
    if stop - start < length:
        return {}
    raw = reader.read(start, length)
    if zlib.adler32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        return {}
    found = {"md5": raw[:16]} | ({"sha1": raw[16:36]} if with_sha1 else {})
    return {name: digest.hex() for name, digest in found.items() if any(digest)}


def _errors(reader: Reader, start: int, stop: int) -> list[str]:
    """Return sectors that could not be read at acquisition: the image holds zeros for them.

    Source: chapter "Error2 section".
    """
    if stop - start < 520:
        return []
    count = int.from_bytes(reader.read(start, 4), "little")
    count = min(count, (stop - start - 520) // 8)
    shown = min(count, _MAX_ERRORS_SHOWN)
    ranges = struct.iter_unpack("<II", reader.read(start + 520, 8 * shown))
    notes = [f"not readable at acquisition: {length} sectors from {first}" for first, length in ranges]
    if count > shown:
        notes.append(f"and {count - shown} more ranges that were not readable at acquisition")
    return notes
