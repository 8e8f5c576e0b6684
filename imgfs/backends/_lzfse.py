"""LZFSE: blocks of literals and matches in finite state entropy, of LZVN, or plain.

Source: Apple's LZFSE reference implementation (BSD): lzfse_internal.h (headers, base values), lzfse_fse.c
(decoder tables), lzfse_decode_base (packed frequencies, order of symbols, end of a stream).
Done here because a stream decides how much it decodes to: here no block gives more than its unit has left,
and a state no table has is an error instead of what memory held before.
"""

from __future__ import annotations

import struct
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from imgfs.backends import _lzvn
from imgfs.errors import BadUnit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_END: Final = b"bvx$"
_PLAIN: Final = b"bvx-"
_V1: Final = b"bvx1"
_V2: Final = b"bvx2"
_LZVN: Final = b"bvxn"
_V1_HEADER: Final = struct.Struct("<4s6Ii4Hi3H360H2x")
_V2_HEADER: Final = struct.Struct("<4sI3Q")

_L_STATES, _M_STATES, _D_STATES, _LITERAL_STATES = 64, 64, 256, 1024
_L_SYMBOLS, _M_SYMBOLS, _D_SYMBOLS = 20, 20, 64
_SYMBOLS: Final = 360
_MATCHES: Final = 10_000  # of one block
_LITERALS: Final = 40_000

# A refill leaves 110 bits at most; a shift by fewer bits than there are fails before its mask is looked up.
_MASKS: Final = tuple((1 << bits) - 1 for bits in range(128))

_L_BITS: Final = (0,) * 16 + (2, 3, 5, 8)
_M_BITS: Final = (0,) * 16 + (3, 5, 8, 11)
_D_BITS: Final = tuple(number // 4 for number in range(64))


def _bases(bits: Sequence[int]) -> tuple[int, ...]:
    """Return the smallest value of each symbol: the values of symbols follow each other."""
    return tuple(accumulate((1 << count for count in bits[:-1]), initial=0))


_L_BASE, _M_BASE, _D_BASE = _bases(_L_BITS), _bases(_M_BITS), _bases(_D_BITS)

# How many bits a packed frequency takes by its lowest five, and its value where those say all.
_FREQUENCY_BITS: Final = (2, 3, 2, 5, 2, 3, 2, 8, 2, 3, 2, 5, 2, 3, 2, 14) * 2
_FREQUENCY: Final = tuple((0, 2, 1, 4 + number // 8, 0, 3, 1, -1)[number % 8] for number in range(32))


def decompress(data: bytes, limit: int) -> bytes:
    """Return the ``limit`` bytes a stream decodes to; what follows its end is ignored.

    Raises:
        BadUnit: the stream is damaged, has no end, or decodes to more or fewer bytes.
    """
    out = bytearray()
    at = 0
    try:
        while (magic := data[at : at + 4]) != _END:
            if magic == _PLAIN:
                (length,) = struct.unpack_from("<I", data, at + 4)
                _room(length, limit - len(out))
                at += 8 + length
                out += data[at - length : at]
            elif magic == _LZVN:
                length, stored = struct.unpack_from("<II", data, at + 4)
                _room(length, limit - len(out))
                stop = len(out) + length
                at += 12 + stored
                _lzvn.extend(data[at - stored : at], stop, out)
                _exactly(len(out), stop)
            elif magic in {_V1, _V2}:
                at = _block(data, at, limit, out)
            else:
                raise BadUnit(f"LZFSE: no block at {at} of {len(data)}")
            if at > len(data):
                raise BadUnit(f"LZFSE: a block ends at {at} of {len(data)}")
    except (IndexError, ValueError, struct.error):  # also a shift by fewer bits than there are
        raise BadUnit(f"LZFSE: {len(data)} bytes are cut short or use a state without a symbol") from None
    _exactly(len(out), limit)
    return bytes(out)


def _room(length: int, left: int) -> None:
    if length > left:
        raise BadUnit(f"LZFSE: a block of {length} bytes where {left} are expected")


def _exactly(found: int, expected: int) -> None:
    if found != expected:
        raise BadUnit(f"LZFSE: {found} bytes decoded, {expected} expected")


def _block(data: bytes, at: int, limit: int, out: bytearray) -> int:
    """Append what one block of entropy codes decodes to; returns where it ends."""
    if data[at : at + 4] == _V1:
        _, length, _, count, matches, literal_bytes, pair_bytes, literal_bits, *rest = _V1_HEADER.unpack_from(
            data, at
        )
        literal_states, (pair_bits, *states), frequencies = rest[:4], rest[4:8], rest[8:]
        at += _V1_HEADER.size
    else:
        _, length, first, second, third = _V2_HEADER.unpack_from(data, at)
        count, literal_bytes, matches = (first >> shift & 0xFFFFF for shift in (0, 20, 40))
        literal_bits, pair_bits = (first >> 60 & 7) - 7, (second >> 60 & 7) - 7
        literal_states = [second >> shift & 1023 for shift in (0, 10, 20, 30)]
        pair_bytes = second >> 40 & 0xFFFFF
        header = third & 0xFFFF_FFFF
        states = [third >> shift & 1023 for shift in (32, 42, 52)]
        if not _V2_HEADER.size <= header <= _V2_HEADER.size + 2 * _SYMBOLS:
            raise BadUnit(f"LZFSE: a header of {header} bytes")
        frequencies = _frequencies(data[at + _V2_HEADER.size : at + header])
        at += header
    _room(length, limit - len(out))
    if count > _LITERALS or count % 4 or matches > _MATCHES:
        raise BadUnit(f"LZFSE: {count} literals and {matches} matches in a block")
    middle: int = at + literal_bytes
    end: int = middle + pair_bytes
    if end > len(data):
        raise BadUnit(f"LZFSE: a block ends at {end} of {len(data)}")
    cuts = (0, _L_SYMBOLS, _L_SYMBOLS + _M_SYMBOLS, _L_SYMBOLS + _M_SYMBOLS + _D_SYMBOLS)
    table = _table(_LITERAL_STATES, frequencies[cuts[3] :], (0,) * 256, range(256))
    literals = _literals(data[at:middle], literal_bits, table, literal_states, count)
    tables = (
        _table(_L_STATES, frequencies[: cuts[1]], _L_BITS, _L_BASE),
        _table(_M_STATES, frequencies[cuts[1] : cuts[2]], _M_BITS, _M_BASE),
        _table(_D_STATES, frequencies[cuts[2] : cuts[3]], _D_BITS, _D_BASE),
    )
    stop = len(out) + length
    _matches(_Bits(data[middle:end], pair_bits), tables, states, matches, literals, stop, out)
    _exactly(len(out), stop)
    return end


def _frequencies(packed: bytes) -> list[int]:
    """Return the frequencies of all symbols, which follow each other in 2 to 14 bits from the lowest on."""
    if not packed:
        return [0] * _SYMBOLS
    word, left = int.from_bytes(packed, "little"), 8 * len(packed)
    found = []
    for _ in range(_SYMBOLS):
        low = word & 31
        bits = _FREQUENCY_BITS[low]
        found.append(
            8 + (word >> 4 & 15) if bits == 8 else 24 + (word >> 4 & 1023) if bits == 14 else _FREQUENCY[low]
        )
        word >>= bits
        left -= bits
    if not 0 <= left < 8:
        raise BadUnit("LZFSE: frequencies do not fill their header")
    return found


_Row = tuple[
    int, int, int, int
]  # bits of state and value, bits of the value, base of the state, of the value


def _table(states: int, frequencies: Sequence[int], bits: Sequence[int], bases: Iterable[int]) -> list[_Row]:
    """Return what each state decodes to; fewer states than there may be have no row."""
    if sum(frequencies) > states:
        raise BadUnit(f"LZFSE: frequencies of {sum(frequencies)} states, there are {states}")
    rows: list[_Row] = []
    for frequency, extra, base in zip(frequencies, bits, bases, strict=True):
        if not frequency:
            continue
        shift = states.bit_length() - frequency.bit_length()
        first = (2 * states >> shift) - frequency
        rows += [
            (shift + extra, extra, (frequency + number << shift) - states, base)
            for number in range(min(first, frequency))
        ]
        rows += [
            (shift - 1 + extra, extra, number - first << shift - 1, base)
            for number in range(first, frequency)
        ]
    return rows


class _Bits:
    """Bits taken from the end of a stream backwards, the highest first. ``unused``: minus the bits above."""

    __slots__ = ("_at", "_data", "held", "word")

    def __init__(self, data: bytes, unused: int) -> None:
        self._data = data
        self._at = len(data)
        self.word = self.held = 0
        if not -7 <= unused <= 0:
            raise BadUnit(f"LZFSE: {unused} bits behind a stream")
        if data:
            self.refill()
            self.held += unused
            if self.word >> self.held:
                raise BadUnit("LZFSE: bits behind the end of a stream")

    def refill(self) -> None:
        """Take the next bytes in, fewer at the end."""
        at = max(self._at - 7, 0)
        count = self._at - at
        self.word = self.word << 8 * count | int.from_bytes(self._data[at : self._at], "little")
        self.held += 8 * count
        self._at = at


def _literals(data: bytes, unused: int, table: list[_Row], states: Sequence[int], count: int) -> bytes:
    """Return the literals of a block, which four interleaved states decode."""
    bits, masks = _Bits(data, unused), _MASKS
    word, held = bits.word, bits.held
    found = bytearray(count)
    first, second, third, fourth = states
    for at in range(0, count, 4):
        if held < 40:
            bits.word, bits.held = word, held
            bits.refill()
            word, held = bits.word, bits.held
        taken, _, base, found[at] = table[first]
        held -= taken
        first = base + (word >> held)
        word &= masks[held]
        taken, _, base, found[at + 1] = table[second]
        held -= taken
        second = base + (word >> held)
        word &= masks[held]
        taken, _, base, found[at + 2] = table[third]
        held -= taken
        third = base + (word >> held)
        word &= masks[held]
        taken, _, base, found[at + 3] = table[fourth]
        held -= taken
        fourth = base + (word >> held)
        word &= masks[held]
    return bytes(found)


def _matches(
    bits: _Bits,
    tables: tuple[list[_Row], list[_Row], list[_Row]],
    states: Sequence[int],
    count: int,
    literals: bytes,
    stop: int,
    out: bytearray,
) -> None:
    """Append literals and matches; ``out`` ends at ``stop`` at the latest."""
    lengths, copies, distances = tables
    masks = _MASKS
    state_l, state_m, state_d = states
    word, held = bits.word, bits.held
    at = distance = 0
    for _ in range(count):
        if held < 54:  # 14, 17 and 23 bits at most
            bits.word, bits.held = word, held
            bits.refill()
            word, held = bits.word, bits.held
        taken, extra, base, length = lengths[state_l]
        held -= taken
        value = word >> held
        word &= masks[held]
        state_l = base + (value >> extra)
        length += value & masks[extra]
        taken, extra, base, copy = copies[state_m]
        held -= taken
        value = word >> held
        word &= masks[held]
        state_m = base + (value >> extra)
        copy += value & masks[extra]
        taken, extra, base, far = distances[state_d]
        held -= taken
        value = word >> held
        word &= masks[held]
        state_d = base + (value >> extra)
        distance = far + (value & masks[extra]) or distance
        out += literals[at : at + length]
        at += length
        start = len(out) - distance
        if at > len(literals) or not distance or start < 0 or len(out) + copy > stop:
            raise BadUnit(
                f"LZFSE: {length} literals and {copy} bytes {distance} back at {len(out)} of {stop}"
            )
        if distance >= copy:
            out += out[start : start + copy]
        else:
            out += (out[start:] * (copy // distance + 1))[:copy]
