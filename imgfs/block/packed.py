"""Units of one size, each with a place of its own. Pure arithmetic (INV-1, INV-2).

The table stays the bytes that came from the worker, and is checked row by row when a plan needs one.
"""

from __future__ import annotations

from itertools import compress, repeat
from operator import lt, not_
from typing import TYPE_CHECKING, Final, Self

from imgfs import limits
from imgfs.block.pieces import Coded, Lost, Stored, StoredUnit, Strip, Zeros
from imgfs.block.units import FEWEST, UnitMap, check_units
from imgfs.errors import Malformed
from imgfs.model import PACKED_CODED, PACKED_HOLE, PACKED_LOST, PACKED_PLAIN, PACKED_ROW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.block.pieces import ByteSource, Piece
    from imgfs.model import Packed

_LENGTH: Final = 0xFFFF_FFFF
_FLAGS: Final = 32  # bits the flags are shifted by in the second word of a row
# A strip is one read. What lies between its units is read too: alignment, tables, units of elsewhere.
_GAPS: Final = 1 * limits.MIB
_DECODED: Final = (PACKED_CODED, PACKED_PLAIN)
_VERBATIM: Final = 0  # what no flag says
_IN_STRIPS: Final = {*_DECODED, _VERBATIM}


class PackedMap(UnitMap):
    """A ByteSource in units over one lower source; see ``model.Packed`` for the rows.

    Shapes:
        _words uint64[2n]: offset, length | flags << 32 of every unit
    """

    __slots__ = ("_lower", "_words")

    def __init__(self, claim: Packed, words: memoryview, lower: ByteSource, spec: str) -> None:
        """Take over a checked claim; see ``checked``."""
        super().__init__(claim.size, claim.unit, claim.codec, spec)
        self._words = words
        self._lower = lower

    @classmethod
    def checked(
        cls, claim: Packed, lowers: Sequence[ByteSource], spec: str, table: bytes | memoryview
    ) -> Self:
        """Accept a claim about units. ``table`` holds the rows; they are checked when planned.

        Raises:
            Malformed: sizes and table contradict each other, there is no such source, or the codec is
                not one the daemon runs.
        """
        check_units(claim, table, PACKED_ROW, spec)
        if not 0 <= claim.which < len(lowers):
            raise Malformed(f"units in source {claim.which} of {len(lowers)}", spec=spec)
        return cls(claim, memoryview(table).cast("B").cast("Q"), lowers[claim.which], spec)

    def units(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie, unit by unit; see ``UnitSource``."""
        pieces: list[Piece] = []
        unit, size, words = self.unit, self.size, self._words
        while start < stop:
            index = start // unit
            at = index * unit
            held = min(unit, size - at)
            taken = min(at + held, stop) - start
            offset, word = words[2 * index], words[2 * index + 1]
            length, flags = word & _LENGTH, word >> _FLAGS
            if flags == PACKED_HOLE:
                pieces.append(Zeros(taken))
            elif flags == PACKED_LOST:
                pieces.append(Lost(taken, f"{self.spec} [{start}, {start + taken}): not in the image"))
            elif (why := self._wrong(offset, length, flags, held)) is not None:
                pieces.append(Lost(taken, f"{self.spec} [{at}, {at + held}): unit {index} {why}"))
            elif flags in _DECODED:
                stored = self._lower.plan(offset, offset + min(length, self._longest))
                key = self._number | index
                pieces.append(
                    Coded(
                        StoredUnit(key, self, index, held, self.codec, flags == PACKED_CODED, tuple(stored)),
                        start - at,
                        taken,
                    )
                )
            else:
                pieces += self._lower.plan(offset + start - at, offset + start - at + taken)
            start += taken
        return pieces

    def _wrong(self, offset: int, length: int, flags: int, held: int) -> str | None:
        """Say what is wrong with a row that means stored bytes."""
        if flags and flags not in _DECODED:
            return f"has flags {flags:#x}"
        if offset + length > self._lower.size or length < (held if flags == 0 else 1):
            return f"is said to be stored in {length} bytes at {offset} of {self._lower.size}"
        return None

    def _strip(self, number: int) -> Strip | None:
        """Return a strip; None: not all units are the codec's, or near each other in one host file."""
        index = number * self._per_strip
        words = self._words[2 * index : 2 * (index + self._per_strip)].tolist()
        starts = words[::2]
        count = len(starts)
        lengths = [word & _LENGTH for word in words[1::2]]
        flags = [word >> _FLAGS for word in words[1::2]]
        kinds = set(flags)
        if count < FEWEST or not kinds.issubset(_IN_STRIPS) or kinds == {_VERBATIM} or not all(lengths):
            return None
        if _VERBATIM in kinds:
            held = [self.unit] * count
            held[-1] = min(self.unit, self.size - (index + count - 1) * self.unit)
            if any(map(lt, compress(lengths, map(not_, flags)), compress(held, map(not_, flags)))):
                return None
        lengths = list(map(min, lengths, repeat(self._longest)))
        ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        start, stop = min(starts), max(ends)
        if stop > self._lower.size or stop - start > sum(lengths) + _GAPS:
            return None
        stored = self._lower.plan(start, stop)
        if len(stored) != 1 or not isinstance(piece := stored[0], Stored):
            return None
        at = index * self.unit
        return Strip(
            key=self._number | number,
            source=self,
            index=index,
            length=min(at + count * self.unit, self.size) - at,
            stored=piece,
            starts=tuple([begin - start for begin in starts]),
            ends=tuple([end - start for end in ends]),
            flags=tuple(flags),
        )
