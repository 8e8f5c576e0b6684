"""An empty volume of HFS+ or HFSX for a kernel to fill: no tool of the distributions makes one.

    python -m tests.backends.hfsblank PATH MIB [extended | cased]

Written from Apple's TN1150. A kernel has to accept it, so its bitmap, its counts and the free nodes of its
trees are right; everything else a volume holds is the kernel's.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

BLOCK = 4096
_NODES = {"extents": (4096, 16), "catalog": (4096, 64), "attributes": (8192, 32)}  # bytes of a node, how many
_TIME = 3_700_000_000  # 2021, since 1904
_FOLDED, _BINARY = 0xCF, 0xBC  # how keys of the catalog compare
_BIG, _VARIABLE = 2, 4  # attributes of trees: keys of 16-bit length, keys of index nodes have their own


def blank(size: int, *, label: str = "BLANK", extended: bool = False, cased: bool = False) -> bytes:
    """Return a volume of ``size`` bytes; ``cased``: names compare as they are (HFSX only)."""
    count = size // BLOCK
    bitmap = -(-count // (8 * BLOCK))
    at = 1
    places = {"allocation": (at, bitmap)}
    at += bitmap
    for tree, (node, number) in _NODES.items():
        places[tree] = (at, number * node // BLOCK)
        at += number * node // BLOCK
    name = struct.pack(">H", len(label)) + label.encode("utf-16-be")
    folder = struct.pack(">HHII5I", 1, 0, 0, 2, *[_TIME] * 5) + struct.pack(">IIBBHI", 0, 0, 0, 0, 0o40755, 1)
    root = [
        _keyed(struct.pack(">I", 1) + name, folder + bytes(32) + bytes(8)),
        _keyed(struct.pack(">I", 2) + b"\0\0", struct.pack(">HHI", 3, 0, 1) + name),
    ]
    compare = (_BINARY if cased else _FOLDED) if extended else 0
    trees = {
        "extents": _tree([], "extents", 10, 0, _BIG),
        "catalog": _tree(root, "catalog", 516, compare, _BIG | _VARIABLE),
        "attributes": _tree([], "attributes", 266, 0, _BIG | _VARIABLE),
    }
    forks = [_fork(*places[tree]) for tree in ("allocation", *trees)] + [bytes(80)]
    used = at + 1 + (1 if count * BLOCK == size else 0)  # the last block holds the other header
    header = struct.pack(">2sHI4sI", b"HX" if extended else b"H+", 5 if extended else 4, 0x100, b"10.0", 0)
    header += struct.pack(">4I5I", *[_TIME] * 4, 0, 0, BLOCK, count, count - used + 1)
    header += struct.pack(">5IQ", at, BLOCK, BLOCK, 16, 1, 1) + bytes(24) + b"imgfs HX" + b"".join(forks)
    volume = bytearray(size)
    bits = bytearray(bitmap * BLOCK)
    for number in [*range(at), count - 1]:
        bits[number // 8] |= 0x80 >> number % 8
    volume[1024 : 1024 + 512] = volume[size - 1024 : size - 512] = header
    volume[BLOCK : BLOCK + len(bits)] = bits
    for tree, data in trees.items():
        start = places[tree][0] * BLOCK
        volume[start : start + len(data)] = data
    return bytes(volume)


def _fork(start: int, count: int) -> bytes:
    return struct.pack(">QII16I", count * BLOCK, BLOCK, count, start, count, *[0] * 14)


def _keyed(key: bytes, body: bytes) -> bytes:
    return struct.pack(">H", len(key)) + key + body


def _tree(records: list[bytes], name: str, longest: int, compare: int, attributes: int) -> bytes:
    """Return the used nodes of a tree: a header, and a leaf if there are records."""
    node, nodes = _NODES[name]
    leaves = 1 if records else 0
    head = struct.pack(
        ">HIIIIHHIIHIBBI", leaves, leaves, len(records), leaves, leaves, node, longest, nodes,
        nodes - 1 - leaves, 0, BLOCK, 0, compare, attributes,
    )  # fmt: skip
    bitmap = bytes([0xC0 if records else 0x80]).ljust(node - 14 - 106 - 128 - 8, b"\0")
    made = _node(node, 1, 0, [head + bytes(64), bytes(128), bitmap])
    if records:
        made += _node(node, -1, 1, records)
    return made


def _node(size: int, kind: int, height: int, records: list[bytes]) -> bytes:
    data = struct.pack(">IIbBHH", 0, 0, kind, height, len(records), 0)
    offsets = []
    for record in records:
        offsets.append(len(data))
        data += record
    offsets.append(len(data))
    return data.ljust(size - 2 * len(offsets), b"\0") + struct.pack(f">{len(offsets)}H", *offsets[::-1])


if __name__ == "__main__":
    more, size = sys.argv[3:], int(sys.argv[2]) << 20
    Path(sys.argv[1]).write_bytes(blank(size, extended=bool(more), cased="cased" in more))
