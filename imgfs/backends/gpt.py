"""GUID partition table.

Source: UEFI Specification 2.10, sections 5.2.3 (protective MBR), 5.3.2 (header), 5.3.3 (entries). LBA
numbers are inclusive there; here all ranges are half-open and in bytes.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._content import boot_record, content_at
from imgfs.backends._gpt_types import TYPES
from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.model import SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

_MAGIC: Final = b"EFI PART"
_HEADER: Final = struct.Struct("<8sIIII4Q16sQ3I")  # 92 bytes
_ENTRY: Final = struct.Struct("<16s16s3Q72s")  # 128 bytes
_MAX_ENTRIES: Final = 16_384  # the specification asks for at least 128; 2 MiB of table bound the work
_MAX_STEP: Final = 4096  # 128 * 2^n
_MAX_STOP: Final = 1 << 63
_NOTES: Final = 20  # what is wrong with single slots; the rest is counted
_PROTECTIVE: Final = 0xEE


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A header whose checksum is right. Units: ``at``, ``other``, ``table`` bytes of the media."""

    at: int
    other: int
    disk: str
    table: int
    count: int
    step: int
    crc: int


def open_gpt(reader: Reader, options: Options) -> VolumeTable:
    """Read the primary table, else the backup.

    Raises:
        NotMine: no header, or the table is a remnant: something else owns the first sectors.
        Malformed: a header is there but both copies are damaged.
    """
    damage: list[str] = []
    for sector in options.sectors:
        places = [sector]
        other = _claimed_backup(reader, sector)
        places += [at for at in (other, reader.size - sector) if at > sector]
        for at in dict.fromkeys(places):
            try:
                header = _read_header(reader, sector, at)
                table = _read_entries(reader, header)
            except NotMine:
                continue
            except EvidenceError as why:
                damage.append(f"table at {at}: {why}")
                continue
            _refuse_remnant(reader, primary=other >= 0)
            damage += (
                _compare_backup(reader, sector, header) if at == sector else [f"read from the copy at {at}"]
            )
            if at != sector and other < 0:
                damage.insert(0, f"table at {sector}: no header")
            return _volumes(header, table, sector, damage)
    if not damage:
        raise NotMine("gpt")
    _refuse_remnant(reader, primary=any(_claimed_backup(reader, sector) >= 0 for sector in options.sectors))
    raise Malformed("; ".join(damage))


def _claimed_backup(reader: Reader, sector: int) -> int:
    """Return where the primary header, damaged or not, says its copy lies; -1: there is no header."""
    try:
        raw = reader.read(sector, _HEADER.size)
    except EvidenceError:
        return -1
    if not raw.startswith(_MAGIC):
        return -1
    (other,) = struct.unpack_from("<Q", raw, 32)
    return other * sector if other * sector <= reader.size - sector else 0


def _read_header(reader: Reader, sector: int, at: int) -> Header:
    if at < sector or at + sector > reader.size:
        raise NotMine("gpt")
    raw = reader.read(at, _HEADER.size)
    magic, _, length, crc, _, this, other, _, _, disk, entries, count, step, entries_crc = _HEADER.unpack(raw)
    if magic != _MAGIC:
        raise NotMine("gpt")
    if not _HEADER.size <= length <= sector:
        raise Malformed(f"header of {length} bytes", start=at, stop=at + sector)
    raw = reader.read(at, length)
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:]) != crc:
        raise Malformed("header checksum", start=at, stop=at + length)
    if this * sector != at:
        raise Malformed(f"header says it lies at {this * sector}", start=at, stop=at + length)
    if not 0 < count <= _MAX_ENTRIES or not _ENTRY.size <= step <= _MAX_STEP or step % 128:
        raise Malformed(f"{count} entries of {step} bytes", start=at, stop=at + length)
    return Header(
        at=at,
        other=other * sector,
        disk=str(UUID(bytes_le=disk)),
        table=entries * sector,
        count=count,
        step=step,
        crc=entries_crc,
    )


def _read_entries(reader: Reader, header: Header) -> bytes:
    table = reader.read(header.table, header.count * header.step)
    if zlib.crc32(table) != header.crc:
        raise Malformed("entry checksum", start=header.table, stop=header.table + len(table))
    return table


def _refuse_remnant(reader: Reader, *, primary: bool) -> None:
    """Raise NotMine when the media was given to something else after this table was written.

    A table is in use when sector 0 says so (0xEE), also in part (a hybrid). Where sector 0 says nothing
    it may be damaged; then a file system that begins on the media tells that the table is old.
    """
    try:
        boot = reader.read(0, 512)
    except EvidenceError:
        return
    types = {boot[at + 4] for at in range(446, 510, 16)}
    signed = boot[510:512] == b"\x55\xaa"
    if signed and _PROTECTIVE in types:
        return
    if signed and boot_record(boot):
        raise NotMine("gpt: the media begins with a boot record, the table is a remnant")
    flags = {boot[at] for at in range(446, 510, 16)}
    if signed and types != {0} and flags <= {0, 0x80}:
        raise NotMine("gpt: the MBR divides the media, the GUID table is a remnant")
    if not primary and content_at(reader):
        raise NotMine(f"gpt: the media holds {content_at(reader)}, the copy at its end is a remnant")


def _compare_backup(reader: Reader, sector: int, primary: Header) -> list[str]:
    """Say how the copy differs: a truncated or enlarged media, or somebody changed one of the two."""
    notes = []
    if primary.other != reader.size - sector:
        notes.append(f"the copy should lie at {primary.other}, the media ends at {reader.size}")
    try:
        copy = _read_header(reader, sector, primary.other)
        _read_entries(reader, copy)
    except NotMine:
        return [*notes, f"no copy of the table at {primary.other}"]
    except EvidenceError as why:
        return [*notes, f"copy of the table: {why}"]
    if (copy.crc, copy.disk) != (primary.crc, primary.disk):
        notes.append("the two copies of the table differ; the primary is shown")
    return notes


def _volumes(header: Header, table: bytes, sector: int, notes: list[str]) -> VolumeTable:
    volumes = []
    wrong = []
    for slot in range(header.count):
        kind, unique, first, last, flags, label = _ENTRY.unpack_from(table, slot * header.step)
        if kind == bytes(16):
            continue
        start, stop = first * sector, (last + 1) * sector
        if not 0 < start < stop < _MAX_STOP:
            wrong.append(f"slot {slot + 1}: sectors {first} to {last}")
            continue
        type_id = str(UUID(bytes_le=kind))
        volumes.append(
            Volume(
                slot=slot + 1,  # slots are counted from 1 by everybody but the table
                kind=SlotKind.ALLOCATED,
                start=start,
                stop=stop,
                type_id=type_id,
                type_name=TYPES.get(type_id, ""),
                unique_id=str(UUID(bytes_le=unique)),
                label=label.decode("utf-16-le", "replace").split("\0")[0],
                flags=flags,
            )
        )
    more = [f"{len(wrong) - _NOTES} more slots like these"] if len(wrong) > _NOTES else []
    return VolumeTable(
        scheme="gpt",
        sector=sector,
        volumes=tuple(volumes),
        uuid=header.disk,
        notes=(*notes, *wrong[:_NOTES], *more),
    )


BACKEND = Backend(
    name="gpt",
    title="GUID partition table",
    role=Role.VOLUMES,
    rank=20,  # before mbr: a protective MBR is part of a GPT disk
    signatures=tuple(Signature(at, _MAGIC) for at in (512, 4096, -512, -4096)),
    open=open_gpt,
    supports="both copies, checksums, 512 and 4096 byte sectors, up to 16,384 slots; remnants are refused",
    truth=("peer", "tsk", "corpus"),
)
