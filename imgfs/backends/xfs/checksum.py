"""Checksums of metadata: CRC-32C of a block whose own checksum counts as zero.

A chunk of the framed form of Snappy is any bytes with their CRC-32C before them, and the library that undoes
it compares them faster than a gigabyte a second: that is how many inodes are checked in one call.

Source: XFS Algorithms and Data Structures, "Metadata Integrity"; google/snappy, framing_format.txt, sections
3 and 4.3.
"""

from __future__ import annotations

import struct
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from imgfs.backends._crc32c import crc32c

if TYPE_CHECKING:
    from collections.abc import Sequence

LIBRARY: Final = "cramjam"
_STREAM: Final = b"\xff\x06\x00\x00sNaPpY"
_PLAIN: Final = 1  # type of a chunk that is not compressed
_HEAD: Final = struct.Struct("<II")  # type and length, masked checksum
_SUM: Final = struct.Struct("<I")
_MASK: Final = 0xA282_EAD8
_LARGEST: Final = 65_536  # bytes of a chunk
_ZERO: Final = bytes(4)


def intact(block: bytes, at: int) -> bool:
    """Say whether a block has the CRC-32C that it states, little-endian, in byte ``at``."""
    return all_intact((block,), at)


def all_intact(blocks: Sequence[bytes], at: int) -> bool:
    """Say whether all blocks have the CRC-32C that each states in byte ``at``."""
    library = _library()
    parts = [_STREAM]
    for block in blocks:
        (stated,) = _SUM.unpack_from(block, at)
        if library is None or len(block) > _LARGEST:
            if crc32c(block[:at] + _ZERO + block[at + 4 :]) != stated:
                return False
            continue
        masked = ((stated >> 15 | stated << 17) + _MASK) & 0xFFFF_FFFF
        parts += (
            _HEAD.pack(_PLAIN | len(block) + 4 << 8, masked),
            block[:at],
            _ZERO,
            block[at + 4 :],
        )
    if library is None or len(parts) == 1:
        return True
    try:
        library.snappy.decompress(b"".join(parts))
    except library.DecompressionError:
        return False
    return True


@cache
def _library() -> Any:  # a module without types
    try:
        return import_module(LIBRARY)
    except ImportError:
        return None
