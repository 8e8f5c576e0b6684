"""XPRESS Huffman (LZ77 and a prefix code), one chunk of at most 64 KiB at a time.

Source: [MS-XCA] 2.2 (LZ77+Huffman decompression). Code lengths of 512 symbols come first; bits are taken
from words of 16, and long lengths from the bytes behind the words that were fetched.
"""

from __future__ import annotations

from typing import Final

from imgfs.backends._huffman import code
from imgfs.errors import BadUnit

try:
    from imgfs.block._lz import xpress as _fast
except ImportError:  # no compiler where it was installed
    _fast = None  # type: ignore[assignment]

CHUNK_MAX: Final = 65_536  # bytes: beyond, a chunk has another code
_LENGTHS: Final = 256  # bytes of code lengths, two in each
_WORDS: Final = 8  # bytes of zeros behind the data: what is fetched and not used may lie there


def decompress(data: bytes, size: int) -> bytes:
    """Return the ``size`` bytes of a chunk.

    Raises:
        BadUnit: it ends early, holds more, refers to bytes before its start, or its code is none.
    """
    found = None if _fast is None else _fast(data, size)
    return decoded(data, size) if found is None else found


def decoded(data: bytes, size: int) -> bytes:
    """Return the same without the extension, slower; what it refuses is told here."""
    if not 0 <= size <= CHUNK_MAX:
        raise BadUnit(f"a chunk of {size} bytes")
    if len(data) < _LENGTHS + 4:
        raise BadUnit(f"a chunk is kept in {len(data)} bytes")
    lengths = [length for byte in data[:_LENGTHS] for length in (byte & 15, byte >> 4)]
    bits, entries = code(lengths, "chunk's")
    if not bits:
        raise BadUnit("a chunk without a code")
    shift = 32 - bits
    end = len(data)
    data += bytes(_WORDS)
    out = bytearray()
    at = _LENGTHS + 4
    word = int.from_bytes(data[at - 4 : at - 2], "little") << 16 | int.from_bytes(data[at - 2 : at], "little")
    spare = 16  # bits of ``word`` beyond the 16 that must always be there
    while len(out) < size:
        entry = entries[word >> shift]
        length = entry & 31
        word = word << length & 0xFFFFFFFF
        spare -= length
        if spare < 0:
            word |= (data[at] | data[at + 1] << 8) << -spare
            spare += 16
            at += 2
        symbol = entry >> 5
        if symbol < 256:
            out.append(symbol)
        else:
            length = symbol & 15
            if length == 15:
                length, at = _long(data, at, end)
            length += 3
            places = symbol - 256 >> 4
            distance = 1 << places | word >> 1 >> (31 - places)
            word = word << places & 0xFFFFFFFF
            spare -= places
            if spare < 0:
                word |= (data[at] | data[at + 1] << 8) << -spare
                spare += 16
                at += 2
            _copy(out, distance, length, size)
        if at > end and (at - end) * 8 > spare + 16:
            raise BadUnit(f"a chunk ends after {len(out)} bytes of {size}")
    return bytes(out)


def _long(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a length of 15 or more, and where the next bytes lie."""
    if at + 1 > end:
        raise BadUnit("a chunk ends within a length")
    length, at = data[at], at + 1
    if length < 255:
        return length + 15, at
    length, at = data[at] | data[at + 1] << 8, at + 2
    if not length:
        length, at = int.from_bytes(data[at : at + 4], "little"), at + 4
    if at > end or length < 15:
        raise BadUnit(f"a length of {length} at {at} of a chunk")
    return length, at


def _copy(out: bytearray, distance: int, length: int, size: int) -> None:
    """Repeat what lies ``distance`` bytes back."""
    start = len(out) - distance
    if start < 0:
        raise BadUnit(f"a chunk refers to {distance} bytes back at {len(out)}")
    if length > size - len(out):
        raise BadUnit(f"a chunk holds more than {size} bytes")
    if length <= distance:
        out += out[start : start + length]
    else:
        out += (out[start:] * (length // distance + 1))[:length]
