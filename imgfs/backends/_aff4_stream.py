"""Image streams of AFF4: chunks in bevies, each with an index, as rows of units.

Source: AFF4 Standard v1.0a, section 3. The index of before the standard (offsets of 32 bits: where each
chunk ends, as Evimetry wrote it, or where it begins) as pyaff4 (Apache-2.0) reads it, and names of
compression methods as pyaff4 and c-aff4 (Apache-2.0) write them.
"""

from __future__ import annotations

import operator
import struct
from array import array
from functools import lru_cache
from itertools import islice, repeat
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs import limits
from imgfs.backends._aff4_plan import Runs, Target
from imgfs.backends._aff4_volume import local
from imgfs.backends._aff4_zip import DEFLATED, STORED
from imgfs.errors import EvidenceError, Malformed, NotSupported
from imgfs.model import LOST, PACKED_CODED, PACKED_LOST, Codec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._aff4_plan import Plan
    from imgfs.backends._aff4_volume import Volume
    from imgfs.backends._aff4_zip import Segment

_CHUNK: Final = 32 * limits.KIB  # when the image does not say
_PER_BEVY: Final = 1024
_MAX_PER_BEVY: Final = 1 << 20
_MAX_CHUNKS: Final = limits.TABLE_MAX // 16
_ENTRY: Final = struct.Struct("<QI")
_MAX_MISSING: Final = 100_000  # bevies that are looked for beyond those an archive can hold
_LOST_SHOWN: Final = 1000
_SPARE: Final = 1 << 30
_METHODS: Final = {
    "code.google.com/p/snappy": "snappy",
    "github.com/google/snappy": "snappy",
    "code.google.com/p/lz4": "lz4",
    "github.com/lz4/lz4": "lz4",
    "tools.ietf.org/html/rfc1951": "deflate",
    "www.ietf.org/rfc/rfc1951.txt": "deflate",
    "www.ietf.org/rfc/rfc1950.txt": "zlib",
    "tools.ietf.org/html/rfc1950": "zlib",
}
_PLAIN: Final = frozenset({"NullCompressor", "compression/stored", "compression/none"})
# Some wrote incompressible chunks under this name verbatim, some compressed: see the codec.
_EITHER: Final = "github.com/google/snappy"


class _Method(NamedTuple):
    """How chunks are stored: ``codec`` empty: verbatim. ``always``: also those as long as a chunk."""

    codec: str
    always: bool = False


class _Bevy(NamedTuple):
    """One bevy: its data and its index, and whether that is of the standard."""

    data: Segment
    entries: Segment
    standard: bool


def method_of(name: str) -> _Method:
    """Return the compression method of a name.

    Raises:
        NotSupported: nobody here knows it.
    """
    if not name or local(name) in _PLAIN:
        return _Method("")
    bare = name.partition("://")[2].rstrip("/").lower()
    if bare not in _METHODS:
        raise NotSupported(f"AFF4 with chunks compressed by {name[:200]}")
    return _Method(_METHODS[bare], bare == _EITHER)


class ImageStream:
    """A stream of one volume. ``lost`` are ranges [start, stop) of it with the reason. Units: bytes."""

    def __init__(self, volume: Volume, urn: str) -> None:
        """Take over what the volume says of it.

        Raises:
            Malformed: sizes are impossible.
            NotSupported: its compression is not known.
        """
        self._volume = volume
        self._urn = urn
        size = volume.number(urn, "size")
        self.size = size or 0
        self._unit = volume.number(urn, "chunksize") or _CHUNK
        self._per = volume.number(urn, "chunksinsegment", "chunkspersegment") or _PER_BEVY
        self._count = -(-self.size // self._unit)
        if (
            not 0 <= self.size <= limits.MAX_SIZE
            or self._unit > limits.MAX_UNIT
            or self._per > _MAX_PER_BEVY
            or self._count > _MAX_CHUNKS
        ):
            raise Malformed(f"stream of {self.size} bytes in chunks of {self._unit}, {self._per} in a bevy")
        segments = len(volume.archive.segments)
        if self._count > (segments + _MAX_MISSING) * self._per:
            raise Malformed(f"stream of {self._count} chunks, {self._per} in each of {segments} segments")
        self._method = method_of(volume.one(urn, "compressionmethod", "compression"))
        self.lost: list[tuple[int, int, str]] = []

    def target(self, plan: Plan) -> Target:
        """Add the layouts of the stream and return where it is."""
        runs = Runs()
        codec = self._codec()
        bevies = -(-self._count // self._per)
        group: list[_Bevy | None] = []
        first = 0
        for number in range(bevies):
            bevy = self._bevy(number)
            plain = bevy is not None and bevy.data.method == STORED
            if bevy is None or (plain and (self._method.codec or not self._straight(bevy, number))):
                group.append(bevy)
                continue
            self._flush(plan, runs, group, first, codec)
            first = number + 1
            start, length = self._span(number)
            if plain:
                runs.add(start, length, self._volume.archive.start(bevy.data), self._volume.ticket)
            else:
                self._inflated(plan, runs, bevy, number, codec)
        self._flush(plan, runs, group, first, codec)
        if len(runs) == 1 and runs.target[0] == 0 and runs.which[0] > self._volume.ticket:
            return Target(runs.which[0], 0, self.size)
        return Target(plan.runs(self.size, runs), 0, self.size)

    def _codec(self) -> Codec:
        if not self._method.codec:
            return Codec("deflate")  # of units that are all verbatim
        return Codec(self._method.codec, {"unit": self._unit, "plain": int(self._method.always)})

    def _span(self, bevy: int, count: int = 1) -> tuple[int, int]:
        """Return the start and length of bevies in the stream."""
        start = bevy * self._per * self._unit
        return start, min(start + count * self._per * self._unit, self.size) - start

    def _chunks(self, bevy: int) -> int:
        return min(self._per, self._count - bevy * self._per)

    def _bevy(self, number: int) -> _Bevy | None:
        find, stored = self._volume.find, self._volume.one(self._urn, "stored")
        name = f"{self._urn}/{number:08d}"
        data = find(name, stored)
        if data is None or data.method not in (STORED, DEFLATED) or not data.size:
            return None
        index = find(f"{name}.index", stored)
        if index is not None:
            return _Bevy(data, index, standard=True)
        index = find(f"{name}/index", stored)
        return _Bevy(data, index, standard=False) if index is not None else None

    def _straight(self, bevy: _Bevy, number: int) -> bool:
        """Say whether the chunks of a bevy lie one after the other, verbatim: then it is one run."""
        if not bevy.standard or bevy.data.stored < self._span(number)[1]:
            return False
        try:
            raw = self._volume.archive.read(bevy.entries, _ENTRY.size * _MAX_PER_BEVY)
            start = self._volume.archive.start(bevy.data)
        except EvidenceError:
            return False
        if bevy.data.method == STORED and start + self._span(number)[1] > self._volume.reader.size:
            return False  # cut short: chunk by chunk
        count = self._chunks(number)
        whole = _ENTRY.size * (count - 1)
        wanted = straight_index(self._unit, self._per)
        return raw[:whole] == wanted[:whole] and raw[whole : whole + 8] == wanted[whole : whole + 8]

    def _inflated(self, plan: Plan, runs: Runs, bevy: _Bevy, number: int, codec: Codec) -> None:
        """Lay the chunks of a deflated bevy over it."""
        data, (start, length) = bevy.data, self._span(number)
        try:
            if data.size > limits.MAX_UNIT:
                raise Malformed(f"bevy {number} is deflated as one segment of {data.size} bytes")
            at = self._volume.archive.start(data)
        except EvidenceError as why:
            self.lose(start, start + length, why.message)
            runs.add(start, length, LOST, 0)
            return
        which = plan.unit(at, data.stored, data.size, self._volume.ticket)
        inflated = bevy._replace(data=data._replace(stored=data.size))
        if not self._method.codec and self._straight(inflated, number):
            runs.add(start, length, 0, which)
            return
        which = plan.units(length, self._unit, codec, which, lambda: self._rows([bevy], number, base=0))
        runs.add(start, length, 0, which)

    def _flush(self, plan: Plan, runs: Runs, group: list[_Bevy | None], first: int, codec: Codec) -> None:
        """Add the units of bevies that follow one another in the file."""
        if not group:
            return
        taken = list(group)
        group.clear()
        start, length = self._span(first, len(taken))
        ticket = self._volume.ticket
        runs.add(
            start, length, 0, plan.units(length, self._unit, codec, ticket, lambda: self._rows(taken, first))
        )

    def _rows(self, bevies: list[_Bevy | None], first: int, base: int = -1) -> Iterator[bytes]:
        """Make the rows of bevies; a bevy that cannot be read is lost."""
        for number, bevy in enumerate(bevies, first):
            count = self._chunks(number)
            start, length = self._span(number)
            if bevy is None:
                self.lose(start, start + length, f"bevy {number} or its index is missing")
                yield lost_rows(count)
                continue
            try:
                at = self._volume.archive.start(bevy.data) if base < 0 else base
                raw = self._volume.archive.read(bevy.entries, _ENTRY.size * _MAX_PER_BEVY)
                offsets, high, lengths = _entries(raw, bevy)
            except EvidenceError as why:
                self.lose(start, start + length, f"bevy {number}: {why.message}")
                yield lost_rows(count)
                continue
            if len(lengths) < count:
                self.lose(
                    start + len(lengths) * self._unit, start + length, f"the index of bevy {number} is short"
                )
            elif len(lengths) > count and number < (self._count - 1) // self._per:
                self.lose(start, start + length, f"the index of bevy {number} has {len(lengths)} entries")
                yield lost_rows(count)
                continue
            held = min(len(lengths), count)
            yield self._made(offsets[:held], high[:held], lengths[:held], at, bevy.data.size, start)
            yield lost_rows(count - held)

    def _made(
        self, offsets: array[int], high: array[int], lengths: array[int], at: int, size: int, start: int
    ) -> bytes:
        """Return rows of chunks at ``at`` plus their offsets; those that leave their bevy are lost."""
        count = len(lengths)
        if not count:
            return b""
        flags = self._flags(lengths)
        if high.tobytes() != bytes(4 * count) or not _inside(offsets, lengths, size):
            for row in range(count):
                if (high[row] << 32) + offsets[row] + lengths[row] > size:
                    flags[row], offsets[row], high[row] = PACKED_LOST, 0, 0
                    end = min(start + (row + 1) * self._unit, self.size)
                    self.lose(start + row * self._unit, end, "the index places the chunk outside its bevy")
        rows = array("I", bytes(16 * count))
        rows[0::4], rows[1::4], rows[2::4], rows[3::4] = offsets, high, lengths, flags
        # All offsets move by one addition of a long number; none overflows into its neighbour: they are
        # within the file.
        moved = int.from_bytes(rows.tobytes(), "little") + at * _ones(count, 16)
        return moved.to_bytes(16 * count, "little")

    def _flags(self, lengths: array[int]) -> array[int]:
        count, unit = len(lengths), self._unit
        if not self._method.codec:
            return array("I", bytes(4 * count))
        coded = array("I", [PACKED_CODED]) * count
        if self._method.always or unit.to_bytes(4, "little") not in lengths.tobytes():
            return coded
        return array("I", map(unit.__ne__, lengths))

    def lose(self, start: int, stop: int, why: str) -> None:
        """Record a lost range; neighbours with one reason are one."""
        if self.lost and self.lost[-1][1] == start and self.lost[-1][2] == why:
            self.lost[-1] = (self.lost[-1][0], stop, why)
        elif len(self.lost) < _LOST_SHOWN:
            self.lost.append((start, stop, why))


def _entries(raw: bytes, bevy: _Bevy) -> tuple[array[int], array[int], array[int]]:
    """Return offsets (low and high halves) and lengths of an index.

    Raises:
        Malformed: the index goes backwards.
    """
    words = array("I", raw[: len(raw) - len(raw) % (_ENTRY.size if bevy.standard else 4)])
    if bevy.standard:
        return words[0::3], words[1::3], words[2::3]
    if words and words[0]:  # where chunks end
        starts, ends = array("I", [0]) + words[:-1], words
    else:
        size = min(bevy.data.size, 0xFFFF_FFFF)
        starts, ends = words, array("I", [*islice(words, 1, None), size][: len(words)])
    try:
        lengths = array("I", map(operator.sub, ends, starts))
    except OverflowError as why:
        raise Malformed("its index goes backwards") from why
    return starts, array("I", bytes(4 * len(starts))), lengths


def lost_rows(count: int) -> bytes:
    """Return rows of chunks the image does not hold."""
    return struct.pack("<QII", 0, 0, PACKED_LOST) * count


@lru_cache(2)
def straight_index(unit: int, count: int) -> bytes:
    """Return the index of ``count`` chunks stored verbatim one after the other."""
    return b"".join(map(_ENTRY.pack, range(0, unit * count, unit), repeat(unit)))


def _inside(offsets: array[int], lengths: array[int], size: int) -> bool:
    """Say whether all chunks end within ``size`` bytes; False may also mean: look at each.

    All sums are one addition of long numbers, whose digits are kept from overflowing by two spare bits each.
    """
    if size > _SPARE:
        return False
    ones = _ones(len(lengths), 4)
    first, second = (int.from_bytes(column.tobytes(), "little") for column in (offsets, lengths))
    if (first | second) & (3 * _SPARE * ones):
        return False
    borrowed = 2 * _SPARE * ones
    return (borrowed + size * ones - first - second) & borrowed == borrowed


@lru_cache(8)
def _ones(count: int, width: int) -> int:
    """Return a number of ``count`` digits of ``width`` bytes that are all 1."""
    return int.from_bytes((1).to_bytes(width, "little") * count, "little")
