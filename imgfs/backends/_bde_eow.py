"""Which parts of a volume are encrypted that is encrypted when it is written to (Windows 10 and later).

Source: the structures in bde_eow.h of libbde (LGPL), which keramics (Apache-2.0) has, too. A block map is of
a region of the volume in blocks; of its two records that with the higher sequence number holds a bit for each
block, which is set where the block is encrypted.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgfs.backends import Reader

Range = tuple[int, int, bool]  # start, stop, encrypted

_DESCRIPTOR: Final = struct.Struct("<8sHHIIIIIIIQQ")  # 56 bytes, then the offsets of the maps
_MAP: Final = struct.Struct("<10sHIIQQQIIII")  # 60 bytes
_RECORD: Final = struct.Struct("<10sHIIIIII")  # 36 bytes, then the bits
_MAPS_MOST: Final = 8192  # of a descriptor of 64 KiB
_RECORD_MOST: Final = 1 << 20
_BLOCK_LEAST: Final = 512
_RANGES_MOST: Final = 1_000_000
_SAID_MOST: Final = 20


def ranges(reader: Reader, at: tuple[int, ...], said: list[str]) -> list[Range]:
    """Return what is known of the volume, ascending; what no range covers is not known, and why is said.

    Raises:
        Malformed: neither descriptor can be read.
    """
    block, maps = _descriptor(reader, at, said)
    found: list[Range] = []
    damaged: list[str] = []
    for place in maps:
        try:
            found += _region(reader, place, block)
        except EvidenceError as why:
            damaged.append(f"map of encrypted blocks at {place}: {why}: what it speaks of is lost")
        if len(found) > _RANGES_MOST:
            raise Malformed(f"more than {_RANGES_MOST} ranges are encrypted or not")
    said += damaged[:_SAID_MOST]
    if len(damaged) > _SAID_MOST:
        said.append(f"{len(damaged) - _SAID_MOST} more maps of encrypted blocks are damaged")
    return _apart(found)


def _descriptor(reader: Reader, at: tuple[int, ...], said: list[str]) -> tuple[int, list[int]]:
    """Return the size of blocks and where the maps are."""
    for place in dict.fromkeys(at):
        try:
            head = _read(reader, place, _DESCRIPTOR.size)
            magic, begin, size, _, _, block, _, _, count, _, _, _ = _DESCRIPTOR.unpack(head)
            if magic != b"FVE-EOW\0" or begin != _DESCRIPTOR.size or size < begin + 8 * count:
                raise Malformed("no descriptor")
            data = _intact(_read(reader, place, size), 36)
            if block < _BLOCK_LEAST or count > _MAPS_MOST:
                raise Malformed(f"{count} maps of blocks of {block} bytes")
            return block, list(struct.unpack_from(f"<{count}Q", data, begin))
        except EvidenceError as why:
            said.append(f"descriptor of encrypted blocks at {place}: {why}")
    raise Malformed("; ".join(said[-2:]) or "no descriptor of encrypted blocks")


def _region(reader: Reader, place: int, block: int) -> Iterable[Range]:
    data = _read(reader, place, 512)
    magic, begin, _, _, start, size, _, first, second, record, _ = _MAP.unpack_from(data)
    if magic != b"FVE-EOWBM\0" or begin != _MAP.size:
        raise Malformed("no map")
    _intact(data, 56)
    if start + size > 1 << 62 or not _RECORD.size <= record <= _RECORD_MOST:
        raise Malformed(f"a region of {size} bytes, records of {record}")
    best: tuple[int, bytes] | None = None
    why = EvidenceError("no record")
    for offset in (first, second):
        try:
            told = _record(_read(reader, place + offset, record))
        except EvidenceError as wrong:
            why = wrong
            continue
        if best is None or told[0] > best[0]:
            best = told
    if best is None:
        raise why
    count = -(-size // block)
    if 8 * len(best[1]) < count:
        raise Malformed(f"{8 * len(best[1])} bits for {count} blocks")
    return _runs(best[1], count, start, size, block)


def _record(data: bytes) -> tuple[int, bytes]:
    magic, begin, _, bits, sequence, _, _, _ = _RECORD.unpack_from(data)
    if magic != b"FVE-EOWBR\0" or begin != _RECORD.size or bits > 8 * (len(data) - begin):
        raise Malformed("no record")
    _intact(data, 32)
    return sequence, data[begin : begin + -(-bits // 8)]


def _runs(bits: bytes, count: int, start: int, size: int, block: int) -> Iterable[Range]:
    """Yield runs of blocks of one kind."""
    begin = 0
    for number in range(1, count + 1):
        kind = bits[begin >> 3] >> (begin & 7) & 1
        if number == count or bits[number >> 3] >> (number & 7) & 1 != kind:
            yield start + begin * block, start + min(number * block, size), bool(kind)
            begin = number


def _apart(found: list[Range]) -> list[Range]:
    """Return ranges in order; where two speak of the same bytes, none is believed."""
    kept: list[Range] = []
    stop = 0
    for start, end, kind in sorted(found):
        if start < stop and kept and kept[-1][1] > start:
            kept[-1] = (kept[-1][0], start, kept[-1][2])
        kept.append((max(start, stop), max(end, stop), kind))
        stop = max(stop, end)
    return [one for one in kept if one[0] < one[1]]


def _read(reader: Reader, at: int, length: int) -> bytes:
    if not 0 < at <= reader.size - length:
        raise Malformed(f"{length} bytes at {at} of {reader.size}")
    return reader.read(at, length)


def _intact(data: bytes, at: int) -> bytes:
    """Return a structure whose checksum at ``at`` is right; 0: it has none."""
    (stored,) = struct.unpack_from("<I", data, at)
    if stored and zlib.crc32(data[:at] + bytes(4) + data[at + 4 :]) != stored:
        raise Malformed("its checksum is wrong")
    return data
