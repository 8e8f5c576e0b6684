"""Whether the log holds transactions that nobody replayed. Nothing of it is ever replayed here.

Source: XFS Algorithms and Data Structures, 3rd edition, "Journaling Log".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from imgfs.backends.xfs.volume import Volume

_SECTOR: Final = 512  # bytes that the log counts in
_MAGIC: Final = 0xFEED_BABE
_RECORD: Final = struct.Struct(">IIII")  # magic, cycle, version, length
_OPERATIONS: Final = 40  # byte of h_num_logops
_SIZE: Final = 320  # byte of h_size
_PER_HEADER: Final = 32 << 10  # bytes of a record that one header describes
_UNMOUNT: Final = 0x20  # flag of an operation
_RECORD_MAX: Final = 256 << 10


def remark(volume: Volume) -> str:
    """Say what an analyst should know of the log, empty: it is clean."""
    sb = volume.superblock
    if not sb.log_start:
        return "the log is on another device: whether it was replayed is not known"
    try:
        start, length = volume.place(sb.log_start), sb.log << sb.block_bits
        if not length:
            return "there is no log"
        clean = _is_clean(volume, start, length // _SECTOR)
    except EvidenceError as why:
        return f"the log cannot be read: {why.message}"
    if clean:
        return ""
    return "unreplayed log: the files are shown as they lie, without the last transactions"


def _is_clean(volume: Volume, start: int, count: int) -> bool:
    """Say whether the last record of a log of ``count`` sectors says that the file system was unmounted."""
    head = _head(volume, start, count)
    back = min(_RECORD_MAX // _SECTOR + 16, count)
    for at in range(1, back + 1):
        sector = (head - at) % count
        raw = volume.read(start + sector * _SECTOR, _SECTOR)
        magic, _, version, length = _RECORD.unpack_from(raw)
        if magic != _MAGIC:
            continue
        (size,) = struct.unpack_from(">I", raw, _SIZE)
        headers = max(-(-min(size, _RECORD_MAX) // _PER_HEADER), 1) if version & 2 else 1
        (operations,) = struct.unpack_from(">I", raw, _OPERATIONS)
        data = volume.read(start + (sector + headers) % count * _SECTOR, _SECTOR)
        ends = (sector + headers + -(-length // _SECTOR)) % count == head
        return ends and operations == 1 and bool(data[9] & _UNMOUNT)
    return not any(volume.read(start, _SECTOR))  # no record: never written, or nothing is told


def _head(volume: Volume, start: int, count: int) -> int:
    """Return the sector behind the one that was written last: there the number of the round falls."""

    def cycle(at: int) -> int:
        raw = volume.read(start + at * _SECTOR, 8)
        first, second = struct.unpack(">II", raw)
        return int(second if first == _MAGIC else first)

    first, last = cycle(0), cycle(count - 1)
    if first == last:
        return 0
    low, high = 0, count - 1  # cycle(low) == first, cycle(high) != first
    while high - low > 1:
        middle = (low + high) // 2
        if cycle(middle) == first:
            low = middle
        else:
            high = middle
    return high
