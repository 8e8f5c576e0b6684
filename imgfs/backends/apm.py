"""Apple partition map.

Source: Inside Macintosh: Devices, chapter 3, "The Partition Map" and "The Driver Descriptor Record"; Apple
Technical Note TN2189 for type names.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.model import SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

_ENTRY: Final = struct.Struct(">2s2x3I32s32s3I")  # to pmPartStatus: 92 bytes of a block
_MAGIC: Final = b"PM"
_STEPS: Final = (512, 1024, 2048, 4096)
_MAX_ENTRIES: Final = 4096
_MAP: Final = "apple_partition_map"
_FREE: Final = {"apple_free", "apple_extra", "apple_void"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One block of the map. Units: ``first`` and ``count`` blocks, ``entries`` blocks of the map."""

    entries: int
    first: int
    count: int
    name: str
    type: str
    status: int


def open_apm(reader: Reader, options: Options) -> VolumeTable:
    """Read the map behind the driver descriptor record.

    Raises:
        NotMine: no map, or one that does not begin by describing itself.
        Malformed: the map says it has no entries.
    """
    step = _step(reader, options)
    first = _entry(reader, step, 1)
    if first is None or first.entries == 0:
        raise Malformed("map of no entries", start=step, stop=step + 512)
    notes: list[str] = []
    if reader.read(0, 2) != b"ER":
        notes.append("no driver descriptor record: the block size follows from where the map lies")
    if first.entries > _MAX_ENTRIES:
        notes.append(f"map of {first.entries} entries: the first {_MAX_ENTRIES} are read")
    volumes: list[Volume] = []
    for slot in range(1, min(first.entries, _MAX_ENTRIES) + 1):
        try:
            entry = _entry(reader, step, slot)
        except EvidenceError as why:
            notes.append(f"slot {slot}: {why}")
            break
        if entry is None:
            notes.append(f"slot {slot}: no entry in block {slot}, the map ends here")
            break
        if not entry.count:
            continue
        volumes.append(_volume(entry, slot, step))
    return VolumeTable(scheme="apm", sector=step, volumes=tuple(volumes), notes=tuple(notes))


def _step(reader: Reader, options: Options) -> int:
    """Return the block size: what the driver descriptor says if a map lies there, else where one lies.

    Discs carry two maps, one in 512 and one in 2048 byte blocks; the descriptor says which is meant.
    """
    head = reader.read(0, min(reader.size, 4))
    said = int.from_bytes(head[2:4], "big") if head.startswith(b"ER") else 0
    steps = [step for step in (options.sector, said, *_STEPS) if step in _STEPS]
    for step in dict.fromkeys(steps):
        if step + 512 > reader.size:
            continue
        entry = _entry(reader, step, 1)
        if entry is not None and (entry.type.lower() == _MAP or said == step):
            return step
    raise NotMine("apm")


def _entry(reader: Reader, step: int, slot: int) -> Entry | None:
    raw = reader.read(slot * step, _ENTRY.size)
    magic, entries, first, count, name, kind, _, _, status = _ENTRY.unpack(raw)
    if magic != _MAGIC:
        return None
    return Entry(entries=entries, first=first, count=count, name=_text(name), type=_text(kind), status=status)


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("mac_roman")


def _volume(entry: Entry, slot: int, step: int) -> Volume:
    kind = SlotKind.ALLOCATED
    if entry.type.lower() == _MAP:
        kind = SlotKind.METADATA
    elif entry.type.lower() in _FREE:
        kind = SlotKind.UNALLOCATED
    return Volume(
        slot=slot,
        kind=kind,
        start=entry.first * step,
        stop=(entry.first + entry.count) * step,
        type_id=entry.type,
        type_name=entry.type.replace("_", " "),
        label=entry.name,
        flags=entry.status,
    )


BACKEND = Backend(
    name="apm",
    title="Apple partition map",
    role=Role.VOLUMES,
    rank=30,  # before mbr: hybrid discs carry both, and this one names its volumes
    signatures=tuple(Signature(step, _MAGIC + b"\0\0") for step in _STEPS),
    open=open_apm,
    supports="512 to 4096 byte blocks, names and types",
    truth=("peer", "tsk", "corpus"),
)
