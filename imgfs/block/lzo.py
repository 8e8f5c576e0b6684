"""LZO1X, decompressed by ourselves: the library there is has a licence of another kind.

Made for hostile input, and shown to be by ``tests/block/lzofuzz.c``: every read and every copy is bounded.
The extension is optional; without it the same is done in Python, a hundred times slower.

Source: Linux Documentation/staging/lzo.rst, bitstream version 0: what liblzo2 writes, and SquashFS and Btrfs
store. Version 1 (LZO-RLE) is what memory is compressed with, and no file system.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.block.inflating import Parameters, held
from imgfs.errors import BadUnit

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.block.pieces import Block

_quick: Callable[[bytes | memoryview, int], bytes] | None
try:
    from imgfs.block._lzo import decompress as _quick
except ImportError:  # no compiler where it was installed
    _quick = None


def lzo(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Decode one LZO1X stream; bytes behind its end are ignored. See ``codecs``.

    Raises:
        BadUnit: it does not decode to ``length`` bytes.
    """
    data = decompress(stored, length)
    if len(data) != length:
        raise BadUnit(held(len(data), length))
    return data


def decompress(stored: bytes | memoryview, length: int) -> bytes:
    """Return what one LZO1X stream decodes to, which may be fewer bytes than ``length`` and never more.

    Bytes behind its end are ignored.

    Raises:
        BadUnit: it is no such stream, has no end, or decodes to more.
    """
    try:
        return (_quick or decompress_slowly)(stored, length)
    except ValueError as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why


def decompress_slowly(stored: bytes | memoryview, most: int) -> bytes:
    """Do what the extension does. Raises ValueError as it does."""
    data, out = bytes(stored), bytearray()
    at, stop, state = 0, len(data), 0  # state: literals behind the last instruction, 4: four or more

    def literals(count: int) -> None:
        nonlocal at
        if count > stop - at:
            raise ValueError("the stream is cut short")
        if count > most - len(out):
            raise ValueError("it decodes to more than there is room for")
        out.extend(data[at : at + count])
        at += count

    def lengthened(code: int, mask: int) -> int:
        """Return a length, continued in further bytes where its first bits are all zero."""
        nonlocal at
        length = code & mask
        if length:
            return length
        first = at
        while at < stop and not data[at]:
            at += 1
        if at >= stop:
            raise ValueError("the stream is cut short")
        at += 1
        return mask + 255 * (at - 1 - first) + data[at - 1]

    if stop and data[0] > 17:
        at = 1
        literals(data[0] - 17)
        state = min(data[0] - 17, 4)
    while at < stop:
        code = data[at]
        at += 1
        if code < 16 and not state:
            literals(lengthened(code, 15) + 3)
            state = 4
            continue
        if 16 <= code < 64:
            mask = 7 if code < 32 else 31
            length = lengthened(code, mask) + 2
            if stop - at < 2:
                raise ValueError("the stream is cut short")
            word = data[at] | data[at + 1] << 8
            at += 2
            behind = word & 3
            distance = (word >> 2) + 1
            if code < 32:
                distance += 16383 + ((code & 8) << 11)
                if distance == 16384:
                    return bytes(out)
        else:
            if at >= stop:
                raise ValueError("the stream is cut short")
            high = data[at]
            at += 1
            behind = code & 3
            if code < 16:
                length, base = (3, 2049) if state == 4 else (2, 1)
                distance = (high << 2) + (code >> 2) + base
            else:
                length = 3 + (code >> 5 & 1) if code < 128 else 5 + (code >> 5 & 3)
                distance = (high << 3) + (code >> 2 & 7) + 1
        begin = len(out) - distance
        if begin < 0:
            raise ValueError("a copy from before the beginning")
        if length > most - len(out):
            raise ValueError("it decodes to more than there is room for")
        if distance >= length:
            out += out[begin : begin + length]
        else:  # a copy that reads what it has just written repeats it
            out += (out[begin:] * (length // distance + 1))[:length]
        literals(behind)
        state = behind
    raise ValueError("the stream has no end")
