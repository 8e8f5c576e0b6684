"""Sector tables of EWF2 as rows of a Packed layout, all at once and never entry by entry.

Source: Expert Witness Compression Format version 2 (EWF2) specification, Joachim Metz, version 0.0.9,
chapters "Sector data", "Sector table".
"""

from __future__ import annotations

import re
import struct
import zlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.block.expert import PATTERN
from imgfs.errors import EvidenceError
from imgfs.model import PACKED_CODED, PACKED_HOLE, PACKED_LOST, PACKED_PLAIN, PACKED_ROW

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._ewf2 import Section, Segment

_HEADER: Final = struct.Struct("<QI4xI")
_ENTRIES: Final = 32  # the header and its filling
_SLICE: Final = 1 << 18  # entries read at a time: 4 MiB
_FILL: Final = 5  # COMPRESSED and PATTERNFILL
LOST_ROW: Final = struct.pack("<QII", 0, 0, PACKED_LOST)
_BLOCK: Final = 1 << 12  # entries that are looked at together: long holes cost a comparison
_ZEROS: Final = struct.pack("<QII", 0, 0, _FILL) * _BLOCK
_HOLES: Final = struct.pack("<QII", 0, 0, PACKED_HOLE) * _BLOCK
_FLAGS: Final = bytes(
    PACKED_LOST if flags > 7
    else PACKED_HOLE if flags & _FILL == _FILL
    else PACKED_CODED if flags & 1
    else PACKED_PLAIN if flags & 2
    else 0  # verbatim, without a checksum; PATTERNFILL alone is to be ignored
    for flags in range(256)
)  # fmt: skip
_FILLS: Final = re.compile(b"[\5\7]+")
_STREAMS: Final = re.compile(b"[\1\3]+")
_UNKNOWN: Final = re.compile(b"[^\0]+")


@dataclass(frozen=True, slots=True)
class Table:
    """A sector table: ``count`` chunks from ``first`` on, entries at byte ``at`` of its segment."""

    segment: Segment
    first: int
    count: int
    at: int


def read_header(segment: Segment, section: Section) -> Table | None:
    """Return what a table holds; None, with a note: nobody knows.

    Source: chapter "Sector table header".
    """
    place = f"segment {segment.number}: sector table at {section.start}"
    if section.stop - section.start < _ENTRIES:
        segment.notes.append(f"{place} is cut short")
        return None
    raw = segment.reader.read(section.start, _HEADER.size)
    first, count, checksum = _HEADER.unpack(raw)
    if zlib.adler32(raw[:-4]) != checksum:
        segment.notes.append(f"{place}: checksum of the header")
        return None
    if _ENTRIES + 16 * count + 4 > section.stop - section.start:
        segment.notes.append(f"{place}: {count} entries in {section.stop - section.start} bytes")
        return None
    return Table(segment, first, count, section.start + _ENTRIES)


def rows(table: Table, taken: int, lost: list[tuple[int, int, str]]) -> Iterator[bytes]:
    """Return ``taken`` rows of a table in pieces; all are LOST when its checksum differs.

    ``lost`` takes the chunks [start, stop) that are lost, and why.
    """
    reader, number = table.segment.reader, table.segment.number
    try:
        small = table.count <= _SLICE
        kept = b""
        checksum = 1
        for at in range(0, table.count, _SLICE):
            kept = reader.read(table.at + 16 * at, 16 * min(_SLICE, table.count - at))
            checksum = zlib.adler32(kept, checksum)
        if checksum != int.from_bytes(reader.read(table.at + 16 * table.count, 4), "little"):
            why = f"segment {number}: sector table at {table.at - _ENTRIES}: checksum of the entries"
            lost.append((table.first, table.first + taken, why))
            yield from lost_rows(taken)
            return
        for at in range(0, taken, _SLICE):
            count = min(_SLICE, taken - at)
            raw = kept[: 16 * count] if small else reader.read(table.at + 16 * at, 16 * count)
            for start in range(0, len(raw), len(_ZEROS)):
                block = raw[start : start + len(_ZEROS)]
                yield _HOLES if block == _ZEROS else _rows(block, table.at + 16 * at + start)
    except EvidenceError as why:  # lost bytes below, when the container lies in another image
        lost.append((table.first, table.first + taken, str(why)))
        yield from lost_rows(taken)


def lost_rows(count: int) -> Iterator[bytes]:
    """Return rows of chunks that nobody has."""
    for at in range(0, count, _SLICE):
        yield LOST_ROW * min(_SLICE, count - at)


def _rows(raw: bytes, at: int) -> bytes:
    """Return entries as rows. ``at``: where they lie in the segment.

    A pattern is its own place: the first 8 bytes of the entry, which the codec repeats. Only zeros are holes.
    Real streams are longer; an entry that says otherwise is lost, or it would pass for a pattern.
    """
    flags = raw[12::16]
    table = bytearray(raw)
    table[12::16] = flags.translate(_FLAGS)
    for match in _STREAMS.finditer(flags):
        a, b = match.span()
        sizes = array("I", raw[16 * a : 16 * b])[2::4]
        if min(sizes) <= PATTERN:
            for index, size in enumerate(sizes, a):
                if size <= PATTERN:
                    table[PACKED_ROW * index : PACKED_ROW * (index + 1)] = LOST_ROW
    for match in _FILLS.finditer(flags):
        a, b = match.span()
        if array("Q", raw[16 * a : 16 * b])[::2].count(0) != b - a:
            words = array("Q", bytes(PACKED_ROW * (b - a)))
            words[::2] = array("Q", range(at + 16 * a, at + 16 * b, 16))
            words[1::2] = array("Q", [PATTERN | PACKED_CODED << 32]) * (b - a)
            table[PACKED_ROW * a : PACKED_ROW * b] = words.tobytes()
    for column in (13, 14, 15):  # flags nobody knows
        for match in _UNKNOWN.finditer(raw[column::16]):
            a, b = match.span()
            table[PACKED_ROW * a : PACKED_ROW * b] = LOST_ROW * (b - a)
    return bytes(table)
