"""Chunks dealt out to members in a pattern, some computed from others. Pure arithmetic (INV-1, INV-2).

A chunk that is stored is a piece of its member; one that is a sum in GF(2^8) is cut into units whose terms
are put one behind the other for the codec ``galois``. Where a member cannot say its bytes the sum is lost,
too, in blocks: nothing is computed from less than all terms.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import pairwise
from operator import le
from typing import TYPE_CHECKING, Final, Literal, Self

from imgfs import limits
from imgfs.block.chunks import ChunkMap
from imgfs.block.enciphered import CipherMap
from imgfs.block.extents import ExtentMap
from imgfs.block.hostfile import HostFile
from imgfs.block.packed import PackedMap
from imgfs.block.pieces import KEY_SHIFT, Coded, Lost, Stored, StoredUnit, number
from imgfs.block.ragged import RaggedMap
from imgfs.errors import Malformed
from imgfs.model import LOST, Codec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from imgfs.block.pieces import ByteSource, Piece
    from imgfs.model import Striped

_SECTOR: Final = 512
_BLOCK: Final = 4 * limits.KIB  # what is lost with a sector of one term; the number of a unit counts these
_UNIT: Final = 64 * limits.KIB  # of a computed chunk: few enough for a random read, enough for a trip
_FEW: Final = 64  # terms of units so large; of more, units are blocks
# Stored ranges of one unit, through all layers: as many as md has members. Each may be a unit of 64 KiB.
_MOST_TERMS: Final = 2048
_DEEPEST: Final = 100  # maps on maps: each is a call of ``plan`` in another
_MOST_CHUNKS: Final = 1 << 20  # that repeat


def countable(size: int, chunk: int) -> bool:
    """Say whether the blocks of so many bytes in chunks can be numbered: 4 PiB can."""
    return -(-size // chunk) * -(-chunk // _BLOCK) <= 1 << KEY_SHIFT


Take = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Pattern:
    """The checked columns of a claim; see ``model.Striped`` for their shapes."""

    ends: array[int]
    which: array[int]
    base: array[int]
    factor: bytes

    @classmethod
    def checked(cls, claim: Striped, count: int, size: Callable[[int], int], spec: str = "") -> Self:
        """Accept a claim over ``count`` sources, whose sizes are asked for as they are needed.

        Raises:
            Malformed: columns contradict each other, a term leaves its source, a sum has too many terms.
        """
        if not 0 <= claim.size <= limits.MAX_SIZE or not 0 <= claim.stride <= limits.MAX_SIZE:
            raise Malformed(f"{claim.size} bytes in strides of {claim.stride}", spec=spec)
        if not 0 < claim.chunk <= limits.MAX_SIZE or claim.chunk % _SECTOR:
            raise Malformed(f"chunks of {claim.chunk} bytes", spec=spec)
        ends, which, base = _column("I", claim.ends), _column("H", claim.which), _column("q", claim.base)
        terms = ends[-1] if ends else 0
        if not (len(ends) and terms == len(which) == len(base) == len(claim.factor)):
            message = f"columns of {terms}, {len(which)}, {len(base)} and {len(claim.factor)} terms"
            raise Malformed(message, spec=spec)
        if len(ends) > _MOST_CHUNKS or terms > limits.MAX_RUNS or not all(map(le, ends, ends[1:])):
            raise Malformed(f"{len(ends)} chunks of {terms} terms", spec=spec)
        if terms and (max(which) >= count or min(base) < 0 or 0 in claim.factor):
            raise Malformed("a term of no source, of negative position or of no weight", spec=spec)
        pattern = cls(ends, which, base, claim.factor)
        if pattern.terms() > _MOST_TERMS:
            raise Malformed(f"a chunk of {pattern.terms()} terms", spec=spec)
        pattern._inside(claim, {one: size(one) for one in set(which)}, spec)
        return pattern

    def terms(self) -> int:
        """Return the most that one chunk has."""
        return max(after - before for before, after in pairwise([0, *self.ends]))

    def _inside(self, claim: Striped, sizes: Mapping[int, int], spec: str) -> None:
        """Check that the last use of every term lies in its source."""
        count = -(-claim.size // claim.chunk)
        if not countable(claim.size, claim.chunk):
            raise Malformed(f"{count} chunks of {claim.chunk} bytes", spec=spec)
        term = 0
        for chunk, end in enumerate(self.ends):
            rounds = (count - 1 - chunk) // len(self.ends)  # before the last; -1: there is no such chunk
            last = chunk + rounds * len(self.ends) == count - 1
            length = claim.size - (count - 1) * claim.chunk if last else claim.chunk
            # With a shorter last chunk the one a round before may reach further.
            reach = rounds * claim.stride + length
            if last and rounds > 0:
                reach = max(reach, (rounds - 1) * claim.stride + claim.chunk)
            while term < end:
                at = self.base[term]
                if rounds >= 0 and at + reach > sizes[self.which[term]]:
                    message = f"chunk {chunk} leaves its source of {sizes[self.which[term]]} bytes"
                    raise Malformed(message, spec=spec, start=at, stop=at + reach)
                term += 1


class StripedMap:
    """A ByteSource in chunks over ``lowers``; see ``model.Striped``."""

    __slots__ = (
        "_base",
        "_chunk",
        "_codecs",
        "_ends",
        "_factor",
        "_lowers",
        "_number",
        "_per_chunk",
        "_stride",
        "_which",
        "depth",
        "size",
        "spec",
        "terms",
    )

    def __init__(
        self, claim: Striped, pattern: Pattern, lowers: Mapping[int, ByteSource], spec: str, take: Take
    ) -> None:
        """Take over checked columns; see ``checked``."""
        self.terms, self.depth = take
        self.size = claim.size
        self.spec = spec
        self._chunk = claim.chunk
        self._stride = claim.stride
        self._ends, self._which, self._factor = pattern.ends, pattern.which, pattern.factor
        self._lowers: dict[int, ByteSource] = {}
        shifts = dict.fromkeys(lowers, 0)
        for one, lower in lowers.items():
            window = lower.below() if isinstance(lower, ExtentMap) else None
            self._lowers[one], shifts[one] = window or (lower, 0)
        self._base = [at + shifts[which] for at, which in zip(pattern.base, pattern.which, strict=True)]
        self._number = number()
        self._per_chunk = -(-claim.chunk // _BLOCK)
        self._codecs: dict[bytes, Codec] = {}

    @classmethod
    def checked(cls, claim: Striped, lowers: Sequence[ByteSource], spec: str, takes: Takes) -> Self:
        """Accept a claim about chunks.

        Raises:
            Malformed: see ``Pattern.checked``; or a unit would take too much of what lies below.
        """
        pattern = Pattern.checked(claim, len(lowers), lambda one: lowers[one].size, spec)
        used = {one: lowers[one] for one in set(pattern.which)}
        below = [takes.of(lower) for lower in used.values()]
        terms = max(1, pattern.terms()) * max([take[0] for take in below], default=1)
        depth = 1 + max([take[1] for take in below], default=0)
        if terms > _MOST_TERMS or depth > _DEEPEST:
            raise Malformed(f"a sum of {terms} terms in {depth} layers", spec=spec)
        return cls(claim, pattern, used, spec, (terms, depth))

    def runs(self) -> Iterator[tuple[int, int, ByteSource | None, int]]:
        """Yield (start, length, lower, target) of every chunk; lower is None where it is computed or lost."""
        period = len(self._ends)
        for index, start in enumerate(range(0, self.size, self._chunk)):
            turn, place = divmod(index, period)
            first = self._ends[place - 1] if place else 0
            length = min(self._chunk, self.size - start)
            if first + 1 == self._ends[place] and self._factor[first] == 1:
                lower = self._lowers[self._which[first]]
                yield start, length, lower, self._base[first] + turn * self._stride
            else:
                yield start, length, None, LOST

    def dealt(self) -> tuple[int, list[tuple[ByteSource, int]]] | None:
        """Return the chunk and the members, with where each begins, of plain stripes; None: they are none."""
        count = len(self._ends)
        if (
            self._stride != self._chunk
            or list(self._ends) != list(range(1, count + 1))
            or set(self._factor) != {1}
        ):
            return None
        return self._chunk, [(self._lowers[w], at) for w, at in zip(self._which, self._base, strict=True)]

    def plan(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie; see ``ByteSource``."""
        pieces: list[Piece] = []
        chunk, ends, period = self._chunk, self._ends, len(self._ends)
        index, skip = divmod(start, chunk)
        while start < stop:
            turn, place = divmod(index, period)
            taken = min(chunk - skip, stop - start)
            end = ends[place]
            first = ends[place - 1] if place else 0
            if first + 1 == end and self._factor[first] == 1:
                lower = self._lowers[self._which[first]]
                at = self._base[first] + turn * self._stride + skip
                if type(lower) is HostFile:
                    _append(pieces, lower, at, taken)
                else:
                    pieces += lower.plan(at, at + taken)
            elif first == end:
                pieces.append(Lost(taken, f"{self.spec} [{start}, {start + taken}): on no member"))
            else:
                self._computed(pieces, index, range(first, end), skip, skip + taken)
            start += taken
            index += 1
            skip = 0
        return pieces

    def _computed(self, pieces: list[Piece], index: int, terms: range, skip: int, until: int) -> None:
        """Append bytes [skip, until) of a chunk that is a sum, unit by unit."""
        turn = index // len(self._ends)
        held = min(self._chunk, self.size - index * self._chunk)
        wide = _UNIT if len(terms) <= _FEW else _BLOCK
        while skip < until:
            at = skip - skip % wide
            stop = min(at + wide, held)
            stored = self._terms(terms, turn, at, stop)
            if stored is None and wide > _BLOCK:  # what is not lost is to be had
                at = skip - skip % _BLOCK
                stop = min(at + _BLOCK, held)
                stored = self._terms(terms, turn, at, stop)
            taken = min(stop, until) - skip
            if stored is None:
                here = index * self._chunk + skip
                pieces.append(Lost(taken, f"{self.spec} [{here}, {here + taken}): a member lost its part"))
            else:
                number = index * self._per_chunk + at // _BLOCK
                codec = self._codec(self._factor[terms.start : terms.stop])
                key = self._number | number
                unit = StoredUnit(key, self, number, stop - at, codec, coded=True, pieces=stored)
                pieces.append(Coded(unit, skip - at, taken))
            skip += taken

    def _terms(self, terms: range, turn: int, start: int, stop: int) -> tuple[Piece, ...] | None:
        """Return bytes [start, stop) of all terms, one behind the other; None: some are lost."""
        pieces: list[Piece] = []
        for term in terms:
            at = self._base[term] + turn * self._stride
            pieces += self._lowers[self._which[term]].plan(at + start, at + stop)
        if any(type(piece) is Lost for piece in pieces):
            return None
        return tuple(pieces)

    def _codec(self, factors: bytes) -> Codec:
        codec = self._codecs.get(factors)
        if codec is None:
            codec = self._codecs[factors] = Codec("galois", {"factors": factors})
        return codec


class Takes:
    """What one unit of a source takes: (stored ranges, maps on each other), of all sources of one reply.

    Sums of sums multiply. Sources are told apart by identity: they live as long as this does.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, Take] = {}

    def of(self, source: ByteSource) -> Take:
        """Return what a source takes; each is looked at once."""
        known = self._known
        waiting = [source]
        while waiting:
            last = waiting[-1]
            below = _below(last)
            unknown = [lower for lower in below if id(lower) not in known]
            if unknown and id(last) not in known:
                waiting += unknown
                continue
            waiting.pop()
            if isinstance(last, StripedMap):
                known[id(last)] = last.terms, last.depth
            elif id(last) not in known:
                takes = [known[id(lower)] for lower in below]
                most = max([take[0] for take in takes], default=1)
                known[id(last)] = most, 1 + max([take[1] for take in takes], default=0)
        return known[id(source)]


def _below(source: ByteSource) -> Sequence[ByteSource]:
    """Return the sources a map reads, but for stripes, which know what they take."""
    if isinstance(source, ExtentMap | ChunkMap):
        return source._lowers
    if isinstance(source, CipherMap):
        return (source.lower,)
    if isinstance(source, RaggedMap):
        return [lower for lower in (source._lower, source._front) if lower is not None]
    return (source._lower,) if isinstance(source, PackedMap) else ()


def _column(code: Literal["I", "H", "q"], data: bytes) -> array[int]:
    """Return a column; an incomplete item is left out, and missed when columns are compared."""
    items = array(code)
    items.frombytes(data[: len(data) - len(data) % items.itemsize])
    return items


def _append(pieces: list[Piece], file: HostFile, offset: int, length: int) -> None:
    """Append a stored piece, merged with the one before where the file goes on."""
    last = pieces[-1] if pieces else None
    if type(last) is Stored and last.file is file and last.offset + last.length == offset:
        pieces[-1] = Stored(file, last.offset, last.length + length)
    else:
        pieces.append(Stored(file, offset, length))
