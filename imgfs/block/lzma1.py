"""Units of LZMA without the container of xz. See ``codecs``.

The library is the one xz units have (liblzma: told how much memory it may take, fuzzed as part of OSS-Fuzz).
What comes ahead of the range coder's bytes is read here and compared with bounds first. There is no checksum.

Source: LZMA SDK, lzma-specification.txt (the header of 13 bytes and the properties byte); XZ Utils,
lzma/container.h (MicroLZMA).
"""

from __future__ import annotations

import lzma
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.block.inflating import Parameters, held
from imgfs.errors import BadUnit

if TYPE_CHECKING:
    from imgfs.block.pieces import Block

ALONE, BARE, MICRO = 0, 1, 2  # parameter ``form``
ALONE_HEAD: Final = 13
_PROPERTIES: Final = 225  # 9 literal context bits, 5 literal position bits, 5 position bits
_USUAL: Final = 93  # lc=3, lp=0, pb=2
_LEAST: Final = 4096
_MOST: Final = 16 * limits.MIB  # of a dictionary: no unit is larger


def lzma_unit(stored: memoryview, coded: bool, length: int, parameters: Parameters) -> Block:  # noqa: ARG001, FBT001
    """Decode a unit of LZMA; bytes behind it are ignored.

    Parameters: ``form``: ALONE has properties, size of the dictionary and of the data ahead of it; BARE has
    nothing, its properties are the usual ones; MICRO has the properties, inverted, in place of its first
    byte, which is zero otherwise. ``part``: the unit may decode to more than is wanted.

    Raises:
        BadUnit: it does not decode to ``length`` bytes.
    """
    form = parameters.get("form")
    known = form if isinstance(form, int) else ALONE
    found = decompress(stored, known, length, whole="part" not in parameters)
    if len(found) != length:
        raise BadUnit(held(len(found), length))
    return found


def said_size(stored: memoryview | bytes) -> int | None:
    """Return the size that a header of ALONE states, None: it leaves that open, or there is none."""
    size = int.from_bytes(stored[5:ALONE_HEAD], "little")
    return size if len(stored) >= ALONE_HEAD and size >> 63 == 0 else None


def decompress(stored: memoryview | bytes, form: int, most: int, *, whole: bool = True) -> bytes:
    """Return what LZMA of one ``form`` decodes to, at most ``most`` bytes.

    ``whole`` False: and no more, if there is more.

    Raises:
        BadUnit: it does not decode, or to more.
    """
    properties, dictionary, body = _USUAL, most, stored
    marked = form != MICRO  # an end mark says where it ends, where no size does
    if form == ALONE:
        if len(stored) < ALONE_HEAD:
            raise BadUnit("a compressed unit is cut short")
        properties, dictionary = stored[0], int.from_bytes(stored[1:5], "little")
        said = said_size(stored)
        if said is not None and said > most:
            raise BadUnit(held(said, most))
        most, marked = (most, True) if said is None else (said, False)
        body = stored[ALONE_HEAD:]
    elif form == MICRO:
        if not len(stored):
            raise BadUnit("a compressed unit is cut short")
        properties, body = stored[0] ^ 0xFF, b"\0" + bytes(stored[1:])
    if properties >= _PROPERTIES or properties % 9 + properties // 9 % 5 > 4:
        raise BadUnit(f"LZMA properties of {properties:#x}")
    filters = {
        "id": lzma.FILTER_LZMA1,
        "dict_size": min(max(dictionary, _LEAST), _MOST),
        "lc": properties % 9,
        "lp": properties // 9 % 5,
        "pb": properties // 45,
    }
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[filters])
    try:
        data = decoder.decompress(body, most)
        more = decoder.decompress(b"", 1) if marked and whole and not decoder.eof else b""
    except EOFError:
        more = b""
    except lzma.LZMAError as why:
        raise BadUnit(f"a compressed unit does not decode: {why}") from why
    if more:
        raise BadUnit(held(most + 1, most))
    return data
