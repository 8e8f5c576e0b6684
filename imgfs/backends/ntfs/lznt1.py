"""LZNT1, and the streams of NTFS that are kept in it: units of clusters, each stored, packed, or a hole.

Source: [MS-XCA] 2.5 (LZNT1); NTFS documentation of the Linux-NTFS project, "Compression".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends._units import Units
from imgfs.errors import BadUnit, Malformed
from imgfs.model import HOLE

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends.ntfs.runs import Extents

CHUNK: Final = 4096  # bytes a chunk stands for
_UNIT_MAX: Final = 4 << 20  # [MS-FSCC]: 16 clusters; ours reach 2 MiB, formats in use stop at 64 KiB


class Packed:
    """A compressed stream. Units: ``size`` and ``valid`` bytes, ``unit`` bytes per compression unit.

    ``extents`` covers whole clusters: holes behind stored clusters say that a unit is packed.
    """

    __slots__ = ("_extents", "_reader", "_unit", "_units", "_valid", "size")

    def __init__(self, reader: Reader, extents: Extents, size: int, valid: int, unit: int) -> None:
        if not 512 <= unit <= _UNIT_MAX:
            raise Malformed(f"compression units of {unit} bytes")
        self._reader = reader
        self._extents = extents
        self._valid = min(valid, size)
        self._unit = unit
        self._units = Units(unit)
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes.

        Raises:
            EvidenceError: clusters are lost, or a unit does not decode.
        """
        return self._units.read(offset, length, self._decoded)

    def _decoded(self, index: int) -> bytes:
        """Return one unit: what lies beyond the valid length reads as zeros, whatever is stored."""
        start = index * self._unit
        wanted = min(max(self._valid - start, 0), self._unit)
        if not wanted:
            return bytes(self._unit)
        pieces = list(self._extents.pieces(start, self._unit))
        stored = [(take, at) for take, at in pieces if at != HOLE]
        if not stored:
            return bytes(self._unit)
        data = b"".join(self._reader.read(at, take) for take, at in stored)
        if len(stored) < len(pieces):
            data = decompress(data, self._unit)
            if len(data) < wanted:
                raise BadUnit(f"compression unit at {start}: {len(data)} bytes of {wanted}")
        return data[:wanted] + bytes(self._unit - wanted)


def decompress(data: bytes, limit: int) -> bytes:
    """Return what chunks decode to, at most ``limit`` bytes.

    A chunk that ends early is filled with zeros when another one follows.

    Raises:
        BadUnit: a chunk leaves the data, refers to bytes before its start, or holds more than CHUNK.
    """
    out = bytearray()
    at = 0
    while at + 2 <= len(data) and len(out) < limit:
        head = data[at] | data[at + 1] << 8
        if not head:
            break
        stop = at + 3 + (head & 0xFFF)
        if stop > len(data):
            raise BadUnit(f"a chunk of {stop - at} bytes at {at} of {len(data)}")
        if len(out) % CHUNK:
            out += bytes(-len(out) % CHUNK)
        if head & 0x8000:
            out += _chunk(data[at:stop])
        else:
            out += data[at + 2 : stop]
        at = stop
    return bytes(out[:limit])


def _chunk(packed: bytes) -> bytes:
    """Return what one chunk, header included, decodes to: at most CHUNK bytes."""
    import pyfwnt

    try:
        data: bytes = pyfwnt.lznt1_decompress(packed, CHUNK)
    except (OSError, ValueError) as why:
        raise BadUnit(f"a chunk of {len(packed)} bytes does not decode: {why}") from None
    return data
