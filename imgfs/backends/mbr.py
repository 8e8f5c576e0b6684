"""Master boot record with extended slots.

Source: UEFI Specification 2.10, section 5.2.1 (legacy MBR); Microsoft, "Master boot records and extended boot
records" (Windows 2000 Server Resource Kit, "Disk concepts"); slot numbers as Linux counts them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._content import boot_record, content_at
from imgfs.backends._mbr_types import EXTENDED, TYPES
from imgfs.errors import EvidenceError, NotMine
from imgfs.model import SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

_ENTRY: Final = struct.Struct("<B3xB3xII")  # status, type, first sector, sectors
_TABLE_AT: Final = 446
_MAX_LOGICAL: Final = 4096
_STATUS: Final = {0, 0x80}
_PROTECTIVE: Final = 0xEE


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One of the four entries of a boot record. Units: ``first`` and ``count`` sectors."""

    number: int
    status: int
    type: int
    first: int
    count: int


def open_mbr(reader: Reader, options: Options) -> VolumeTable:
    """Read the table of sector 0 and the chains of its extended slots.

    Raises:
        NotMine: the sector is the boot record of a file system, or no table at all.
    """
    if reader.size < 1024:
        raise NotMine("mbr: smaller than two sectors")
    boot = reader.read(0, 512)
    if boot[510:] != b"\x55\xaa":
        raise NotMine("mbr: no 55AA")
    slots = _entries(boot)
    used = [slot for slot in slots if slot.type and slot.count]
    sector = _sector(reader, used, options)
    notes = _judge(reader, boot, used, sector)
    notes += [
        f"slot {s.number}: {s.count} sectors from {s.first} of no type"
        for s in slots
        if s.count and not s.type
    ]
    (signature,) = struct.unpack_from("<I", boot, 440)
    volumes: list[Volume] = []
    chains: list[Volume] = []
    for slot in used:
        volume = _volume(slot, slot.number, 0, sector, signature)
        if slot.type in EXTENDED:
            chains.append(volume)
        else:
            volumes.append(volume)
    for container in chains:
        volumes += _logical(reader, container, sector, signature, volumes, notes)
    volumes += chains
    return VolumeTable(
        scheme="mbr",
        sector=sector,
        volumes=tuple(sorted(volumes, key=lambda volume: volume.slot)),
        uuid=f"{signature:08x}" if signature else "",
        notes=tuple(notes),
    )


def _entries(record: bytes) -> list[Slot]:
    rows = enumerate(_ENTRY.iter_unpack(record[_TABLE_AT:510]), 1)
    return [Slot(number=n, status=s, type=t, first=f, count=c) for n, (s, t, f, c) in rows]


def _sector(reader: Reader, used: list[Slot], options: Options) -> int:
    """Return the unit of the table: where more volumes fit and begin with something known.

    A table does not say its unit; 512 unless the content of the volumes speaks for another.
    """

    def speaks(unit: int) -> int:
        fitting = [s for s in used if (s.first + s.count) * unit <= reader.size]
        return sum(1 for s in fitting if content_at(reader, s.first * unit, boot=True))

    units = [unit for unit in options.sectors if unit >= 512]
    if len(units) < 2 or not used:
        return units[0] if units else 512
    return max(units, key=speaks)  # the first of equals


def _judge(reader: Reader, boot: bytes, used: list[Slot], sector: int) -> list[str]:
    """Return what is odd about a table, or raise NotMine when it is none."""
    size = boot_record(boot)
    if size and (not used or size > min(slot.first for slot in used) * sector):
        raise NotMine("mbr: the boot record of a file system")
    if not used:
        if title := content_at(reader):
            raise NotMine(f"mbr: the media holds {title}")
        return ["no slot is used"] if not any(boot[_TABLE_AT:510]) else _doubt(reader, boot)
    odd = [slot for slot in used if slot.status not in _STATUS]
    starts = [slot for slot in used if not slot.first and slot.type != _PROTECTIVE]
    outside = [slot for slot in used if slot.first * sector >= reader.size]
    ends = sorted((slot.first, slot.first + slot.count) for slot in used)
    crossed = any(after[0] < before[1] for before, after in pairwise(ends))
    if starts:
        raise NotMine(f"mbr: slot {starts[0].number} begins where the table lies")
    if len(outside) == len(used) and (odd or crossed):
        raise NotMine("mbr: no slot lies on the media")
    if odd and (crossed or outside or len(odd) == len(used)):
        raise NotMine(f"mbr: slot {odd[0].number} has status {odd[0].status:#04x}")
    if (odd or (crossed and outside)) and (title := content_at(reader)):
        raise NotMine(f"mbr: the media holds {title}")
    notes = [f"slot {slot.number}: status {slot.status:#04x}" for slot in odd]
    if crossed:
        notes.append("slots overlap")
    protective = any(slot.type == _PROTECTIVE for slot in used)
    if _holds(reader, sector, b"EFI PART"):
        notes.append(
            "the GUID partition table it protects cannot be read"
            if protective
            else "a GUID partition table is on the media too, which this table does not mention"
        )
    return notes


def _doubt(reader: Reader, boot: bytes) -> list[str]:
    """Accept a table whose entries hold something but describe nothing: slots were cleared in part."""
    if all(boot[at] in _STATUS for at in range(_TABLE_AT, 510, 16)):
        return ["no slot is used"]
    raise NotMine(f"mbr: no table in the first sector of {reader.size} bytes")


def _holds(reader: Reader, at: int, magic: bytes) -> bool:
    try:
        return reader.read(at, len(magic)) == magic
    except EvidenceError:
        return False


def _volume(slot: Slot, number: int, base: int, sector: int, signature: int) -> Volume:
    start = base + slot.first * sector
    extended = slot.type in EXTENDED
    return Volume(
        slot=number,
        kind=SlotKind.METADATA if extended else SlotKind.ALLOCATED,
        start=start,
        stop=start + slot.count * sector,
        type_id=f"{slot.type:02x}",
        type_name=TYPES.get(slot.type, ""),
        unique_id=f"{signature:08x}-{number:02x}" if signature else "",
        flags=slot.status,
    )


def _logical(
    reader: Reader,
    container: Volume,
    sector: int,
    signature: int,
    before: list[Volume],
    notes: list[str],
) -> list[Volume]:
    """Follow the chain of one extended slot.

    Volumes are relative to their own record, links to the container (at most 4096 records, none twice).
    """
    number = max([4, *(volume.slot for volume in before)]) + 1
    volumes: list[Volume] = []
    at, seen = container.start, set[int]()
    while True:
        if at in seen or len(seen) >= _MAX_LOGICAL:
            notes.append(
                f"chain of slot {container.slot}: record at {at} "
                + ("again" if at in seen else "is one too many")
            )
            return volumes
        seen.add(at)
        try:
            record = reader.read(at, 512)
        except EvidenceError as why:
            notes.append(f"chain of slot {container.slot}: {why}")
            return volumes
        if record[510:] != b"\x55\xaa":
            notes.append(f"chain of slot {container.slot}: no 55AA in the record at {at}")
            return volumes
        slots = _entries(record)
        link = next((s for s in slots if s.type in EXTENDED and s.count), None)
        for slot in slots:
            if not slot.type or not slot.count or slot.type in EXTENDED or number - 5 >= _MAX_LOGICAL:
                continue
            volume = _volume(slot, number, at, sector, signature)
            inside = container.start <= volume.start and volume.stop <= container.stop
            if slot.number > 2 and not inside:
                continue  # the last two entries of a record are unused, and often not cleared
            if not inside:
                notes.append(f"slot {number}: leaves the extended slot {container.slot}")
            volumes.append(volume)
            number += 1
        if link is None:
            return volumes
        at = container.start + link.first * sector


BACKEND = Backend(
    name="mbr",
    title="Master boot record",
    role=Role.VOLUMES,
    rank=40,  # the last table: every disk of another scheme may carry one for protection
    signatures=(Signature(510, b"\x55\xaa"),),
    open=open_mbr,
    supports="primary and logical volumes, 512 and 4096 byte sectors; file systems are refused",
    truth=("peer", "tsk", "corpus"),
)
