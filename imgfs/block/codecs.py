"""Decoders of stored units: what may run in the daemon, in pool threads, without state (INV-8).

Growing this list is a reviewed decision: each entry names a library whose job is hostile input.
"""

from __future__ import annotations

import importlib
import threading
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.block.pieces import Block
from imgfs.errors import BadUnit

try:
    from deflate import DeflateError, adler32, deflate_decompress, zlib_decompress
except ImportError:  # no wheel for this machine: slower, same results
    from zlib import adler32  # type: ignore[assignment]
    from zlib import error as DeflateError  # type: ignore[assignment]  # noqa: N812

    zlib_decompress = deflate_decompress = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from imgfs.model import Codec

Parameters = Mapping[str, int | bytes | str]
Decoder = Callable[[memoryview, bool, int, Parameters], Block]

_CHECKSUM = 4  # bytes of an Adler-32


def _ewf(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: FBT001
    """Decode a chunk of an EWF file.

    Bytes behind the chunk are ignored: the last chunk of a section may be followed by padding.
    Parameter ``unit``: the chunk size; some writers store the last, shorter chunk filled up to it.

    Raises:
        BadUnit: it does not decode, holds neither ``length`` nor ``unit`` bytes, or its Adler-32
            differs.

    Source: Expert Witness Compression Format (EWF), Joachim Metz, "Sectors section" and "Data
    chunk": a zlib stream (RFC 1950, which ends in an Adler-32), or data and a little-endian Adler-32.
    """
    if coded and zlib_decompress is not None:
        try:  # the usual chunk, in one call that knows the size and compares the checksum
            data: Block = zlib_decompress(stored, length)
        except DeflateError:
            pass  # an odd one or a bad one: zlib says what is wrong
        else:
            if len(data) == length:
                return data
    lengths = _lengths(length, parameters)
    if coded:
        return _zlib(stored, lengths)[:length]
    for held in lengths:
        if len(stored) >= held + _CHECKSUM:
            checksum = int.from_bytes(stored[held : held + _CHECKSUM], "little")
            if adler32(stored[:held]) == checksum:
                return bytes(stored[:length])
    if len(stored) < length + _CHECKSUM:
        raise BadUnit(f"a stored chunk of {len(stored)} bytes, {length + _CHECKSUM} expected")
    raise BadUnit("the checksum of a stored chunk differs")


def _lengths(length: int, parameters: Parameters) -> set[int]:
    """Return the sizes a unit may decode to: some writers fill the last, shorter one up to ``unit`` bytes."""
    unit = parameters.get("unit", length)
    return {length, unit} if isinstance(unit, int) and length < unit <= limits.MAX_UNIT else {length}


def _zlib(stored: memoryview, lengths: Collection[int]) -> bytes:
    """Inflate a zlib stream to one of ``lengths`` bytes, without room for a bomb."""
    stream = zlib.decompressobj()
    most = max(lengths)
    try:
        data = stream.decompress(stored, most + 1)
    except zlib.error as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if len(data) not in lengths:
        held = f"more than {most}" if len(data) > most else f"{len(data)}"
        raise BadUnit(f"a compressed unit holds {held} bytes, {min(lengths)} expected")
    if not stream.eof:  # the checksum is behind the data: without the end it was not compared
        raise BadUnit("a compressed unit is cut short")
    return data


def _deflate(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Inflate a raw stream (RFC 1951) of any window; bytes behind its end are ignored.

    Parameter ``unit``: see ``_lengths``.

    Raises:
        BadUnit: it does not decode to ``length`` bytes, nor to ``unit``.
    """
    if deflate_decompress is not None:
        try:
            data: Block = deflate_decompress(stored, length)
        except DeflateError:
            pass  # zlib says what is wrong
        else:
            if len(data) == length:
                return data
    lengths = _lengths(length, parameters)
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(stored, max(lengths) + 1)
    except zlib.error as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if len(data) not in lengths:
        raise BadUnit(_held(len(data), length))
    return data[:length]


def _zlib_unit(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Inflate a zlib stream (RFC 1950) and compare its checksum. Parameter ``unit``: see ``_lengths``.

    Raises:
        BadUnit: it does not decode to ``length`` bytes, nor to ``unit``.
    """
    if zlib_decompress is not None:
        try:
            data: Block = zlib_decompress(stored, length)
        except DeflateError:
            pass  # zlib says what is wrong
        else:
            if len(data) == length:
                return data
    return _zlib(stored, _lengths(length, parameters))[:length]


def _lz4(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Decode an LZ4 block (without a frame). Parameter ``unit``: see ``_lengths``.

    Source: LZ4 Block Format Description (lz4/doc/lz4_Block_format.md).

    Raises:
        BadUnit: it does not decode to ``length`` bytes, nor to ``unit``, or the library is missing.
    """
    try:
        library = importlib.import_module("lz4.block")
    except ImportError as why:
        raise BadUnit("the library lz4 is missing") from why
    lengths = _lengths(length, parameters)
    try:
        data: Block = library.decompress(stored, uncompressed_size=max(lengths))
    except (library.LZ4BlockError, ValueError) as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if len(data) not in lengths:
        raise BadUnit(_held(len(data), length))
    return data if len(data) == length else data[:length]


def _snappy(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Decode a raw snappy block (without a frame). Parameter ``unit``: see ``_lengths``.

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
    lengths = _lengths(length, parameters)
    data = bytearray(max(lengths))  # the library compares the length a block declares with this room
    try:
        held: int = library.snappy.decompress_raw_into(stored, data)
    except library.DecompressionError as why:
        if parameters.get("plain") and len(stored) == max(lengths):
            return bytes(stored[:length])
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if held not in lengths:
        raise BadUnit(_held(held, length))
    del data[length:]
    return data


_libraries = threading.local()  # a decoder of zstandard serves one thread at a time
_WINDOW: Final = limits.MAX_UNIT  # bytes of a window: none needs more than the largest unit


def _zstd(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
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
        held = library.frame_content_size(stored)
        if held == length:  # the usual unit: one frame that says how long it is
            data: Block = decoder.decompress(stored, max_output_size=length)
        else:  # never more than was asked for, whatever frames say
            with decoder.stream_reader(stored, read_across_frames=True) as stream:
                data = stream.read(length)
    except library.ZstdError as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if len(data) != length:
        raise BadUnit(_held(len(data), length))
    return data


def _held(found: int, length: int) -> str:
    more = f"more than {length}" if found > length else f"{found}"
    return f"a compressed unit holds {more} bytes, {length} expected"


DECODERS: Final[Mapping[str, Decoder]] = {
    "ewf": _ewf,
    "deflate": _deflate,
    "zlib": _zlib_unit,
    "zstd": _zstd,
    "lz4": _lz4,
    "snappy": _snappy,
}


def decode(codec: Codec, stored: memoryview, coded: bool, length: int) -> Block:  # noqa: FBT001  # per unit
    """Return the ``length`` bytes of a unit.

    Raises:
        BadUnit: it does not decode to exactly that.
    """
    return DECODERS[codec.name](stored, coded, length, codec.parameters)
