"""Mapping pairs of non-resident attributes: where their clusters lie, as checked rows in bytes.

Source: NTFS documentation of the Linux-NTFS project, "Data runs"; [MS-FSA] 2.1.1.5 (valid data length).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from imgfs.backends._layouts import initialised
from imgfs.errors import LostBytes, Malformed
from imgfs.limits import MAX_SIZE
from imgfs.model import HOLE, LOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._layouts import Row


def pairs(record: bytes, at: int, stop: int, cluster: int, logical: int = 0) -> tuple[list[Row], int]:
    """Return runs of [at, stop) of a record as (logical, length, target), and the bytes allocated.

    ``logical`` is where the first of them begins in the stream: a part of an attribute that several
    records hold begins behind the part before.

    Raises:
        Malformed: a pair leaves its attribute, counts no clusters, or passes 2^63 bytes.
    """
    rows: list[Row] = []
    place = allocated = 0
    while at < stop:
        head = record[at]
        if not head:
            break
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


class Extents:
    """Bytes of a stream read along its checked rows. Units: ``size`` bytes of the stream."""

    __slots__ = ("_reader", "_rows", "_starts", "size")

    def __init__(self, reader: Reader, rows: list[Row], size: int) -> None:
        self._reader = reader
        self._rows = rows
        self._starts = [row[0] for row in rows]
        self.size = size

    def read(self, at: int, length: int) -> bytes:
        """Return exactly ``length`` bytes.

        Raises:
            LostBytes: no run covers them, or one that leaves the volume.
        """
        parts = [
            self._reader.read(target, take) if target >= 0 else bytes(take)
            for take, target in self.pieces(at, length)
        ]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pieces(self, at: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield what [at, at + length) consists of: lengths, and where they lie or HOLE.

        Raises:
            LostBytes: no run covers a part of it, or one that leaves the volume.
        """
        stop = at + length
        index = max(bisect_right(self._starts, at) - 1, 0)
        while at < stop:
            logical, had, target = self._rows[index] if index < len(self._rows) else (stop, 0, LOST)
            if not logical <= at < logical + had or target == LOST:
                raise LostBytes(f"bytes [{at}, {stop}) of a stream lie nowhere")
            take = min(stop, logical + had) - at
            yield take, target + at - logical if target >= 0 else HOLE
            at += take
            index += 1

    def stored(self, at: int) -> int:
        """Return how many bytes from ``at`` on lie in one run on the volume, 0: none."""
        index = bisect_right(self._starts, at) - 1
        if index < 0:
            return 0
        logical, length, target = self._rows[index]
        return max(logical + length - at, 0) if target >= 0 else 0
