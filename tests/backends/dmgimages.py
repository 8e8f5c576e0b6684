"""UDIF images, their codecs and their parts, composed here: no tool writes them on Linux.

Encoders are the standard library's; those of ADC and LZFSE stand here, written from the same public
descriptions as the decoders, and are judged by 7z.
"""

from __future__ import annotations

import bz2
import lzma
import plistlib
import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

SECTOR = 512
ZEROS, RAW, FREE, COMMENT, END = 0, 1, 2, 0x7FFFFFFE, 0xFFFFFFFF
ADC, ZLIB, BZIP2, LZFSE, LZMA = range(0x80000004, 0x80000009)

L_BITS = [0] * 16 + [2, 3, 5, 8]
M_BITS = [0] * 16 + [3, 5, 8, 11]
D_BITS = [number // 4 for number in range(64)]


def adc(data: bytes) -> bytes:
    """Encode with all three forms of codes: literals, near and short matches, far and long ones."""
    out, at, start = b"", 0, 0
    seen: dict[bytes, int] = {}

    def literals(stop: int) -> bytes:
        parts = [data[i : min(i + 128, stop)] for i in range(start, stop, 128)]
        return b"".join(bytes([0x7F + len(part)]) + part for part in parts)

    while at < len(data):
        key = data[at : at + 4]
        before = seen.get(key, -1) if len(key) == 4 else -1
        seen[key] = at
        distance = at - before - 1
        if before < 0 or distance > 0xFFFF:
            at += 1
            continue
        length = 4
        while length < 67 and at + length < len(data) and data[before + length] == data[at + length]:
            length += 1
        out += literals(at)
        if length <= 18 and distance < 1024:
            out += bytes([length - 3 << 2 | distance >> 8, distance & 255])
        else:
            out += bytes([0x40 | length - 4, distance >> 8, distance & 255])
        at += length
        start = at
    return out + literals(len(data))


# --- LZFSE ------------------------------------------------------------------------------------------------
class _Out:
    """Bits from the lowest on."""

    def __init__(self) -> None:
        self.word = self.count = 0

    def push(self, bits: int, value: int) -> None:
        assert 0 <= value < 1 << bits or value == bits == 0
        self.word |= value << self.count
        self.count += bits

    def finish(self) -> tuple[bytes, int]:
        """Return the bytes, and minus the bits of the last one that are not used."""
        held = (self.count + 7) // 8
        return self.word.to_bytes(held, "little"), self.count - 8 * held


class _Coder:
    """One state that encodes symbols of given frequencies."""

    def __init__(self, states: int, frequencies: list[int]) -> None:
        self.state, self._rows = 0, {}
        offset = 0
        for symbol, frequency in enumerate(frequencies):
            if not frequency:
                continue
            shift = states.bit_length() - frequency.bit_length()
            high, low = states >> shift, (states >> shift - 1) if shift else 0
            first = (frequency << shift) - states
            self._rows[symbol] = (first, shift, offset - frequency + high, offset - frequency + low)
            offset += frequency

    def encode(self, out: _Out, symbol: int) -> None:
        first, shift, high, low = self._rows[symbol]
        bits, base = (shift, high) if self.state >= first else (shift - 1, low)
        out.push(bits, self.state & (1 << bits) - 1)
        self.state = base + (self.state >> bits)


def _normal(states: int, symbols: list[int], count: int) -> list[int]:
    """Return frequencies that sum to ``states``, none of a symbol that occurs being 0."""
    found = Counter(symbols)
    scaled = [max(1, found[s] * states // max(len(symbols), 1)) if found[s] else 0 for s in range(count)]
    while sum(scaled) > states:
        scaled[scaled.index(max(scaled))] -= 1
    if symbols:
        scaled[scaled.index(max(scaled))] += states - sum(scaled)
    return scaled


def _packed(frequencies: list[int]) -> bytes:
    out = _Out()
    for number in frequencies:
        if number < 8:
            bits, value = [(2, 0), (2, 2), (3, 1), (3, 5), (5, 3), (5, 11), (5, 19), (5, 27)][number]
        elif number < 24:
            bits, value = 8, 7 | number - 8 << 4
        else:
            bits, value = 14, 15 | number - 24 << 4
        out.push(bits, value)
    return out.finish()[0]


def _symbol(bits: list[int], value: int) -> tuple[int, int]:
    """Return the symbol of a value and what it lies above that symbol's base."""
    base = 0
    for symbol, extra in enumerate(bits):
        if value < base + (1 << extra):
            return symbol, value - base
        base += 1 << extra
    raise AssertionError(value)


def _parsed(data: bytes, start: int, stop: int) -> list[tuple[int, int, int]]:
    """Return (literals, length, distance) for [start, stop) of data, matches reaching back before it."""
    rows, seen = [], {data[i : i + 4]: i for i in range(start - 4)}
    at = begin = start
    distance = 1
    while at < stop:
        before = seen.get(data[at : at + 4], -1)
        seen[data[at : at + 4]] = at
        length = 0
        if before >= 0 and at + 4 <= stop:
            length = 4
            while length < 2000 and at + length < stop and data[before + length] == data[at + length]:
                length += 1
        if length or at - begin == 300:
            if length:
                distance = at - before
            rows.append((at - begin, length, distance))
            at += length
            begin = at
        if not length:
            at += 1
    rows.append((stop - begin, 0, distance))
    if rows[0][1] == 0:  # the first distance must be one there is
        rows = [(count, length, max(far, 1)) for count, length, far in rows]
    return rows


def lzfse_block(data: bytes, start: int, stop: int, *, first: bool = False) -> bytes:
    """Encode [start, stop) of data as one block: of the form with plain frequencies if ``first``."""
    rows = _parsed(data, start, stop)
    literals, at = b"", start
    for count, length, _ in rows:
        literals += data[at : at + count]
        at += count + length
    literals += bytes(-len(literals) % 4)
    ls, ms, ds = ([_symbol(bits, row[n]) for row in rows] for n, bits in enumerate((L_BITS, M_BITS, D_BITS)))
    before = 0
    for row, (_, _, far) in enumerate(rows):
        if far == before:
            ds[row] = (0, 0)  # the distance before once more
        before = far
    tables = [
        _normal(64, [s for s, _ in ls], 20),
        _normal(64, [s for s, _ in ms], 20),
        _normal(256, [s for s, _ in ds], 64),
        _normal(1024, list(literals), 256),
    ]
    out, four = _Out(), [_Coder(1024, tables[3]) for _ in range(4)]
    for at in range(len(literals) - 4, -1, -4):
        for number in (3, 2, 1, 0):
            four[number].encode(out, literals[at + number])
    coded, literal_bits = out.finish()
    out = _Out()
    coders = [_Coder(states, table) for states, table in zip((64, 64, 256), tables, strict=False)]
    for row in range(len(rows) - 1, -1, -1):
        for coder, bits, one in zip(coders[::-1], (D_BITS, M_BITS, L_BITS), (ds, ms, ls), strict=True):
            symbol, above = one[row]
            out.push(bits[symbol], above)
            coder.encode(out, symbol)
    pairs, pair_bits = out.finish()
    pairs = bytes(8) + pairs  # so that a decoder may take eight bytes at a time
    states = [coder.state for coder in four + coders]
    frequencies = [number for table in tables for number in table]
    if first:
        head = struct.pack(
            "<4s6Ii",
            b"bvx1",
            stop - start,
            len(coded) + len(pairs),
            len(literals),
            len(rows),
            len(coded),
            len(pairs),
            literal_bits,
        )
        head += struct.pack("<4Hi3H360H2x", *states[:4], pair_bits, *states[4:], *frequencies)
        return head + coded + pairs
    packed = _packed(frequencies)
    words = [
        len(literals) | len(coded) << 20 | len(rows) << 40 | literal_bits + 7 << 60,
        states[0]
        | states[1] << 10
        | states[2] << 20
        | states[3] << 30
        | len(pairs) << 40
        | pair_bits + 7 << 60,
        32 + len(packed) | states[4] << 32 | states[5] << 42 | states[6] << 52,
    ]
    return struct.pack("<4sI3Q", b"bvx2", stop - start, *words) + packed + coded + pairs


def lzvn_literals(data: bytes) -> bytes:
    """Return a block of LZVN: literals of up to 271 bytes, and the end."""
    out = b""
    for at in range(0, len(data), 271):
        part = data[at : at + 271]
        out += (bytes([0xE0 | len(part)]) if len(part) < 16 else bytes([0xE0, len(part) - 16])) + part
    out += b"\x06" + bytes(7)
    return struct.pack("<4sII", b"bvxn", len(data), len(out)) + out


def lzfse(data: bytes, *, old: int = -1, plain: int = -1) -> bytes:
    """Encode with every kind of block: entropy codes and LZVN, and those that 7z does not take.

    Block ``old`` of five has plain frequencies, block ``plain`` is plain, as all are of less than 64 bytes.
    """
    cuts = [len(data) * number // 5 for number in range(6)]
    blocks = []
    for number in range(5):
        start, stop = cuts[number], cuts[number + 1]
        if start == stop:
            continue
        if stop - start < 64 or number == plain:
            blocks.append(struct.pack("<4sI", b"bvx-", stop - start) + data[start:stop])
        elif number == 3:
            blocks.append(lzvn_literals(data[start:stop]))
        else:
            blocks.append(lzfse_block(data, start, stop, first=number == old))
    return b"".join(blocks) + b"bvx$"


ENCODERS = {ADC: adc, ZLIB: zlib.compress, BZIP2: bz2.compress, LZFSE: lzfse, LZMA: lzma.compress, RAW: bytes}


# --- images -----------------------------------------------------------------------------------------------
@dataclass
class Part:
    """A part of the media: its content, and [sectors, kind] of its chunks in order; the rest is raw."""

    data: bytes
    kinds: list[tuple[int, int]] = field(default_factory=list)
    name: str = "whole disk (Apple_HFS : 0)"


@dataclass
class Image:
    """A data fork, and the tables over it. ``sums`` are those of all parts in their order."""

    fork: bytes = b""
    tables: list[tuple[str, bytes]] = field(default_factory=list)
    sums: bytes = b""
    sectors: int = 0


def image(parts: list[Part], *, data_at: int = 0, between: bytes = b"", end: bool = True) -> Image:
    """Lay parts one behind the other.

    ``data_at`` is what tables add to places, ``between`` lies between chunks.
    """
    made = Image(fork=bytes(data_at))
    for part in parts:
        rows, at = [], 0
        left = len(part.data) // SECTOR - sum(count for count, _ in part.kinds)
        checked = 0
        for count, kind in [*part.kinds, *([(left, RAW)] if left else [])]:
            content = part.data[at * SECTOR : (at + count) * SECTOR]
            if kind in (ZEROS, FREE):
                assert not any(content)
                stored = b""
            else:
                stored = ENCODERS[kind](content)
            if kind != FREE:
                checked = zlib.crc32(content, checked)
            rows.append((kind, 0, at, count, len(made.fork) - data_at, len(stored)))
            made.fork += stored + between
            at += count
        if end:
            rows.append((END, 0, at, 0, len(made.fork) - data_at, 0))
        made.sums += struct.pack(">I", checked)
        raw = struct.pack(">4sIQQQII24x", b"mish", 1, made.sectors, at, data_at, 2056, len(made.tables))
        raw += struct.pack(">II128sI", 2, 32, struct.pack(">I", checked), len(rows))
        made.tables.append((part.name, raw + b"".join(struct.pack(">IIQQQQ", *row) for row in rows)))
        made.sectors += at
    return made


def koly(**fields: object) -> bytes:
    """Return a trailer."""
    values = {
        "running": 0, "data_at": 0, "data_length": 0, "fork_at": 0, "fork_length": 0,
        "segment": 1, "segments": 1,
        "uuid": bytes(range(16)), "data_sum": (0, 0, b""), "xml_at": 0, "xml_length": 0,
        "master": (0, 0, b""), "variant": 1, "sectors": 0, "version": 4,
    } | fields  # fmt: skip
    v = values
    raw = struct.pack(
        ">4sIII5Q",
        b"koly",
        v["version"],
        512,
        1,
        v["running"],
        v["data_at"],
        v["data_length"],
        v["fork_at"],
        v["fork_length"],
    )
    raw += struct.pack(">II16sII128s", v["segment"], v["segments"], v["uuid"], *v["data_sum"])
    raw += struct.pack(
        ">QQ120xII128sIQ12x", v["xml_at"], v["xml_length"], *v["master"], v["variant"], v["sectors"]
    )
    return raw


def plist(tables: list[tuple[str, bytes]]) -> bytes:
    """Return the property list that names tables."""
    rows = [
        {"Attributes": "0x0050", "CFName": name, "Data": raw, "ID": str(number - 1), "Name": name}
        for number, (name, raw) in enumerate(tables)
    ]
    return plistlib.dumps({"resource-fork": {"blkx": rows, "plst": []}})


def resources(tables: list[tuple[str, bytes]]) -> bytes:
    """Return a resource fork with tables of type blkx, behind a resource of another type."""
    data = struct.pack(">I", 3) + b"xyz"
    names, references = b"", b""
    for number, (name, raw) in enumerate(tables):
        references += struct.pack(">hhII", number, len(names), len(data), 0)
        names += bytes([len(name)]) + name.encode("mac-roman")
        data += struct.pack(">I", len(raw)) + raw
    types = struct.pack(">H", 1) + struct.pack(">4sHH", b"plst", 0, 18)
    types += (
        struct.pack(">4sHH", b"blkx", len(tables) - 1, 30) + struct.pack(">hhII", 0, -1, 0, 0) + references
    )
    head = struct.pack(">4I", 256, 256 + len(data), len(data), 28 + len(types) + len(names))
    lists = struct.pack(">HH", 28, 28 + len(types)) + types + names
    return head + bytes(240) + data + head + bytes(8) + lists


def whole(made: Image, *, fork: bool = False, before: bytes = b"", **fields: object) -> bytes:
    """Return an image in one file; ``fork``: with a resource fork in place of a property list."""
    listed = resources(made.tables) if fork else plist(made.tables)
    at = len(before) + len(made.fork)
    place = {"fork_at": at, "fork_length": len(listed)} if fork else {"xml_at": at, "xml_length": len(listed)}
    master = (2, 32, struct.pack(">I", zlib.crc32(made.sums)))
    trailer = {
        "data_at": len(before), "data_length": len(made.fork), "sectors": made.sectors, "master": master,
        "data_sum": (2, 32, struct.pack(">I", zlib.crc32(made.fork))),
    } | place | fields  # fmt: skip
    return before + made.fork + listed + koly(**trailer)


def segmented(made: Image, cuts: list[int], name: str = "disk") -> dict[str, bytes]:
    """Return an image in segments that start at ``cuts`` of the data fork, by the names of hdiutil."""
    files = {}
    edges = [*cuts, len(made.fork)]
    for number, (start, stop) in enumerate(pairwise(edges), 1):
        listed = plist(made.tables) if number == 1 else b""
        fields = {
            "running": start, "data_length": stop - start, "segment": number, "segments": len(cuts),
            "xml_at": stop - start if listed else 0, "xml_length": len(listed), "sectors": made.sectors,
        }  # fmt: skip
        file = f"{name}.dmg" if number == 1 else f"{name}.{number:03}.dmgpart"
        files[file] = made.fork[start:stop] + listed + koly(**fields)
    return files
