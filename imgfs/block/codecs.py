"""Decoders of stored units: what may run in the daemon, in pool threads, without state (INV-8).

Growing this list is a reviewed decision: each entry names a library whose job is hostile input.
"""

from __future__ import annotations

import bz2
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
PATTERN: Final = 8  # bytes of a stored pattern
BZIP2: Final = 2  # the number of the method in EWF2
_BZ_BLOCK: Final = bytes.fromhex("314159265359")


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
    if coded:
        return _zlib(stored, coded, length, parameters)
    for held in _lengths(length, parameters):
        if len(stored) >= held + _CHECKSUM:
            checksum = int.from_bytes(stored[held : held + _CHECKSUM], "little")
            if adler32(stored[:held]) == checksum:
                return bytes(stored[:length])
    if len(stored) < length + _CHECKSUM:
        raise BadUnit(f"a stored chunk of {len(stored)} bytes, {length + _CHECKSUM} expected")
    raise BadUnit("the checksum of a stored chunk differs")


def _ewf2(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: FBT001
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
        return _bunzipped(stored, _lengths(length, parameters))[:length]
    return _ewf(stored, coded, length, parameters)


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
        raise BadUnit(_held(len(data), min(lengths)))
    if not block and not stream.eof:
        raise BadUnit("a compressed unit is cut short")
    return data


def _lengths(length: int, parameters: Parameters) -> set[int]:
    """Return how many bytes a unit may hold; see ``_ewf`` for the parameter ``unit``."""
    unit = parameters.get("unit", length)
    return {length, unit} if isinstance(unit, int) and length < unit <= limits.MAX_UNIT else {length}


def _zlib(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Inflate a zlib stream (RFC 1950), whose Adler-32 is compared; bytes behind its end are ignored.

    Parameter ``unit``: as for EWF chunks.

    Raises:
        BadUnit: it does not decode to ``length`` or ``unit`` bytes, or its Adler-32 differs.
    """
    if zlib_decompress is not None:
        try:  # the usual unit, in one call that knows the size and compares the checksum
            data: Block = zlib_decompress(stored, length)
        except DeflateError:
            pass  # an odd one or a bad one: zlib says what is wrong
        else:
            if len(data) == length:
                return data
    return _inflated(stored, _lengths(length, parameters))[:length]


def _inflated(stored: memoryview, lengths: Collection[int]) -> bytes:
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

    Raises:
        BadUnit: it does not decode to exactly ``length`` bytes.
    """
    if deflate_decompress is not None:
        try:
            data: Block = deflate_decompress(stored, length)
        except DeflateError:
            pass  # zlib says what is wrong
        else:
            if len(data) == length:
                return data
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = stream.decompress(stored, length + 1)
    except zlib.error as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if len(data) != length:
        raise BadUnit(_held(len(data), length))
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


LIBRARIES: Final = ("zstandard",)  # what decoders import when they are needed
DECODERS: Final[Mapping[str, Decoder]] = {
    "ewf": _ewf,
    "ewf2": _ewf2,
    "deflate": _deflate,
    "zlib": _zlib,
    "zstd": _zstd,
}


def decode(codec: Codec, stored: memoryview, coded: bool, length: int) -> Block:  # noqa: FBT001  # per unit
    """Return the ``length`` bytes of a unit.

    Raises:
        BadUnit: it does not decode to exactly that.
    """
    return DECODERS[codec.name](stored, coded, length, codec.parameters)
