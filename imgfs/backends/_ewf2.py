"""Sections of an EWF2 segment file: descriptors from the end backwards, words, digests, errors.

Source: Expert Witness Compression Format version 2 (EWF2) specification, Joachim Metz, version 0.0.9,
chapters "Segment files", "The sections", "Serialized file object data". All numbers are little-endian;
checksums are Adler-32.
"""

from __future__ import annotations

import bz2
import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

MAGIC: Final = b"EVF2\r\n\x81\0"
MAGIC_LOGICAL: Final = b"LEF2\r\n\x81\0"
HEADER: Final = struct.Struct("<8sBBHI16s")
_DESCRIPTOR: Final = struct.Struct("<IIQQII16s12xI")
_MAX_SECTIONS: Final = 1_000_000
_MAX_TEXT: Final = 4 << 20
_MAX_ERRORS_SHOWN: Final = 100
_HASHED: Final = 1
_ENCRYPTED: Final = 2
_SEARCHED: Final = 256 << 20  # bytes of a segment that are searched for its last whole section
_STEP: Final = 1 << 20
# What never changes in a descriptor: its size, and twelve reserved bytes before the checksum.
_LOOKS: Final = re.compile(rb"\x40\0\0\0.{20}\0{12}", re.DOTALL)
_WORDS: Final = {
    "nm": "description",
    "cn": "case_number",
    "en": "evidence_number",
    "ex": "examiner",
    "nt": "notes",
    "av": "software_version",
    "os": "platform",
    "tt": "acquired",
    "at": "system_date",
    "sn": "serial_number",
    "md": "model",
    "lb": "device_label",
    "pid": "process_identifier",
    "hs": "hpa_sectors",
    "dc": "dco_sectors",
}


class Kind(IntEnum):
    """Types of sections that are read here."""

    DEVICE = 1
    CASE = 2
    SECTORS = 3
    TABLE = 4
    ERRORS = 5
    MD5 = 8
    SHA1 = 9
    KEYS = 0xB
    NEXT = 0xD
    DONE = 0xF
    FILES = 0x20


@dataclass(frozen=True, slots=True)
class Section:
    """One section. Units: data lies in bytes [start, stop) of its segment, ``filling`` included.

    ``md5`` of it, empty: none is stored.
    """

    kind: int
    flags: int
    start: int
    stop: int
    filling: int = 0
    md5: bytes = b""


@dataclass(slots=True)
class Segment:
    """What one segment file holds, without its tables. ``device`` and ``case`` are by their tags."""

    reader: Reader
    ticket: int
    number: int
    method: int
    set_id: bytes
    logical: bool
    sections: list[Section] = field(default_factory=list)  # in the order of the file
    device: dict[str, str] = field(default_factory=dict)
    case: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    done: bool = False  # the last of its set
    complete: bool = False  # its last section says that it is the last

    @property
    def metadata(self) -> dict[str, str]:
        """Return what the examiner wrote and the device said of itself."""
        told = self.device | self.case
        words = {name: told[tag] for tag, name in _WORDS.items() if told.get(tag)}
        return words | {name: _date(words[name]) for name in ("acquired", "system_date") if name in words}


def read_segment(reader: Reader, ticket: int) -> Segment:
    """Read all sections of a segment file but chunks and tables.

    Raises:
        NotMine: no EWF2 signature.
        NotSupported: it is encrypted, of another version, or of an unknown compression.
    """
    if reader.size < HEADER.size:
        raise NotMine("ewf2")
    magic, major, minor, method, number, set_id = HEADER.unpack(reader.read(0, HEADER.size))
    if magic not in (MAGIC, MAGIC_LOGICAL):
        raise NotMine("ewf2")
    if major != 2 or method > 2:
        raise NotSupported(f"EWF2 version {major}.{minor}, compression {method}: known are 2.1, and 0 to 2")
    segment = Segment(reader, ticket, number, method, set_id, magic == MAGIC_LOGICAL)
    segment.sections = [*_sections(reader, segment)][::-1]
    if any(s.kind == Kind.KEYS or s.flags & _ENCRYPTED for s in segment.sections):
        raise NotSupported(
            "EWF2 encrypted: how EnCase derives its keys is not public; decrypt it with EnCase first"
        )
    for section in segment.sections:
        match section.kind:
            case Kind.DEVICE:
                segment.device |= words(objects(segment, section))
            case Kind.CASE:
                segment.case |= words(objects(segment, section))
            case Kind.MD5 | Kind.SHA1:
                segment.digests |= _digest(reader, section)
            case Kind.ERRORS:
                segment.notes += _errors(reader, section)
            case Kind.NEXT | Kind.DONE:
                segment.complete = True
                segment.done = segment.done or section.kind == Kind.DONE
    return segment


def _sections(reader: Reader, segment: Segment) -> Iterator[Section]:
    """Return sections from the last to the first; positions descend, so it ends.

    A descriptor lies behind its data. Where one is missing or damaged, the last good one before it is looked
    for: every 16 bytes, and only one whose data fills the space back to the section before it, so that an
    image inside the image is not taken for a part of it.

    Source: chapter "Section descriptor".
    """
    at, left = reader.size - _DESCRIPTOR.size, _SEARCHED
    for _ in range(_MAX_SECTIONS):
        if at < HEADER.size:
            return
        section = _section(reader, at, exact=False)
        if section is None:
            damaged, (at, left) = at + _DESCRIPTOR.size, _search(reader, at, left)
            place = f"segment {segment.number}"
            if at < 0:
                segment.notes.append(f"{place}: no section descriptor before {damaged}")
                return
            segment.notes.append(f"{place}: no section descriptor in [{at + _DESCRIPTOR.size}, {damaged})")
            continue
        yield section[0]
        if not section[1]:
            return
        at = section[1]
    segment.notes.append(f"segment {segment.number}: more than {_MAX_SECTIONS} sections")


def _section(reader: Reader, at: int, *, exact: bool) -> tuple[Section, int] | None:
    """Return the section whose descriptor lies at ``at``, and where the one before has its own (0: none)."""
    raw = reader.read(at, _DESCRIPTOR.size)
    kind, flags, before, size, length, filling, md5, checksum = _DESCRIPTOR.unpack(raw)
    if zlib.adler32(raw[:-4]) != checksum or length != _DESCRIPTOR.size:
        return None
    first = before + _DESCRIPTOR.size if before else HEADER.size
    start = at - size
    if start < first or (exact and start != first):
        return None
    # What an aborted acquisition left may lie between the two; the data comes first.
    md5 = md5 if flags & _HASHED else b""
    return Section(kind, flags, first, first + size, min(filling, size), md5), before


def _search(reader: Reader, stop: int, left: int) -> tuple[int, int]:
    """Return where the last good descriptor before ``stop`` lies, -1: nowhere; and what is left to search."""
    while stop > HEADER.size and left > 0:
        start = max(HEADER.size, stop - _STEP)
        raw = reader.read(start, min(stop + _DESCRIPTOR.size, reader.size) - start)
        for match in reversed([m.start() - 24 for m in _LOOKS.finditer(raw)]):
            at = start + match
            if (
                match < 0
                or at >= stop
                or at % 16
                or zlib.adler32(raw[match : match + 60])
                != int.from_bytes(raw[match + 60 : match + 64], "little")
            ):
                continue
            if _section(reader, at, exact=True) is not None:
                return at, left
        left -= stop - start
        stop = start
    return -1, left


def objects(segment: Segment, section: Section, most: int = _MAX_TEXT) -> str:
    """Return the text of a section: compressed as the file header says; empty if it does not decode.

    Source: chapter "Serialized file object data": UTF-16 with a byte-order mark.
    """
    if section.stop - section.start > most:
        segment.notes.append(f"segment {segment.number}: a text of {section.stop - section.start} bytes")
        return ""
    try:
        raw = segment.reader.read(section.start, section.stop - section.start)
        if segment.method:
            stream = zlib.decompressobj() if segment.method == 1 else bz2.BZ2Decompressor()
            raw = stream.decompress(raw, most)
            if not stream.eof:
                segment.notes.append(f"segment {segment.number}: text of section {section.kind} is cut short")
    except (zlib.error, OSError, EOFError, EvidenceError) as why:
        segment.notes.append(f"segment {segment.number}: text of section {section.kind}: {why}")
        return ""
    raw = raw[: len(raw) & ~1]
    try:
        return raw.decode("utf-16", "surrogatepass")
    except UnicodeDecodeError:
        return raw.decode("utf-16", "replace")


_PLAIN: Final = str.maketrans("\1\2\3", "\n\r\t")


def unescaped(value: str) -> str:
    """Return a value with the characters back that delimit values."""
    return value.translate(_PLAIN)


def words(text: str) -> dict[str, str]:
    """Return the values of the object ``main`` by their tags."""
    lines = text.split("\n")
    for index, line in enumerate(lines[:-2]):
        if line.strip() == "main":
            names, values = lines[index + 1].split("\t"), lines[index + 2].split("\t")
            return {n: unescaped(v) for n, v in zip(names, values, strict=False) if n and v}
    return {}


def _date(value: str) -> str:
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(int(value), UTC).isoformat()
    return value


def _digest(reader: Reader, section: Section) -> dict[str, str]:
    """Return a stored digest of the media; nothing if the section is damaged.

    Source: chapters "MD5 hash", "SHA1 hash".
    """
    name, length = ("md5", 16) if section.kind == Kind.MD5 else ("sha1", 20)
    if section.stop - section.start < length + 4:
        return {}
    raw = reader.read(section.start, length + 4)
    if zlib.adler32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        return {}
    return {name: raw[:-4].hex()} if any(raw[:-4]) else {}


def _errors(reader: Reader, section: Section) -> list[str]:
    """Return sectors that could not be read at acquisition: the image holds zeros for them.

    Source: chapter "Error table".
    """
    if section.stop - section.start < 32:
        return []
    header = reader.read(section.start, 20)
    if zlib.adler32(header[:-4]) != int.from_bytes(header[-4:], "little"):
        return ["the error table is damaged"]
    count = min(int.from_bytes(header[:4], "little"), (section.stop - section.start - 32) // 16)
    shown = min(count, _MAX_ERRORS_SHOWN)
    ranges = struct.iter_unpack("<QI4x", reader.read(section.start + 32, 16 * shown))
    notes = [f"not readable at acquisition: {length} sectors from {first}" for first, length in ranges]
    if count > shown:
        notes.append(f"and {count - shown} more ranges that were not readable at acquisition")
    return notes


def number(told: dict[str, str], tag: str) -> int:
    """Return a decimal value, 0: not there.

    Raises:
        Malformed: it is none, or out of all proportion.
    """
    value = told.get(tag, "").strip() or "0"
    if not value.isascii() or not value.isdigit() or len(value) > 20:
        raise Malformed(f"{tag} is {value[:40]!r}")
    return int(value)
