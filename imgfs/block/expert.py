"""Chunks of Expert Witness files: EWF, and EWF2 with its patterns and bzip2. See ``codecs``."""

from __future__ import annotations

import bz2
from typing import TYPE_CHECKING, Final

from imgfs.block.inflating import Parameters, held, sizes, zlib_stream
from imgfs.errors import BadUnit

try:
    from deflate import adler32
except ImportError:  # no wheel for this machine: slower, same results
    from zlib import adler32  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Collection

    from imgfs.block.pieces import Block

PATTERN: Final = 8  # bytes of a stored pattern
BZIP2: Final = 2  # the number of the method in EWF2
_CHECKSUM: Final = 4  # bytes of an Adler-32
_BZ_BLOCK: Final = bytes.fromhex("314159265359")


def ewf(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: FBT001
    """Decode a chunk of an EWF file.

    Bytes behind the chunk are ignored: the last chunk of a section may be followed by padding.
    Parameter ``unit``: see ``sizes``.

    Raises:
        BadUnit: it does not decode, holds neither ``length`` nor ``unit`` bytes, or its Adler-32
            differs.

    Source: Expert Witness Compression Format (EWF), Joachim Metz, "Sectors section" and "Data
    chunk": a zlib stream (RFC 1950, which ends in an Adler-32), or data and a little-endian Adler-32.
    """
    if coded:
        return zlib_stream(stored, coded, length, parameters)
    for whole in sizes(length, parameters):
        if len(stored) >= whole + _CHECKSUM:
            checksum = int.from_bytes(stored[whole : whole + _CHECKSUM], "little")
            if adler32(stored[:whole]) == checksum:
                return bytes(stored[:length])
    if len(stored) < length + _CHECKSUM:
        raise BadUnit(f"a stored chunk of {len(stored)} bytes, {length + _CHECKSUM} expected")
    raise BadUnit("the checksum of a stored chunk differs")


def ewf2(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: FBT001
    """Decode a chunk of an EWF2 file: one of EWF, or a bzip2 stream, or a pattern of 8 bytes to be repeated.

    No stream that holds anything is that short: a zlib stream of one byte takes 9, bzip2 more.
    Parameters ``unit``: as for EWF; ``method`` 2: coded chunks are bzip2.

    Raises:
        BadUnit: as for EWF.

    Source: Expert Witness Compression Format version 2 (EWF2), Joachim Metz, "Sector data", "Compression".
    """
    if coded and len(stored) == PATTERN:
        return (bytes(stored) * (length // PATTERN + 1))[:length]
    if coded and parameters.get("method") == BZIP2:
        return _bunzipped(stored, sizes(length, parameters))[:length]
    return ewf(stored, coded, length, parameters)


def _bunzipped(stored: memoryview, lengths: Collection[int]) -> bytes:
    """Decompress a bzip2 stream, or one block of it without the stream's header and end, as EnCase has it.

    The checksum of the block is compared either way.
    """
    block = stored[: len(_BZ_BLOCK)] == _BZ_BLOCK
    stream = bz2.BZ2Decompressor()
    most = max(lengths)
    try:
        if block:  # its checksum is compared as soon as its last byte is out
            data = stream.decompress(b"BZh9" + bytes(stored), most)
            data += stream.decompress(b"", 1)
        else:
            data = stream.decompress(stored, most + 1)
    except (OSError, EOFError) as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if len(data) not in lengths:
        raise BadUnit(held(len(data), min(lengths)))
    if not block and not stream.eof:
        raise BadUnit("a compressed unit is cut short")
    return data
