"""Checksums that file systems store with sectors and nodes: of many in one call, for workers and the daemon.

Source: RFC 3720, appendix B.4 (CRC-32C); Cyan4973/xxHash, doc/xxhash_spec.md (XXH64); FIPS 180-4 (SHA-256);
RFC 7693 (BLAKE2b with digests of 32 bytes and no key); Apple File System Reference (Fletcher-64); Microsoft,
exFAT File System Specification 1.00, 6.3.3 (SetChecksum).
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from functools import cache
from itertools import accumulate
from sys import byteorder
from typing import TYPE_CHECKING, Final

try:
    from imgfs.block import _sums as _fast
except ImportError:  # no compiler where it was installed
    _fast = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Summed = Callable[[bytes | bytearray | memoryview, int], bytes]

_WORD: Final = (1 << 64) - 1
_HALF: Final = (1 << 32) - 1
_POLYNOMIAL: Final = 0x82F6_3B78
_P1, _P2, _P3, _P4, _P5 = (
    0x9E37_79B1_85EB_CA87,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
)


def crc32c(data: bytes | bytearray | memoryview, sector: int) -> bytes:
    """Return the CRC-32C of each sector, four bytes little-endian, where the extension was not built."""
    view = memoryview(data)
    found = [_crc(view[at : at + sector], 0).to_bytes(4, "little") for at in range(0, len(view), sector)]
    return b"".join(found)


def fletcher64(data: bytes | memoryview) -> bytes:
    """Return the checksum of an object of APFS, of what follows it: whole words of 32 bits.

    Source: Apple File System Reference (2020-06-22), obj_phys_t; Fletcher, 1982, for the sums.
    """
    if _fast is not None:
        return bytes(_fast.fletcher64(data))
    words = struct.unpack(f"<{len(data) // 4}I", data)
    first = sum(words)
    low = _HALF - (first + sum(accumulate(words))) % _HALF
    return struct.pack("<II", low, _HALF - (first + low) % _HALF)


def records(
    data: bytes | memoryview, size: int, heads: bytes, holes: Sequence[tuple[int, int]], begun: int = 0
) -> array[int]:
    """Return the CRC-32C of records of ``size`` bytes.

    Each goes on from the finished checksum ``begun``, and has its share of ``heads`` before it; the bytes
    [start, stop) of ``holes``, of at most 64, count as zeros: there the checksum itself lies.
    """
    found = array("I")
    if _fast is not None:
        words = b"".join(struct.pack("<HH", start, stop) for start, stop in holes)
        found.frombytes(_fast.records(data, size, heads, words, begun))
        if byteorder == "big":
            found.byteswap()
        return found
    count = len(data) // size
    head = len(heads) // count if count else 0
    for one in range(count):
        record = bytearray(data[one * size : one * size + size])
        for start, stop in holes:
            record[start:stop] = bytes(stop - start)
        found.append(_crc(record, _crc(heads[one * head : one * head + head], begun)))
    return found


def _crc(data: bytes | bytearray | memoryview, begun: int) -> int:
    """Go on with a CRC-32C, two bytes a step: about 10 MB/s."""
    table, single = _table(), _single()
    crc = begun ^ 0xFFFF_FFFF
    even = len(data) & ~1
    words = array("H", bytes(data[:even]))
    if byteorder == "big":
        words.byteswap()
    for word in words:
        crc = table[(crc ^ word) & 0xFFFF] ^ crc >> 16
    if even < len(data):
        crc = single[(crc ^ data[even]) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFF_FFFF


def xxh64(data: bytes | bytearray | memoryview, sector: int) -> bytes:
    """Return the XXH64 of each sector, eight bytes little-endian, where the extension was not built."""
    view = memoryview(data)
    parts = [bytes(view[at : at + sector]) for at in range(0, len(view), sector)]
    return b"".join([_xxh(part).to_bytes(8, "little") for part in parts])


def _sha256(data: bytes | bytearray | memoryview, sector: int) -> bytes:
    view = memoryview(data)
    return b"".join([hashlib.sha256(view[at : at + sector]).digest() for at in range(0, len(view), sector)])


def _blake2(data: bytes | bytearray | memoryview, sector: int) -> bytes:
    view = memoryview(data)
    return b"".join(
        [
            hashlib.blake2b(view[at : at + sector], digest_size=32).digest()
            for at in range(0, len(view), sector)
        ]
    )


def exfat(data: bytes | bytearray) -> int:
    """Return the checksum of bytes as exFAT's directories have it: rotated right, and the next byte added."""
    if _fast is not None:
        return _fast.exfat(data)
    total = 0
    for byte in data:
        total = ((total & 1) << 15 | total >> 1) + byte & 0xFFFF
    return total


SUMS: Final[Mapping[str, tuple[int, Summed]]] = {  # bytes of a checksum, and what makes those of sectors
    "crc32c": (4, crc32c if _fast is None else _fast.crc32c),
    "xxh64": (8, xxh64 if _fast is None else _fast.xxh64),
    "sha256": (32, _sha256),
    "blake2b": (32, _blake2),
}


@cache
def _table() -> array[int]:
    """Return what 16 bits add to a CRC-32C, for little-endian words."""
    single = _single()
    words = array("I")
    for word in range(65536):
        crc = single[word & 0xFF] ^ (word >> 8)
        words.append(single[crc & 0xFF] ^ (crc >> 8))
    return words


@cache
def _single() -> array[int]:
    """Return what 8 bits add."""
    single = array("I")
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        single.append(crc)
    return single


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _WORD


def _mixed(lane: int, value: int) -> int:
    return _rotated(lane + value * _P2 & _WORD, 31) * _P1 & _WORD


def _xxh(data: bytes) -> int:
    total, at = _P5, len(data) & ~31
    if at:
        lanes = [_P1 + _P2 & _WORD, _P2, 0, -_P1 & _WORD]
        for values in struct.iter_unpack("<4Q", data[:at]):
            lanes = [_mixed(lane, value) for lane, value in zip(lanes, values, strict=True)]
        turned = zip(lanes, (1, 7, 12, 18), strict=True)
        total = sum(_rotated(lane, bits) for lane, bits in turned) & _WORD
        for lane in lanes:
            total = ((total ^ _mixed(0, lane)) * _P1 + _P4) & _WORD
    total = total + len(data) & _WORD
    while at + 8 <= len(data):
        total = (
            _rotated(total ^ _mixed(0, int.from_bytes(data[at : at + 8], "little")), 27) * _P1 + _P4 & _WORD
        )
        at += 8
    if at + 4 <= len(data):
        half = int.from_bytes(data[at : at + 4], "little")
        total = _rotated(total ^ half * _P1 & _WORD, 23) * _P2 + _P3 & _WORD
        at += 4
    for byte in data[at:]:
        total = _rotated(total ^ byte * _P5 & _WORD, 11) * _P1 & _WORD
    total = (total ^ total >> 33) * _P2 & _WORD
    total = (total ^ total >> 29) * _P3 & _WORD
    return total ^ total >> 32
