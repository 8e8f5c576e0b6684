"""What lies at the start of an LVM2 physical volume: its label, its areas, and the metadata text in them.

Nothing here knows what the text says. Every structure has a checksum; what fails it is said, and the next
copy is tried.

Source: libvslvm, "LVM format specification" (Joachim Metz): label header, PV header, metadata area header,
raw location descriptors; lvm2's man pages pvcreate(8) (labels in one of four sectors, copies of the metadata)
and vgcfgrestore(8).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.errors import EvidenceError, Malformed, NotMine

if TYPE_CHECKING:
    from imgfs.backends import Reader

LABEL: Final = b"LABELONE"
SECTOR: Final = 512  # the unit of labels and of the text, whatever the disk's sectors are
LABEL_SECTORS: Final = 4
TEXT_MAX: Final = 16 * limits.MIB  # a group of 10,000 logical volumes has about 6

_HEADER: Final = struct.Struct("<8sQII8s")
_AREA: Final = struct.Struct("<QQ")
_AREA_HEADER: Final = struct.Struct("<I16sIQQ")  # of 512 bytes
_LOCATION: Final = struct.Struct("<QQII")
_TYPE: Final = b"LVM2 001"
_MAGIC: Final = b" LVM2 x[5A%r0N*>"
_AREAS: Final = 16  # of one kind; the tools make at most two
_IGNORED: Final = 1
_SEED: Final = 0xF597_A6CF


def checksum(data: bytes, seed: int = _SEED) -> int:
    """Return the CRC-32 that LVM2 stores: seeded, and not inverted."""
    return zlib.crc32(data, seed ^ 0xFFFF_FFFF) ^ 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Text:
    """One intact copy of the metadata text, and the place [start, stop) of its area."""

    data: bytes
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One physical volume as its own bytes describe it.

    ``text`` is its newest intact copy; None: it holds none. ``empty``: its areas are intact and say that it
    belongs to no group. ``uuid`` has no dashes.

    Units: ``size`` bytes of the physical volume as it was made.
    """

    uuid: str
    size: int
    texts: tuple[Text, ...] = ()
    empty: bool = False
    notes: tuple[str, ...] = ()


def read_member(reader: Reader) -> Member:
    """Read the first intact label.

    Raises:
        NotMine: none of the first sectors has one.
        Malformed: a label is there, and damaged.
    """
    damage: Malformed | None = None
    for number in range(LABEL_SECTORS):
        at = number * SECTOR
        if at + SECTOR > reader.size:
            break
        try:
            raw = reader.read(at, SECTOR)
        except EvidenceError as why:
            damage = damage or Malformed(f"label: {why.message}", start=at, stop=at + SECTOR)
            continue
        if not raw.startswith(LABEL):
            continue
        try:
            return _member(reader, raw, number)
        except Malformed as why:
            damage = damage or why
    if damage is not None:
        raise damage
    raise NotMine("lvm2")


def _member(reader: Reader, raw: bytes, number: int) -> Member:
    at = number * SECTOR
    _, sector, crc, offset, kind = _HEADER.unpack_from(raw)
    if kind != _TYPE:
        raise Malformed(f"label of type {kind!r}", start=at, stop=at + SECTOR)
    if checksum(raw[20:]) != crc:
        raise Malformed("label checksum", start=at, stop=at + SECTOR)
    if sector != number or not _HEADER.size <= offset <= SECTOR - 40:
        raise Malformed(f"label of sector {sector}, header at {offset}", start=at, stop=at + SECTOR)
    uuid, size = struct.unpack_from("<32sQ", raw, offset)
    if not uuid.isalnum() or not uuid.isascii():
        raise Malformed("identifier of the physical volume", start=at, stop=at + SECTOR)
    end = offset + 40
    data, end = _list(raw, end, at)
    areas, end = _list(raw, end, at)
    notes: list[str] = []
    if len(data) != 1:
        notes.append(f"{len(data)} data areas")
    texts: list[Text] = []
    empty = 0
    for start, length in areas:
        try:
            found = _area(reader, start, length)
        except EvidenceError as why:
            notes.append(f"metadata area at {start}: {why}")
            continue
        if found is None:
            empty += 1
        else:
            texts.append(found)
    return Member(
        uuid=uuid.decode(),
        size=size,
        texts=tuple(texts),
        empty=bool(areas) and empty == len(areas),
        notes=tuple(notes),
    )


def _list(raw: bytes, at: int, base: int) -> tuple[list[tuple[int, int]], int]:
    """Return the areas of a list that ends with zeros, and where it ends."""
    found: list[tuple[int, int]] = []
    while at + _AREA.size <= len(raw):
        start, length = _AREA.unpack_from(raw, at)
        at += _AREA.size
        if not start:
            return found, at
        found.append((start, length))
        if len(found) > _AREAS:
            break
    raise Malformed("a list of areas without an end", start=base, stop=base + SECTOR)


def _area(reader: Reader, start: int, length: int) -> Text | None:
    """Return the committed text of a metadata area; None: there is none, and that is no damage.

    The text lies in a ring behind the header, and may continue at its start.

    Raises:
        Malformed: header or text fail their checksum, or lie elsewhere.
    """
    raw = reader.read(start, SECTOR)
    crc, magic, version, own, size = _AREA_HEADER.unpack_from(raw)
    if checksum(raw[4:]) != crc:
        raise Malformed("header checksum", start=start, stop=start + SECTOR)
    if magic != _MAGIC or version != 1 or own != start or size != length or size <= SECTOR:
        raise Malformed("header of another area", start=start, stop=start + SECTOR)
    offset, count, crc, flags = _LOCATION.unpack_from(raw, _AREA_HEADER.size)
    if not offset or not count:
        if flags & _IGNORED:
            raise Malformed("the area is kept unused", start=start, stop=start + SECTOR)
        return None
    if not SECTOR <= offset < size or count > min(size - SECTOR, TEXT_MAX):
        raise Malformed(f"text of {count} bytes at {offset}", start=start, stop=start + size)
    first = min(count, size - offset)
    data = reader.read(start + offset, first)
    if first < count:
        data += reader.read(start + SECTOR, count - first)
    if checksum(data) != crc:
        raise Malformed("text checksum", start=start, stop=start + size)
    return Text(data, start, start + size)
