"""Runs of a disk whose blocks are stored verbatim wherever a table says: VHD, VHDX, VDI, sparse images.

Tables are looked at in pages of raw bytes: a page of one repeated constant, or of blocks that follow one
another, becomes one run without an object per block, so that 64 TiB of nothing opens at once.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final, Literal, Protocol

from imgfs.backends._chain_runs import DATA, Runs, TooManyRuns
from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_ENTRIES: Final = 1 << 26  # of one table: 64 TiB, the most VHDX allows, in blocks of 1 MiB
_SAME: Final = (0, 0xFF)


class Source(Protocol):
    """What a table is read from: a ``Reader``, or a file with updates laid over it. Units: bytes."""

    size: int

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; see ``Reader``."""


class Blocks:
    """Lays a disk from its start on. Units: bytes; ``at`` is how far it reaches."""

    __slots__ = ("_end", "_runs", "_size", "at")

    def __init__(self, runs: Runs, size: int, end: int) -> None:
        """``size`` of the disk; ``end`` of the file the blocks lie in."""
        self.at = 0
        self._runs = runs
        self._size = size
        self._end = end

    def store(self, length: int, target: int) -> None:
        """Append bytes of the file; what leaves the file is lost."""
        length = min(length, self._size - self.at)
        inside = max(min(length, self._end - target), 0)
        self._runs.add(self.at, inside, DATA, target)
        self.at += inside
        self.lose(length - inside, "the block lies beyond the end of the file")

    def hole(self, length: int) -> None:
        """Append zeros."""
        length = min(length, self._size - self.at)
        self._runs.zero(self.at, length)
        self.at += length

    def below(self, length: int) -> None:
        """Append what the image leaves to its parent."""
        length = min(length, self._size - self.at)
        self._runs.below(self.at, length)
        self.at += length

    def lose(self, length: int, why: str) -> None:
        """Append what the file does not hold."""
        length = min(length, self._size - self.at)
        self._runs.gone(self.at, length, why)
        self.at += length


def lay(
    size: int, end: int, most: int, fill: Callable[[Blocks], None], notes: list[str] | None = None
) -> Runs:
    """Return the runs of a disk of ``size`` bytes as ``fill`` lays them; what it leaves out is lost.

    ``end`` of the file the blocks lie in; ``most`` runs; what is beyond them is lost, and said in ``notes``.
    """
    runs = Runs(most)
    blocks = Blocks(runs, size, end)
    try:
        fill(blocks)
        blocks.lose(size - blocks.at, "the table has no entry for it")
    except TooManyRuns as full:
        runs.give_up(full.at, size)
        if notes is not None:
            notes.append(f"the disk is in more than {runs.limit - 1} pieces: what is beyond them is lost")
    return runs


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
    count = 8 * len(bitmap)
    if not count:
        return
    if bitmap[0] in _SAME and bitmap.count(bitmap[0]) == len(bitmap):  # most of them, in a disk of a million
        yield count, bitmap[0] != 0
        return
    text = format(int.from_bytes(bitmap, "big" if msb else "little"), f"0{count}b")
    if not msb:
        text = text[::-1]
    at = 0
    while at < count:
        held = text[at] == "1"
        stop = text.find("0" if held else "1", at)
        stop = count if stop < 0 else stop
        yield stop - at, held
        at = stop
