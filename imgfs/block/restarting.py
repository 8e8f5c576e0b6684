"""Units that begin in the middle of a stream: where an index says that a decoder can start. See ``codecs``.

What a decoder would know from the bytes before comes in front of the stored ones. The CRC-32 that the index
has of a unit's bytes is compared: an index that is wrong gives errors, and no other bytes.
"""

from __future__ import annotations

import bz2
import importlib
import zlib
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.block.inflating import Parameters, held
from imgfs.errors import BadUnit

try:
    from deflate import DeflateError, deflate_decompress
    from deflate import crc32 as _crc32
except ImportError:  # no wheel for this machine: slower, same results
    from zlib import crc32 as _crc32  # type: ignore[assignment]
    from zlib import error as DeflateError  # type: ignore[assignment]  # noqa: N812

    deflate_decompress = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from imgfs.block.pieces import Block

WINDOW: Final = 32_768  # bytes a deflated stream refers back to
HISTORY: Final = 65_536  # bytes linked blocks of LZ4 refer back to
_LZ4_BLOCK: Final = 8 * limits.MIB  # decoded, of the legacy frame; 4 MiB of others
_LZ4_PLAIN: Final = 0x8000_0000  # a block stored verbatim
BZIP2_BLOCK: Final = 0x3141_5926_5359
_BZIP2_END: Final = 0x1772_4538_5090
_BZIP2_MAGIC: Final = 48  # bits, of the checksum behind it 32


def crc32(data: Block | memoryview, value: int = 0) -> int:
    """Return the CRC-32 of bytes, going on from ``value``."""
    return _crc32(data, value)


def _aligner(bits: int) -> tuple[bytes, int]:
    """Return deflate blocks that decode to nothing and end ``bits`` bits into their last byte.

    An empty block of fixed codes takes 10 bits; one of 95 bits that brings its own codes makes odd numbers.

    Source: RFC 1951, 3.2.3, 3.2.6, 3.2.7.
    """
    value = at = 0

    def put(number: int, width: int, *, code: bool = False) -> None:
        nonlocal value, at
        if code:  # Huffman codes are packed starting with their most significant bit
            number = int(format(number, f"0{width}b")[::-1], 2)
        value |= number << at
        at += width

    if bits % 2:
        put(0b100, 3)  # not the last, dynamic codes
        put(0, 5)  # 257 literals and lengths
        put(0, 5)  # 1 distance
        put(18 - 4, 4)
        # in the order 16 17 18 0 8 7 9 6 10 5 11 4 12 3 13 2 14 1: code lengths of 18, 0 and 1 are 2, 1, 2
        for place in range(18):
            put({2: 2, 3: 1, 17: 2}.get(place, 0), 3)
        one, many, zero = (0b10, 2), (0b11, 2), (0b0, 1)
        put(*one, code=True)  # literal 0 has one bit
        put(*many, code=True)
        put(138 - 11, 7)
        put(*many, code=True)
        put(117 - 11, 7)
        put(*one, code=True)  # the end of the block has one bit
        put(*zero, code=True)  # there are no distances
        put(1, 1)  # the end of the block
    while at % 8 != bits:
        put(0b010, 10)  # not the last, fixed codes, the end
    return value.to_bytes(-(-at // 8), "little"), at % 8


_ALIGNERS: Final = tuple(_aligner(bits) for bits in range(8))


def deflate_window(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Inflate blocks from the middle of a deflated stream (RFC 1951) that end before another block.

    Parameters: ``front`` bytes of ``stored`` are a zlib stream of the at most 32 KiB before the unit;
    ``head`` bits of the first byte and ``tail`` bits of the last one are other blocks'; ``check`` is a
    CRC-32. The history is made a stored block ahead of the others and an empty last block is put behind them,
    so that one call decodes all of it.

    Raises:
        BadUnit: it does not decode to ``length`` bytes, or their checksum differs.
    """
    front, skip = _number(parameters, "front"), _number(parameters, "skip")
    head, tail = _number(parameters, "head"), _number(parameters, "tail")
    body = stored[front:]
    if not body or max(head, tail) > 7:
        raise BadUnit(f"a compressed unit of {len(body)} bytes")
    window = _window(stored[:front], WINDOW)
    before = b""
    if window:
        size = len(window)
        before = b"\0" + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little") + window
    empty, used = _ALIGNERS[head]
    first = body[0] & 0xFF << head & 0xFF
    if used:
        first |= empty[-1]
        empty = empty[:-1]
    # an empty block of fixed codes, the last one of a stream, behind the last bit
    if len(body) == 1:
        first &= 0xFF >> tail
        end = first | 0b11 << 8 - tail
        parts = [before, empty, end.to_bytes(3, "little")]
    else:
        end = body[-1] & 0xFF >> tail | 0b11 << 8 - tail
        parts = [before, empty, bytes((first,)), bytes(body[1:-1]), end.to_bytes(3, "little")]
    return _checked(
        _inflated(b"".join(parts), len(window) + skip + length), len(window) + skip, length, parameters
    )


def _window(front: memoryview, most: int) -> bytes:
    if not front:
        return b""
    stream = zlib.decompressobj()
    try:
        window = stream.decompress(front, most + 1)
    except zlib.error as why:
        raise BadUnit(f"the history of a unit does not decode: {why}") from why
    if not stream.eof or len(window) > most:
        raise BadUnit(f"a history of {len(window)} bytes")
    return window


def _inflated(data: bytes, length: int) -> Block:
    if deflate_decompress is not None:
        try:
            found: Block = deflate_decompress(data, length)
        except DeflateError:
            pass  # zlib says what is wrong
        else:
            if len(found) == length:
                return found
    try:
        # no byte more: the last unit of a file that is cut short ends within a block
        found = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, length) if length else b""
    except zlib.error as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if len(found) != length:
        raise BadUnit(held(len(found), length))
    return found


def bzip2_block(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Decode one block of a bzip2 stream, which begins and ends at any bit, or part of what it decodes to.

    Parameters: ``head`` bits of the first byte and ``tail`` bits of the last one are other blocks'; ``skip``
    decoded bytes come before the unit; ``check`` is a CRC-32. The block is made a stream of its own.

    Source: bzip2 1.0.8, as documented in "BZIP2: Format Specification" (Joe Tsai), 2.2.

    Raises:
        BadUnit: it does not decode to that, or a checksum differs.
    """
    skip = _number(parameters, "skip")
    stream = bzip2_stream(stored, _number(parameters, "head"), _number(parameters, "tail"))
    decoder = bz2.BZ2Decompressor()
    try:
        data = decoder.decompress(stream, skip + length)
    except (OSError, EOFError) as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if len(data) != skip + length:
        raise BadUnit(held(len(data), skip + length))
    return _checked(data, skip, length, parameters)


def bzip2_stream(stored: memoryview | bytes, head: int, tail: int) -> bytes:
    """Return a bzip2 stream of one block, given where it begins and ends.

    Raises:
        BadUnit: it is too short for one, or does not begin like one.
    """
    bits = 8 * len(stored) - head - tail
    if bits < _BZIP2_MAGIC + 32 or max(head, tail) > 7:
        raise BadUnit(f"a bzip2 block of {bits} bits")
    block = (int.from_bytes(stored, "big") & (1 << 8 * len(stored) - head) - 1) >> tail
    if block >> bits - _BZIP2_MAGIC != BZIP2_BLOCK:
        raise BadUnit("no bzip2 block")
    crc = block >> bits - _BZIP2_MAGIC - 32 & 0xFFFF_FFFF
    bits += 80
    pad = -bits % 8
    whole = ((block << _BZIP2_MAGIC | _BZIP2_END) << 32 | crc) << pad
    return b"BZh9" + whole.to_bytes((bits + pad) // 8, "big")


def lz4_blocks(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Decode blocks of an LZ4 frame, each behind its size.

    Parameters: ``front`` bytes of ``stored`` are a zlib stream of what the first block refers back to;
    ``linked``: each refers to the ones before it, too; ``checked``: a checksum of four bytes is behind each,
    and is not compared here; ``legacy``: none is stored verbatim; ``check`` is a CRC-32.

    Source: LZ4 Frame Format Description 1.6.4 (lz4/doc/lz4_Frame_format.md).

    Raises:
        BadUnit: they do not decode to ``length`` bytes, or their checksum differs.
    """
    try:
        library = importlib.import_module("lz4.block")
    except ImportError as why:
        raise BadUnit("the library lz4 is missing") from why
    front, skip = _number(parameters, "front"), _number(parameters, "skip")
    linked, behind = parameters.get("linked"), 4 if parameters.get("checked") else 0
    plain = 0 if parameters.get("legacy") else _LZ4_PLAIN
    data = bytearray(_window(stored[:front], HISTORY))
    before = len(data) + skip
    wanted, at = before + length, front
    while len(data) < wanted:
        size = int.from_bytes(stored[at : at + 4], "little")
        block = stored[at + 4 : at + 4 + (size & ~plain)]
        if not block or len(block) != size & ~plain:
            raise BadUnit("a compressed unit is cut short")
        if size & plain:
            data += block
        else:
            history = bytes(data[-HISTORY:]) if linked else b""
            try:
                data += library.decompress(
                    block, uncompressed_size=min(_LZ4_BLOCK, wanted - len(data)), dict=history
                )
            except (library.LZ4BlockError, ValueError) as why:
                raise BadUnit(f"a compressed unit does not decode: {why}") from why
        at += 4 + len(block) + behind
    if len(data) != wanted:
        raise BadUnit(held(len(data), wanted))
    return _checked(data, before, length, parameters)


def _number(parameters: Parameters, name: str) -> int:
    value = parameters.get(name, 0)
    if not isinstance(value, int) or value < 0:
        raise BadUnit(f"a compressed unit with {name} {value!r}")
    return value


def _checked(data: Block, skip: int, length: int, parameters: Parameters) -> Block:
    """Return the unit's bytes: what is behind the first ``skip``; compare their checksum."""
    if skip:
        if type(data) is bytearray:
            del data[:skip]  # moves no bytes
        else:
            data = data[skip:]
    if len(data) != length:
        raise BadUnit(held(len(data), length))
    if "check" in parameters and crc32(data) != parameters["check"]:
        raise BadUnit("the bytes of a unit are not those the index has the checksum of")
    return data
