"""EROFS put together by hand: what mkfs.erofs 1.5 does not write yet. The kernel judges it.

Every inode has a block of its own, the clusters of all files follow.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import struct
import zlib
from dataclasses import dataclass, field

import lz4.block
import pytest
import zstandard

BLOCK = 4096
LZ4, LZMA, DEFLATE, ZSTD, PLAIN = range(5)


class _Stream(ctypes.Structure):
    _fields_ = [
        ("next_in", ctypes.c_char_p),
        ("avail_in", ctypes.c_size_t),
        ("total_in", ctypes.c_uint64),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_size_t),
        ("total_out", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 16),
    ]


def micro(data: bytes) -> bytes:
    """Compress with liblzma's encoder for MicroLZMA."""
    name = ctypes.util.find_library("lzma")
    library = ctypes.CDLL(name) if name else None
    if library is None or not hasattr(library, "lzma_microlzma_encoder"):
        pytest.skip("liblzma has no encoder for MicroLZMA")
    options = ctypes.create_string_buffer(512)
    library.lzma_lzma_preset(options, 6)
    options[0:4] = struct.pack("<I", 65536)  # the size of the dictionary
    out = ctypes.create_string_buffer(BLOCK)
    stream = _Stream()
    assert library.lzma_microlzma_encoder(ctypes.byref(stream), options) == 0
    stream.next_in, stream.avail_in = data, len(data)
    stream.next_out, stream.avail_out = ctypes.addressof(out), BLOCK
    assert library.lzma_code(ctypes.byref(stream), 3) == 1
    assert stream.total_in == len(data)
    packed = out.raw[: stream.total_out]
    library.lzma_end(ctypes.byref(stream))
    return packed


def packed(algorithm: int, data: bytes) -> bytes:
    """Compress one cluster and put zeros ahead of it."""
    if algorithm == LZ4:
        stored = lz4.block.compress(data, mode="high_compression", store_size=False)
    elif algorithm == LZMA:
        stored = micro(data)
    elif algorithm == DEFLATE:
        stream = zlib.compressobj(9, zlib.DEFLATED, -15)
        stored = stream.compress(data) + stream.flush()
    else:
        stored = zstandard.ZstdCompressor(level=9).compress(data)
    assert len(stored) <= BLOCK
    return bytes(BLOCK - len(stored)) + stored


@dataclass
class File:
    """A file in clusters: (decoded bytes, head 1 or 2 or 0 for plain, bytes of it that are wanted)."""

    clusters: list[tuple[bytes, int, int]]
    turned: bool = False
    tail: tuple[int, bytes] | None = None  # a fragment: where in the packed file, and what
    whole: bool = False  # nothing but the fragment
    nid: int = field(default=0, init=False)

    @property
    def data(self) -> bytes:
        return b"".join(data[:wanted] for data, _, wanted in self.clusters) + (
            self.tail[1] if self.tail else b""
        )


def cut(data: bytes, length: int, head: int = 1) -> list[tuple[bytes, int, int]]:
    """Cut bytes into clusters that decode to ``length`` bytes each."""
    parts = [data[at : at + length] for at in range(0, len(data), length)]
    return [(part, head, len(part)) for part in parts]


def compose(files: dict[str, File], first: int, second: int, shared: File | None = None) -> bytes:
    """Return an image whose heads are compressed by two algorithms; ``shared`` is the packed file."""
    everything = [*files.values(), *([shared] if shared else [])]
    metadata = bytearray(BLOCK * (2 + len(everything)))
    data = bytearray()
    for number, file in enumerate(everything, 1):
        file.nid = number * BLOCK // 32
        inode = _file(file, first, second, len(metadata) // BLOCK, data)
        metadata[BLOCK * (1 + number) : BLOCK * (1 + number) + len(inode)] = inode
    listing = _listing(files)
    root = (
        struct.pack("<HHHHQIIIIQII16x", 1 | 2 << 1, 0, 0o40755, 0, len(listing), 0, 1, 0, 0, 1, 0, 2)
        + listing
    )
    metadata[BLOCK : BLOCK + len(root)] = root
    used = sorted({LZ4, first, second})
    records = {
        LZ4: struct.pack("<HHH10x", 14, 65535, 1),
        LZMA: struct.pack("<HIH8x", 14, 65536, 0),
        DEFLATE: struct.pack("<HB5x", 6, 15),
        ZSTD: struct.pack("<HBB4x", 6, 0, 10),
    }
    incompat = 0x1 | 0x2 | 0x8 | (0x20 if shared else 0)
    size = (len(metadata) + len(data)) // BLOCK
    bits = sum(1 << algorithm for algorithm in used)
    head = struct.pack(
        "<4sIIBBHQQIIII16s16sIHHHBBIQ",
        b"\xe2\xe1\xf5\xe0", 0, 0, 12, 0, 0, len(files) + 1, 1_600_000_000, 0, size, 1, 0, bytes(range(16)),
        b"COMPOSED", incompat, bits, 0, 0, 0, 0, 0, shared.nid if shared else 0,
    )  # fmt: skip
    metadata[1024 : 1024 + len(head)] = head
    rows = b"".join(records[algorithm] for algorithm in used)
    metadata[1152 : 1152 + len(rows)] = rows
    return bytes(metadata + data)


def _listing(files: dict[str, File]) -> bytes:
    rows = sorted(
        [(b".", 0, 2), (b"..", 0, 2), *((name.encode(), file.nid, 1) for name, file in files.items())]
    )
    at, entries = 12 * len(rows), b""
    for name, nid, kind in rows:
        entries += struct.pack("<QHBB", nid, at, kind, 0)
        at += len(name)
    return entries + b"".join(name for name, _, _ in rows)


def _file(file: File, first: int, second: int, block: int, data: bytearray) -> bytes:
    size = len(file.data)
    inode = struct.pack(
        "<HHHHQIIIIQII16x", 1 | 1 << 1, 0, 0o100644, 0, size, len(file.clusters), 1, 0, 0, 1_600_000_000, 5, 1
    )
    if file.whole:
        assert file.tail
        return inode + struct.pack("<Q", 1 << 63 | file.tail[0])
    heads: dict[int, tuple[int, int, int]] = {}
    at = 0
    for plain, head, wanted in file.clusters:
        place = block + len(data) // BLOCK
        if head:
            stored = packed(first if head == 1 else second, plain)
        else:
            turn = at % BLOCK if file.turned else 0
            stored = plain.ljust(BLOCK, b"\0")
            stored = stored[BLOCK - turn :] + stored[: BLOCK - turn]
        data += stored
        partial = 0x8000 if wanted < len(plain) else 0
        heads[at // BLOCK] = ({0: 0, 1: 1, 2: 3}[head] | partial, at % BLOCK, place)
        at += wanted
    advise = (0x10 if file.turned else 0) | (0x20 if file.tail else 0)
    if file.tail:
        heads[at // BLOCK] = (1, at % BLOCK, 0)
    rows, last = b"", 0
    count = -(-size // BLOCK)
    for number in range(count):
        if number in heads:
            rows += struct.pack("<HHI", *heads[number])
            last = number
        else:
            following = min((other for other in heads if other > number), default=count)
            rows += struct.pack("<HHHH", 2, 0, number - last, following - number)
    header = struct.pack("<IHBB", file.tail[0] if file.tail else 0, advise, first | second << 4, 0)
    return inode + header + bytes(8) + rows
