"""VHDX files composed byte by byte, with logs, parents and sector sizes that no tool here writes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KIB, MIB = 1 << 10, 1 << 20
BAT = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
LOG_AT, LOG_SIZE = MIB, MIB
LOG_GUID = UUID("11111111-2222-3333-4444-555555555555").bytes_le
PRESENT, PARTLY = 6, 7


def crc(data: bytes) -> int:
    """Return CRC-32C bit by bit, as RFC 3720 describes it."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def signed(raw: bytes) -> bytes:
    """Put the checksum of a structure at its place."""
    raw = raw[:4] + bytes(4) + raw[8:]
    return raw[:4] + struct.pack("<I", crc(raw)) + raw[8:]


def header(sequence: int, *, log: bool = False, data: bytes = bytes(16)) -> bytes:
    raw = b"head" + struct.pack("<IQ", 0, sequence) + bytes(16) + data + (LOG_GUID if log else bytes(16))
    return signed((raw + struct.pack("<HHIQ", 0, 1, LOG_SIZE, LOG_AT)).ljust(4096, b"\0"))


def regions(bat: int, bat_size: int, metadata: int) -> bytes:
    raw = b"regi" + struct.pack("<III", 0, 2, 0)
    raw += BAT.bytes_le + struct.pack("<QII", bat, bat_size, 1)
    raw += METADATA.bytes_le + struct.pack("<QII", metadata, MIB, 1)
    return signed(raw.ljust(64 * KIB, b"\0"))


def locator(keys: Mapping[str, str]) -> bytes:
    at = 20 + 12 * len(keys)
    entries, text = b"", b""
    for key, value in keys.items():
        name, content = key.encode("utf-16-le"), value.encode("utf-16-le")
        entries += struct.pack("<IIHH", at, at + len(name), len(name), len(content))
        text += name + content
        at += len(name) + len(content)
    kind = UUID("b04aefb7-d19e-4a81-b789-25b8e9445913").bytes_le
    return kind + struct.pack("<HH", 0, len(keys)) + entries + text


def metadata(
    size: int, block: int, sector: int, *, parent: Mapping[str, str] | None = None, fixed: bool = False
) -> bytes:
    items = [
        ("caa16737-fa36-4d43-b3b6-33f0aa44e76b", struct.pack("<II", block, fixed | bool(parent) << 1)),
        ("2fa54224-cd1b-4876-b211-5dbed83bf4b8", struct.pack("<Q", size)),
        ("beca12ab-b2e6-4523-93ef-c309e000c746", bytes(range(16))),
        ("8141bf1d-a96f-4709-ba47-f233a8faab5f", struct.pack("<I", sector)),
        ("cda348c7-445d-4471-9cc9-e9885251c556", struct.pack("<I", 4096)),
    ]
    if parent:
        items.append(("a8d35f2d-b30b-454d-abf7-d3d84834ab0c", locator(parent)))
    table, data = b"metadata" + struct.pack("<HH", 0, len(items)) + bytes(20), b""
    for name, content in items:
        table += UUID(name).bytes_le + struct.pack("<IIII", 64 * KIB + len(data), len(content), 4, 0)
        data += content
    return (table.ljust(64 * KIB, b"\0") + data).ljust(MIB, b"\0")


def compose(
    size: int,
    blocks: Mapping[int, tuple[int, bytes]],
    *,
    block: int = MIB,
    sector: int = 512,
    parent: str | Mapping[str, str] = "",
    bitmaps: Mapping[int, bytes] | None = None,
    sequences: tuple[int, int] = (1, 2),
    own: bytes = bytes(16),
) -> bytes:
    """Return a disk; ``blocks`` maps numbers to (state, content), ``bitmaps`` chunks to their bitmaps.

    ``parent`` is the relative path of one, or all keys of its locator; ``own`` the id of the last change.
    """
    keys = {"relative_path": parent} if isinstance(parent, str) and parent else parent or {}
    assert not isinstance(keys, str)
    ratio = (1 << 23) * sector // block
    count = -(-size // block)
    chunks = -(-count // ratio)
    table = [0] * (chunks * (ratio + 1))
    bat_size = -(-8 * len(table) // MIB) * MIB
    at = 3 * MIB + bat_size
    data = b""
    for chunk, bitmap in (bitmaps or {}).items():
        table[chunk * (ratio + 1) + ratio] = (at + len(data)) | PRESENT
        data += bitmap.ljust(MIB, b"\0")
    for number, (state, content) in blocks.items():
        entry = state
        if state in {PRESENT, PARTLY}:
            entry |= at + len(data)
            data += content.ljust(block, b"\0")
        table[number + number // ratio] = entry
    image = bytearray(b"vhdxfile" + "composed".encode("utf-16-le")).ljust(3 * MIB, b"\0")
    for place, sequence in zip((64, 128), sequences, strict=True):
        image[place * KIB : place * KIB + 4096] = header(sequence, data=own)
    for place in (192, 256):
        image[place * KIB : (place + 64) * KIB] = regions(3 * MIB, bat_size, 2 * MIB)
    image[2 * MIB :] = metadata(size, block, sector, parent=keys)
    return bytes(image) + struct.pack(f"<{len(table)}Q", *table).ljust(bat_size, b"\0") + data


def entry(
    sequence: int,
    updates: Sequence[tuple[int, bytes | int]],
    *,
    tail: int,
    size: int,
    last: int = 0,
    guid: bytes = LOG_GUID,
) -> bytes:
    """Return a log entry of (file offset, 4096 bytes | how many zeros)."""
    descriptors, sectors = b"", b""
    for place, what in updates:
        if isinstance(what, int):
            descriptors += struct.pack("<4sIQQQ", b"zero", 0, what, place, sequence)
            continue
        descriptors += b"desc" + what[-4:] + what[:8] + struct.pack("<QQ", place, sequence)
        sectors += b"data" + struct.pack("<I", sequence >> 32) + what[8:-4]
        sectors += struct.pack("<I", sequence & 0xFFFFFFFF)
    length = -(-(64 + len(descriptors)) // 4096) * 4096
    raw = struct.pack("<4sIIIQII", b"loge", 0, length + len(sectors), tail, sequence, len(updates), 0)
    raw += guid + struct.pack("<QQ", size, last or size)
    return signed((raw + descriptors).ljust(length, b"\0") + sectors)


def with_log(image: bytes, ring: Sequence[tuple[int, bytes]]) -> bytes:
    """Return the image with entries at places of its log, and headers that say it is in use."""
    changed = bytearray(image)
    for at, raw in ring:
        for offset in range(0, len(raw), 4096):
            place = LOG_AT + (at + offset) % LOG_SIZE
            changed[place : place + 4096] = raw[offset : offset + 4096]
    for place, sequence in ((64, 7), (128, 8)):
        changed[place * KIB : place * KIB + 4096] = header(sequence, log=True)
    return bytes(changed)
