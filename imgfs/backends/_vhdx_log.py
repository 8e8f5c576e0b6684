"""The log of a VHDX: what a writer had still to do, laid over the file without touching it.

Source: [MS-VHDX] 2.3 "Log". Every byte of an update lies in the file (most of it in a data sector, the first
eight and last four bytes in its descriptor), so an update is three runs and nothing is copied.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._crc32c import crc32c
from imgfs.errors import LostBytes, Malformed, Truncated
from imgfs.model import HOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

_SECTOR: Final = 4096
_LOG_MAX: Final = 32 * limits.MIB  # Windows makes logs of 1 MiB; checking 32 takes a few seconds
_ENTRY: Final = struct.Struct("<4sIIIQII16sQQ")
_DESCRIPTOR: Final = 32
_UPDATES_MAX: Final = 100_000  # ranges laid over a file: a log of 32 MiB has 24,000 of data
_LEADING: Final = 8
_TRAILING: Final = 4


class Replayed:
    """A file with updates laid over it. Units: ``size`` bytes, of the file as it will be."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.size = reader.size
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._targets: list[int] = []

    def lay(self, start: int, stop: int, target: int) -> None:
        """Say that [start, stop) is at ``target`` of the file now, or HOLE.

        Raises:
            Malformed: more ranges than a log can have.
        """
        first, last = bisect_right(self._stops, start), bisect_left(self._starts, stop)
        rows = [(start, stop, target)]
        if first < last:  # what the new range leaves of its neighbours
            if self._starts[first] < start:
                rows.insert(0, (self._starts[first], start, self._targets[first]))
            end, old = self._stops[last - 1], self._targets[last - 1]
            if end > stop:
                rows.append((stop, end, old if old == HOLE else old + stop - self._starts[last - 1]))
        if len(self._starts) > _UPDATES_MAX:
            raise Malformed(f"a log of more than {_UPDATES_MAX} updates")
        self._starts[first:last] = [row[0] for row in rows]
        self._stops[first:last] = [row[1] for row in rows]
        self._targets[first:last] = [row[2] for row in rows]
        self.size = max(self.size, stop)

    def split(self, start: int, length: int) -> Iterator[tuple[int, int]]:
        """Return (length, target or HOLE) of the parts [start, start + length) is made of."""
        stop = start + length
        index = bisect_right(self._stops, start)
        while start < stop:
            if index == len(self._starts) or self._starts[index] >= stop:
                yield stop - start, start
                return
            begin, end, target = self._starts[index], self._stops[index], self._targets[index]
            if start < begin:
                yield begin - start, start
                start = begin
            until = min(end, stop)
            yield until - start, target if target == HOLE else target + start - begin
            start = until
            index += 1

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes as they are after the updates.

        Raises:
            Truncated: the range leaves the file.
            LostBytes: the file ends before bytes that no update brings.
        """
        if not 0 <= start <= start + length <= self.size:
            raise Truncated("read outside the file", start=start, stop=start + length)
        if not self._starts:
            return self._reader.read(start, length)
        parts: list[bytes] = []
        for count, target in self.split(start, length):
            if target == HOLE:
                parts.append(bytes(count))
            elif target + count > self._reader.size:
                raise LostBytes("the file is cut short", start=start, stop=start + length)
            else:
                parts.append(self._reader.read(target, count))
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A valid log entry. ``at`` and ``tail`` count from the start of the log, the sizes are the file's."""

    at: int
    length: int
    tail: int
    sequence: int
    flushed: int
    last: int
    updates: tuple[tuple[int, int, int], ...]  # start and stop in the file; place of the descriptor, or HOLE


def replay(reader: Reader, start: int, length: int, guid: bytes, notes: list[str]) -> Replayed:
    """Find the active sequence of a log at [start, start + length) of the file and lay it over the file.

    Raises:
        Malformed: the log cannot be, or holds no complete sequence: then nobody knows what is missing.
        Truncated: it leaves the file.
    """
    if not 0 < length <= _LOG_MAX or length % limits.MIB or start % limits.MIB or not start:
        raise Malformed(f"a log of {length} bytes", start=start, stop=start + length)
    log = _Log(reader.read(start, length), guid)
    sequence = log.active()
    if not sequence:
        raise Malformed("the log holds no complete sequence", start=start, stop=start + length)
    head = sequence[-1]
    file = Replayed(reader)
    if reader.size < head.flushed:
        notes.append(f"the file is cut short: it had {head.flushed} bytes, {reader.size} are there")
    elif reader.size < head.last <= limits.MAX_SIZE:
        file.lay(reader.size, head.last, HOLE)  # the writer had still to extend it
    for entry in sequence:
        data = entry.at + log.descriptor_sectors(len(entry.updates)) * _SECTOR
        for begin, stop, descriptor in entry.updates:
            if descriptor == HOLE:
                if begin < stop:
                    file.lay(begin, stop, HOLE)
                continue
            file.lay(begin, begin + _LEADING, start + descriptor + 8)
            file.lay(begin + _LEADING, stop - _TRAILING, start + data % length + _LEADING)
            file.lay(stop - _TRAILING, stop, start + descriptor + 4)
            data += _SECTOR
    notes.append(f"the log was replayed in memory: {len(sequence)} entries")
    return file


class _Log:
    """The ring of entries."""

    def __init__(self, data: bytes, guid: bytes) -> None:
        self._data = data
        self._guid = guid
        self._unchecked = 2 * len(data)  # bytes of checksums: entries that claim one another's bytes end it
        self._known: dict[int, _Entry | None] = {}

    def active(self) -> list[_Entry]:
        """Return the entries of the newest complete sequence from its tail on; nothing: there is none."""
        size = len(self._data)
        best: list[_Entry] = []
        tail = 0
        while tail < size:
            found: list[_Entry] = []
            length = 0
            while length < size and (entry := self._entry((tail + length) % size)) is not None:
                if found and entry.sequence != found[-1].sequence + 1:
                    break
                length += entry.length
                if length > size:
                    break
                found.append(entry)
            if found:
                places = [entry.at for entry in found]
                newer = not best or found[-1].sequence > best[-1].sequence
                if found[-1].tail in places and newer:
                    best = found[places.index(found[-1].tail) :]
            # Any other start in this chain ends at the same head, so it is looked at once.
            tail += sum(entry.length for entry in found) or _SECTOR
        return best

    @staticmethod
    def descriptor_sectors(count: int) -> int:
        """Return how many sectors the header and its descriptors take."""
        return -(-(_ENTRY.size + _DESCRIPTOR * count) // _SECTOR)

    def _entry(self, at: int) -> _Entry | None:
        """Return the entry at ``at``; None: there is no valid one."""
        if at not in self._known:
            self._known[at] = self._parse(at)
        return self._known[at]

    def _parse(self, at: int) -> _Entry | None:
        fields = _ENTRY.unpack_from(self._data, at)
        signature, checksum, length, tail, sequence, count, _, guid, flushed, last = fields
        if signature != b"loge" or guid != self._guid or not sequence:
            return None
        sectors = self.descriptor_sectors(count)
        if length % _SECTOR or not sectors * _SECTOR <= length <= len(self._data) or tail % _SECTOR:
            return None
        self._unchecked -= length
        if self._unchecked < 0:
            return None
        raw = self._data[at : at + length]
        raw += self._data[: length - len(raw)]
        updates = self._updates(raw, at, sequence, count)
        if updates is None:
            return None
        if crc32c(raw[:4] + bytes(4) + raw[8:]) != checksum:
            return None
        return _Entry(at, length, tail, sequence, flushed, last, updates)

    def _updates(
        self, raw: bytes, at: int, sequence: int, count: int
    ) -> tuple[tuple[int, int, int], ...] | None:
        """Return what an entry updates; None: its descriptors or data sectors are not of this entry."""
        updates: list[tuple[int, int, int]] = []
        data = self.descriptor_sectors(count) * _SECTOR
        guards = struct.pack("<Q", sequence)
        for number in range(count):
            place = _ENTRY.size + _DESCRIPTOR * number
            kind, _, length, begin, own = struct.unpack_from("<4sIQQQ", raw, place)
            if own != sequence or begin % _SECTOR:
                return None
            if kind == b"zero":
                if length % _SECTOR or begin + length > limits.MAX_SIZE:
                    return None
                updates.append((begin, begin + length, HOLE))
                continue
            sector = raw[data : data + _SECTOR]
            whole = len(sector) == _SECTOR and begin + _SECTOR <= limits.MAX_SIZE
            if kind != b"desc" or not whole or sector[:4] != b"data":
                return None
            if sector[4:8] != guards[4:] or sector[-4:] != guards[:4]:
                return None
            updates.append((begin, begin + _SECTOR, (at + place) % len(self._data)))
            data += _SECTOR
        return tuple(updates)
