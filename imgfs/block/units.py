"""What maps of stored units have in common: planning in strips, which are remembered. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, cast

from imgfs import limits
from imgfs.block.codecs import DECODERS
from imgfs.block.pieces import Coded, number
from imgfs.errors import Malformed

if TYPE_CHECKING:
    from imgfs.block.pieces import Piece, Strip
    from imgfs.model import Chunked, Codec, Packed

# Decoded bytes of a strip: enough to make a trip to the pool a small part of it, few enough for two cores
# to share one window of read-ahead.
_STRIP: Final = 1 * limits.MIB
_MOST: Final = 1024  # units of a strip
FEWEST: Final = 2
_LITTLE: Final = 32 * limits.KIB
_UNKNOWN: Final = cast("Strip", object())
# Strips are planned by read-ahead and by every read of them: this many are remembered, about 3 KiB each.
_RECENT: Final = 256


def check_units(claim: Chunked | Packed, table: bytes | memoryview, row: int, spec: str) -> int:
    """Return the number of units of a claim whose table has rows of ``row`` bytes.

    Raises:
        Malformed: size, unit and table contradict each other, or the codec is not one the daemon runs.
    """
    if not 0 <= claim.size <= limits.MAX_SIZE or not 0 < claim.unit <= limits.MAX_UNIT:
        raise Malformed(f"{claim.size} bytes in units of {claim.unit}", spec=spec)
    if claim.codec.name not in DECODERS:
        raise Malformed(f"no codec named {claim.codec.name[:40]!r}", spec=spec)
    count = -(-claim.size // claim.unit)
    if len(table) != row * count:
        raise Malformed(f"a table of {len(table)} bytes for {count} units", spec=spec)
    return count


class UnitMap(ABC):
    """A ByteSource in units of one size and codec; see ``UnitSource``."""

    __slots__ = ("_longest", "_number", "_per_strip", "_strips", "codec", "size", "spec", "unit")

    def __init__(self, size: int, unit: int, codec: Codec, spec: str) -> None:
        self.size = size
        self.unit = unit
        self.codec = codec
        self.spec = spec
        self._number = number()
        # No encoder doubles its input: what is longer is garbage behind the unit, and is not read.
        self._longest = 2 * unit + limits.KIB
        self._per_strip = min(max(1, _STRIP // unit), _MOST)
        self._strips: dict[int, Strip | None] = {}

    def plan(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie; see ``ByteSource``."""
        wide = self.unit * self._per_strip
        pieces: list[Piece] = []
        while start < stop:
            number = start // wide
            at = number * wide
            until = min(at + wide, stop)
            strip = self._strips.get(number, _UNKNOWN)
            if strip is _UNKNOWN:
                # Who wants little of a strip that nobody has read from does without it: making one costs
                # as much as decoding a unit.
                strip = None if until - start <= _LITTLE else self._remember(number)
            if strip is None:
                pieces += self.units(start, until)
            else:
                pieces.append(Coded(strip, start - at, until - start))
            start = until
        return pieces

    def start_of(self, index: int) -> int:
        """Return the first decoded byte of a unit."""
        return index * self.unit

    @abstractmethod
    def units(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie, unit by unit; see ``UnitSource``."""

    @abstractmethod
    def _strip(self, number: int) -> Strip | None:
        """Return a strip; None: its units are not plain neighbours in one host file."""

    def _remember(self, number: int) -> Strip | None:
        if len(self._strips) >= _RECENT:
            self._strips.clear()
        strip = self._strips[number] = self._strip(number)
        return strip
