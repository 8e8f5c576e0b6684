"""Clusters of which only the beginning is wanted, decoded in the worker: what follows it is not looked at.

LZ4 by ourselves, because the library wants to know where the stored bytes end, which images from before the
zero padding do not say.

Source: LZ4 Block Format Description (lz4/doc/lz4_Block_format.md); erofs.docs.kernel.org, Compressed Format
Layout.
"""

from __future__ import annotations

import importlib
import zlib
from typing import TYPE_CHECKING

from imgfs.block import lzma1
from imgfs.block.clusters import DEFLATE, LZ4, LZMA, ZSTD, plain
from imgfs.block.inflating import held
from imgfs.errors import BadUnit
from imgfs.limits import MIB

if TYPE_CHECKING:
    from imgfs.backends.erofs.indexes import Extent


def decoded(stored: bytes, extent: Extent, *, padded: bool) -> bytes:
    """Return the bytes of an extent; ``padded``: zeros may lie ahead of what is compressed.

    Raises:
        BadUnit: the stored bytes do not decode to as many.
    """
    length, algorithm = extent.length, extent.algorithm
    body = stored.lstrip(b"\0") if padded else stored
    if algorithm == LZ4:
        found = lz4_beginning(body, length)
    elif algorithm == LZMA:
        found = lzma1.decompress(body, lzma1.MICRO, length, whole=False)
    elif algorithm == DEFLATE:
        try:
            found = zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, length)
        except zlib.error as why:
            raise BadUnit(f"a cluster does not decode: {why}") from why
    elif algorithm == ZSTD:
        library = importlib.import_module("zstandard")
        try:
            with library.ZstdDecompressor(max_window_size=8 * MIB).stream_reader(body) as stream:
                found = stream.read(length)
        except library.ZstdError as why:
            raise BadUnit(f"a cluster does not decode: {why}") from why
    else:
        found = plain(memoryview(stored), length, extent.turn)
    if len(found) != length:
        raise BadUnit(held(len(found), length))
    return found


def lz4_beginning(stored: bytes, most: int) -> bytes:
    """Return the first ``most`` bytes that an LZ4 block decodes to, or all if there are fewer.

    Raises:
        BadUnit: it refers to what is before its beginning, or is cut short.
    """
    out = bytearray()
    at, stop = 0, len(stored)
    while at < stop and len(out) < most:
        token = stored[at]
        at += 1
        count = token >> 4
        if count == 15:
            count, at = _more(stored, at, count)
        if at + count > stop and len(out) + stop - at < most:
            raise BadUnit("a cluster is cut short")
        out += stored[at : at + count]
        at += count
        if len(out) >= most or at >= stop:
            break
        distance = int.from_bytes(stored[at : at + 2], "little")
        at += 2
        count = token & 15
        if count == 15:
            count, at = _more(stored, at, count)
        count = min(count + 4, most - len(out))
        begin = len(out) - distance
        if not distance or begin < 0:
            raise BadUnit("a cluster refers to what is before its beginning")
        if distance >= count:
            out += out[begin : begin + count]
        else:  # a copy that reads what it has just written repeats it
            out += (out[begin:] * (count // distance + 1))[:count]
    return bytes(out[:most])


def _more(stored: bytes, at: int, count: int) -> tuple[int, int]:
    """Return a length that goes on in further bytes, and the place behind them."""
    while at < len(stored):
        count += stored[at]
        at += 1
        if stored[at - 1] != 255:
            return count, at
    raise BadUnit("a cluster is cut short")
