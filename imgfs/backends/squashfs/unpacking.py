"""The compressors of SquashFS: what they are called as codecs, and metadata decoded in the worker.

Metadata blocks do not say how many bytes they decode to, so that a codec that wants to know does not fit.

Source: "Squashfs Binary Format" (dr-emann.github.io/squashfs), Compression Options; images of versions 2 and
3, where vendors replaced zlib by LZMA with and without a header.
"""

from __future__ import annotations

import importlib
import lzma
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.block import lzma1, lzo
from imgfs.errors import BadUnit
from imgfs.limits import MIB
from imgfs.model import Codec

try:
    from deflate import DeflateError, zlib_decompress
except ImportError:  # no wheel for this machine: slower, same results
    from zlib import error as DeflateError  # type: ignore[assignment]  # noqa: N812

    zlib_decompress = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable

_XZ_MEMORY: Final = 80 * MIB
_XZ_FOOTER: Final = 12
_ZSTD_UNKNOWN: Final = (-1, 0)


@dataclass(frozen=True, slots=True)
class Compressor:
    """One way to compress. ``codec`` is the daemon's."""

    name: str
    codec: Codec
    decode: Callable[[bytes, int], bytes]  # stored bytes, at most so many decoded ones; raises BadUnit
    length: Callable[[bytes], int] | None = None  # what the stored bytes say they decode to, 0: nothing


def _gzip(stored: bytes, most: int) -> bytes:
    if zlib_decompress is not None:
        try:
            return bytes(zlib_decompress(stored, most))
        except DeflateError:
            pass  # zlib says what is wrong
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(stored, most + 1)
    except zlib.error as why:
        raise BadUnit(f"a compressed block does not decode: {why}") from why
    if len(data) > most or not stream.eof:
        raise BadUnit("a compressed block is too long or cut short")
    return data


def _xz(stored: bytes, most: int) -> bytes:
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    try:
        data = stream.decompress(stored, most + 1)
    except lzma.LZMAError as why:
        raise BadUnit(f"a compressed block does not decode: {why}") from why
    if len(data) > most or not stream.eof:
        raise BadUnit("a compressed block is too long or cut short")
    return data


def _xz_length(stored: bytes) -> int:
    """Return what the index of a stream of one block says. Source: The .xz File Format 1.2.1, 2.1.2, 4."""
    footer = stored[-_XZ_FOOTER:]
    size = 4 * (int.from_bytes(footer[4:8], "little") + 1)
    index = stored[-_XZ_FOOTER - size : -_XZ_FOOTER]
    if footer[-2:] != b"YZ" or len(index) != size or index[:2] != b"\0\1":
        return 0
    numbers, number, shift = [], 0, 0
    for byte in index[2:]:
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            numbers.append(number)
            number = shift = 0
        if len(numbers) == 2 or shift > 56:
            break
    return numbers[1] if len(numbers) == 2 else 0


def _zstd(stored: bytes, most: int) -> bytes:
    import zstandard

    try:
        with zstandard.ZstdDecompressor(max_window_size=8 * MIB).stream_reader(stored) as stream:
            data: bytes = stream.read(most + 1)
    except zstandard.ZstdError as why:
        raise BadUnit(f"a compressed block does not decode: {why}") from why
    if len(data) > most:
        raise BadUnit("a compressed block is too long")
    return data


def _zstd_length(stored: bytes) -> int:
    import zstandard

    try:
        length: int = zstandard.frame_content_size(stored)
    except zstandard.ZstdError:
        return 0
    return 0 if length in _ZSTD_UNKNOWN else length


def _lz4(stored: bytes, most: int) -> bytes:
    library = importlib.import_module("lz4.block")
    try:
        return bytes(library.decompress(stored, uncompressed_size=most))
    except (library.LZ4BlockError, ValueError) as why:
        raise BadUnit(f"a compressed block does not decode: {why}") from why


def _alone(stored: bytes, most: int) -> bytes:
    return lzma1.decompress(stored, lzma1.ALONE, most)


def _bare(stored: bytes, most: int) -> bytes:
    return lzma1.decompress(stored, lzma1.BARE, most)


def _alone_length(stored: bytes) -> int:
    return lzma1.said_size(stored) or 0


_GZIP: Final = Compressor("gzip", Codec("zlib"), _gzip)
_ALONE: Final = Compressor("lzma", Codec("lzma", {"form": lzma1.ALONE}), _alone, _alone_length)
_BARE: Final = Compressor("lzma", Codec("lzma", {"form": lzma1.BARE}), _bare)
BY_NUMBER: Final = {
    1: _GZIP,
    2: _ALONE,
    3: Compressor("lzo", Codec("lzo"), lzo.decompress),
    4: Compressor("xz", Codec("xz"), _xz, _xz_length),
    5: Compressor("lz4", Codec("lz4"), _lz4),
    6: Compressor("zstd", Codec("zstd"), _zstd, _zstd_length),
}
UNSAID: Final = (_GZIP, _ALONE, _BARE)  # what versions 2 and 3 are found with, to be tried in this order
