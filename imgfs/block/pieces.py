"""What a plan is made of. Knows no I/O, no workers, no formats."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from imgfs.block.hostfile import HostFile
    from imgfs.model import Codec


Block = bytes | bytearray  # decoded; a bytearray because some libraries return one, never written to


class ByteSource(Protocol):
    """A checked, fixed-size run of bytes that can say where its bytes lie."""

    @property
    def size(self) -> int:
        """Return the number of bytes."""

    def plan(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie.

        Pieces are in order, adjacent, and their lengths sum to stop - start (INV-1). Pure and total
        for 0 <= start <= stop <= size: no I/O, no await, no exception for bad media (that is Lost).
        """


@dataclass(frozen=True, slots=True)
class Stored:
    """Verbatim in a host file, inside the size it had when it was opened (INV-3)."""

    file: HostFile
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Zeros:
    """The image says: zeros."""

    length: int


@dataclass(frozen=True, slots=True)
class Bytes:
    """Held in memory: content that was stored in metadata."""

    data: bytes
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The image cannot supply these bytes; ``why`` names the layer and the range."""

    length: int
    why: str


# Sources of units are numbered as they are made: number and index are a unit's key in the cache, and an
# integer is hashed and compared without a call into Python.
_SOURCES = count(1)
KEY_SHIFT: Final = 40  # units of one source: 2^40 x 32 KiB is beyond every size


def number() -> int:
    """Return the number of a new source of units, shifted to where keys carry it."""
    return next(_SOURCES) << KEY_SHIFT


@dataclass(frozen=True, slots=True)
class StoredUnit:
    """A unit kept as ``pieces`` (of the lower source) and turned into ``length`` bytes by ``codec``."""

    key: int
    source: ByteSource
    index: int
    length: int
    codec: Codec
    coded: bool  # False: stored plainly (a codec may still verify a checksum)
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class ForeignUnit:
    """A unit only a worker can produce; ``source`` carries the coroutine function that reads it."""

    key: int
    source: ByteSource
    index: int
    length: int


class UnitSource(ByteSource, Protocol):
    """A source in units of one size and codec."""

    unit: int
    spec: str

    @property
    def codec(self) -> Codec:
        """Return what decodes its units."""

    def units(self, start: int, stop: int) -> list[Piece]:
        """Say as ``plan`` where bytes [start, stop) lie, unit by unit: no piece is of a Strip."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Units stored near each other: one read, one trip to the pool, one block in the cache.

    Sequential reading costs the loop one piece per strip instead of one per unit. Where little of a
    strip is wanted, or it does not decode as a whole, its units stand for it (``UnitSource.units``).
    Unit i lies in bytes [starts[i], ends[i]) of ``stored``; its flags are those of a row of ``model.Packed``:
    PACKED_CODED, PACKED_PLAIN or, stored verbatim, none.
    """

    key: int
    source: UnitSource
    index: int  # of its first unit
    length: int
    stored: Stored
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    flags: tuple[int, ...]


class SummedSource(ByteSource, Protocol):
    """A source whose sectors have checksums that lie elsewhere."""

    sector: int
    width: int  # bytes of a checksum
    ways: int
    spec: str

    def stored(self, start: int, stop: int, way: int) -> list[Piece]:
        """Say where sectors are stored, in one of the ways to read them."""

    def sums(self, start: int, stop: int) -> list[Piece]:
        """Say where the checksums of sectors are stored."""

    def wrong(self, data: bytes | bytearray | memoryview, sums: bytes | bytearray | memoryview) -> list[int]:
        """Return the numbers of sectors in ``data`` whose checksum differs."""


@dataclass(frozen=True, slots=True)
class Verified:
    """Bytes [start, start + length) of a source with checksums, compared whenever they are read."""

    source: SummedSource
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Coded:
    """Bytes [skip, skip + length) of a unit or strip after decoding."""

    unit: Unit | Strip
    skip: int
    length: int


Unit = StoredUnit | ForeignUnit
Piece = Stored | Zeros | Bytes | Coded | Verified | Lost
