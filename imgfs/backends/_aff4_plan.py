"""Layouts of one reply while they are planned: their tables are made last, inline or in the memory file."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs import limits
from imgfs.errors import Malformed, NotSupported
from imgfs.model import HOLE, LINEAR_ROW, LOST, PACKED_CODED, PACKED_ROW, Codec, Inline, Linear, Packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgfs.backends import Reader
    from imgfs.model import Layout

_ROW: Final = struct.Struct("<QII")
_TILE: Final = 16 * limits.KIB  # of one byte, and ...
_TILES: Final = 16 * limits.MIB  # ... as often as a row of the upper table may hold
FILL_MAX: Final = (1 << 19) * _TILES  # 8 TiB of one byte value: 8 MiB of rows
_ANY: Final = Codec("deflate")  # of tables whose units are all verbatim


class Target(NamedTuple):
    """What a run of a map points to.

    ``which`` counts lowers as a Linear does; ``base`` is an offset in it, or HOLE, or LOST; ``size`` counts
    the bytes that can be had from there on. ``follows``: bytes further on are further on in the lower, too;
    else they are the same everywhere. ``why`` says why they are lost.
    """

    which: int
    base: int
    size: int
    follows: bool = True
    why: str = ""


ZEROS: Final = Target(0, HOLE, limits.MAX_SIZE, follows=False)


def lost(why: str) -> Target:
    """Return the target of what the image does not say."""
    return Target(0, LOST, limits.MAX_SIZE, follows=False, why=why)


class Runs:
    """Columns of a Linear, in the order of the stream. Units: bytes."""

    __slots__ = ("length", "logical", "target", "which")

    def __init__(self) -> None:
        self.logical = array("q")
        self.length = array("q")
        self.target = array("q")
        self.which = array("H")

    def add(self, logical: int, length: int, target: int, which: int) -> None:
        """Append a run."""
        self.logical.append(logical)
        self.length.append(length)
        self.target.append(target)
        self.which.append(which)

    def __len__(self) -> int:
        return len(self.logical)

    @property
    def columns(self) -> tuple[array[int], array[int], array[int], array[int]]:
        """Return logical, length, target, which."""
        return self.logical, self.length, self.target, self.which


@dataclass(slots=True)
class _Pending:
    """A layout without its table. ``make`` takes the table, None: it went to the memory file.

    Units: ``length`` bytes of the table.
    """

    length: int
    rows: Callable[[], Iterator[bytes]]
    make: Callable[[bytes | None], Layout]


class _Fill:
    """As many bytes of one value as the longest run needs: a unit of units of one tile."""

    def __init__(self, lower: int) -> None:
        self.lower = lower
        self.count = 1

    def rows(self) -> Iterator[bytes]:
        yield _ROW.pack(0, _TILES, 0) * self.count

    def make(self, table: bytes | None) -> Layout:
        size = self.count * _TILES
        return Packed(size=size, unit=_TILES, codec=_ANY, table=table or b"", which=self.lower)


class Plan:
    """The layouts of one stream, the lower ones first."""

    def __init__(self, tickets: int) -> None:
        self._tickets = tickets
        self._pending: list[_Pending] = []
        self._fills: dict[int, tuple[Target, _Fill, _Pending]] = {}

    def __len__(self) -> int:
        return len(self._pending)

    def units(
        self, size: int, unit: int, codec: Codec, which: int, rows: Callable[[], Iterator[bytes]]
    ) -> int:
        """Add a Packed, whose rows are asked for at the end; returns its number."""

        def make(table: bytes | None) -> Layout:
            return Packed(size=size, unit=unit, codec=codec, table=table or b"", which=which)

        return self._add(_Pending(PACKED_ROW * -(-size // unit), rows, make))

    def runs(self, size: int, runs: Runs) -> int:
        """Add a Linear; returns its number."""

        def make(table: bytes | None) -> Layout:
            if table is None and len(runs):
                return Linear(size=size, logical=b"", length=b"", target=b"", rows=len(runs))
            logical, length, target, which = (column.tobytes() for column in runs.columns)
            return Linear(size=size, logical=logical, length=length, target=target, which=which)

        def rows() -> Iterator[bytes]:
            return (column.tobytes() for column in runs.columns)

        return self._add(_Pending(LINEAR_ROW * len(runs), rows, make))

    def unit(self, start: int, stored: int, size: int, which: int) -> int:
        """Add one deflated segment as a unit of its own; returns its number."""
        row = _ROW.pack(start, stored, PACKED_CODED)
        return self.units(size, size, Codec("deflate"), which, lambda: iter((row,)))

    def fill(self, value: int) -> Target:
        """Return the target of a stream of one byte value; ``need`` says how long it has to be."""
        if value not in self._fills:
            tile = Inline(bytes([value]) * _TILE)
            at = self._add(_Pending(0, lambda: iter(()), lambda _: tile))
            inner = _ROW.pack(0, _TILE, 0) * (_TILES // _TILE)
            fill = _Fill(self.units(_TILES, _TILE, _ANY, at, lambda: iter((inner,))))
            pending = _Pending(PACKED_ROW, fill.rows, fill.make)
            self._fills[value] = Target(self._add(pending), 0, FILL_MAX, follows=False), fill, pending
        return self._fills[value][0]

    def need(self, which: int, length: int) -> None:
        """Make the stream of one value with the number ``which`` at least ``length`` bytes long."""
        for target, fill, pending in self._fills.values():
            if target.which == which:
                fill.count = max(fill.count, -(-length // _TILES))
                pending.length = PACKED_ROW * fill.count

    def layouts(self, reader: Reader | None) -> tuple[Layout, ...]:
        """Make all tables and return the layouts; ``reader`` takes tables that are too large for a message.

        Raises:
            NotSupported: they are, and there is none.
            Malformed: they are larger than the memory file.
        """
        total = sum(pending.length for pending in self._pending)
        if total <= limits.TABLE_INLINE:
            return tuple(pending.make(b"".join(pending.rows())) for pending in self._pending)
        if reader is None:
            raise NotSupported(f"a file whose table of chunks takes {total} bytes")
        if total > limits.TABLE_MAX:
            raise Malformed(f"tables of {total} bytes")
        reader.write_table(chain.from_iterable(pending.rows() for pending in self._pending))
        return tuple(pending.make(None) for pending in self._pending)

    def _add(self, pending: _Pending) -> int:
        self._pending.append(pending)
        return self._tickets + len(self._pending) - 1
