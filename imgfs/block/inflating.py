"""Units of the deflate family: zlib streams, raw streams. See ``codecs``.

libdeflate where there is a wheel of it; zlib for what it refuses, because zlib says what is wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.errors import BadUnit

if TYPE_CHECKING:
    from imgfs.block.pieces import Block

try:
    from deflate import DeflateError, deflate_decompress, gzip_decompress, zlib_decompress
except ImportError:  # no wheel for this machine: slower, same results
    from zlib import error as DeflateError  # type: ignore[assignment]  # noqa: N812

    zlib_decompress = deflate_decompress = gzip_decompress = None  # type: ignore[assignment]

Parameters = Mapping[str, int | bytes | str]


def sizes(length: int, parameters: Parameters) -> set[int]:
    """Return the sizes a unit may decode to: some writers fill the last, shorter one up to ``unit`` bytes."""
    unit = parameters.get("unit", length)
    return {length, unit} if isinstance(unit, int) and length < unit <= limits.MAX_UNIT else {length}


def held(found: int, length: int) -> str:
    """Say that a unit holds another number of bytes than expected."""
    more = f"more than {length}" if found > length else f"{found}"
    return f"a compressed unit holds {more} bytes, {length} expected"


def zlib_stream(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Inflate a zlib stream (RFC 1950), whose Adler-32 is compared; bytes behind its end are ignored.

    Parameter ``unit``: see ``sizes``.

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
    return _inflated(zlib.decompressobj(), stored, length, sizes(length, parameters), ends=True)


def gzip_member(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Inflate a member of a gzip file (RFC 1952), its CRC-32 compared; bytes behind its end are ignored.

    Raises:
        BadUnit: it does not decode to ``length`` bytes, or its checksum differs.
    """
    if gzip_decompress is not None:
        try:
            data: Block = gzip_decompress(stored, length)
        except DeflateError:
            pass  # zlib says what is wrong
        else:
            if len(data) == length:
                return data
    return _inflated(zlib.decompressobj(16 + zlib.MAX_WBITS), stored, length, {length}, ends=True)


def deflate(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Inflate a raw stream (RFC 1951) of any window; bytes behind its end are ignored.

    Parameter ``unit``: see ``sizes``.

    Raises:
        BadUnit: it does not decode to ``length`` or ``unit`` bytes.
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
    return _inflated(stream, stored, length, sizes(length, parameters), ends=False)


def _inflated(
    stream: zlib._Decompress, stored: memoryview, length: int, allowed: Collection[int], *, ends: bool
) -> bytes:
    """Inflate to one of ``allowed`` sizes, without room for a bomb; ``ends``: the end must be there."""
    try:
        data = stream.decompress(stored, max(allowed) + 1)
    except zlib.error as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if len(data) not in allowed:
        raise BadUnit(held(len(data), length))
    if ends and not stream.eof:  # the checksum is behind the data: without the end it was not compared
        raise BadUnit("a compressed unit is cut short")
    return data[:length]
