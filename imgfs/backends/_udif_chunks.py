"""Chunks of a UDIF image to layouts: runs over what is stored, and units of each codec and size.

Chunks have sizes of their own: mostly the one of the writer's buffer (256 KiB, 1 MiB), and the rest of it
before free space. Those of one codec and size are the units of one ``Packed``, in the order of the media, so
that neighbours are decoded together; a ``Linear`` puts all of them in their places.

What the daemon has no decoder for (ADC, LZFSE) is ``Foreign``. Its chunks lie in a space of their own, each
from a unit of the cache on: a chunk that does not decode costs none of its neighbours.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._udif import ENTRY, SECTOR
from imgfs.backends._udif_foreign import CODECS, LARGEST, ForeignChunks
from imgfs.model import HOLE, LOST, PACKED_CODED, Codec, Foreign, Linear, Packed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgfs.backends._udif import Table
    from imgfs.model import Layout

_ZEROS, _RAW, _FREE, _COMMENT, _END = 0, 1, 2, 0x7FFF_FFFE, 0xFFFF_FFFF
NAMES: Final = {
    _ZEROS: "zeros",
    _RAW: "raw",
    _FREE: "free",
    0x8000_0004: "ADC",
    0x8000_0005: "zlib",
    0x8000_0006: "bzip2",
    0x8000_0007: "LZFSE",
    0x8000_0008: "LZMA",
}
MAX_CHUNKS: Final = 2_500_000  # more than the largest property list that is read can name
_GROUPS: Final = 4096  # codec and size; chunks of further ones are decoded by the worker
_LOST_SHOWN: Final = 1000
_NO_CHUNK: Final = "no table says what is there"
_LENGTH: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class Space:
    """The data fork: which lower it is, and [start, stop) of what of it is at hand, in order.

    Units: bytes; ``shift`` is added to a position in the fork to get one in the lower.
    """

    which: int
    shift: int
    held: tuple[tuple[int, int], ...]

    def missing(self, at: int, length: int) -> bool:
        """Return whether a part of a range is not at hand."""
        if len(self.held) == 1:  # one file: asked for each of a million chunks
            return at + length > self.held[0][1]
        while length > 0:
            row = bisect_right(self.held, at, key=lambda one: one[0]) - 1
            if row < 0 or at >= self.held[row][1]:
                return True
            taken = min(self.held[row][1] - at, length)
            at, length = at + taken, length - taken
        return False


class Columns:
    """The chunks of all tables, in the order of the media. Units: bytes; positions in the data fork."""

    __slots__ = ("kinds", "lengths", "logical", "notes", "offsets", "stored")

    def __init__(self, tables: Sequence[Table]) -> None:
        self.logical = array("Q")
        self.lengths = array("Q")
        self.kinds = array("Q")
        self.offsets = array("Q")
        self.stored = array("Q")
        self.notes: list[str] = []
        for number, table in enumerate(tables):
            if len(self.logical) + len(table.entries) // ENTRY > MAX_CHUNKS:
                self.notes.append(f"more than {MAX_CHUNKS} chunks: those of table {number} on are lost")
                break
            self._take(number, table)

    def _take(self, number: int, table: Table) -> None:
        words = array("Q", table.entries)
        if sys.byteorder == "little":
            words.byteswap()
        ended = False
        strange = 0
        fork_max = limits.MAX_SIZE - table.data_at
        for word, first, count, offset, stored in zip(*(words[at::5] for at in range(5)), strict=True):
            kind = word >> 32  # the lower half is a comment
            if kind == _END:
                ended = True
                break
            if kind == _COMMENT or not count:
                continue
            if first + count > table.sectors or offset > fork_max or stored > limits.MAX_SIZE:
                strange += 1
                continue
            self.logical.append((table.start + first) * SECTOR)
            self.lengths.append(count * SECTOR)
            self.kinds.append(kind)
            self.offsets.append(table.data_at + offset)
            self.stored.append(stored)
        named = f"table {number} ({table.name})" if table.name else f"table {number}"
        if strange:
            self.notes.append(f"{named}: {strange} chunks leave their part of the media: they are lost")
        if not ended:
            self.notes.append(f"{named} has no end: {len(words) // 5} of {table.count} chunks are there")

    def rows(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield (logical, length, kind, offset, stored) in the order of the media."""
        columns = (self.logical, self.lengths, self.kinds, self.offsets, self.stored)
        if all(map(int.__le__, self.logical, self.logical[1:])):
            return zip(*columns, strict=True)
        order = sorted(range(len(self.logical)), key=self.logical.__getitem__)
        return ((column[row] for column in columns) for row in order)  # type: ignore[misc]


class Chunks:
    """The layout that grows as chunks are laid. Units: bytes; ``size`` of the media.

    ``lost`` are the first ranges that are lost, ``notes`` say what else is odd, ``counts`` how many chunks
    of each kind there are, ``free`` how many bytes the writer left out as free space.
    """

    def __init__(self, size: int, space: Space, first: int) -> None:
        """``first`` is the number of the first layout that ``layouts`` will return."""
        self.size = size
        self.lost: list[tuple[int, int, str]] = []
        self.counts: dict[int, int] = {}
        self.free = 0
        self.foreign = ForeignChunks()
        self._space = space
        self._first = first
        self._groups: dict[tuple[str, int], tuple[int, array[int]]] = {}
        self._logical, self._length, self._target = array("q"), array("q"), array("q")
        self._which = array("H")
        self._at = 0
        self._covered = 0
        self._unshown = 0

    def lay(self, columns: Columns) -> None:
        """Lay all chunks; where two cover the same bytes the first one has them."""
        for logical, length, kind, offset, stored in columns.rows():
            skip = self._at - logical
            if skip >= length or logical >= self.size:
                self._covered += skip >= length
                continue
            if skip > 0:
                self._covered += 1
            else:
                self._lose(-skip, _NO_CHUNK)
                skip = 0
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self._chunk(kind, skip, length, offset, stored)
        self._lose(self.size - self._at, _NO_CHUNK)

    def _chunk(self, kind: int, skip: int, length: int, offset: int, stored: int) -> None:
        """Lay a chunk of ``length`` bytes without the first ``skip``."""
        taken = min(length - skip, self.size - self._at)
        if kind in {_ZEROS, _FREE}:
            if kind == _FREE:
                self.free += taken
            self._run(taken, HOLE, 0)
        elif kind == _RAW:
            if stored < length:
                self._raw(min(taken, max(stored - skip, 0)), offset + skip)
                self._lose(taken - max(stored - skip, 0), "a raw chunk holds fewer bytes than it stands for")
            else:
                self._raw(taken, offset + skip)
        elif kind not in NAMES:
            self._lose(taken, f"chunk of unknown type {kind:#x}")
        elif not stored or stored > _LENGTH or self._space.missing(offset, stored):
            self._lose(taken, "a chunk is stored where the image has no data")
        elif (codec := CODECS.get(kind)) and (unit := self._unit(codec, length, offset, stored)):
            self._run(taken, unit[1] + skip, unit[0])
        elif length > LARGEST:
            self._lose(taken, f"a chunk of {length} bytes of {NAMES[kind]}")
        else:
            self._run(taken, self.foreign.add(kind, length, offset, stored) + skip, _LENGTH)

    def _raw(self, length: int, offset: int) -> None:
        """Lay verbatim bytes, as far as the image has them."""
        while length > 0:
            held = self._space.held
            row = bisect_right(held, offset, key=lambda one: one[0]) - 1
            if row >= 0 and offset < held[row][1]:
                taken = min(length, held[row][1] - offset)
                self._run(taken, offset + self._space.shift, self._space.which)
            else:
                taken = min(length, held[row + 1][0] - offset) if row + 1 < len(held) else length
                self._lose(taken, "a chunk is stored where the image has no data")
            offset, length = offset + taken, length - taken

    def _unit(self, codec: str, length: int, offset: int, stored: int) -> tuple[int, int] | None:
        """Return (layout, position in it) of a unit of its own; None: the daemon shall not decode it."""
        if length > limits.MAX_UNIT:
            return None
        group = self._groups.get((codec, length))
        if group is None:
            if len(self._groups) >= _GROUPS:
                return None
            group = self._groups[codec, length] = (self._first + len(self._groups), array("Q"))
        which, rows = group
        rows.append(offset + self._space.shift)
        rows.append(stored | PACKED_CODED << 32)
        return which, (len(rows) // 2 - 1) * length

    def _lose(self, length: int, why: str) -> None:
        length = min(length, self.size - self._at)
        if length <= 0:
            return
        if self.lost and self.lost[-1][1:] == (self._at, why):
            self.lost[-1] = (self.lost[-1][0], self._at + length, why)
        elif len(self.lost) < _LOST_SHOWN:
            self.lost.append((self._at, self._at + length, why))
        else:
            self._unshown += length
        self._run(length, LOST, 0)

    def _run(self, length: int, target: int, which: int) -> None:
        number = 0xFFFF if which == _LENGTH else which
        if self._target and self._which[-1] == number:
            last = self._target[-1]
            if (last == target) if target < 0 else (last >= 0 and last + self._length[-1] == target):
                self._length[-1] += length
                self._at += length
                return
        self._logical.append(self._at)
        self._length.append(length)
        self._target.append(target)
        self._which.append(number)
        self._at += length

    def layouts(self) -> tuple[list[Layout], list[bytes]]:
        """Return the layouts, and the rows of those that do not fit into a message, in their order."""
        foreign = self._first + len(self._groups)
        if self.foreign.size:
            self._which = array("H", [foreign if which == 0xFFFF else which for which in self._which])
        tables = [rows for _, rows in self._groups.values()]
        columns = [column.tobytes() for column in (self._logical, self._length, self._target, self._which)]
        inline = sum(8 * len(rows) for rows in tables) + sum(map(len, columns)) <= limits.TABLE_INLINE
        found: list[Layout] = [
            Packed(
                size=len(rows) // 2 * length,
                unit=length,
                codec=Codec(codec),
                table=rows.tobytes() if inline else b"",
                which=self._space.which,
            )
            for (codec, length), (_, rows) in self._groups.items()
        ]
        if self.foreign.size:
            why = " and ".join(sorted({NAMES[kind] for kind in self.foreign.kinds}))
            found.append(Foreign(size=self.foreign.size, why=f"chunks of {why}"))
        if inline:
            logical, length, target, which = columns
            found.append(Linear(size=self.size, logical=logical, length=length, target=target, which=which))
            return found, []
        none = b""
        rows = len(self._logical)
        found.append(Linear(size=self.size, logical=none, length=none, target=none, which=none, rows=rows))
        return found, [rows.tobytes() for rows in tables] + columns

    @property
    def notes(self) -> list[str]:
        """Say what is odd about the chunks as a whole."""
        found = []
        if self._covered:
            found.append(f"{self._covered} chunks cover bytes that an earlier one has")
        if self._unshown:
            found.append(f"{self._unshown} more bytes in further ranges are lost")
        return found
