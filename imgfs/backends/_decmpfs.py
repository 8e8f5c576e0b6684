"""Compressed files of HFS+ and APFS: what the attribute ``com.apple.decmpfs`` says, and the units behind it.

Source: ``decmpfs.h`` of Apple's published xnu (header, types); Apple Technical Note TN1150 for the
forks and Inside Macintosh, "Resource File Format", for the resource that holds the units of zlib.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

from imgfs.backends import _lzfse, _lzvn
from imgfs.backends._units import Units
from imgfs.errors import BadUnit, Malformed, NotSupported
from imgfs.limits import MAX_SIZE
from imgfs.model import PACKED_CODED, Codec, Packed

if TYPE_CHECKING:
    from collections.abc import Callable

ATTRIBUTE: Final = b"com.apple.decmpfs"
UNIT: Final = 1 << 16
_HEADER: Final = struct.Struct("<4sIQ")  # magic, type, bytes of content
RESOURCE: Final = b"com.apple.ResourceFork"
_TYPE1, _ZLIB_HERE, _ZLIB_FORK, _LZVN_HERE, _LZVN_FORK = 1, 3, 4, 7, 8
_PLAIN_HERE, _PLAIN_FORK, _LZFSE_HERE, _LZFSE_FORK = 9, 10, 11, 12
# Types whose one unit follows the header in the attribute, and those whose units lie in the resource fork.
_HERE: Final = frozenset({_TYPE1, _ZLIB_HERE, _LZVN_HERE, _PLAIN_HERE, _LZFSE_HERE})
_FORKED: Final = frozenset({_ZLIB_FORK, _LZVN_FORK, _PLAIN_FORK, _LZFSE_FORK})
_ZLIB: Final = frozenset({_ZLIB_HERE, _ZLIB_FORK})
_LZFSE: Final = frozenset({_LZFSE_HERE, _LZFSE_FORK})
_PLAIN: Final = frozenset({_TYPE1, _PLAIN_HERE, _PLAIN_FORK})
_WHY: Final = {5: "dataless", 13: "LZBITMAP in the attribute", 14: "LZBITMAP in the resource fork"}
_PACKED_MOST: Final = 1 << 14  # units of a file whose table becomes part of a layout: 1 GiB
_ROW: Final = struct.Struct("<QII")  # of a Packed layout
_WHOLE_MAX: Final = 16 << 20  # bytes a unit within the attribute may stand for


class Compressed:
    """The content of one compressed file: ``size`` bytes. ``unsupported`` says why it is not decoded."""

    __slots__ = (
        "_count",
        "_first",
        "_read",
        "_type",
        "_unit",
        "_units",
        "_value",
        "size",
        "unsupported",
    )

    def __init__(self, value: bytes) -> None:
        """Read the header at the start of the attribute.

        Raises:
            Malformed: there is none, or it states an impossible size.
        """
        if len(value) < _HEADER.size:
            raise Malformed(f"decmpfs: an attribute of {len(value)} bytes")
        magic, self._type, self.size = _HEADER.unpack_from(value)
        if magic != b"fpmc":
            raise Malformed("decmpfs: the attribute has no magic")
        if self.size > MAX_SIZE:
            raise Malformed(f"decmpfs: {self.size} bytes")
        self.unsupported = ""
        if self._type not in _HERE | _FORKED:
            self.unsupported = f"decmpfs type {self._type} ({_WHY.get(self._type, 'unknown')})"
        if self._type in _HERE and self.size > _WHOLE_MAX:
            raise Malformed(f"decmpfs: {self.size} bytes in one unit")
        self._unit = max(self.size, 1) if self._type in _HERE else UNIT
        self._value = value[_HEADER.size :]
        self._units = Units(self._unit)
        self._read: Callable[[int, int], bytes] | None = None
        self._first = self._count = 0

    def attach(self, read: Callable[[int, int], bytes]) -> None:
        """Say how the resource fork is read (offset, length), for the types that keep their units in it.

        Raises:
            NotSupported: a type that is not decoded.
            EvidenceError: the fork holds fewer units than the content needs, or is lost.
        """
        if self.unsupported:
            raise NotSupported(self.unsupported)
        if self._type in _HERE or not self.size:
            return
        self._read = read
        if self._type != _ZLIB_FORK:
            self._count = int.from_bytes(self._stored(0, 4), "little") // 4 - 1
        else:
            self._first = int.from_bytes(self._stored(0, 4), "big") + 4  # behind the length of the resource
            self._count = int.from_bytes(self._stored(self._first, 4), "little")
        if self._count < -(-self.size // UNIT):
            raise Malformed(f"decmpfs: {self._count} units for {self.size} bytes")

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; the caller keeps within ``size``, and has attached the fork.

        Raises:
            EvidenceError: a unit is lost, or does not decode to the bytes it stands for.
        """
        return self._units.read(offset, length, self._decoded)

    def packed(self, which: int) -> Packed | None:
        """Return the units as a layout over the fork, layout ``which``; None: only the worker decodes.

        Raises:
            EvidenceError: the table of units is lost, or contradicts itself.
        """
        count = -(-self.size // UNIT)
        if self._type not in (_ZLIB_FORK, _PLAIN_FORK) or not 0 < count <= _PACKED_MOST:
            return None
        rows = bytearray()
        for index in range(count):
            start, length = self._place(index)
            wanted = min(self.size - index * UNIT, UNIT)
            if self._type == _PLAIN_FORK:
                plain, front = True, length - wanted
            else:
                plain, front = self._stored(start, 1)[0] & 15 == 15, 1
            if plain and (length - front != wanted or not 0 <= front <= 1):
                return None  # the worker says of each unit what is wrong with it
            row = (start + front, wanted, 0) if plain else (start, length, PACKED_CODED)
            rows += _ROW.pack(*row)
        return Packed(size=self.size, unit=UNIT, codec=Codec("zlib"), table=bytes(rows), which=which)

    def _decoded(self, index: int) -> bytes:
        wanted = min(self.size - index * self._unit, self._unit)
        stored = self._value if self._type in _HERE else self._unit_of_fork(index)
        if self._type in _PLAIN:  # 9 and 10 have a byte in front that says so
            data = stored[1:] if len(stored) == wanted + 1 and self._type != _TYPE1 else stored
        elif self._type in _ZLIB:
            data = stored[1:] if stored[:1] and stored[0] & 15 == 15 else _inflated(stored, wanted)
        elif self._type in _LZFSE:
            data = _lzfse.decompress(stored, wanted)
        else:
            data = stored[1:] if stored[:1] == b"\x06" else _lzvn.decompress(stored, wanted)
        if len(data) != wanted:
            raise BadUnit(f"decmpfs: unit {index} decodes to {len(data)} bytes of {wanted}")
        return data

    def _unit_of_fork(self, index: int) -> bytes:
        return self._stored(*self._place(index))

    def _place(self, index: int) -> tuple[int, int]:
        """Return where a unit lies in the fork: offset and length.

        Raises:
            EvidenceError: the table that says so is lost, or this one contradicts itself.
        """
        if self._type != _ZLIB_FORK:  # offsets from the start of the fork, one more than there are units
            start, stop = struct.unpack("<II", self._stored(4 * index, 8))
            length = stop - start
        else:  # offsets from the count, and lengths
            start, length = struct.unpack("<II", self._stored(self._first + 4 + 8 * index, 8))
            start += self._first
        if not 0 < length <= 2 * UNIT:
            raise BadUnit(f"decmpfs: unit {index} of {length} bytes")
        return start, length

    def _stored(self, start: int, length: int) -> bytes:
        if self._read is None:
            raise Malformed("decmpfs: no resource fork")
        return self._read(start, length)


def _inflated(stored: bytes, wanted: int) -> bytes:
    """Return a zlib stream decoded, one byte more than wanted when it holds more.

    Raises:
        BadUnit: it is none, or ends early.
    """
    decoder = zlib.decompressobj()
    try:
        data = decoder.decompress(stored, wanted + 1)
    except zlib.error as why:
        raise BadUnit(f"decmpfs: {why}") from None
    if not decoder.eof and len(data) <= wanted:
        raise BadUnit("decmpfs: a zlib stream without its end")
    return data
