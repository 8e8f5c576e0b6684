"""EWF2 images composed after the specification, and a second, naive reader of them."""

from __future__ import annotations

import bz2
import hashlib
import struct
import zlib

SECTOR = 512
SET = bytes(range(16))
DEVICE, CASE, SECTORS, TABLE, ERRORS, MD5, SHA1, KEYS, NEXT, DONE = 1, 2, 3, 4, 5, 8, 9, 0xB, 0xD, 0xF


def adler(data: bytes) -> bytes:
    return struct.pack("<I", zlib.adler32(data))


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 16)


def headless(data: bytes) -> bytes:
    """Return one bzip2 block without the stream's header and end, at a whole byte, as EnCase stores it."""
    stream = bz2.compress(data)
    bits = bin(int.from_bytes(b"\1" + stream, "big"))[3:]
    end = bits.rindex(f"{0x177245385090:b}".zfill(48))
    block = bits[32:end]
    return int(block.ljust(-(-len(block) // 8) * 8, "0"), 2).to_bytes(-(-len(block) // 8), "big")


class Writer:
    """Writes one segment file."""

    def __init__(self, number: int, *, method: int = 1, logical: bool = False, set_id: bytes = SET) -> None:
        magic = b"LEF2\r\n\x81\0" if logical else b"EVF2\r\n\x81\0"
        self.out = bytearray(struct.pack("<8sBBHI16s", magic, 2, 1, method, number, set_id))
        self.method = method
        self.before = 0

    def section(self, kind: int, data: bytes, *, flags: int = 0) -> None:
        filling = -len(data) % 16
        self.out += padded(data)
        at = len(self.out)
        md5 = hashlib.md5(padded(data)).digest() if flags & 1 else bytes(16)  # noqa: S324
        self.out += (raw := self.descriptor(kind, flags, len(data) + filling, filling, md5)) + adler(raw)
        self.before = at

    def descriptor(self, kind: int, flags: int, size: int, filling: int, md5: bytes) -> bytes:
        return struct.pack("<IIQQII16s12x", kind, flags, self.before, size, 64, filling, md5)

    def text(self, kind: int, tags: dict[str, str]) -> None:
        text = "1\nmain\n" + "\t".join(tags) + "\n" + "\t".join(tags.values()) + "\n\n"
        raw = b"\xff\xfe" + text.encode("utf-16-le", "surrogatepass")
        self.section(kind, {0: bytes, 1: zlib.compress, 2: bz2.compress}[self.method](raw))

    def chunks(self, first: int, parts: list[tuple[str, bytes]]) -> None:
        """Write chunks, each as it is said, and their table."""
        at = len(self.out)
        data, entries = bytearray(), bytearray()
        for how, chunk in parts:
            match how:
                case "coded":
                    stored, flags = (bz2.compress if self.method == 2 else zlib.compress)(chunk), 1
                case "headless":
                    stored, flags = headless(chunk), 1
                case "plain":
                    stored, flags = chunk + adler(chunk), 2
                case "bare":
                    stored, flags = chunk, 0
                case _:  # a pattern
                    assert chunk == (chunk[:8] * len(chunk))[: len(chunk)]
                    entries += chunk[:8] + struct.pack("<II", 0, 5)
                    continue
            entries += struct.pack("<QII", at + len(data), len(stored), flags)
            data += padded(stored)
        self.section(SECTORS, bytes(data))
        self.table(first, len(parts), bytes(entries))

    def table(self, first: int, count: int, entries: bytes) -> None:
        header = struct.pack("<QI4x", first, count)
        self.section(TABLE, padded(header + adler(header)) + padded(entries + adler(entries)))


def info(writer: Writer, size: int, unit: int, *, sector: int = SECTOR, drive: str = "f") -> None:
    tags = {"sn": "S\t1".replace("\t", "\3"), "md": "Model", "ts": str(size // sector), "bp": str(sector)}
    writer.text(DEVICE, tags | {"dt": drive, "ph": "1"})
    tags = {"nm": "a name", "cn": "case 7", "ex": "examiner", "at": "1142163845", "tb": str(-(-size // unit))}
    writer.text(CASE, tags | {"cp": "1", "sb": str(unit // sector)})


def image(
    data: bytes,
    hows: list[str],
    *,
    unit: int = 8 * SECTOR,
    method: int = 1,
    per_table: int = 5,
    per_segment: int = 1000,
    errors: list[tuple[int, int]] | None = None,
) -> list[bytes]:
    """Return the segments of an image; ``hows`` says how the chunks are stored, in turn."""
    parts = [(hows[i % len(hows)], data[at : at + unit]) for i, at in enumerate(range(0, len(data), unit))]
    parts = [(how if how != "fill" or _is_fill(chunk) else "coded", chunk) for how, chunk in parts]
    files = []
    segments = range(0, len(parts), per_segment)
    for number, start in enumerate(segments, 1):
        writer = Writer(number, method=method)
        info(writer, len(data), unit)
        stop = min(start + per_segment, len(parts))
        for first in range(start, stop, per_table):
            writer.chunks(first, parts[first : min(first + per_table, stop)])
        if number < len(segments):
            writer.section(NEXT, b"")
        else:
            if errors:
                header = struct.pack("<I12x", len(errors))
                body = b"".join(struct.pack("<QII", *error, 0) for error in errors)
                writer.section(ERRORS, padded(header + adler(header)) + padded(body + adler(body)))
            md5, sha1 = hashlib.md5(data).digest(), hashlib.sha1(data).digest()  # noqa: S324
            writer.section(MD5, md5 + adler(md5))
            writer.section(SHA1, sha1 + adler(sha1))
            writer.section(DONE, b"")
        files.append(bytes(writer.out))
    return files


def _is_fill(chunk: bytes) -> bool:
    return chunk == (chunk[:8] * len(chunk))[: len(chunk)]


def naive(files: list[bytes], unit: int, size: int) -> bytes:
    """Read chunk by chunk: sections by their descriptors, one entry at a time."""
    out = bytearray(b"?" * size)
    for data in files:
        at = len(data) - 64
        while True:
            kind, _, before, length = struct.unpack_from("<IIQQ", data, at)
            if kind == TABLE:
                first, count = struct.unpack_from("<QI", data, at - length)
                for index in range(count):
                    offset, stored, flags = struct.unpack_from("<QII", data, at - length + 32 + 16 * index)
                    start = (first + index) * unit
                    wanted = min(unit, size - start)
                    if flags == 5:
                        chunk = (struct.pack("<Q", offset) * unit)[:wanted]
                    elif flags == 1 and data[offset : offset + 2] == b"BZ":
                        chunk = bz2.decompress(data[offset : offset + stored])
                    elif flags == 1:
                        chunk = zlib.decompress(data[offset : offset + stored])
                    else:
                        chunk = data[offset : offset + wanted]
                    out[start : start + wanted] = chunk
            if not before:
                break
            at = before
    return bytes(out)
