"""Mapping pairs of non-resident attributes: where their clusters lie, as checked rows in bytes.

Source: NTFS documentation of the Linux-NTFS project, "Data runs"; [MS-FSA] 2.1.1.5 (valid data length).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends._tsk_layout import initialised
from imgfs.errors import Malformed
from imgfs.limits import MAX_SIZE
from imgfs.model import HOLE, LOST

if TYPE_CHECKING:
    from imgfs.backends._tsk_layout import Row


def pairs(record: bytes, at: int, stop: int, cluster: int) -> tuple[list[Row], int]:
    """Return runs of [at, stop) of a record as (logical, length, target), and the bytes allocated.

    Raises:
        Malformed: a pair leaves its attribute, counts no clusters, or passes 2^63 bytes.
    """
    rows: list[Row] = []
    logical = place = allocated = 0
    while at < stop:
        head = record[at]
        if not head:
            return rows, allocated
        counts, places = head & 15, head >> 4
        middle = at + 1 + counts
        end = middle + places
        if not 0 < counts <= 8 or places > 8 or end > stop:
            raise Malformed(f"run {len(rows)} of a stream has the head {head:#04x}")
        length = int.from_bytes(record[at + 1 : middle], "little") * cluster
        if not 0 < length <= MAX_SIZE - logical:
            raise Malformed(f"run {len(rows)} of a stream: {length} bytes at {logical}")
        if places:
            place += int.from_bytes(record[middle:end], "little", signed=True)
            rows.append((logical, length, place * cluster if place >= 0 else LOST))
            allocated += length
        else:
            rows.append((logical, length, HOLE))
        logical += length
        at = end
    return rows, min(allocated, MAX_SIZE)


def clipped(rows: list[Row], size: int, valid: int, volume: int) -> list[Row]:
    """Return the part of rows a stream of ``size`` bytes consists of.

    What leaves the file system (``volume`` bytes) is LOST, what lies beyond ``valid`` is a hole.
    """
    found: list[Row] = []
    for logical, length, target in rows:
        if logical >= size:
            break
        take = min(length, size - logical)
        if target >= 0 and target + take > volume:
            inside = max(volume - target, 0)
            if inside:
                found.append((logical, inside, target))
            found.append((logical + inside, take - inside, LOST))
        else:
            found.append((logical, take, target))
    return initialised(found, valid, size) if valid < size else found
