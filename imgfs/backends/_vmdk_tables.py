"""Grain directories and grain tables to runs: hosted, COWD and SESparse extents.

Hosted extents may have every table twice. Where only one copy can be true, it is taken; where both could
be and contradict each other, nobody knows which is: that grain is lost. A stream has one copy, and is
searched for markers when that one is damaged.
"""

from __future__ import annotations

from array import array
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._chain_runs import TooManyRuns
from imgfs.backends._vmdk_descriptor import SECTOR
from imgfs.backends._vmdk_stream import UNKNOWN, Scan, scan, tighten
from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgfs.backends import Reader
    from imgfs.backends._chain_runs import Runs
    from imgfs.backends._vmdk_sparse import Grains

MAX_DIRECTORY: Final = 1 << 22  # entries: 128 TiB in grains of 64 KiB, 64 TiB of SESparse
MAX_ENTRIES: Final = 1 << 27  # entries of tables looked at one by one: ten seconds
MAX_READ: Final = 4 * limits.GIB  # bytes of tables
_TABLE: Final = 0x1000_0000  # upper half of an entry of a SESparse directory
_LOW: Final = 0xFFFF_FFFF
_INDEX: Final = (1 << 48) - 1
_STEPS: Final = 0x1000  # neighbours of SESparse that one field counts


def walk(reader: Reader, grains: Grains, runs: Runs) -> list[str]:
    """Append what the tables say of the whole extent; returns remarks. Damage costs its range only."""
    walker = _Walker(reader, grains, runs)
    try:
        walker.walk()
    except TooManyRuns as full:
        runs.give_up(full.at, grains.size)
        walker.notes.append(f"the disk is in more than {runs.limit - 1} pieces: what is beyond them is lost")
    if walker.differing:
        walker.notes.append(f"{walker.differing} grain tables differ from their copies")
    tighten(runs.rows)
    return walker.notes


class _Walker:
    """One pass over the tables. ``differing`` counts those whose copy says something else."""

    __slots__ = (
        "_first", "_grains", "_left", "_reader", "_room", "_runs", "_scanned", "_second", "_seen", "_tried",
        "_unknown", "_zeros", "differing", "notes",
    )  # fmt: skip

    def __init__(self, reader: Reader, grains: Grains, runs: Runs) -> None:
        self._reader = reader
        self._grains = grains
        self._runs = runs
        self._seen: set[int] = set()
        self._left = MAX_ENTRIES
        self._room = MAX_READ
        self._zeros = bytes(grains.width * grains.entries)
        self._scanned: Scan | None = None
        self._tried = False
        self._unknown = "its two grain tables contradict each other"
        self.notes: list[str] = []
        self.differing = 0
        needed = -(-grains.size // (grains.grain * grains.entries))
        self._first = self._directory(grains.directory, needed)
        self._second = self._directory(grains.spare, needed)
        if grains.marker and self._first and not any(self._first) and not any(self._second):
            scanned = self._scan()
            if scanned is not None and scanned.found:  # there are grains: the directory was wiped
                del self._first[:]

    def walk(self) -> None:
        """Append what every table says."""
        grains, runs, first, second = self._grains, self._runs, self._first, self._second
        span, size = grains.grain * grains.entries, grains.size
        needed, held = -(-size // span), max(len(first), len(second))
        pairs = enumerate(zip_longest(first, second, fillvalue=0))
        numbers: Iterable[int] = (number for number, (entry, other) in pairs if entry or other)
        if held < needed and self._scan() is not None:
            numbers = chain(numbers, range(held, needed))
            held = needed
        expected = 0
        for index in numbers:
            runs.below(expected * span, (index - expected) * span)
            expected = index + 1
            at = index * span
            self._table(index, at, min(span, size - at))
        at, stop = expected * span, min(held * span, size)
        runs.below(at, stop - at)
        runs.gone(stop, size - stop, "no grain directory for it")

    def _directory(self, at: int, needed: int) -> array[int]:
        """Return the entries of a directory that are at hand."""
        entries = array("Q" if self._grains.width == 8 else "I")
        width = self._grains.width
        if 0 < at < self._reader.size:
            held = min(needed, self._grains.listed, (self._reader.size - at) // width, MAX_DIRECTORY)
            try:
                entries.frombytes(self._reader.read(at, held * width))
            except EvidenceError:
                self.notes.append("a grain directory cannot be read")
        return entries

    def _scan(self) -> Scan | None:
        """Return what markers say, looked for once; None: there are none."""
        if not self._tried:
            self._tried = True
            self._scanned = scan(self._reader, self._grains)
            if self._scanned is not None:
                self._unknown = "no marker of the grain was found"
                more = "" if self._scanned.whole else "; what neither a table nor a marker names is lost"
                self.notes.append(f"{self._scanned.found} grains were found by their markers{more}")
        return self._scanned

    def _table(self, index: int, at: int, length: int) -> None:
        raw, why = self._raw(self._first, index)
        other, other_why = self._raw(self._second, index)
        zeros = self._zeros
        if raw is not None and other is not None and raw != other:
            self.differing += 1
            if zeros in (raw, other):  # wiped, or never written
                raw, other = raw if other == zeros else other, None
        elif raw is None:
            raw, other = other, None
        # Writers of a stream leave out tables of nothing: one that is stored was wiped.
        scanned = self._marked(index) if raw is None or (raw == zeros and self._grains.at_end) else None
        if scanned is not None and (raw is None or any(0 < place < UNKNOWN for place in scanned)):
            self._take(at, length, scanned)
        elif raw is None:
            self._runs.gone(at, length, why or other_why)
        elif raw == zeros:
            self._runs.below(at, length)
        elif other not in (raw, None):
            self._take(at, length, self._agreed(self._words(raw), self._words(other)))
        else:
            entries = self._words(raw)
            if self._grains.marker and max(entries) * SECTOR >= self._reader.size:
                scanned = self._marked(index)
                pairs = zip(entries, scanned or entries, strict=False)
                entries = array("I", [mine if self._possible(mine) else found for mine, found in pairs])
            self._take(at, length, entries)

    def _raw(self, directory: array[int], index: int) -> tuple[bytes | None, str]:
        """Return the bytes of a table, or why there are none."""
        entry = directory[index] if index < len(directory) else 0
        grains = self._grains
        width = grains.width * grains.entries
        if not entry:
            return None, "no grain directory for it"
        if grains.sesparse:
            if entry >> 32 != _TABLE:
                return None, "an entry of the grain directory that means nothing"
            place = grains.tables + (entry & _LOW) * width
        elif entry < grains.floor:
            return bytes([entry, 0, 0, 0]) * grains.entries, ""
        else:
            place = entry * SECTOR
        if place in self._seen:  # nobody shares them; a loop would never end
            return None, "its grain table serves other grains"
        self._seen.add(place)
        if place + width > self._reader.size:
            return None, "its grain table is not in the file"
        self._room -= width
        if self._room < 0:
            return None, f"more than {MAX_READ} bytes of grain tables"
        try:
            return self._reader.read(place, width), ""
        except EvidenceError:
            return None, "its grain table cannot be read"

    def _words(self, raw: bytes) -> array[int]:
        return array("Q" if self._grains.sesparse else "I", raw)

    def _possible(self, entry: int) -> bool:
        grains = self._grains
        return entry < grains.floor or (entry >= grains.lowest and entry * SECTOR < self._reader.size)

    def _agreed(self, first: array[int], second: array[int]) -> array[int]:
        """Return what two copies of a table say together."""
        entries = array("I")
        for mine, other in zip(first, second, strict=True):
            if mine == other or not self._possible(other):
                entries.append(mine)
            else:
                entries.append(UNKNOWN if self._possible(mine) else other)
        return entries

    def _marked(self, index: int) -> array[int] | None:
        scanned = self._scan()
        if scanned is None:
            return None
        count = self._grains.entries
        return scanned.places[index * count : (index + 1) * count]

    def _take(self, at: int, length: int, entries: array[int]) -> None:
        """Append the grains of a table, those that continue each other as one."""
        grains = self._grains
        floor, step, grain = grains.floor, grains.step, grains.grain
        del entries[-(-length // grain) :]
        first, count = entries[0], len(entries)
        last = first + step * (count - 1)
        plain = not grains.coded and not grains.sesparse and floor <= first <= last == entries[-1] < UNKNOWN
        if plain and entries == array("I", range(first, last + 1, step)):
            self._runs.data(at, length, first * SECTOR, self._reader.size)
            return
        self._left -= count
        if self._left < 0:
            self._runs.gone(at, length, f"more than {MAX_ENTRIES} entries of grain tables")
            return
        pairs = enumerate(zip(entries, islice(entries, 1, None), strict=False), 1)
        if grains.coded and min(entries) >= floor and max(entries) < UNKNOWN:
            cuts = []
        elif grains.coded:
            lost = UNKNOWN
            cuts = [i for i, (a, b) in pairs if a != b and not (floor <= a < lost and floor <= b < lost)]
        else:
            cuts = [i for i, (a, b) in pairs if b - a != (step if a >= floor else 0)]
        cuts.append(count)
        begin = 0
        for stop in cuts:
            start = at + begin * grain
            inside = min(at + stop * grain, at + length) - start
            self._group(start, inside, entries[begin:stop])
            begin = stop

    def _group(self, start: int, length: int, entries: array[int]) -> None:
        """Append grains that are alike."""
        grains, runs, entry = self._grains, self._runs, entries[0]
        if not entry:
            runs.below(start, length)
        elif grains.sesparse:
            self._sesparse(start, length, entry)
        elif entry < grains.floor:
            runs.zero(start, length)
        elif entry == UNKNOWN:
            runs.gone(start, length, self._unknown)
        elif entry < grains.lowest:
            runs.gone(start, length, "grains inside the header")
        elif grains.coded:
            self._coded(start, length, entries)
        else:
            runs.data(start, length, entry * SECTOR, self._reader.size)

    def _sesparse(self, start: int, length: int, entry: int) -> None:
        kind, low = entry >> 60, entry >> 48 & _STEPS - 1
        if kind in (1, 2):  # unmapped by the guest, or zeros
            self._runs.zero(start, length)
        elif kind == 3:
            grain = self._grains.grain
            place = self._grains.grains + (low | (entry & _INDEX) << 12) * grain
            inside = min(length, (_STEPS - low) * grain)
            self._runs.data(start, inside, place, self._reader.size)
            self._runs.gone(start + inside, length - inside, "grain table entries that mean nothing")
        else:
            self._runs.gone(start, length, "grain table entries that mean nothing")

    def _coded(self, start: int, length: int, entries: array[int]) -> None:
        """Append compressed grains; how long each is at most, ``tighten`` finds out."""
        grains, end = self._grains, self._reader.size
        marker, most = grains.marker, 2 * grains.grain
        offsets = [entry * SECTOR + marker for entry in entries]
        if (highest := max(offsets)) < end:
            far = highest + most <= end
            stored = [most] * len(offsets) if far else [min(most, end - offset) for offset in offsets]
            self._runs.coded_all(start, length, grains.grain, offsets, stored)
            return
        stop = start + length
        for offset in offsets:
            inside = min(grains.grain, stop - start)
            if offset < end:
                self._runs.coded(start, inside, grains.grain, offset, min(most, end - offset))
            else:
                self._runs.gone(start, inside, "grains beyond the end of the file")
            start += inside
