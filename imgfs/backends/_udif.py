"""What describes a UDIF image: the trailer, and the tables of chunks in a property list or resource fork.

Source: libmodi, "Mac OS disk image types", UDIF resource file, XML plist, block table; Inside Macintosh:
More Macintosh Toolbox, "Resource File Format", for the fork of images without a property list.
"""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.errors import EvidenceError, Malformed, NotMine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

KOLY: Final = b"koly"
TRAILER: Final = 512
SECTOR: Final = 512
_TRAILER: Final = struct.Struct(">4sIII5QII16sII128sQQ120xII128sIQ12x")
_MISH: Final = struct.Struct(">4sIQQQII24xII128sI")  # 204 bytes, then the entries
ENTRY: Final = 40
# Base64 of two million entries: a disk of 500 GiB in chunks of 256 KiB, within a worker's memory.
_PLIST_MAX: Final = 96 * limits.MIB
_FORK_MAX: Final = 80 * limits.MIB
_RESOURCES: Final = 65_536
_SUMS: Final = {2: "crc32", 4: "md5"}


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum as stored: ``name`` crc32 or md5, empty for others; ``value`` in hex."""

    name: str
    value: str

    @classmethod
    def of(cls, kind: int, bits: int, raw: bytes) -> Checksum:
        """Take type, size in bits, and the space for the value."""
        name = _SUMS.get(kind, "")
        held = {"crc32": 32, "md5": 128}.get(name, 0)
        # Some writers say 32 bytes, or 4, where a CRC of 32 bits is meant; the type says enough.
        return cls(name if bits else "", raw[: held // 8].hex())


@dataclass(frozen=True, slots=True, kw_only=True)
class Trailer:
    """The 512 bytes that end every segment. Units: bytes, but for ``sectors``; positions in the segment.

    ``running`` is where the data fork of this segment starts in the data fork of all.
    """

    version: int
    running: int
    data_at: int
    data_length: int
    resource_at: int
    resource_length: int
    segment: int
    segments: int
    segment_id: bytes
    data_sum: Checksum
    xml_at: int
    xml_length: int
    master_sum: Checksum
    variant: int
    sectors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The chunks of one part of the media. Units: sectors of the media; ``data_at`` bytes of the data fork.

    ``count`` is how many entries it says it has, ``entries`` those it holds, of 40 bytes each.
    """

    name: str
    start: int
    sectors: int
    data_at: int
    checksum: Checksum
    count: int
    entries: bytes


def trailer(reader: Reader) -> Trailer:
    """Read the trailer at the end of a segment, or at the start of one that was written without rewinding.

    Raises:
        NotMine: there is none.
        Malformed: it is no trailer of 512 bytes.
    """
    for at in (reader.size - TRAILER, 0):
        if at < 0 or reader.size < TRAILER:
            continue
        raw = reader.read(at, TRAILER)
        if raw[:4] == KOLY:
            return _trailer(raw)
    raise NotMine("UDIF")


def _trailer(raw: bytes) -> Trailer:
    fields = _TRAILER.unpack(raw)
    _, version, size, _flags, running, data_at, data_length, resource_at, resource_length = fields[:9]
    segment, segments, segment_id, *data_sum = fields[9:15]
    xml_at, xml_length, *master_sum = fields[15:20]
    variant, sectors = fields[20:]
    if size != TRAILER:
        raise Malformed(f"a trailer of version {version} of {size} bytes")
    return Trailer(
        version=version,
        running=running,
        data_at=data_at,
        data_length=data_length,
        resource_at=resource_at,
        resource_length=resource_length,
        segment=segment,
        segments=segments,
        segment_id=segment_id,
        data_sum=Checksum.of(*data_sum),
        xml_at=xml_at,
        xml_length=xml_length,
        master_sum=Checksum.of(*master_sum),
        variant=variant,
        sectors=sectors,
    )


def tables(reader: Reader, end: Trailer, notes: list[str]) -> list[Table]:
    """Return the tables of a segment, in the order they are listed; none: it has none.

    What is damaged is said in ``notes``, and costs its table at most.
    """
    found: list[tuple[str, bytes]] = []
    if end.xml_length:
        try:
            found = _of_plist(_whole(reader, end.xml_at, end.xml_length, _PLIST_MAX), notes)
        except EvidenceError as why:
            notes.append(f"the property list cannot be read: {why.message}")
    if not found and end.resource_length:
        try:
            fork = _whole(reader, end.resource_at, end.resource_length, _FORK_MAX)
            found = list(_of_fork(fork))
        except EvidenceError as why:
            notes.append(f"the resource fork cannot be read: {why.message}")
    good = []
    for number, (name, raw) in enumerate(found):
        try:
            good.append(_table(name, raw))
        except Malformed as why:
            notes.append(f"table {number}: {why.message}")
    return good


def _whole(reader: Reader, at: int, length: int, most: int) -> bytes:
    if length > most:
        raise Malformed(f"{length} bytes; at most {most} are read")
    step = limits.SOURCE_READ_MAX
    stop = min(at + length, reader.size)
    if at >= stop:
        raise Malformed(f"it starts at {at} of {reader.size}")
    return b"".join(reader.read(begin, min(step, stop - begin)) for begin in range(at, stop, step))


def _of_plist(raw: bytes, notes: list[str]) -> list[tuple[str, bytes]]:
    """Return names and contents of the tables; where the list does not parse, those its text still holds."""
    import plistlib
    from xml.parsers.expat import ExpatError

    # Without a declaration the text is UTF-8: no other codec is looked for.
    text = re.sub(rb"\A\s*<\?xml[^>]{0,200}\?>", b"", raw)
    try:
        rows = plistlib.loads(text, fmt=plistlib.FMT_XML)["resource-fork"]["blkx"]
        return [(str(row.get("Name") or row.get("CFName") or ""), bytes(row["Data"])) for row in rows]
    except (ExpatError, ValueError, TypeError, LookupError, OverflowError, AttributeError) as why:
        notes.append(f"the property list is damaged ({why}): tables are taken from its text, without names")
    found = []
    for match in re.finditer(rb"<data>([A-Za-z0-9+/=\s]+)", raw):
        text = b"".join(match[1].split())
        try:
            table = base64.b64decode(text[: len(text) // 4 * 4])
        except ValueError:  # an equals sign that the damage put there
            continue
        if table[:4] == b"mish":
            found.append(("", table))
    return found


def _of_fork(fork: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the resources of type blkx.

    Raises:
        Malformed: the map contradicts itself.
    """
    try:
        data_at, map_at, _, _ = struct.unpack_from(">4I", fork)
        types_at, names_at = (map_at + one for one in struct.unpack_from(">HH", fork, map_at + 24))
        (count,) = struct.unpack_from(">H", fork, types_at)
        for number in range(count + 1 & 0xFFFF):
            kind, last, references = struct.unpack_from(">4sHH", fork, types_at + 2 + 8 * number)
            if kind != b"blkx":
                continue
            for index in range(min(last + 1, _RESOURCES)):
                _, name_at, where = struct.unpack_from(">hhI", fork, types_at + references + 12 * index)
                at = data_at + (where & 0xFF_FFFF)
                (length,) = struct.unpack_from(">I", fork, at)
                name = b""
                if name_at >= 0:
                    start = names_at + name_at
                    name = fork[start + 1 : start + 1 + fork[start]]
                yield name.decode("mac-roman"), fork[at + 4 : at + 4 + length]
    except (struct.error, IndexError):
        raise Malformed("the map of resources leaves the fork") from None


def _table(name: str, raw: bytes) -> Table:
    if len(raw) < _MISH.size:
        raise Malformed(f"{len(raw)} bytes")
    magic, version, start, sectors, data_at, _, _, kind, bits, value, count = _MISH.unpack_from(raw)
    if magic != b"mish":
        raise Malformed("it has no signature")
    if version != 1:
        raise Malformed(f"version {version}")
    if max(start, sectors) > limits.MAX_SIZE // SECTOR or start + sectors > limits.MAX_SIZE // SECTOR:
        raise Malformed(f"sectors [{start}, {start + sectors})")
    held = min(count, (len(raw) - _MISH.size) // ENTRY)
    return Table(
        name=name[:200],
        start=start,
        sectors=sectors,
        data_at=data_at,
        checksum=Checksum.of(kind, bits, value),
        count=count,
        entries=raw[_MISH.size : _MISH.size + held * ENTRY],
    )
