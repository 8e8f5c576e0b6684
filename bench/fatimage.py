"""A FAT32 of a tree, written here: what the tools write takes a time that grows with the square of the files.

Source: Microsoft, FAT32 File System Specification 1.03. Clusters of 4 KiB, every file in one run.
"""

from __future__ import annotations

import struct
from array import array
from pathlib import Path

_SECTOR, _CLUSTER, _RESERVED = 512, 4096, 32
_END = 0x0FFF_FFFF
_FOLDER, _LONG = 0x10, 0x0F
_DATE = (2017 - 1980) << 9 | 7 << 5 | 14


def write(tree: Path, image: Path) -> None:
    """Write the files beneath ``tree``."""
    fat = array("I", [0x0FFF_FFF8, _END])
    blocks: list[tuple[int, bytes | Path]] = []  # first cluster, and what lies there

    def take(length: int) -> int:
        count, first = max(-(-length // _CLUSTER), 1), len(fat)
        fat.extend(range(first + 1, first + count))
        fat.append(_END)
        return first

    def plant(folder: Path, parent: int, own: int) -> None:
        dots = ((b".          ", own), (b"..         ", parent)) if own != 2 else ()
        rows = [_row(name, _FOLDER, first, 0) for name, first in dots]
        below = []
        for number, path in enumerate(sorted(folder.iterdir())):
            short = b"%08d   " % number
            if path.is_dir():
                first, kind, size = take(_need(path)), _FOLDER, 0
                below.append((path, first))
            else:
                kind, size = 0x20, path.stat().st_size
                first = take(size) if size else 0
                if size:
                    blocks.append((first, path))
            rows += [_long(path.name, short), _row(short, kind, first, size)]
        blocks.append((own, b"".join(rows)))
        for path, first in below:
            plant(path, 0 if own == 2 else own, first)

    plant(tree, 0, take(_need(tree)))
    clusters = max(len(fat), 70_000)  # fewer would be FAT16
    length = -(-clusters * 4 // _SECTOR)
    base = (_RESERVED + 2 * length) * _SECTOR
    total = base + (clusters - 2) * _CLUSTER
    with image.open("wb") as out:
        out.write(_boot(total // _SECTOR, length))
        for copy in range(2):
            out.seek((_RESERVED + copy * length) * _SECTOR)
            out.write(fat.tobytes())
        for first, what in blocks:
            out.seek(base + (first - 2) * _CLUSTER)
            if isinstance(what, bytes):
                out.write(what)
            else:
                with what.open("rb") as source:
                    while data := source.read(1 << 24):
                        out.write(data)
        out.truncate(total)


def _need(folder: Path) -> int:
    """Return the bytes of a directory."""
    return 64 + sum(32 * (1 + -(-len(path.name) // 13)) for path in folder.iterdir())


def _row(short: bytes, kind: int, first: int, size: int) -> bytes:
    where = (first >> 16, 0, _DATE, first & 0xFFFF)
    return struct.pack("<11sBBBHHHHHHHI", short, kind, 0, 0, 0, _DATE, _DATE, *where, size)


def _long(name: str, short: bytes) -> bytes:
    check = 0
    for byte in short:
        check = (check >> 1 | (check & 1) << 7) + byte & 0xFF
    units = name.encode("utf-16-le")
    parts = [units[at : at + 26] for at in range(0, len(units), 26)]
    rows = []
    for order, part in reversed(list(enumerate(parts, 1))):
        text = part if len(part) == 26 else (part + b"\0\0").ljust(26, b"\xff")
        mark = order | (0x40 if order == len(parts) else 0)
        rows.append(
            struct.pack("<B10sBBB12sH4s", mark, text[:10], _LONG, 0, check, text[10:22], 0, text[22:])
        )
    return b"".join(rows)


def _boot(sectors: int, length: int) -> bytes:
    fields = (_SECTOR, _CLUSTER // _SECTOR, _RESERVED, 2, 0, 0, 0xF8, 0, 63, 255, 0, sectors)
    boot = b"\xeb\x58\x90imgfs   " + struct.pack("<HBHBHHBHHHII", *fields)
    boot += struct.pack("<IHHIHH12x", length, 0, 0, 2, 1, 6)
    boot += struct.pack("<BBBI11s8s", 0x80, 0, 0x29, 1, b"BENCH", b"FAT32   ")
    return boot.ljust(510, b"\0") + b"\x55\xaa"
