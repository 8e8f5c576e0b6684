"""Volumes of HFS+ with what no tool here writes: extended attributes and compressed files.

Written from Apple's TN1150; whoever uses one has TSK say what it holds.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

BLOCK = 4096
NODE = 8192
UNIT = 1 << 16
_FIRST = 16  # catalog numbers of users
_TIME = 3_500_000_000


@dataclass(kw_only=True)
class Planted:
    """A file in the root folder. ``forks`` are attributes stored in extents, each of its blocks apart."""

    name: str
    data: bytes = b""
    resource: bytes = b""
    attributes: dict[str, bytes] = field(default_factory=dict)
    forks: dict[str, bytes] = field(default_factory=dict)
    compressed: bool = False
    flags: int = 0  # of 4.4BSD: the owner's in the low byte, the administrator's 16 bits above
    finder: bytes = bytes(32)


class Volume:
    """Blocks handed out from the front; the first holds the header."""

    def __init__(self) -> None:
        self.blocks: list[bytes] = [bytes(BLOCK)]

    def place(self, data: bytes, *, apart: bool = False) -> list[tuple[int, int]]:
        """Store bytes; returns extents, with ``apart`` of one block each."""
        extents = []
        count = -(-len(data) // BLOCK)
        if count and not apart:
            extents = [(len(self.blocks), count)]
        for at in range(0, len(data), BLOCK):
            if apart:
                self.blocks.append(b"\xee" * BLOCK)
                extents.append((len(self.blocks), 1))
            self.blocks.append(data[at : at + BLOCK].ljust(BLOCK, b"\0"))
        return extents


def extents_of(extents: list[tuple[int, int]]) -> bytes:
    flat = [number for extent in extents[:8] for number in extent]
    return struct.pack(">16I", *flat, *[0] * (16 - len(flat)))


def fork(size: int, extents: list[tuple[int, int]]) -> bytes:
    return struct.pack(">QII", size, 0, sum(n for _, n in extents)) + extents_of(extents)


def tree(records: list[bytes], longest: int, compare: int) -> bytes:
    """Return a B-tree of sorted records: leaves, and one index node above when there are several."""
    leaves: list[list[bytes]] = [[]]
    for record in records:
        if sum(len(r) + 2 for r in leaves[-1]) + len(record) + 2 > NODE - 16:
            leaves.append([])
        leaves[-1].append(record)
    many = len(leaves) > 1
    nodes = [b""]
    for number, leaf in enumerate(leaves, 1):
        nodes.append(_node(-1, 1, leaf, number + 1 if number < len(leaves) else 0))
    if many:
        index = []
        for number, leaf in enumerate(leaves, 1):
            (length,) = struct.unpack_from(">H", leaf[0])
            index.append(leaf[0][: 2 + length] + struct.pack(">I", number))
        nodes.append(_node(0, 2, index, 0))
    used = len(nodes)
    root = (used - 1 if many else 1) if records else 0
    header = struct.pack(
        ">HIIIIHHIIHIBBI",
        (2 if many else 1) if records else 0,
        root,
        len(records),
        1 if records else 0,
        len(leaves) if records else 0,
        NODE,
        longest,
        used,
        0,
        0,
        BLOCK,
        0,
        compare,
        6,
    ) + bytes(64)
    bitmap = ((1 << used) - 1).to_bytes(8, "little")
    bits = bytes(int(f"{byte:08b}"[::-1], 2) for byte in bitmap)
    nodes[0] = _node(1, 0, [header, bytes(128), bits.ljust(NODE - 14 - 106 - 128 - 8, b"\0")], 0)
    return b"".join(nodes)


def _node(kind: int, height: int, records: list[bytes], following: int) -> bytes:
    data = bytearray(struct.pack(">IIbBHH", following, 0, kind, height, len(records), 0))
    offsets = []
    for record in records:
        offsets.append(len(data))
        data += record
    offsets.append(len(data))
    tail = struct.pack(f">{len(offsets)}H", *offsets[::-1])
    assert len(data) + len(tail) <= NODE
    return bytes(data).ljust(NODE - len(tail), b"\0") + tail


def _named(text: str) -> bytes:
    return struct.pack(">H", len(text)) + text.encode("utf-16-be")


def _keyed(key: bytes, body: bytes) -> bytes:
    return struct.pack(">H", len(key)) + key + body


def build(files: list[Planted]) -> bytes:
    """Return a volume with these files, numbered from 16 in this order."""
    volume = Volume()
    catalog: dict[tuple[int, str], bytes] = {}
    attributes: dict[tuple[int, str, int], bytes] = {}

    def thread(number: int, kind: int, parent: int, name: str) -> None:
        catalog[number, ""] = struct.pack(">HHI", kind, 0, parent) + _named(name)

    def permissions(mode: int, flags: int = 0) -> bytes:
        return struct.pack(">IIBBHI", 501, 20, flags >> 16, flags & 0xFF, mode, 1)

    folder = struct.pack(">HHII5I", 1, 0, len(files), 2, *[_TIME] * 5)
    catalog[1, "ATTRS"] = folder + permissions(0o040755) + bytes(32) + bytes(8)
    thread(2, 3, 1, "ATTRS")
    for number, file in enumerate(files, _FIRST):
        extra = 4 if file.attributes or file.forks else 0
        head = struct.pack(">HHII5I", 2, 2 | extra, 0, number, *[_TIME] * 5)
        head += permissions(0o100644, file.flags | 0x20 * file.compressed) + file.finder + bytes(8)
        data, resource = volume.place(file.data), volume.place(file.resource)
        catalog[2, file.name] = head + fork(len(file.data), data) + fork(len(file.resource), resource)
        thread(number, 4, 2, file.name)
        for name, value in file.attributes.items():
            inline = struct.pack(">4I", 0x10, 0, 0, len(value)) + value
            attributes[number, name, 0] = inline + bytes(len(value) & 1)
        for name, value in file.forks.items():
            extents = volume.place(value, apart=True)
            body = struct.pack(">II", 0x20, 0) + fork(len(value), extents)
            attributes[number, name, 0] = body
            for first in range(8, len(extents), 8):
                rest = struct.pack(">II", 0x30, 0) + extents_of(extents[first:])
                attributes[number, name, first] = rest
    catalog_tree = tree(
        [
            _keyed(struct.pack(">I", parent) + _named(name), catalog[parent, name])
            for parent, name in sorted(catalog, key=lambda k: (k[0], k[1].lower()))
        ],
        516,
        0xCF,
    )
    attributes_tree = tree(
        [
            _keyed(struct.pack(">HII", 0, number, first) + _named(name), attributes[number, name, first])
            for number, name, first in sorted(
                attributes, key=lambda k: (k[0], k[1].encode("utf-16-be"), k[2])
            )
        ],
        266,
        0,
    )
    forks = [fork(len(data), volume.place(data)) for data in (tree([], 10, 0), catalog_tree, attributes_tree)]
    total = len(volume.blocks) + 3
    used = volume.place(b"\xff" * (total // 8 + 1))
    volume.blocks += [bytes(BLOCK)] * (total + 1 - len(volume.blocks))
    header = struct.pack(">2sHI4sI", b"H+", 4, 0x100, b"10.0", 0) + struct.pack(">4I", *[_TIME] * 4)
    header += struct.pack(">5I", len(files), 0, BLOCK, len(volume.blocks), 0)
    header += struct.pack(
        ">5IQ", 0, 0, 0, _FIRST + len(files), 1, 1
    )  # next, clumps, next number, writes, codes
    header += bytes(32) + fork(BLOCK, used) + b"".join(forks) + fork(0, [])
    assert len(header) == 512
    volume.blocks[0] = (bytes(1024) + header).ljust(BLOCK, b"\0")
    volume.blocks[-1] = bytes(BLOCK - 1024) + header + bytes(512)
    return b"".join(volume.blocks)


def decmpfs(kind: int, size: int, behind: bytes = b"") -> bytes:
    return struct.pack("<4sIQ", b"fpmc", kind, size) + behind


def zlib_resource(data: bytes, units: list[bytes] | None = None) -> bytes:
    """Return a resource fork of type 4; a unit that does not shrink is stored behind 0xFF."""
    if units is None:
        units = [_shrunk(data[at : at + UNIT]) for at in range(0, len(data), UNIT)]
    at, rows = 4 + 8 * len(units), b""
    for unit in units:
        rows += struct.pack("<II", at, len(unit))
        at += len(unit)
    body = struct.pack("<I", len(units)) + rows + b"".join(units)
    head = struct.pack(">4I", 256, 260 + len(body), 4 + len(body), 50).ljust(256, b"\0")
    cmap = bytes(24) + struct.pack(">HHHHHH", 28, 50, 0, 0x636D, 0x7066, 0)
    return head + struct.pack(">I", len(body)) + body + cmap.ljust(50, b"\0")


def _shrunk(unit: bytes) -> bytes:
    packed = zlib.compress(unit)
    return packed if len(packed) <= len(unit) else b"\xff" + unit


def lzvn_resource(units: list[bytes]) -> bytes:
    """Return a resource fork of type 8."""
    at = 4 * (len(units) + 1)
    offsets = [at]
    for unit in units:
        offsets.append(offsets[-1] + len(unit))
    return struct.pack(f"<{len(offsets)}I", *offsets) + b"".join(units)
