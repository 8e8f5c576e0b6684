"""Units whose data may end before them: what is missing is zeros, as the file system that stores them says.

btrfs compresses no further than the end of the file, and counts the unit in whole sectors. See ``codecs``.

Source: btrfs.readthedocs.io, "Compression", with the description of LZO's segments there, and "On-disk
format" (ram_bytes of a file extent item).
"""

from __future__ import annotations

import importlib
import zlib
from typing import TYPE_CHECKING, Final

from imgfs.block.inflating import Parameters, held
from imgfs.block.lzo import decompress
from imgfs.block.unpacking import zstd
from imgfs.errors import BadUnit

if TYPE_CHECKING:
    from imgfs.block.pieces import Block

try:
    from deflate import DeflateError, zlib_decompress
except ImportError:  # no wheel for this machine: slower, same results
    from zlib import error as DeflateError  # type: ignore[assignment]  # noqa: N812

    zlib_decompress = None  # type: ignore[assignment]


_WORD: Final = 4


def zlib_short(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Inflate a zlib stream (RFC 1950), whose Adler-32 is compared; bytes behind its end are ignored.

    Parameter ``short``: fewer bytes than this may be missing at the end, and are zeros.

    Raises:
        BadUnit: it does not decode to that many bytes, or its Adler-32 differs.
    """
    if zlib_decompress is not None:
        try:
            return filled(zlib_decompress(stored, length), length, parameters)
        except DeflateError:
            pass  # zlib says what is wrong
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(stored, length + 1)
    except zlib.error as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if not stream.eof:  # the checksum is behind the data: without the end it was not compared
        raise BadUnit("a compressed unit is cut short, or too long")
    return filled(data, length, parameters)


def zstd_short(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: FBT001
    """Decode a Zstandard frame (RFC 8878); bytes behind its end are ignored. Parameter ``short``: as above.

    Raises:
        BadUnit: it does not decode to that many bytes, or the library is missing.
    """
    try:
        library = importlib.import_module("zstandard")
    except ImportError as why:
        raise BadUnit("the library zstandard is missing") from why
    try:
        said = library.get_frame_parameters(stored).content_size
    except library.ZstdError as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if said == library.CONTENTSIZE_UNKNOWN:
        return filled(
            _unsaid(library.ZstdDecompressor, library.ZstdError, stored, length), length, parameters
        )
    if said > length:
        raise BadUnit(held(said, length))
    return filled(zstd(stored, coded, said, {}), length, parameters)


def _unsaid(make: type, failure: type[Exception], stored: memoryview, length: int) -> Block:
    """Return what a frame holds that does not say how much, without room for a bomb."""
    try:
        data: Block = make().decompress(stored, max_output_size=length)
    except failure as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    return data


def lzo_short(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Decode segments of LZO; bytes behind them are ignored. Parameter ``short``: as above.

    The length of all comes first, then for each segment its length and its bytes, a stream of its own of at
    most ``short`` bytes, a sector. A length does not cross a sector; what is left of one is skipped.

    Raises:
        BadUnit: they do not decode to that many bytes.
    """
    sector = parameters.get("short", 0)
    if not isinstance(sector, int) or sector <= _WORD:
        raise BadUnit(f"segments of sectors of {sector!r} bytes")
    total, at, parts, room = int.from_bytes(stored[:_WORD], "little"), _WORD, [], length
    if not _WORD < total <= len(stored):
        raise BadUnit(f"segments of {total} bytes in {len(stored)}")
    while at < total and room > 0:
        if sector - at % sector < _WORD:
            at += sector - at % sector
        size = int.from_bytes(stored[at : at + _WORD], "little")
        at += _WORD
        if not 0 < size <= total - at:
            raise BadUnit(f"a segment of {size} bytes at {at} of {total}")
        parts.append(decompress(stored[at : at + size], min(sector, room)))
        room -= len(parts[-1])
        at += size
    return filled(b"".join(parts), length, parameters)


def filled(data: Block, length: int, parameters: Parameters) -> Block:
    """Return data with the zeros that are missing.

    Raises:
        BadUnit: more than that is missing.
    """
    short = parameters.get("short", 1)
    if len(data) == length:
        return data
    if not isinstance(short, int) or not length - short < len(data) < length:
        raise BadUnit(held(len(data), length))
    return bytes(data) + bytes(length - len(data))
