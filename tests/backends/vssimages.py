"""Volumes with shadow copies, written from libvshadow's document: stores of any descriptors."""

from __future__ import annotations

import random
import struct
import uuid
from dataclasses import dataclass, field

MAGIC = uuid.UUID("3808876b-c176-4e48-b7ae-04046e6cc752").bytes_le
BLOCK = 0x4000
TIME = 132_000_000_000_000_000
FORWARDER, OVERLAY, UNUSED = 1, 2, 4


@dataclass
class Store:
    """A store; ``free`` and ``before`` are the numbers of blocks whose bits are set, None: no bitmap."""

    descriptors: list[tuple[int, int, int, int, int]]  # original, relative, offset, flags, bits
    free: set[int] = field(default_factory=set)
    before: set[int] | None = None
    created: int = TIME


def header(kind: int, relative: int, here: int, following: int, size: int = 0) -> bytes:
    return struct.pack("<16sII4Q", MAGIC, 1, kind, relative, here, following, size).ljust(128, b"\0")


def identity(number: int) -> bytes:
    return uuid.UUID(int=0xABC << 64 | number).bytes_le


class Volume:
    """A volume of random blocks; metadata is allocated from its end downwards."""

    def __init__(self, blocks: int, seed: int = 0) -> None:
        self.data = bytearray(random.Random(seed).randbytes(blocks * BLOCK))
        self.top = blocks
        struct.pack_into("<3s8sHB", self.data, 0, b"\xeb\x52\x90", b"NTFS    ", 512, 8)
        self.data[14:40] = bytes(26)
        struct.pack_into("<QQQ", self.data, 40, blocks * BLOCK // 512 - 1, 4, 2)
        self.data[510:512] = b"\x55\xaa"

    def take(self) -> int:
        """Return where a block for metadata is."""
        self.top -= 1
        return self.top * BLOCK

    def chain(self, kind: int, payloads: list[bytes], places: list[int] | None = None) -> int:
        """Write a list of blocks; return where it begins."""
        places = places or [self.take() for _ in payloads]
        for number, (at, payload) in enumerate(zip(places, payloads, strict=True)):
            following = places[number + 1] if number + 1 < len(places) else 0
            block = header(kind, number * BLOCK, at, following) + payload
            self.data[at : at + BLOCK] = block.ljust(BLOCK, b"\0")
        return places[0]

    def bitmap(self, blocks: set[int] | None) -> int:
        """Write a bitmap; return where it is, 0 for none."""
        if blocks is None:
            return 0
        count = len(self.data) // BLOCK
        bits = sum(1 << number for number in blocks).to_bytes(-(-count // 8), "little")
        room = BLOCK - 128
        return self.chain(6, [bits[at : at + room] for at in range(0, len(bits), room)])

    def finish(self, stores: list[Store], order: list[int] | None = None, *, spread: bool = False) -> bytes:
        """Write catalog, stores and header; ``stores`` are oldest first, ``order`` that of the catalog."""
        kept, taken = [], []
        for number, store in enumerate(stores):
            rows = [struct.pack("<QQQII", *row) for row in store.descriptors]
            per = 3 if spread else (BLOCK - 128) // 32
            parts = [b"".join(rows[at : at + per]) for at in range(0, max(len(rows), 1), per)]
            blocks = self.chain(3, parts)
            info = (
                bytes(16) + identity(100 + number) + identity(200) + struct.pack("<4I", 0xD, 1, 0x420009, 0)
            )
            name = "HOST".encode("utf-16-le")
            info += (struct.pack("<H", len(name)) + name) * 2
            at = self.take()
            self.data[at : at + BLOCK] = (header(4, 0, at, 0, len(info)) + info).ljust(BLOCK, b"\0")
            ranges = self.chain(5, [struct.pack("<3Q", at, 0, BLOCK)])
            current, before = self.bitmap(store.free), self.bitmap(store.before)
            taken.append(
                struct.pack(
                    "<QQ16sQQQ", 2, len(self.data), identity(number), number + 1, 0x40, store.created + number
                )
            )
            kept.append(
                struct.pack(
                    "<QQ16sQQQQQQ", 3, blocks, identity(number), at, ranges, current, 0x30, BLOCK * 9, before
                )
            )
        order = order or list(range(len(stores)))
        unused = struct.pack("<Q", 1)
        entries = [one.ljust(128, b"\0") for n in order for one in (taken[n], unused, kept[n])]
        catalog = self.chain(2, [b"".join(entries), b""]) if stores else 0
        raw = struct.pack("<16sII5Q", MAGIC, 1, 1, 0x1E00, 0x1E00, 0, catalog, 0) + identity(7) * 2
        self.data[0x1E00:0x2000] = raw.ljust(512, b"\0")
        return bytes(self.data)
