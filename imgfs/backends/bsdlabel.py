"""BSD disklabel.

Source: FreeBSD disklabel(5), NetBSD disklabel(5), OpenBSD disklabel(5): the label, its checksum, and where
each machine keeps it; OpenBSD's version 1 adds high halves to 48 bits.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import reduce
from operator import xor
from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.errors import Malformed, NotMine
from imgfs.model import SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

_MAGIC: Final = 0x82564557
_PLACES: Final = (512, 0, 64, 128, 1024, 4096)  # sector 1 of a PC; others inside or behind the boot block
_HEAD: Final = 148
_ENTRY_SIZE: Final = 16
_MAX_SLOTS: Final = 22  # the most a label of one sector holds; systems use 8, 16 or 22
_WHOLE: Final = (2, 3)  # c: the slot or the disk; d: the disk, where c is the slot
_TYPES: Final = {
    0: "Unused",
    1: "BSD swap",
    2: "Version 6",
    3: "Version 7",
    4: "System V",
    5: "4.1BSD",
    6: "Eighth Edition",
    7: "4.2BSD",
    8: "MS-DOS",
    9: "4.4LFS",
    10: "Other",
    11: "HPFS",
    12: "ISO 9660",
    13: "Boot",
    14: "AdvFS, vinum",
    15: "Mac HFS",
    16: "Filecore",
    17: "ext2",
    18: "NTFS",
    19: "RAIDframe",
    20: "CCD",
    21: "JFS",
    27: "ZFS",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One entry of a label. Units: ``first`` and ``count`` sectors, from the start of disk or slot."""

    index: int
    first: int
    count: int
    type: int

    @property
    def letter(self) -> str:
        """Return the name the system gives it."""
        return chr(ord("a") + self.index)


def open_bsdlabel(reader: Reader, options: Options) -> VolumeTable:
    """Read the label of a disk or of a slot of another table.

    Raises:
        NotMine: no label at any of the places machines use, or in a slot one that divides nothing.
        Malformed: numbers that make no sense, or a wrong checksum and slots that do not fit.
    """
    at, order, raw = _find(reader)
    (sector,) = struct.unpack_from(order + "I", raw, 40)
    (count,) = struct.unpack_from(order + "H", raw, 138)
    if not 512 <= sector <= 65536 or sector & sector - 1 or not 0 < count <= _MAX_SLOTS:
        raise Malformed(f"{count} slots in sectors of {sector} bytes", start=at, stop=at + _HEAD)
    raw = reader.read(at, _HEAD + count * _ENTRY_SIZE)
    words = struct.unpack(f"{order}{len(raw) // 2}H", raw)
    notes: list[str] = []
    slots = [slot for slot in _slots(raw, order, count) if slot.count]
    base = _base(slots, sector, options.base, reader.size)
    if reduce(xor, words):
        # Linux and parted take no notice of the sum, and parted writes a wrong one.
        if any((slot.first + slot.count) * sector - base > reader.size for slot in slots):
            raise Malformed("label checksum", start=at, stop=at + len(raw))
        notes.append("the checksum of the label differs")
    if base:
        notes.append(f"offsets count from the start of the disk, {base} bytes before")
    volumes: list[Volume] = []
    for slot in slots:
        start = slot.first * sector - base
        stop = start + slot.count * sector
        if start < 0:
            notes.append(f"slot {slot.letter}: begins before what the label lies on")
            continue
        whole = slot.index in _WHOLE and start == 0 and stop >= reader.size
        raw_slot = slot.index == _WHOLE[0] and not slot.type
        volumes.append(
            Volume(
                slot=slot.index + 1,
                kind=SlotKind.METADATA if whole or raw_slot else SlotKind.ALLOCATED,
                start=start,
                stop=stop,
                type_id=f"{slot.type:02x}",
                type_name=_TYPES.get(slot.type, ""),
                label=slot.letter,
            )
        )
    if options.base and not any(volume.kind is SlotKind.ALLOCATED for volume in volumes):
        raise NotMine("bsdlabel: the label of this slot divides nothing")
    packname = raw[24:40].split(b"\0")[0].decode("latin-1")
    return VolumeTable(
        scheme="bsdlabel",
        sector=sector,
        volumes=tuple(volumes),
        label=packname if packname != "fictitious" else "",
        notes=tuple(notes),
    )


def _find(reader: Reader) -> tuple[int, str, bytes]:
    """Return where the label lies, its byte order, and its head."""
    for at in _PLACES:
        if at + _HEAD + _ENTRY_SIZE > reader.size:
            continue
        raw = reader.read(at, _HEAD)
        for order in "<>":
            magic, again = (struct.unpack_from(order + "I", raw, place)[0] for place in (0, 132))
            if magic == again == _MAGIC:
                return at, order, raw
    raise NotMine("bsdlabel")


def _slots(raw: bytes, order: str, count: int) -> list[Slot]:
    wide = raw[112:132] != bytes(20) and struct.unpack_from(order + "H", raw, 114)[0] == 1
    slots = []
    for index in range(count):
        size, first, kind = struct.unpack_from(order + "II4xB", raw, _HEAD + index * _ENTRY_SIZE)
        if wide:  # OpenBSD keeps high halves where the others keep a fragment size
            first_high, size_high = struct.unpack_from(order + "HH", raw, _HEAD + index * _ENTRY_SIZE + 8)
            first, size = first | first_high << 32, size | size_high << 32
        slots.append(Slot(index=index, first=first, count=size, type=kind))
    return slots


def _base(slots: list[Slot], sector: int, base: int, size: int) -> int:
    """Return what to subtract: labels in a slot count from the start of the disk, or of the slot.

    Where slot c describes all of it, its offset says which; otherwise what makes more slots fit.
    """
    if not base:
        return 0
    for slot in slots:
        if slot.index == _WHOLE[0] and slot.first * sector in (0, base):
            return slot.first * sector
    ranges = [(slot.first * sector, (slot.first + slot.count) * sector) for slot in slots]
    absolute = sum(1 for start, stop in ranges if start >= base and stop - base <= size)
    relative = sum(1 for _, stop in ranges if stop <= size)
    return base if absolute >= relative else 0


BACKEND = Backend(
    name="bsdlabel",
    title="BSD disklabel",
    role=Role.VOLUMES,
    rank=45,  # after mbr: on a disk with both, the label belongs to one of its slots
    signatures=tuple(
        Signature(at, _MAGIC.to_bytes(4, order)) for at in _PLACES for order in ("little", "big")
    ),
    open=open_bsdlabel,
    supports="FreeBSD, NetBSD, OpenBSD (48 bits), both byte orders, on disks and in MBR slots",
    truth=("peer", "tsk", "corpus"),
)
