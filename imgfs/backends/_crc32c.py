"""CRC-32C (Castagnoli), two bytes a step: about 10 MB/s, and no dependency for the few MiB that have one.

What is checked with it is bounded: VHDX has 136 KiB of headers and a log that is bounded where it is read.

Source: RFC 3720, appendix B.4 (polynomial 0x1EDC6F41, reflected).
"""

from __future__ import annotations

from array import array
from functools import cache
from typing import Final

_POLYNOMIAL: Final = 0x82F6_3B78


def crc32c(data: bytes) -> int:
    """Return the checksum of ``data``."""
    table = _table()
    crc = 0xFFFF_FFFF
    even = len(data) & ~1
    for word in memoryview(data)[:even].cast("H"):
        crc = table[(crc ^ word) & 0xFFFF] ^ (crc >> 16)
    for byte in data[even:]:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF


@cache
def _table() -> array[int]:
    """Return what 16 bits add, for little-endian words."""
    single = array("I")
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
        single.append(crc)
    words = array("I")
    for word in range(65536):
        crc = single[word & 0xFF] ^ (word >> 8)
        words.append(single[crc & 0xFF] ^ (crc >> 8))
    return words
