"""Random stacks of maps, each with the list of bytes it must read as: the model."""

from __future__ import annotations

import struct
import zlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgfs.block.build import build
from imgfs.block.extents import ExtentMap
from imgfs.block.memory import Memory
from imgfs.block.pieces import Bytes, ByteSource, Coded, Lost, Stored, Strip, Zeros
from imgfs.model import (
    CODED,
    HOLE,
    LOST,
    PACKED_CODED,
    PACKED_HOLE,
    PACKED_LOST,
    PACKED_PLAIN,
    UNIT_HOLE,
    UNIT_LOST,
    Chunked,
    Codec,
    Linear,
    Packed,
    Striped,
)

if TYPE_CHECKING:
    import random

UNKNOWN = -1  # a byte of the model that nobody knows


@dataclass(frozen=True, slots=True)
class Content:
    """A source and what its bytes are; -1 for lost."""

    source: ByteSource
    model: list[int]


def resolve(pieces) -> list[int]:
    """Read pieces without any I/O but that of memory and an open file."""
    out: list[int] = []
    for piece in pieces:
        assert piece.length > 0
        match piece:
            case Zeros(n):
                out += [0] * n
            case Lost(n, why):
                assert why
                out += [UNKNOWN] * n
            case Bytes(data, offset, n):
                out += data[offset : offset + n]
            case Stored(file, offset, n):
                assert offset >= 0
                assert offset + n <= file.size, "INV-3"
                out += file.read(offset, n)
            case Coded(Strip() as strip, skip, n):
                at = strip.index * strip.source.unit + skip
                out += resolve(strip.source.units(at, at + n))
            case Coded(unit, skip, n):
                stored = resolve(unit.pieces)
                if UNKNOWN in stored:
                    out += [UNKNOWN] * n
                    continue
                data = bytes(stored)
                if unit.codec.name == "galois":
                    out += added(data, unit.codec.parameters["factors"], unit.length)[skip : skip + n]
                    continue
                bits = -zlib.MAX_WBITS if unit.codec.name == "deflate" else zlib.MAX_WBITS
                data = zlib.decompressobj(bits).decompress(data) if unit.coded else data[: unit.length]
                assert len(data) == unit.length
                out += data[skip : skip + n]
    return out


def stack(rng: random.Random) -> list[Content]:
    """Return sources built upon each other in random order."""
    pool = [Content(Memory(data), list(data)) for data in (rng.randbytes(90), b"", rng.randbytes(7))]
    for _ in range(rng.randrange(1, 6)):
        match rng.randrange(6):
            case 0:
                pool.append(chunked(rng))
            case 5:
                pool.append(striped(rng, pool))
            case 4:
                pool.append(units(rng))
            case 1:
                below = rng.choice(pool)
                size = len(below.model)
                start, stop = sorted((rng.randint(0, size), rng.randint(0, size)))
                window = ExtentMap.window(below.source, start, stop, "window")
                pool.append(Content(window, below.model[start:stop]))
            case 2:
                chosen = rng.sample(pool, rng.randrange(1, len(pool) + 1))
                whole = ExtentMap.concat([c.source for c in chosen], "set")
                pool.append(Content(whole, [b for c in chosen for b in c.model]))
            case _:
                pool.append(linear(rng, pool))
    return pool


def linear(rng: random.Random, lowers: list[Content]) -> Content:
    """Return random runs, some adjacent in their source, with gaps, holes and lost ranges."""
    rows, which, model = [], [], []
    for _ in range(rng.randrange(6)):
        model += [UNKNOWN] * rng.choice([0, 0, 0, rng.randrange(40)])
        at, length, number = len(model), rng.randrange(1, 80), rng.randrange(len(lowers))
        kind = rng.randrange(6)
        if kind == 0:
            target, content = HOLE, [0] * length
        elif kind == 1:
            target, content = LOST, [UNKNOWN] * length
        else:
            below = lowers[number].model
            if not below:
                continue
            length = min(length, len(below))
            target = rng.randrange(len(below) - length + 1)
            content = below[target : target + length]
        rows.append((at, length, target))
        which.append(number)
        model += content
    model += [UNKNOWN] * rng.choice([0, 0, 9])
    claim = Linear.of(len(model), rows, which)
    return Content(ExtentMap.checked(claim, [c.source for c in lowers], "test"), model)


def _powers() -> list[int]:
    """Return the powers of the generator 2 of GF(2^8), polynomial 0x11D."""
    powers = [1]
    while len(powers) < 255:
        twice = powers[-1] * 2
        powers.append(twice ^ 0x11D if twice > 255 else twice)
    return powers


POWERS = _powers()
LOGARITHMS = {power: exponent for exponent, power in enumerate(POWERS)}


def times(left: int, right: int) -> int:
    """Multiply by logarithms."""
    return POWERS[(LOGARITHMS[left] + LOGARITHMS[right]) % 255] if left and right else 0


def added(data: bytes, factors: bytes, length: int) -> list[int]:
    """Add terms that lie one behind the other, byte by byte."""
    out = [0] * length
    for number, factor in enumerate(factors):
        for at in range(length):
            out[at] ^= times(factor, data[number * length + at])
    return out


def striped(rng: random.Random, lowers: list[Content]) -> Content:
    """Return chunks of any number of terms over random sources, each blown up to hold some."""
    members = [_large(rng, rng.choice(lowers)) for _ in range(rng.randrange(1, 4))]
    chunk = 512 * rng.choice([1, 1, 2, 9])
    period, rounds = rng.randrange(1, 4), rng.randrange(1, 4)
    stride = 512 * rng.randrange(3)
    ends, which, base, factors = [], [], [], []
    for _ in range(period):
        for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
            which.append(rng.randrange(len(members)))
            room = len(members[which[-1]].model) - (rounds - 1) * stride - chunk
            base.append(rng.randint(0, room))
            factors.append(rng.choice([1, 1, rng.randrange(2, 256)]))
        ends.append(len(which))
    size = chunk * period * (rounds - 1) + rng.randrange(1, chunk * period + 1)
    model: list[int] = []
    for at in range(size):
        index, skip = divmod(at, chunk)
        turn, place = divmod(index, period)
        terms = range(ends[place - 1] if place else 0, ends[place])
        values = [members[which[t]].model[base[t] + turn * stride + skip] for t in terms]
        if not values or UNKNOWN in values:
            model.append(UNKNOWN)
            continue
        value = 0
        for term, byte in zip(terms, values, strict=True):
            value ^= times(factors[term], byte)
        model.append(value)
    _spread(model, chunk, period, ends, factors)
    claim = Striped(
        size=size,
        chunk=chunk,
        stride=stride,
        ends=array("I", ends).tobytes(),
        which=array("H", which).tobytes(),
        base=array("q", base).tobytes(),
        factor=bytes(factors),
    )
    return Content(build([claim], [m.source for m in members], "test"), model)


def _spread(model: list[int], chunk: int, period: int, ends: list[int], factors: list[int]) -> None:
    """Lose the whole block of 4 KiB of a sum where one byte of it is unknown."""
    for start in range(0, len(model), chunk):
        place = start // chunk % period
        first = ends[place - 1] if place else 0
        if ends[place] - first == 1 and factors[first] == 1:
            continue
        stop = min(start + chunk, len(model))
        for at in range(start, stop, 4096):
            until = min(at + 4096, stop)
            if UNKNOWN in model[at:until]:
                model[at:until] = [UNKNOWN] * (until - at)


def _large(rng: random.Random, content: Content) -> Content:
    """Repeat a source until chunks fit into it; one of a few bytes is taken for zeros."""
    if len(content.model) < 7:
        return Content(Memory(bytes(20_000)), [0] * 20_000)
    times = 20_000 // len(content.model) + 1
    repeated = ExtentMap.concat([content.source] * times, "large")
    start = rng.randrange(min(9, len(content.model)))
    size = len(content.model) * times
    return Content(ExtentMap.window(repeated, start, size, "window"), (content.model * times)[start:])


def chunked(rng: random.Random) -> Content:
    """Return units in up to two groups over packed bytes, which may be coded units themselves."""
    unit = rng.choice([16, 50])
    model: list[int] = []
    packed = bytearray(rng.randbytes(rng.randrange(8)))
    table = array("I")
    count = rng.randrange(1, 7)
    half = rng.randrange(count)
    first, base, ends = [0], [len(packed)], []
    for index in range(count):
        if index == half and half:
            ends.append(len(packed))
            first.append(index)
            base.append(len(packed))
        length = unit if index < count - 1 else rng.randrange(1, unit + 1)
        content = rng.randbytes(length // 2) + bytes(length - length // 2)
        match rng.randrange(5):
            case 0:
                table.append(UNIT_HOLE)
                model += [0] * length
            case 1:
                table.append(UNIT_LOST)
                model += [UNKNOWN] * length
            case 2:
                table.append(len(packed) - base[-1])
                packed += content + zlib.adler32(content).to_bytes(4, "little")
                model += content
            case _:
                table.append(CODED | len(packed) - base[-1])
                packed += zlib.compress(content)
                model += content
    ends.append(len(packed))
    claim = Chunked(
        size=len(model),
        unit=unit,
        codec=Codec("ewf"),
        table=table.tobytes(),
        first=array("q", first).tobytes(),
        base=array("q", base).tobytes(),
        ends=array("q", ends).tobytes(),
    )
    return Content(build([claim], [_scattered(rng, bytes(packed))], "test"), model)


def units(rng: random.Random) -> Content:
    """Return units with places of their own: in any order, overlapping by padding, with gaps, shared."""
    unit = rng.choice([16, 50])
    codec = rng.choice(["deflate", "ewf2"])
    model: list[int] = []
    contents = []
    count = rng.randrange(1, 7)
    for index in range(count):
        length = unit if index < count - 1 else rng.randrange(1, unit + 1)
        contents.append(rng.randbytes(length // 2) + bytes(length - length // 2))
    packed = bytearray(rng.randbytes(rng.randrange(8)))
    rows = [b""] * count
    for index in rng.sample(range(count), count):
        content = contents[index]
        match rng.randrange(6):
            case 0:
                rows[index] = struct.pack("<QII", rng.getrandbits(63), 7, PACKED_HOLE)
                contents[index] = bytes(len(content))
            case 1:
                rows[index] = struct.pack("<QII", rng.getrandbits(63), 7, PACKED_LOST)
                contents[index] = b""
            case 2:
                rows[index] = struct.pack("<QII", len(packed), len(content), 0)
                packed += content + bytes(rng.randrange(20))
            case 3 if codec == "ewf2":
                rows[index] = struct.pack("<QII", len(packed), len(content) + 4, PACKED_PLAIN)
                packed += content + zlib.adler32(content).to_bytes(4, "little")
            case _:
                stream = zlib.compressobj(wbits=12 if codec == "ewf2" else -12)
                stored = stream.compress(content) + stream.flush()
                padding = rng.randrange(9)
                rows[index] = struct.pack("<QII", len(packed), len(stored) + padding, PACKED_CODED)
                packed += stored + bytes(rng.randrange(9))
    packed += bytes(9)
    for index, content in enumerate(contents):
        length = unit if index < count - 1 else len(content) or rng.randrange(1, unit + 1)
        model += content or [UNKNOWN] * length
    claim = Packed(size=len(model), unit=unit, codec=Codec(codec), table=b"".join(rows))
    return Content(build([claim], [_scattered(rng, bytes(packed))], "test"), model)


def _scattered(rng: random.Random, packed: bytes) -> ByteSource:
    """Return bytes in memory, or in a map, or in units: what lies below does not matter above."""
    match rng.randrange(3):
        case 0:
            cut = rng.randrange(len(packed) + 1)
            rows = [(at, n, at) for at, n in ((0, cut), (cut, len(packed) - cut)) if n]
            return ExtentMap.checked(Linear.of(len(packed), rows), [Memory(packed)], "test")
        case 1 if packed:
            units = [packed[at : at + 20] for at in range(0, len(packed), 20)]
            inner, table = b"", array("I")
            for unit in units:
                table.append(CODED | len(inner))
                inner += zlib.compress(unit)
            zero, end = array("q", [0]).tobytes(), array("q", [len(inner)]).tobytes()
            claim = Chunked(
                size=len(packed),
                unit=20,
                codec=Codec("ewf"),
                table=table.tobytes(),
                first=zero,
                base=zero,
                ends=end,
            )
            return build([claim], [Memory(inner)], "test")
        case _:
            return Memory(packed)
