"""Compressed files of HFS+: what the attribute ``com.apple.decmpfs`` says, and the units behind it.

Source: ``decmpfs.h`` of Apple's published xnu (header, types); Apple Technical Note TN1150 for the
forks and Inside Macintosh, "Resource File Format", for the resource that holds the units of zlib.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

from imgfs.backends import _lzfse, _lzvn
from imgfs.backends._units import Units
from imgfs.backends.hfs.volume import read_rows
from imgfs.errors import BadUnit, Malformed, NotSupported
from imgfs.limits import MAX_SIZE

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends.hfs.volume import Rows

ATTRIBUTE: Final = b"com.apple.decmpfs"
UNIT: Final = 1 << 16
_HEADER: Final = struct.Struct("<4sIQ")  # magic, type, bytes of content
_ZLIB_HERE, _ZLIB_FORK, _LZVN_HERE, _LZVN_FORK, _LZFSE_HERE, _LZFSE_FORK = 3, 4, 7, 8, 11, 12
_HERE: Final = frozenset({_ZLIB_HERE, _LZVN_HERE, _LZFSE_HERE})  # types whose one unit follows the header
_FORKED: Final = frozenset({_ZLIB_FORK, _LZVN_FORK, _LZFSE_FORK})
_LZFSE: Final = frozenset({_LZFSE_HERE, _LZFSE_FORK})
_WHY: Final = {
    1: "stored in the attribute",
    5: "dataless",
    9: "stored in the attribute",
    10: "stored in the resource fork",
}
_WHOLE_MAX: Final = 16 << 20  # bytes a unit within the attribute may stand for


class Compressed:
    """The content of one compressed file: ``size`` bytes. ``unsupported`` says why it is not decoded."""

    __slots__ = (
        "_count",
        "_first",
        "_reader",
        "_resource",
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
        self._reader: Reader | None = None
        self._resource: Rows = []
        self._first = self._count = 0

    def attach(self, reader: Reader, resource: Rows) -> None:
        """Say where the resource fork lies, for the types that keep their units in it.

        Raises:
            NotSupported: a type that is not decoded.
            EvidenceError: the fork holds fewer units than the content needs, or is lost.
        """
        if self.unsupported:
            raise NotSupported(self.unsupported)
        if self._type in _HERE or not self.size:
            return
        self._reader, self._resource = reader, resource
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

    def _decoded(self, index: int) -> bytes:
        wanted = min(self.size - index * self._unit, self._unit)
        stored = self._value if self._type in _HERE else self._unit_of_fork(index)
        if self._type in {_ZLIB_HERE, _ZLIB_FORK}:
            data = stored[1:] if stored[:1] and stored[0] & 15 == 15 else _inflated(stored, wanted)
        elif self._type in _LZFSE:
            data = _lzfse.decompress(stored, wanted)
        else:
            data = stored[1:] if stored[:1] == b"\x06" else _lzvn.decompress(stored, wanted)
        if len(data) != wanted:
            raise BadUnit(f"decmpfs: unit {index} decodes to {len(data)} bytes of {wanted}")
        return data

    def _unit_of_fork(self, index: int) -> bytes:
        if self._type != _ZLIB_FORK:  # offsets from the start of the fork, one more than there are units
            start, stop = struct.unpack("<II", self._stored(4 * index, 8))
            length = stop - start
        else:  # offsets from the count, and lengths
            start, length = struct.unpack("<II", self._stored(self._first + 4 + 8 * index, 8))
            start += self._first
        if not 0 < length <= 2 * UNIT:
            raise BadUnit(f"decmpfs: unit {index} of {length} bytes")
        return self._stored(start, length)

    def _stored(self, start: int, length: int) -> bytes:
        if self._reader is None:
            raise Malformed("decmpfs: no resource fork")
        return read_rows(self._reader, self._resource, start, length)


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
