"""Units of other compressors: zstd, LZ4, snappy, bzip2, xz. See ``codecs``.

Libraries are loaded by the first unit that needs them: few sessions do.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import threading
import zlib
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.block.inflating import Parameters, held, sizes
from imgfs.errors import BadUnit

if TYPE_CHECKING:
    from imgfs.block.pieces import Block

LIBRARIES: Final = ("zstandard", "lz4.block", "cramjam")
_XZ_MEMORY: Final = 80 * limits.MIB  # the largest dictionary a preset of xz has is 64 MiB; Apple writes 8
_XZ_MAGIC: Final = b"\xfd7zXZ\0"
_libraries = threading.local()  # a decoder of zstandard serves one thread at a time
_WINDOW: Final = limits.MAX_UNIT  # bytes of a window: none needs more than the largest unit


def zstd(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Decode Zstandard frames (RFC 8878) until the unit is full; bytes behind it are ignored.

    The library is loaded by the first unit that needs it: few sessions do.

    Raises:
        BadUnit: they do not decode to ``length`` bytes, or the library is missing.
    """
    try:
        library = importlib.import_module("zstandard")
    except ImportError as why:
        raise BadUnit("the library zstandard is missing") from why
    decoder = getattr(_libraries, "zstd", None)
    if decoder is None:
        decoder = _libraries.zstd = library.ZstdDecompressor(max_window_size=_WINDOW)
    try:
        said = library.frame_content_size(stored)
        if said == length:  # the usual unit: one frame that says how long it is
            data: Block = decoder.decompress(stored, max_output_size=length)
        else:  # never more than was asked for, whatever frames say
            with decoder.stream_reader(stored, read_across_frames=True) as stream:
                data = stream.read(length)
    except library.ZstdError as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if len(data) != length:
        raise BadUnit(held(len(data), length))
    return data


def lz4(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Decode an LZ4 block (without a frame). Parameter ``unit``: see ``sizes``.

    Source: LZ4 Block Format Description (lz4/doc/lz4_Block_format.md).

    Raises:
        BadUnit: it does not decode to ``length`` bytes, nor to ``unit``, or the library is missing.
    """
    try:
        library = importlib.import_module("lz4.block")
    except ImportError as why:
        raise BadUnit("the library lz4 is missing") from why
    lengths = sizes(length, parameters)
    try:
        data: Block = library.decompress(stored, uncompressed_size=max(lengths))
    except (library.LZ4BlockError, ValueError) as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if len(data) not in lengths:
        raise BadUnit(held(len(data), length))
    return data if len(data) == length else data[:length]


def snappy(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Decode a raw snappy block (without a frame). Parameter ``unit``: see ``sizes``.

    Parameter ``plain``: a unit that is stored in exactly ``unit`` bytes and does not decode is stored
    verbatim, for writers of whom some always compress and some do not.

    Source: Snappy compressed format description (google/snappy, format_description.txt).

    Raises:
        BadUnit: it does not decode to ``length`` bytes, nor to ``unit``, or the library is missing.
    """
    try:
        library = importlib.import_module("cramjam")
    except ImportError as why:
        raise BadUnit("the library cramjam is missing") from why
    lengths = sizes(length, parameters)
    data = bytearray(max(lengths))  # the library compares the length a block declares with this room
    try:
        found: int = library.snappy.decompress_raw_into(stored, data)
    except library.DecompressionError as why:
        if parameters.get("plain") and len(stored) == max(lengths):
            return bytes(stored[:length])
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if found not in lengths:
        raise BadUnit(held(found, length))
    del data[length:]
    return data


def bzip2(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Decode a bzip2 stream, its checksums compared; bytes behind its end are ignored.

    libbz2 1.0.8 allocates 4 MiB at most, whatever a stream says, and is fuzzed as part of OSS-Fuzz.

    Raises:
        BadUnit: it does not decode to exactly ``length`` bytes.
    """
    return _streamed(bz2.BZ2Decompressor(), stored, length)


def xz(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Decode an xz stream, its checksums compared; bytes behind its end are ignored.

    liblzma is told how much memory a stream may ask for, and is fuzzed as part of OSS-Fuzz.

    Raises:
        BadUnit: it does not decode to exactly ``length`` bytes, or needs more memory.
    """
    return _streamed(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), stored, length)


def xz_block(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: FBT001
    """Decode one block of an xz file, its checksum compared. Parameter ``check``: the kind of that.

    The block is made a stream of its own: a head, an index that names it alone, and a footer. An index counts
    a block without its padding, which cannot be told from the data ahead of it: a unit goes on behind its
    block, whose length is a multiple of four, for as many bytes as that has padding.

    Source: The .xz File Format, version 1.2.1, 2.1.

    Raises:
        BadUnit: it does not decode to exactly ``length`` bytes, or needs more memory.
    """
    check = parameters.get("check")
    if not isinstance(check, int) or not 0 <= check < 16:
        raise BadUnit("an xz block with a checksum of no kind")
    if len(stored) < 8:
        raise BadUnit(f"an xz block of {len(stored)} bytes")
    flags = bytes((0, check))
    padding = len(stored) % 4
    block = stored[: len(stored) - padding]
    index = b"\0\1" + _multibyte(len(block) - padding) + _multibyte(length)
    index += bytes(-len(index) % 4)
    index += _crc32(index)
    end = (len(index) // 4 - 1).to_bytes(4, "little") + flags
    parts = (_XZ_MAGIC, flags, _crc32(flags), block, index, _crc32(end), end, b"YZ")
    return xz(memoryview(b"".join(parts)), coded, length, parameters)


def _multibyte(number: int) -> bytes:
    """Return a number in bytes of seven bits, the lowest first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _crc32(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _streamed(stream: bz2.BZ2Decompressor | lzma.LZMADecompressor, stored: memoryview, length: int) -> Block:
    """Decode one stream to its end, without room for a bomb."""
    try:
        data = stream.decompress(stored, length + 1)
        while not stream.eof and not stream.needs_input and len(data) <= length:
            data += stream.decompress(b"", length + 1 - len(data))
    except (OSError, lzma.LZMAError) as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if len(data) != length:
        raise BadUnit(held(len(data), length))
    if not stream.eof:  # the checksum is behind the data: without the end it was not compared
        raise BadUnit("a compressed unit is cut short")
    return data
