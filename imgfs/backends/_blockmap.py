"""Runs of a disk image whose blocks are stored verbatim wherever a table says: VHD, VHDX, VDI.

Tables are looked at in pages of raw bytes: a page of one repeated constant, or of blocks that follow one
another, becomes one run without an object per block, so that 64 TiB of nothing opens at once.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, Literal, Protocol

from imgfs import limits
from imgfs.errors import EvidenceError, LostBytes, Truncated
from imgfs.model import HOLE, LOST, Foreign, Linear, Media

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgfs.backends import Bytes, Reader
    from imgfs.model import Layout

MAX_ENTRIES: Final = 1 << 26  # of one table: 64 TiB, the most VHDX allows, in blocks of 1 MiB
_RUN: Final = 26  # bytes of a run in its four columns
REPLY_RUNS: Final = (limits.MESSAGE_MAX - limits.MIB) // _RUN  # a reply is one message
_LOST_SHOWN: Final = 1000  # ranges listed with their reasons; the rest is counted
TOO_MANY: Final = "more runs than a layout may have"
_BITS: Final = re.compile("1+|0+")


class Source(Protocol):
    """What a table is read from: a ``Reader``, or a file with updates laid over it. Units: bytes."""

    size: int

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; see ``Reader``."""


class BlockRuns:
    """Columns of a Linear over ticket 0 that grow at the end; neighbours are merged.

    Units: bytes; ``size`` of the disk, ``end`` of the file blocks lie in. ``at`` is how far they reach.
    """

    __slots__ = ("_end", "_length", "_logical", "_lost", "_target", "_unshown", "at", "size")

    def __init__(self, size: int, end: int) -> None:
        self.size = size
        self.at = 0
        self._end = end
        self._logical = array("q")
        self._length = array("q")
        self._target = array("q")
        self._lost: list[tuple[int, int, str]] = []
        self._unshown = 0

    def store(self, length: int, target: int) -> None:
        """Append bytes of the file; what leaves the file is lost."""
        length = min(length, self.size - self.at)
        inside = min(length, max(self._end - target, 0))
        if inside > 0:
            if self._target and (last := self._target[-1]) >= 0 and last + self._length[-1] == target:
                self._length[-1] += inside
                self.at += inside
            else:
                self._append(inside, target)
        if inside < length:
            self.lose(length - inside, "the block lies beyond the end of the file")

    def hole(self, length: int) -> None:
        """Append zeros."""
        self._same(min(length, self.size - self.at), HOLE)

    def lose(self, length: int, why: str) -> None:
        """Append what the file does not hold."""
        length = min(length, self.size - self.at)
        if length > 0:
            self._explain(length, why)
            self._same(length, LOST)

    def layouts(self, tickets: int = 1) -> tuple[Layout, ...]:
        """Return the layout; what no table covers is lost.

        Runs that do not fit into one reply (a VHD of more than 1.1 TiB in blocks of 2 MiB) stay in the
        worker: the last run is of a Foreign as large as the disk, which ``read`` serves.
        """
        self.lose(self.size - self.at, "the table has no entry for it")
        kept = len(self._target)
        if kept <= REPLY_RUNS:
            columns = (self._logical, self._length, self._target)
            logical, length, target = (column.tobytes() for column in columns)
            return (Linear(size=self.size, logical=logical, length=length, target=target),)
        kept = REPLY_RUNS - 1
        rest = self._logical[kept]
        linear = Linear(
            size=self.size,
            logical=self._logical[: kept + 1].tobytes(),
            length=(self._length[:kept] + array("q", [self.size - rest])).tobytes(),
            target=(self._target[:kept] + array("q", [rest])).tobytes(),
            which=(array("H", bytes(2 * kept)) + array("H", [tickets])).tobytes(),
        )
        return (Foreign(size=self.size, why="more runs than one reply carries"), linear)

    def read(self, reader: Source, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of the disk, by the runs.

        Raises:
            LostBytes: the file does not hold part of them.
            Truncated: they leave the disk.
        """
        if not 0 <= offset <= offset + length <= self.size:
            raise Truncated("read outside the disk", start=offset, stop=offset + length)
        parts: list[bytes] = []
        run, stop = bisect_right(self._logical, offset) - 1, offset + length
        while offset < stop:
            inside = offset - self._logical[run]
            count = min(self._length[run] - inside, stop - offset)
            target = self._target[run]
            if target == LOST:
                raise LostBytes("the file does not hold it", start=offset, stop=offset + count)
            parts.append(bytes(count) if target == HOLE else reader.read(target + inside, count))
            offset += count
            run += 1
        return b"".join(parts)

    @property
    def lost(self) -> tuple[tuple[int, int, str], ...]:
        """Return the first lost ranges [start, stop) with their reasons."""
        return tuple(self._lost)

    @property
    def notes(self) -> list[str]:
        """Say how much is lost beyond the ranges listed."""
        return [f"{self._unshown} more bytes in further ranges are lost"] if self._unshown else []

    def _same(self, length: int, target: int) -> None:
        if length <= 0:
            return
        if self._target and self._target[-1] == target:
            self._length[-1] += length
            self.at += length
        else:
            self._append(length, target)

    def _append(self, length: int, target: int) -> None:
        if len(self._target) >= limits.MAX_RUNS - 1 and target != LOST:
            self.lose(length, TOO_MANY)
            return
        self._logical.append(self.at)
        self._length.append(length)
        self._target.append(target)
        self.at += length

    def _explain(self, length: int, why: str) -> None:
        if self._lost and self._lost[-1][1:] == (self.at, why):
            self._lost[-1] = (self._lost[-1][0], self.at + length, why)
        elif len(self._lost) < _LOST_SHOWN:
            self._lost.append((self.at, self.at + length, why))
        else:
            self._unshown += length


class _Remainder:
    """A disk whose last runs only the worker knows: ``backends.Bytes``."""

    def __init__(self, media: Media, runs: BlockRuns, reader: Reader) -> None:
        self.media = media
        self._runs = runs
        self._reader = reader

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of the disk; see ``BlockRuns.read``."""
        return self._runs.read(self._reader, offset, length)


def answer(media: Media, runs: BlockRuns, reader: Reader) -> Media | Bytes:
    """Return what opening answers: the worker keeps the runs when some of the layout is Foreign."""
    if any(isinstance(layout, Foreign) for layout in media.layouts):
        return _Remainder(media, runs, reader)
    return media


def pages(source: Source, start: int, width: int, count: int, per: int) -> Iterator[tuple[bytes, int]]:
    """Read a table in pages of ``per`` entries: (raw, how many entries).

    ``raw`` is empty where the entries leave the source or cannot be read. Units: ``start`` and ``width``
    bytes; ``count`` and ``per`` entries, ``per * width`` at most ``limits.SOURCE_READ_MAX``.
    """
    inside = min(max(source.size - start, 0) // width, count)
    for at in range(0, inside, per):
        number = min(per, inside - at)
        try:
            yield source.read(start + at * width, number * width), number
        except EvidenceError:
            yield b"", number
    for at in range(inside, count, per):
        yield b"", min(per, count - at)


def each(
    raw: bytes,
    code: Literal["I", "Q"],
    place: Callable[[int, int], None],
    *,
    empty: Callable[[int], bool],
    step: int = 0,
    swap: bool = False,
) -> None:
    """Call ``place(entry, number)`` for the entries of a page, in as few calls as possible.

    ``number`` above 1: that many equal entries for which ``empty`` holds, or that many entries each
    ``step`` larger than the one before (0: blocks never follow one another). ``raw`` is little-endian, or
    big-endian with ``swap``; workers run on little-endian machines.
    """
    width = array(code).itemsize
    count = len(raw) // width
    if not count:
        return
    first = int.from_bytes(raw[:width], "big" if swap else "little")
    if empty(first) and raw == raw[:width] * count:
        place(first, count)
        return
    entries = array(code)
    entries.frombytes(raw)
    if swap:
        entries.byteswap()
    if step and not empty(first) and first + step * count < 1 << (8 * width):
        follows = array(code, range(first, first + step * count, step))
        if entries == follows:
            place(first, count)
            return
    for entry in entries:
        place(entry, 1)


def bits(bitmap: bytes, *, msb: bool) -> Iterator[tuple[int, bool]]:
    """Split a bitmap into (how many, whether set) of equal neighbours, from its first bit on.

    ``msb``: the first bit of a byte is its most significant one.
    """
    if not bitmap:
        return
    text = format(int.from_bytes(bitmap, "big" if msb else "little"), f"0{8 * len(bitmap)}b")
    for match in _BITS.finditer(text if msb else text[::-1]):
        yield match.end() - match.start(), match[0][0] == "1"
