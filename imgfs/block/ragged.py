"""Units of any sizes, each with a place of its own. Pure arithmetic (INV-1, INV-2).

The tables stay the bytes that came from the worker; rows are found by bisection and checked when a plan needs
them. A table that does not ascend gives LOST bytes, and never a plan of another length.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, Self

from imgfs import limits
from imgfs.block.codecs import DECODERS
from imgfs.block.pieces import Coded, Lost, StoredUnit, Zeros, number
from imgfs.errors import Malformed
from imgfs.model import (
    FRONT_ROW,
    PACKED_CODED,
    PACKED_HOLE,
    PACKED_LOST,
    RAGGED_HEAD,
    RAGGED_ROW,
    RAGGED_TAIL,
    Codec,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.block.pieces import ByteSource, Piece
    from imgfs.model import Ragged

_WORD: Final = 0xFFFF_FFFF
_KIND: Final = 0xFF  # bits of the flags that say what is stored
_BITS: Final = 7
_KNOWN: Final = _KIND | _BITS << RAGGED_HEAD | _BITS << RAGGED_TAIL
_MOST_FRONT: Final = 1 * limits.MIB


class RaggedMap:
    """A ByteSource in units over one lower source; see ``model.Ragged`` for the rows.

    A unit's codec gets what its rows say as parameters ``head``, ``tail`` (bits), ``front``, ``skip`` (bytes)
    and ``check``.

    Shapes:
        _words uint64[3n]: start, offset, length | flags << 32 of every unit
        _ahead uint64[3n]: offset, length | skip << 32, check of every unit; or nothing
    """

    __slots__ = ("_ahead", "_codec", "_count", "_front", "_lower", "_number", "_words", "size", "spec")

    def __init__(
        self,
        claim: Ragged,
        words: memoryview,
        ahead: memoryview,
        lower: ByteSource,
        front: ByteSource | None,
        spec: str,
    ) -> None:
        """Take over a checked claim; see ``checked``."""
        self.size = claim.size
        self.spec = spec
        self._codec = claim.codec
        self._count = claim.rows
        self._words = words
        self._ahead = ahead
        self._lower = lower
        self._front = front
        self._number = number()

    @classmethod
    def checked(
        cls,
        claim: Ragged,
        lowers: Sequence[ByteSource],
        spec: str,
        table: bytes | memoryview,
        ahead: bytes | memoryview,
    ) -> Self:
        """Accept a claim about units. The rows in the tables are checked when planned.

        Raises:
            Malformed: sizes and tables contradict each other, there is no such source, or the codec is
                not one the daemon runs.
        """
        if not 0 <= claim.size <= limits.MAX_SIZE or not 0 <= claim.rows <= limits.MAX_RUNS:
            raise Malformed(f"{claim.size} bytes in {claim.rows} units", spec=spec)
        if bool(claim.size) != bool(claim.rows):
            raise Malformed(f"{claim.size} bytes in {claim.rows} units", spec=spec)
        if claim.codec.name not in DECODERS:
            raise Malformed(f"no codec named {claim.codec.name[:40]!r}", spec=spec)
        if not 0 <= claim.which < len(lowers) or not -1 <= claim.front < len(lowers):
            raise Malformed(f"units in sources {claim.which}, {claim.front} of {len(lowers)}", spec=spec)
        wanted = FRONT_ROW * claim.rows if claim.front >= 0 else 0
        if len(table) != RAGGED_ROW * claim.rows or len(ahead) != wanted:
            raise Malformed(f"tables of {len(table)}, {len(ahead)} bytes for {claim.rows} units", spec=spec)
        words, more = memoryview(table).cast("B").cast("Q"), memoryview(ahead).cast("B").cast("Q")
        front = lowers[claim.front] if claim.front >= 0 else None
        return cls(claim, words, more, lowers[claim.which], front, spec)

    def start_of(self, index: int) -> int:
        """Return the first decoded byte of a unit."""
        return self._words[3 * index]

    def plan(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie; see ``ByteSource``."""
        pieces: list[Piece] = []
        if start >= stop:
            return pieces
        index = bisect_right(range(self._count), start, key=self.start_of) - 1
        while start < stop:
            at = self._words[3 * index] if 0 <= index < self._count else self.size
            end = self._words[3 * index + 3] if index + 1 < self._count else self.size
            if not at <= start < end:
                why = f"{self.spec} [{start}, {stop}): the table does not ascend at unit {index}"
                pieces.append(Lost(stop - start, why))
                return pieces
            taken = min(end, stop) - start
            pieces += self._unit(index, at, end - at, start - at, taken)
            start += taken
            index += 1
        return pieces

    def _unit(self, index: int, at: int, held: int, skip: int, taken: int) -> list[Piece]:
        """Return the pieces for ``taken`` bytes of a unit of ``held`` bytes, behind its first ``skip``."""
        offset, word = self._words[3 * index + 1], self._words[3 * index + 2]
        length, flags = word & _WORD, word >> 32
        kind = flags & _KIND
        if kind == PACKED_HOLE:
            return [Zeros(taken)]
        where = f"{self.spec} [{at}, {at + held}): unit {index}"
        if kind == PACKED_LOST:
            return [Lost(taken, f"{where}: not in the image")]
        least = 1 if kind else held
        if flags & ~_KNOWN or kind not in (0, PACKED_CODED):
            return [Lost(taken, f"{where} has flags {flags:#x}")]
        if offset + length > self._lower.size or length < least:
            return [Lost(taken, f"{where} is said to be stored in {length} bytes at {offset}")]
        if not kind:
            return self._lower.plan(offset + skip, offset + skip + taken)
        if held > limits.MAX_UNIT or length > 2 * limits.MAX_UNIT:  # no encoder doubles its input
            return [Lost(taken, f"{where} is too large to be decoded")]
        stored = self._lower.plan(offset, offset + length)
        parameters = dict(self._codec.parameters)
        if flags != PACKED_CODED:
            parameters["head"] = flags >> RAGGED_HEAD & _BITS
            parameters["tail"] = flags >> RAGGED_TAIL & _BITS
        if self._front is not None:
            before, lengths, check = self._ahead[3 * index : 3 * index + 3]
            front, passed = lengths & _WORD, lengths >> 32
            if front > _MOST_FRONT or before + front > self._front.size or passed + held > limits.MAX_UNIT:
                return [Lost(taken, f"{where} has {front} bytes at {before} in front, {passed} to skip")]
            if front:
                stored = [*self._front.plan(before, before + front), *stored]
            parameters |= {"front": front, "skip": passed, "check": check & _WORD}
        codec = Codec(self._codec.name, parameters)
        key = self._number | index
        return [Coded(StoredUnit(key, self, index, held, codec, True, tuple(stored)), skip, taken)]
