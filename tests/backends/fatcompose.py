"""FAT volumes of any tree: mkfs.vfat makes the empty one, this writes what is in it.

mcopy asks, or tries short names for ever, where thousands of names begin alike. Source: Microsoft FAT
specification 1.03, sections 3 to 7.
"""

from __future__ import annotations

import random
import struct
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from tests.backends.tskimages import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

READ_ONLY, HIDDEN, SYSTEM, LABEL, DIRECTORY, ARCHIVE = 1, 2, 4, 8, 16, 32
_SHORT = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'()-@^_`{}~"


class Leaf(NamedTuple):
    """What is at a path. ``data`` None: a directory. Times: nanoseconds since 1970, None: none is kept."""

    data: bytes | None
    attributes: int = 0
    m_ns: int = 315_532_800 * 10**9
    a_ns: int | None = None
    b_ns: int | None = None


def compose(image: Path, bits: int, tree: Mapping[bytes, Leaf], *, mebibytes: int, sectors: int = 1) -> None:
    """Make an image with a tree; parents come before what they hold. ``sectors``: of a cluster."""
    with image.open("wb") as file:
        file.truncate(mebibytes << 20)
    run("mkfs.vfat", "-F", bits, "-s", sectors, "-n", "COMPOSED", "-i", "600DF00D", image)
    writer = _Writer(image.read_bytes(), bits)
    writer.fill(tree)
    image.write_bytes(writer.data)


def stamps(moment: int) -> tuple[int, int, int]:
    """Return time, date, and tenths of a second in hundredths, as FAT counts them."""
    when = datetime.fromtimestamp(moment // 10**9, UTC)
    clock = when.hour << 11 | when.minute << 5 | when.second // 2
    return (
        clock,
        when.year - 1980 << 9 | when.month << 5 | when.day,
        when.second % 2 * 100 + moment % 10**9 // 10**7,
    )


class _Writer:
    def __init__(self, data: bytes, bits: int) -> None:
        self.data = bytearray(data)
        self.bits = bits
        unit, reserved, self.copies, roots = struct.unpack_from("<BHBH", data, 13)
        (length,) = struct.unpack_from("<I" if bits == 32 else "<H", data, 36 if bits == 32 else 22)
        self.table, self.length = reserved * 512, length * 512
        self.root = self.table + self.copies * self.length
        self.roots = roots * 32
        self.heap, self.cluster = self.root + self.roots, unit * 512
        count = (len(data) - self.heap) // self.cluster
        self.values = [0xFFFFFFF8, 0xFFFFFFFF] + [0] * count
        self.free = list(range(count + 1, 2, -1))
        self.chance = random.Random(bits)

    def fill(self, tree: Mapping[bytes, Leaf]) -> None:
        first = {path: self._first(leaf) for path, leaf in tree.items()}
        held: dict[bytes, list[bytes]] = {b"": []}
        for path, leaf in tree.items():
            held[path.rpartition(b"/")[0]].append(path)
            if leaf.data is None:
                held[path] = []
        for folder, paths in held.items():
            up = folder.rpartition(b"/")[0]
            raw = self._dots(tree[folder], first[folder], first.get(up, 0)) if folder else _LABEL
            for number, path in enumerate(paths):
                raw += _entry(path.rpartition(b"/")[2], number, tree[path], first[path])
            if folder or self.bits == 32:
                self._content(first.get(folder, 2), raw)
            else:
                assert len(raw) <= self.roots
                self.data[self.root : self.root + len(raw)] = raw
        for path, leaf in tree.items():
            if leaf.data:
                self._content(first[path], leaf.data)
        self._tables()

    def _dots(self, leaf: Leaf, own: int, up: int) -> bytes:
        return _slot(b".          ", leaf, own) + _slot(b"..         ", leaf, up)

    def _first(self, leaf: Leaf) -> int:
        return self.free.pop() if leaf.data is None or leaf.data else 0

    def _content(self, cluster: int, data: bytes) -> None:
        """Write a chain; one in three is scattered."""
        scattered = self.chance.random() < 0.3
        for at in range(0, max(len(data), 1), self.cluster):
            if at:
                if scattered and len(self.free) > 9:
                    other = self.chance.randrange(-9, 0)
                    self.free[-1], self.free[other] = self.free[other], self.free[-1]
                self.values[cluster] = self.free.pop()
                cluster = self.values[cluster]
            start, part = self.heap + (cluster - 2) * self.cluster, data[at : at + self.cluster]
            self.data[start : start + len(part)] = part
        self.values[cluster] = 0x0FFFFFFF

    def _tables(self) -> None:
        if self.bits == 12:
            whole = sum((value & 0xFFF) << 12 * number for number, value in enumerate(self.values))
            raw = whole.to_bytes(len(self.values) * 3 // 2 + 2, "little")
        else:
            letter, mask = ("I", 0x0FFFFFFF) if self.bits == 32 else ("H", 0xFFFF)
            raw = struct.pack(f"<{len(self.values)}{letter}", *(value & mask for value in self.values))
        for copy in range(self.copies):
            at = self.table + copy * self.length
            self.data[at + 4 : at + len(raw)] = raw[4:]  # what mkfs says of the media stays
        if self.bits == 32:
            struct.pack_into("<II", self.data, 512 + 488, len(self.free), 2)  # FSInfo


def _entry(name: bytes, number: int, leaf: Leaf, first: int) -> bytes:
    """Return the slots of an entry: a long name in any case, before a short one that is alone here."""
    digits = b""
    for _ in range(4):
        number, digit = divmod(number, 36)
        digits += _SHORT[digit : digit + 1]
    short = (b"F" + digits + b"~1").ljust(8) + b"EXT"
    checksum = 0
    for byte in short:
        checksum = (checksum >> 1 | checksum << 7) + byte & 0xFF
    text = name.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
    slots = -(-len(text) // 26)
    text = (text + b"\0\0").ljust(slots * 26, b"\xff")[: slots * 26]
    raw = b""
    for slot in range(slots, 0, -1):
        part = text[slot * 26 - 26 : slot * 26]
        order = slot | 0x40 * (slot == slots)
        raw += bytes([order]) + part[:10] + bytes([0x0F, 0, checksum]) + part[10:22] + b"\0\0" + part[22:]
    return raw + _slot(short, leaf, first)


def _slot(short: bytes, leaf: Leaf, first: int) -> bytes:
    m_time, m_date, _ = stamps(leaf.m_ns)
    b_time, b_date, tenths = stamps(leaf.b_ns) if leaf.b_ns is not None else (0, 0, 0)
    a_date = stamps(leaf.a_ns)[1] if leaf.a_ns is not None else 0
    kind = leaf.attributes | (DIRECTORY if leaf.data is None else 0)
    return struct.pack(
        "<11sBBBHHHHHHHI", short, kind, 0, tenths, b_time, b_date, a_date, first >> 16, m_time, m_date,
        first & 0xFFFF, len(leaf.data or b""),
    )  # fmt: skip


_LABEL = _slot(b"COMPOSED   ", Leaf(b"", LABEL), 0)


def odd() -> Iterator[tuple[bytes, Leaf]]:
    """Yield what no folder of this machine can hold: names of 255 letters, half letters, FAT's attributes."""
    folder = Leaf(None, m_ns=1_456_704_000 * 10**9)
    yield b"odd", folder
    for length in (1, 12, 13, 14, 26, 254, 255):
        yield ("odd/" + "語" * length).encode(), Leaf(b"%d" % length)
    for number, half in enumerate(("\ud83d", "\ude00", "a\udfffb", "\ude00\ud83d", "😀" * 127 + "\ud83d")):
        yield f"odd/{number}{half}".encode("utf-8", "surrogatepass"), Leaf(b"%d" % number)
    for attributes in range(64):
        if not attributes & (LABEL | DIRECTORY):
            yield b"odd/attributes %d" % attributes, Leaf(b"x" * attributes, attributes)
            if attributes:
                yield b"odd/folder %d" % attributes, Leaf(None, attributes)
    for number, seconds in enumerate((315_532_800, 951_782_400, 1_000_000_001, 4_102_444_801, 4_354_819_199)):
        for hundredths in (0, 1, 99):
            born = seconds * 10**9 + hundredths * 10**7
            moment = seconds // 2 * 2 * 10**9
            yield b"odd/time %d %d" % (number, hundredths), Leaf(b"", 0, moment, moment, born)
