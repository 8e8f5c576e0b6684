"""LZX as WIM archives and the overlay filter use it: one chunk of at most 32 KiB, nothing before it.

Source: [MS-PATCH] 2.1 to 2.6 (trees, blocks, recent offsets, E8 translation), with what differs here: a bit
instead of a size says that a block has 32 KiB, every chunk is translated as if of a file of 12,000,000
bytes, and starts with trees of its own.
"""

from __future__ import annotations

import struct
from typing import Final

from imgfs.backends._huffman import Code, code
from imgfs.errors import BadUnit

try:
    from imgfs.block._lz import lzx as _fast
except ImportError:  # no compiler where it was installed
    _fast = None  # type: ignore[assignment]

CHUNK: Final = 32_768  # bytes
_VERBATIM, _ALIGNED, _STORED = 1, 2, 3  # kinds of blocks
_SLOTS: Final = 30  # of offsets up to 32 KiB
_MAIN: Final = 256 + 8 * _SLOTS  # symbols: bytes, then slots with eight lengths each
_LENGTHS: Final = 249  # symbols
_TRANSLATED: Final = 12_000_000  # bytes a file is taken to have
_TAIL: Final = 10  # bytes at a chunk's end that are never translated
_E8: Final = 0xE8  # CALL of x86
_BEHIND: Final = 16  # bytes of zeros behind the data: what is looked at and not used may lie there
_EXTRA: Final = (0, 0, 0, 0, *(n // 2 - 1 for n in range(4, _SLOTS)))  # bits of an offset, by slot
_BASE: Final = tuple(sum(1 << bits for bits in _EXTRA[:slot]) for slot in range(_SLOTS))


def decompress(data: bytes, size: int) -> bytes:
    """Return the ``size`` bytes of a chunk.

    Raises:
        BadUnit: it ends early, holds more, refers to bytes before its start, or a code is none.
    """
    found = None if _fast is None else _fast(data, size)
    return decoded(data, size) if found is None else found


def decoded(data: bytes, size: int) -> bytes:
    """Return the same without the extension, slower; what it refuses is told here."""
    if not 0 <= size <= CHUNK:
        raise BadUnit(f"a chunk of {size} bytes")
    chunk = _Chunk(data, size)
    while len(chunk.out) < size:
        chunk.block()
    return _untranslated(chunk.out)


class _Bits:
    """Bits of words of 16, the highest first. Units: ``at`` bits."""

    __slots__ = ("at", "data", "end", "words")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.end = 8 * len(data)
        self.at = 0
        padded = data + bytes(_BEHIND + len(data) % 2)
        words = struct.unpack(f"<{len(padded) // 2}H", padded)
        # three words in one, so that any 17 bits are a shift away
        self.words: list[int] = [
            a << 32 | b << 16 | c for a, b, c in zip(words, words[1:], words[2:], strict=False)
        ]

    def take(self, bits: int) -> int:
        """Return the next 0 to 17 bits. Raises BadUnit: there are no more."""
        at = self.at
        self.at = at + bits
        if self.at > self.end:
            raise BadUnit(f"a chunk ends after {self.end // 8} bytes")
        return self.words[at >> 4] >> 48 - (at & 15) - bits & (1 << bits) - 1

    def symbol(self, table: Code) -> int:
        """Return the next symbol of a code. Raises BadUnit: there are no more bits, or the code is empty."""
        if not table.bits:
            raise BadUnit("a chunk uses a code without symbols")
        at = self.at
        if at > self.end:
            raise BadUnit(f"a chunk ends after {self.end // 8} bytes")
        entry = table.entries[self.words[at >> 4] >> 48 - (at & 15) - table.bits & (1 << table.bits) - 1]
        self.at = at + (entry & 31)
        return entry >> 5


class _Chunk:
    """A chunk while it is decoded: its trees and recent offsets go on from block to block."""

    __slots__ = ("_bits", "_length", "_main", "_recent", "_size", "out")

    def __init__(self, data: bytes, size: int) -> None:
        self.out = bytearray()
        self._bits = _Bits(data)
        self._size = size
        self._main = [0] * _MAIN
        self._length = [0] * _LENGTHS
        self._recent = (1, 1, 1)

    def block(self) -> None:
        """Decode the next block. Raises BadUnit as ``decompress`` does."""
        bits = self._bits
        kind = bits.take(3)
        size = CHUNK if bits.take(1) else bits.take(16)
        if not 0 < size <= self._size - len(self.out):
            raise BadUnit(f"a block of {size} bytes at {len(self.out)} of a chunk of {self._size}")
        if kind == _STORED:
            self._stored(size)
        elif kind in {_VERBATIM, _ALIGNED}:
            aligned = code([bits.take(3) for _ in range(8)], "aligned offsets'") if kind == _ALIGNED else None
            self._lengths(self._main, 0, 256)
            self._lengths(self._main, 256, _MAIN)
            main = code(self._main, "main")
            self._lengths(self._length, 0, _LENGTHS)
            self._matches(len(self.out) + size, main, code(self._length, "length"), aligned)
        else:
            raise BadUnit(f"a block of kind {kind}")

    def _stored(self, size: int) -> None:
        """Copy a block of plain bytes: padding of 1 to 16 bits, three offsets, bytes, one more if odd."""
        bits = self._bits
        at = (bits.at // 16 + 1) * 2
        if at + 12 + size > len(bits.data):
            raise BadUnit(f"a block of {size} bytes at {at} of {len(bits.data)}")
        first, second, third = struct.unpack_from("<3I", bits.data, at)
        self._recent = first, second, third
        at += 12
        self.out += bits.data[at : at + size]
        bits.at = 8 * (at + size + size % 2)

    def _lengths(self, lengths: list[int], start: int, stop: int) -> None:
        """Change the lengths of some symbols' codes by what is stored.

        Source: [MS-PATCH] 2.4 (encoding the trees and pre-trees).
        """
        bits = self._bits
        changes = code([bits.take(4) for _ in range(20)], "lengths'")
        at = start
        while at < stop:
            symbol, times = bits.symbol(changes), 1
            if symbol == 17:
                value, times = 0, 4 + bits.take(4)
            elif symbol == 18:
                value, times = 0, 20 + bits.take(5)
            elif symbol == 19:
                times = 4 + bits.take(1)
                change = bits.symbol(changes)
                if change > 16:
                    raise BadUnit(f"code lengths that change by {change}")
                value = (lengths[at] - change) % 17
            else:
                value = (lengths[at] - symbol) % 17
            if at + times > stop:
                raise BadUnit(f"lengths of {times} codes at {at} of {stop}")
            lengths[at : at + times] = [value] * times
            at += times

    def _matches(self, stop: int, main: Code, long: Code, aligned: Code | None) -> None:
        """Decode bytes and repetitions until there are ``stop`` bytes."""
        bits, out, words, end = self._bits, self.out, self._bits.words, self._bits.end
        first, second, third = self._recent
        if not main.bits:
            raise BadUnit("a block without a code")
        entries, shift, mask = main.entries, 48 - main.bits, (1 << main.bits) - 1
        have = len(out)
        at = bits.at
        while have < stop:
            if at > end:
                raise BadUnit(f"a chunk ends after {have} bytes of {self._size}")
            entry = entries[words[at >> 4] >> shift - (at & 15) & mask]
            at += entry & 31
            symbol = entry >> 5
            if symbol < 256:
                out.append(symbol)
                have += 1
                continue
            bits.at = at
            length = symbol & 7
            length += 2 if length < 7 else 2 + bits.symbol(long)
            slot = symbol - 256 >> 3
            if slot > 2:
                distance = self._distance(slot, aligned)
                first, second, third = distance, first, second
            elif slot == 1:
                first, second = second, first
            elif slot == 2:
                first, third = third, first
            start = have - first
            if start < 0 or not first:
                raise BadUnit(f"a chunk refers to {first} bytes back at {have}")
            if length > stop - have:
                raise BadUnit(f"a repetition of {length} bytes at {have} of a block that ends at {stop}")
            if length <= first:
                out += out[start : start + length]
            else:
                out += (out[start:] * (length // first + 1))[:length]
            have += length
            at = bits.at
        if at > end:
            raise BadUnit(f"a chunk ends after {have} bytes of {self._size}")
        bits.at = at
        self._recent = first, second, third

    def _distance(self, slot: int, aligned: Code | None) -> int:
        extra = _EXTRA[slot]
        if aligned is None or extra < 3:
            return _BASE[slot] + self._bits.take(extra) - 2
        return _BASE[slot] + (self._bits.take(extra - 3) << 3) + self._bits.symbol(aligned) - 2


def _untranslated(out: bytearray) -> bytes:
    """Return a chunk with the targets of calls relative again.

    Source: [MS-PATCH] 2.3.1 and the E8 header of LZX: not in the last ten bytes of a chunk.
    """
    at, stop = 0, len(out) - _TAIL
    while (at := out.find(_E8, at, max(stop, 0))) >= 0:
        (target,) = struct.unpack_from("<i", out, at + 1)
        if -at <= target < _TRANSLATED:
            struct.pack_into("<i", out, at + 1, target - at if target >= 0 else target + _TRANSLATED)
        at += 5
    return bytes(out)
