"""Units of any sizes as they are found: rows of an index, and layouts from them.

Neighbours that are zeros, or that are lost, are one row. Decoded bytes that no unit can give at a bearable
price are kept in the index itself, compressed again; those are units of a layout of their own.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.block.restarting import crc32
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
    Linear,
    Media,
    Ragged,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgfs.backends import Reader
    from imgfs.backends._index import Section
    from imgfs.model import Layout

COPIED: Final = 1 << 16  # flag of a row, in an index only: the unit is in the index, a Zstandard frame
_ROW: Final = RAGGED_ROW + FRONT_ROW
_WORDS: Final = _ROW // 8
_LONGEST: Final = (1 << 32) - 1
_MIB: Final = limits.MIB
_ZEROS: Final = bytes(_MIB)
_MOST: Final = limits.MAX_RUNS


def zeros(data: bytes | bytearray) -> bool:
    """Say whether bytes are all zeros."""
    if not data or data[0] or data[-1]:
        return not data
    if len(data) <= _MIB:
        return data == _ZEROS[: len(data)]
    return all(zeros(data[at : at + _MIB]) for at in range(0, len(data), _MIB))


class Rows:
    """Rows in the order of the disk. Units: bytes; ``size`` is how far they reach."""

    def __init__(self) -> None:
        self.size = 0
        self._words = array("Q")  # six a row: those of a Ragged, then those of its second table

    def __len__(self) -> int:
        return len(self._words) // _WORDS

    def zero(self, length: int) -> None:
        """Append zeros."""
        self._plain(length, PACKED_HOLE)

    def lose(self, length: int) -> None:
        """Append what cannot be read."""
        self._plain(length, PACKED_LOST)

    def unit(
        self,
        length: int,
        offset: int,
        stored: int,
        *,
        head: int = 0,
        tail: int = 0,
        front: tuple[int, int] = (0, 0),
        skip: int = 0,
        check: int = 0,
        copied: bool = False,
    ) -> None:
        """Append a coded unit of ``length`` bytes; see ``model.Ragged``.

        Raises:
            Malformed: there are too many, or a number is too large.
        """
        if not length:
            return
        if len(self) >= _MOST or stored > _LONGEST or length > limits.MAX_UNIT:
            raise Malformed(f"{len(self)} units and one of {stored} bytes")
        flags = PACKED_CODED | head << RAGGED_HEAD | tail << RAGGED_TAIL | (COPIED if copied else 0)
        self._words.extend((self.size, offset, stored | flags << 32, front[0], front[1] | skip << 32, check))
        self.size += length

    def spoil(self, first: int, length: int = -1) -> None:
        """Make everything from row ``first`` on lost: its checksum differs; ``length`` bytes in its place."""
        start = self._words[_WORDS * first] if first < len(self) else self.size
        length = self.size - start if length < 0 else length
        del self._words[_WORDS * first :]
        self.size = start
        self.lose(length)

    def drop(self, count: int, first: int) -> None:
        """Make the last ``count`` rows lost, of those from ``first`` on."""
        self.spoil(max(len(self) - count, first))

    def table(self) -> bytes:
        """Return the rows as an index has them."""
        return self._words.tobytes()

    def _plain(self, length: int, kind: int) -> None:
        if not length:
            return
        words = self._words
        if not (words and words[-_WORDS + 2] == kind << 32):
            if len(self) >= _MOST:
                raise Malformed(f"more than {_MOST} units")
            words.extend((self.size, 0, kind << 32, 0, 0, 0))
        self.size += length


def checksum(data: bytes | bytearray | memoryview) -> int:
    """Return what ``check`` of a unit is."""
    return crc32(data)


def media(
    reader: Reader,
    section: Section,
    size: int,
    codec: Codec,
    *,
    version: str,
    facts: dict[str, str],
    notes: Sequence[str],
    lost: Sequence[tuple[int, int, str]],
) -> Media:
    """Lay out a container by the one section of its index.

    Raises:
        Malformed: there is nothing in it, or the index is no such.
    """
    words = array("Q")
    if len(section.table) % _ROW:
        raise Malformed("an index with part of a row")
    words.frombytes(section.table)
    count = len(words) // _WORDS
    if not count or not 0 < size <= limits.MAX_SIZE:
        raise Malformed("there is nothing in it")
    tickets = 1 + len(reader.others)
    index = tickets - 1
    copies = [row for row in range(count) if words[_WORDS * row + 2] >> 32 & COPIED]
    layouts: list[Layout] = []
    tables: list[bytes] = []
    own = _picked(words, range(count), blank=set(copies))
    layouts.append(_ragged(own, size, codec, front=index, tables=tables))
    if copies:
        kept = _picked(words, range(count), blank=set(range(count)) - set(copies))
        layouts.append(_ragged(kept, size, Codec("zstd"), front=-1, which=index, tables=tables))
        layouts.append(_woven(words, copies, size, tickets))
    if sum(map(len, tables)) > limits.TABLE_INLINE:
        reader.write_table(_sliced(tables))
    else:
        layouts = [_filled(layout, tables) if isinstance(layout, Ragged) else layout for layout in layouts]
    return Media(
        layouts=tuple(layouts),
        version=version,
        metadata={"units": str(count), **facts},
        notes=tuple(notes),
        lost=tuple(lost),
    )


def _picked(words: array[int], rows: range, blank: set[int]) -> array[int]:
    """Return rows, those of ``blank`` lost."""
    if not blank:
        return words
    found = array("Q", words)
    for row in rows:
        at = _WORDS * row
        if row in blank:
            found[at + 1 : at + 6] = array("Q", (0, PACKED_LOST << 32, 0, 0, 0))
        else:
            found[at + 2] &= ~(COPIED << 32)
    return found


def _ragged(
    words: array[int], size: int, codec: Codec, *, front: int, tables: list[bytes], which: int = 0
) -> Ragged:
    rows = len(words) // _WORDS
    table, ahead = array("Q", bytes(RAGGED_ROW * rows)), array("Q", bytes(FRONT_ROW * rows))
    for column in range(3):
        table[column::3] = words[column::_WORDS]
        ahead[column::3] = words[column + 3 :: _WORDS]
    tables.append(table.tobytes())
    if front >= 0:
        tables.append(ahead.tobytes())
    return Ragged(size=size, codec=codec, rows=rows, which=which, front=front)


def _filled(layout: Ragged, tables: list[bytes]) -> Ragged:
    return Ragged(
        size=layout.size,
        codec=layout.codec,
        rows=layout.rows,
        table=tables.pop(0),
        ahead=tables.pop(0) if layout.front >= 0 else b"",
        which=layout.which,
        front=layout.front,
    )


def _woven(words: array[int], copies: Sequence[int], size: int, tickets: int) -> Linear:
    """Return the disk over both layouts: of the first, but for what is copied."""
    runs: list[tuple[int, int, int]] = []
    which: list[int] = []
    kept = set(copies)
    count = len(words) // _WORDS
    for row in range(count):
        start = words[_WORDS * row]
        end = words[_WORDS * (row + 1)] if row + 1 < count else size
        source = tickets + (row in kept)
        if which and which[-1] == source:
            at, length, target = runs[-1]
            runs[-1] = (at, length + end - start, target)
        else:
            runs.append((start, end - start, start))
            which.append(source)
    return Linear.of(size, runs, which)


def _sliced(tables: Sequence[bytes]) -> Iterator[bytes]:
    for table in tables:
        for at in range(0, len(table), limits.MIB):
            yield table[at : at + limits.MIB]
