"""The volume header of HFS+ and the forks of files: where they lie.

Source: Apple Technical Note TN1150, "HFS Plus Volume Format": Volume Header, Fork Data Structure,
Extents Overflow File.
"""

from __future__ import annotations

import hashlib
import struct
from bisect import bisect_right
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from imgfs.backends.hfs import journal
from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.limits import MAX_RUNS, MAX_SIZE
from imgfs.model import LOST

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgfs.backends import Reader

Extent = tuple[int, int]  # first block, blocks
Rows = list[tuple[int, int, int]]  # logical, length, target
HEADER_AT: Final = 1024
EXTENTS, CATALOG, BAD_BLOCKS, ALLOCATION, STARTUP, ATTRIBUTES = 3, 4, 5, 6, 7, 8  # CNIDs of special files
_FORKS_AT: Final = {ALLOCATION: 112, EXTENTS: 192, CATALOG: 272, ATTRIBUTES: 352, STARTUP: 432}
_UNMOUNTED, _INCONSISTENT, _JOURNALED = 0x100, 0x800, 0x2000  # attributes of the volume
_LINUX: Final = b"H+Lx"  # the system that mounted it last
_NAMESPACE: Final = UUID("b3e20f39-f292-11d6-97a4-00306543ecac")  # the one macOS and blkid hash under
_FORK: Final = struct.Struct(">QII16I")
_EXTENTS: Final = struct.Struct(">16I")
_LOGICAL: Final = itemgetter(0)


class Fork(NamedTuple):
    """What a fork says of itself: bytes, blocks, and its first extents."""

    size: int
    blocks: int
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """Geometry of a volume. Units: ``block`` and ``held`` (what the source has of it) bytes.

    ``linux``: Linux mounted it last, which keeps device numbers its own way.
    """

    extended: bool
    block: int
    blocks: int
    held: int
    uuid: str
    linux: bool
    notes: tuple[str, ...]
    forks: dict[int, Fork]


def read_volume(reader: Reader) -> Volume:
    """Read the volume header.

    Raises:
        NotMine: there is none.
        NotSupported: HFS without plus, or HFS+ wrapped in it.
        Malformed: a block size the specification excludes.
    """
    if reader.size < HEADER_AT + 512:
        raise NotMine("hfs")
    header = reader.read(HEADER_AT, 512)
    if header[:2] == b"BD":
        raise NotSupported("HFS wrapper around HFS+" if header[124:126] == b"H+" else "HFS (Mac OS Standard)")
    if header[:4] not in {b"H+\0\4", b"HX\0\5"}:
        raise NotMine("hfs")
    block, blocks = struct.unpack_from(">II", header, 40)
    if block < 512 or block & block - 1 or block > 1 << 30:
        raise Malformed(f"blocks of {block} bytes", start=HEADER_AT + 40, stop=HEADER_AT + 44)
    held = min(block * blocks, reader.size)
    return Volume(
        extended=header[:2] == b"HX",
        block=block,
        blocks=blocks,
        held=held,
        uuid=_uuid(header[104:112]),
        linux=header[8:12] == _LINUX,
        notes=_notes(reader, header, block, held),
        forks={number: fork_at(header, at) for number, at in _FORKS_AT.items()},
    )


def _notes(reader: Reader, header: bytes, block: int, held: int) -> tuple[str, ...]:
    """Say what state the last mount left."""
    attributes, _, info = struct.unpack_from(">III", header, 4)
    notes: tuple[str, ...] = ()
    if attributes & _INCONSISTENT:
        notes += ("the volume is marked as inconsistent: its catalog may be wrong",)
    if attributes & _JOURNALED:
        notes += journal.said(reader, info * block, held)
    elif not attributes & _UNMOUNTED:
        notes += ("the volume was not unmounted: what was written last may be missing",)
    return notes


def _uuid(unique: bytes) -> str:
    if not any(unique):
        return ""
    digest = hashlib.md5(_NAMESPACE.bytes + unique, usedforsecurity=False).digest()
    return str(UUID(bytes=digest, version=3))


def fork_at(data: bytes, at: int) -> Fork:
    """Read a fork data structure; the caller knows that its 80 bytes are there."""
    size, _, blocks, start, count, _, second, *_ = numbers = _FORK.unpack_from(data, at)
    extents = _used(numbers[3:]) if second else ((start, count),) if count else ()
    return Fork(min(size, MAX_SIZE), blocks, extents)


def extents_at(data: bytes, at: int) -> tuple[Extent, ...]:
    """Read an extent record of eight; the caller knows that its 64 bytes are there."""
    return _used(_EXTENTS.unpack_from(data, at))


def _used(numbers: Iterable[int]) -> tuple[Extent, ...]:
    found: list[Extent] = []
    pairs = iter(numbers)
    for start in pairs:
        count = next(pairs)
        if not count:
            break
        found.append((start, count))
    return tuple(found)


def rows_of(extents: Iterable[Extent], size: int, block: int, held: int) -> Rows:
    """Return extents as runs of ``size`` bytes; what leaves the volume, or is missing, is LOST.

    Units: ``size``, ``block`` and ``held`` bytes.

    Raises:
        Malformed: more runs than a file may have.
    """
    rows: Rows = []
    at = 0
    for start, count in extents:
        length = min(count * block, size - at)
        if length <= 0:
            break
        target = start * block
        inside = max(min(length, held - target), 0)
        if inside:
            last = rows[-1] if rows else (0, 0, LOST)
            if last[2] >= 0 and last[0] + last[1] == at and last[2] + last[1] == target:
                rows[-1] = (last[0], last[1] + inside, last[2])
            else:
                rows.append((at, inside, target))
        if inside < length:
            rows.append((at + inside, length - inside, LOST))
        at += length
        if len(rows) > MAX_RUNS:
            raise Malformed(f"more than {MAX_RUNS} runs")
    if at < size:
        rows.append((at, size - at, LOST))
    return rows


def read_rows(reader: Reader, rows: Rows, start: int, length: int) -> bytes:
    """Return bytes of a fork through its runs.

    Raises:
        Malformed: some of them are lost.
    """
    if len(rows) == 1 and rows[0][2] >= 0 and start + length <= rows[0][1]:
        return reader.read(rows[0][2] + start, length)
    parts: list[bytes] = []
    stop = start + length
    for index in range(max(bisect_right(rows, start, key=_LOGICAL) - 1, 0), len(rows)):
        logical, run, target = rows[index]
        if logical >= stop:
            break
        low, high = max(start, logical), min(stop, logical + run)
        if low >= high:
            continue
        if target < 0:
            raise Malformed(f"bytes [{low}, {high}) of a fork lie outside the volume")
        parts.append(reader.read(target + low - logical, high - low))
    data = b"".join(parts)
    if len(data) != length:
        raise Malformed(f"bytes [{start}, {stop}) are outside a fork")
    return data
