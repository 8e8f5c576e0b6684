"""The volume descriptor sequence: anchors, and the descriptors that prevail.

Source: ECMA-167 3rd edition, 3/8.4 (sequences), 3/10.1 (primary), 3/10.2 (anchor), 3/10.3 (pointer),
3/10.5 (partition), 3/10.6 (logical volume), 3/10.10 (integrity); OSTA UDF 2.60, 2.2.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs.backends.udf.structures import (
    ANCHOR,
    INTEGRITY,
    LOGICAL,
    PARTITION,
    POINTER,
    PRIMARY,
    TERMINATING,
    fault,
    kind_of,
)
from imgfs.errors import EvidenceError, NotMine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

SECTORS: Final = (2048, 512, 4096, 1024, 8192, 16384, 32768)  # the likeliest first
_DESCRIPTORS: Final = 256  # of one sequence, or of what it goes on in
_EXTENTS: Final = 16  # that a sequence goes on in
_RUN_OUT: Final = (150, 152)  # sectors behind the last one that a closed disc may have
_LOGICAL: Final = 440  # bytes before its partition maps
_MAPS: Final = 1 << 16  # bytes of partition maps


@dataclass(slots=True)
class Sequence:
    """What a volume says of itself. Units: ``sector`` bytes.

    ``partitions`` are descriptors by partition number, ``notes`` what was damaged.
    """

    sector: int
    primary: bytes = b""
    logical: bytes = b""
    partitions: dict[int, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_sequence(reader: Reader) -> Sequence:
    """Find an anchor, and read the main sequence and what only the reserve sequence still says.

    Raises:
        NotMine: no anchor leads to a logical volume.
    """
    damaged: list[str] = []
    for sector in SECTORS:
        for place in _anchors(reader, sector):
            anchor = _sector(reader, sector, place)
            wrong = fault(anchor, (ANCHOR,), place)
            if wrong:
                if kind_of(anchor) == ANCHOR and "block" not in wrong:
                    damaged.append(f"anchor in sector {place}: {wrong}")
                continue
            found = _sequences(reader, sector, anchor)
            if found is not None:
                found.notes = (*damaged, *found.notes)
                return found
            damaged.append(f"anchor in sector {place} leads to no logical volume")
    raise NotMine("; ".join(["udf", *damaged]))


def _anchors(reader: Reader, sector: int) -> Iterator[int]:
    """Yield where an anchor may be: N is the last sector; 512: a disc that is not closed."""
    last = reader.size // sector - 1
    yield 256
    for place in (last - behind - out for out in (0, *_RUN_OUT) for behind in (0, 256)):
        if place > 0:
            yield place
    yield 512


def _sector(reader: Reader, sector: int, number: int, length: int = 512) -> bytes:
    """Return the start of a sector, nothing where the volume has none or it is lost."""
    at = number * sector
    if at + length > reader.size:
        return b""
    try:
        return reader.read(at, length)
    except EvidenceError:
        return b""


def _sequences(reader: Reader, sector: int, anchor: bytes) -> Sequence | None:
    main, reserve = Sequence(sector), Sequence(sector)
    for found, at, name in ((main, 16, "main"), (reserve, 24, "reserve")):
        length, start = struct.unpack_from("<II", anchor, at)
        damage = _fill(reader, found, start, length)
        if damage:
            found.notes = (f"{name} volume descriptor sequence: {damage}",)
        if name == "main" and not damage and found.logical and found.partitions:
            return found
    for name in ("primary", "logical"):
        if not getattr(main, name) and getattr(reserve, name):
            setattr(main, name, getattr(reserve, name))
            main.notes += (f"the {name} volume descriptor is that of the reserve sequence",)
    for number, raw in reserve.partitions.items():
        if number not in main.partitions:
            main.partitions[number] = raw
            main.notes += (f"the descriptor of partition {number} is that of the reserve sequence",)
    if not main.logical:
        return None
    main.notes += reserve.notes
    return main


def _fill(reader: Reader, found: Sequence, start: int, length: int) -> str:
    """Read one sequence; of descriptors of the same the highest number prevails (ECMA-167 3/8.4.3)."""
    damage = ""
    ranks: dict[tuple[int, int], int] = {}
    for _ in range(_EXTENTS):
        following: tuple[int, int] | None = None
        for number in range(start, start + min(length // found.sector, _DESCRIPTORS)):
            raw = _sector(reader, found.sector, number)
            kind = kind_of(raw)
            if kind == LOGICAL and len(raw) == 512:
                (maps,) = struct.unpack_from("<I", raw, 264)
                raw = _sector(reader, found.sector, number, max(512, _LOGICAL + min(maps, _MAPS)))
            if not any(raw) and raw:
                continue  # not recorded
            wrong = fault(raw, (PRIMARY, POINTER, 4, PARTITION, LOGICAL, 7, TERMINATING), number)
            if wrong:
                damage = damage or f"sector {number}: {wrong}"
                continue
            if kind == TERMINATING:
                break
            if kind == POINTER:
                following = struct.unpack_from("<II", raw, 20)
                break
            _keep(found, ranks, kind, raw)
        if following is None:
            break
        length, start = following
    return damage


def _keep(found: Sequence, ranks: dict[tuple[int, int], int], kind: int, raw: bytes) -> None:
    rank = int.from_bytes(raw[16:20], "little")
    number = int.from_bytes(raw[22:24], "little") if kind == PARTITION else 0
    if rank < ranks.get((kind, number), 0):
        return
    ranks[kind, number] = rank
    if kind == PRIMARY:
        found.primary = raw
    elif kind == LOGICAL:
        found.logical = raw
    elif kind == PARTITION:
        found.partitions[number] = raw


def was_closed(reader: Reader, sequence: Sequence) -> bool | None:
    """Say whether the last writer ended its work; None: nothing says so."""
    length, number = struct.unpack_from("<II", sequence.logical, 432)
    closed: bool | None = None
    for place in range(number, number + min(length // sequence.sector, _DESCRIPTORS)):
        raw = _sector(reader, sequence.sector, place)
        if fault(raw, (INTEGRITY,), place):
            break
        closed = bool(int.from_bytes(raw[28:32], "little"))
    return closed
