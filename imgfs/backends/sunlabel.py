"""Sun disk labels: SPARC labels in sector 0, x86 VTOC in sector 1 of a Solaris slot.

Source: Solaris dkio(7I), vtoc(7) and read_vtoc(3EXT): struct dk_label and struct vtoc in both layouts;
prtvtoc(8) for tags.
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

_MAGIC: Final = 0xDABE
_SANE: Final = 0x600DDEEE
_BACKUP: Final = 5  # the slot that is the whole disk
_TAGS: Final = {
    0: "Unassigned",
    1: "Solaris boot",
    2: "Solaris root",
    3: "Solaris swap",
    4: "Solaris usr",
    5: "Whole disk",
    6: "Solaris stand",
    7: "Solaris var",
    8: "Solaris home",
    9: "Alternate sectors",
    10: "Solaris cache",
    11: "Solaris reserved",
    0x82: "Linux swap",
    0x83: "Linux",
    0x8E: "Linux LVM",
    0xFD: "Linux RAID",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One slice. Units: ``first`` and ``count`` sectors."""

    index: int
    tag: int
    flags: int
    first: int
    count: int


def open_sunlabel(reader: Reader, options: Options) -> VolumeTable:
    """Read a SPARC label, else an x86 VTOC.

    Raises:
        NotMine: neither is there.
        Malformed: a label with a wrong checksum.
    """
    sector = options.sector or 512
    if reader.size < 2 * sector:
        raise NotMine("sunlabel: smaller than two sectors")
    label = reader.read(0, 512)
    if int.from_bytes(label[508:510], "big") == _MAGIC:
        _check(label, 0)
        return _table(reader, _sparc(label), sector, label[:128], label[132:140])
    label = reader.read(sector, 512)
    if int.from_bytes(label[12:16], "little") == _SANE:
        if int.from_bytes(label[508:510], "little") != _MAGIC:
            raise Malformed("VTOC without the magic of a label", start=sector, stop=sector + 512)
        _check(label, sector)
        unit = int.from_bytes(label[28:30], "little") or sector
        if unit % 512:
            raise Malformed(f"VTOC with sectors of {unit} bytes", start=sector, stop=sector + 512)
        return _table(reader, _x86(label), unit, label[328:456], label[20:28])
    raise NotMine("sunlabel")


def _check(label: bytes, at: int) -> None:
    if reduce(xor, struct.unpack("256H", label)):
        raise Malformed("label checksum", start=at, stop=at + 512)


def _sparc(label: bytes) -> list[Slot]:
    heads, sectors = struct.unpack_from(">HH", label, 436)
    tagged = int.from_bytes(label[188:192], "big") == _SANE
    slots = []
    for index in range(8):
        cylinder, count = struct.unpack_from(">II", label, 444 + 8 * index)
        tag, flags = struct.unpack_from(">HH", label, 142 + 4 * index) if tagged else (0, 0)
        first = cylinder * heads * sectors
        slots.append(Slot(index=index, tag=tag, flags=flags, first=first, count=count))
    return slots


def _x86(label: bytes) -> list[Slot]:
    rows = enumerate(struct.iter_unpack("<HHII", label[72:264]))
    return [Slot(index=n, tag=t, flags=f, first=first, count=count) for n, (t, f, first, count) in rows]


def _table(reader: Reader, slots: list[Slot], sector: int, words: bytes, name: bytes) -> VolumeTable:
    volumes: list[Volume] = []
    for slot in slots:
        start, stop = slot.first * sector, (slot.first + slot.count) * sector
        if not slot.count:
            continue
        # SunOS 4 has no tags: its third slot is the whole disk
        whole = slot.tag == _BACKUP or (
            slot.index == 2 and not slot.tag and not start and stop >= reader.size
        )
        volumes.append(
            Volume(
                slot=slot.index + 1,
                kind=SlotKind.METADATA if whole else SlotKind.ALLOCATED,
                start=start,
                stop=stop,
                type_id=f"{slot.tag:02x}",
                type_name=_TAGS.get(slot.tag, ""),
                flags=slot.flags,
            )
        )
    said = words.split(b"\0")[0].decode("latin-1").strip()
    return VolumeTable(
        scheme="sunlabel",
        sector=sector,
        volumes=tuple(volumes),
        label=name.split(b"\0")[0].decode("latin-1").strip(),
        notes=(said,) if said else (),
    )


BACKEND = Backend(
    name="sunlabel",
    title="Sun disk label",
    role=Role.VOLUMES,
    rank=35,
    signatures=(
        Signature(508, _MAGIC.to_bytes(2, "big")),
        Signature(512 + 12, _SANE.to_bytes(4, "little")),
        Signature(4096 + 12, _SANE.to_bytes(4, "little")),
    ),
    open=open_sunlabel,
    supports="SPARC labels, x86 VTOC in Solaris slots",
    truth=("peer", "tsk"),
)
