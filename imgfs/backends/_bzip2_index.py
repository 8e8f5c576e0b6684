"""An index of a bzip2 file: where its blocks lie, bit by bit, and how much each holds.

Blocks are found by their 48 bits of magic at any place, and proven by decoding them: each carries a checksum.
Parts of the file are looked through by several workers at once; the chain from the start of the file to its
end is made when all of them are known, so that magic inside of data means nothing.

Source: bzip2 1.0.8, as documented in "BZIP2: Format Specification" (Joe Tsai), 2.1, 2.2, 2.5.
"""

from __future__ import annotations

import bz2
import struct
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._index import Writer, read_all
from imgfs.backends._units_index import checksum, zeros
from imgfs.block.restarting import BZIP2_BLOCK, bzip2_stream
from imgfs.errors import BadUnit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._index import Steps

PART: Final = 8 * limits.MIB  # stored bytes of a part: about as many blocks as take ten seconds
END: Final = 0x1772_4538_5090
HEADER: Final = 32  # bits: BZh and the size of a block
BLOCK_MAGIC: Final = 48  # bits
TRAILER: Final = 80  # bits: the magic of the end and a checksum
ROW: Final = struct.Struct(
    "<QQQIIII"
)  # first bit, bit behind, decoded bytes, block CRC, slice start, length, CRC-32
# 900,000 bytes as bzip2 counts them become 46 MB when they are runs: slices that a cache keeps.
_SLICE: Final = 16 * limits.MIB
_HOLE: Final = limits.MIB  # zeros of this many bytes are not decoded
_LONGEST: Final = 1_300_000  # stored bytes of a block: incompressible ones are 900,000 and a little
_TRIES: Final = 4  # ends that are tried for a block: magic inside of data is no end
_SHORT: Final = 512  # stored bytes of blocks that are known again: 46 MB of zeros take 40
_KNOWN: Final = 256
_WRONG: Final = 16  # blocks of one part that turn out to be none before it is given up


_Held = tuple[int, list[tuple[int, int, int]]]  # decoded bytes of a block, and its slices


def _patterns(magic: int) -> tuple[tuple[int, bytes], ...]:
    """Return the five bytes that are whole within 48 bits, by how many bits of magic come before them."""
    return tuple((before, (magic >> 8 - before & 0xFF_FFFF_FFFF).to_bytes(5, "big")) for before in range(8))


_PATTERNS: Final = tuple((magic, _patterns(magic)) for magic in (BZIP2_BLOCK, END))


def magics(data: bytes, base: int) -> list[tuple[int, int]]:
    """Return (bit, which) of every magic that is whole in ``data``, which begins at byte ``base``."""
    found: list[tuple[int, int]] = []
    for magic, rows in _PATTERNS:
        for before, pattern in rows:
            at = data.find(pattern)
            while at >= 0:
                first = 8 * at - before
                if first >= 0 and first + BLOCK_MAGIC <= 8 * len(data) and _bits(data, first) == magic:
                    found.append((8 * base + first, magic))
                at = data.find(pattern, at + 1)
    found.sort()
    return found


def _bits(data: bytes, first: int, count: int = BLOCK_MAGIC) -> int:
    start, stop = first // 8, -(-(first + count) // 8)
    return int.from_bytes(data[start:stop], "big") >> 8 * stop - first - count & (1 << count) - 1


def steps(reader: Reader, part: int) -> Steps:
    """Yield part of an index: the blocks that begin in it."""
    start, stop = part * PART, min((part + 1) * PART, reader.size)
    until = min(stop + 2 * _LONGEST, reader.size)
    data = read_all(reader, start, until - start)
    places = magics(data, start)
    rows: list[bytes] = []
    wrong = 0
    known: dict[bytes, _Held] = {}
    behind = 0  # bit behind the last block that was proven
    for index, (bit, magic) in enumerate(places):
        if bit >= 8 * stop:
            break
        if magic != BZIP2_BLOCK or bit < behind:
            continue
        ends = [end for end, _ in places[index + 1 : index + 1 + _TRIES] if end - bit <= 8 * _LONGEST]
        for end in ends:
            found = _proven(data, 8 * start, bit, end, known)
            if found is not None:
                rows += found
                behind = end
                break
        else:
            wrong += 1
            if wrong > _WRONG:
                break
        yield b"", min(bit // 8 - start, stop - start)
    writer = Writer(part, reader.size)
    for piece in writer.end(b"".join(rows), {"part": part}):
        yield piece, stop - start


def _proven(data: bytes, base: int, bit: int, end: int, known: dict[bytes, _Held]) -> list[bytes] | None:
    """Return rows of the block at [bit, end); None: there is none. ``known``: short blocks, to come again."""
    first, last = (bit - base) // 8, -(-(end - base) // 8)
    head, tail = (bit - base) % 8, -(end - base) % 8
    try:
        stream = bzip2_stream(data[first:last], head, tail)
        held = known.get(stream) or _decoded(stream)
    except (OSError, EOFError, BadUnit):
        return None
    if held is None:
        return None
    if len(stream) <= _SHORT and len(known) < _KNOWN:
        known[stream] = held
    crc = _bits(data, bit - base + BLOCK_MAGIC, 32)
    size, slices = held
    return [ROW.pack(bit, end, size, crc, *row) for row in slices]


def _decoded(stream: bytes) -> _Held | None:
    """Return how much a block holds, and its slices; None: it ends elsewhere."""
    decoder = bz2.BZ2Decompressor()
    whole = decoder.decompress(stream)
    return (len(whole), list(_slices(whole))) if decoder.eof and whole else None


def _slices(whole: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (start, length, CRC-32) of what a block is read in: nothing is yielded for long zeros."""
    size = len(whole)
    if size <= 2 * limits.MIB:
        yield (0, 0, 0) if zeros(whole) else (0, size, checksum(whole))
        return
    start = 0
    any_ = False
    for at in range(0, size, _HOLE):
        hole = zeros(whole[at : at + _HOLE])
        full = at - start >= _SLICE
        if (hole or full) and at > start:
            yield start, at - start, checksum(whole[start:at])
            any_ = True
            start = at
        if hole:
            start = min(at + _HOLE, size)
    if start < size:
        yield start, size - start, checksum(whole[start:])
    elif not any_:
        yield 0, 0, 0  # the block is there, and all zeros


class Blocks:
    """The blocks of all parts, by their first bit."""

    def __init__(self, tables: list[bytes]) -> None:
        self._rows = sorted({row for table in tables for row in ROW.iter_unpack(table)})
        self._bits = [row[0] for row in self._rows]

    def at(self, bit: int) -> list[tuple[int, int, int, int, int, int, int]]:
        """Return the rows of the block at a bit."""
        found = []
        index = bisect_left(self._bits, bit)
        while index < len(self._bits) and self._bits[index] == bit:
            found.append(self._rows[index])
            index += 1
        return found
