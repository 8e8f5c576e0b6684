"""Extents compressed by LZO, decoded by the worker: segments of a sector, each a stream of its own.

Source: btrfs.readthedocs.io, "Compression", and the description of the format there: the length of all, then
for each segment its length and its bytes; a length does not cross a sector, what is left of one is skipped.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from imgfs.block.lzo import decompress
from imgfs.block.shortened import filled
from imgfs.errors import BadUnit, Malformed
from imgfs.limits import FOREIGN_UNIT

if TYPE_CHECKING:
    from imgfs.backends.btrfs.checksums import Checksums
    from imgfs.backends.btrfs.extents import Map
    from imgfs.backends.btrfs.space import Space

METHOD: Final = 2
_WORD: Final = 4


class Slots:
    """Where such extents of a file lie among the bytes that the worker decodes of it.

    Each begins a unit of its own: a bad one costs no other. ``keys``: address, stored and decoded bytes.
    """

    __slots__ = ("keys", "places", "size")

    def __init__(self, found: Map) -> None:
        self.keys = [key[:3] for key in found.coded if key[3] == METHOD]
        self.places: list[int] = []
        self.size = 0
        for _, _, decoded in self.keys:
            self.places.append(self.size)
            self.size += -(-decoded // FOREIGN_UNIT) * FOREIGN_UNIT

    def read(self, space: Space, checksums: Checksums | None, sector: int, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on; what lies between extents is zeros, and nobody's.

        Raises:
            EvidenceError: they are stored nowhere, or do not decode.
        """
        if not 0 <= offset <= offset + length <= self.size:
            raise Malformed(f"no bytes [{offset}, {offset + length}) are to be decoded")
        out, end = bytearray(length), offset + length
        for number in range(max(bisect_right(self.places, offset) - 1, 0), len(self.keys)):
            place, (at, stored, decoded) = self.places[number], self.keys[number]
            if place >= end:
                break
            start, stop = max(place, offset), min(place + decoded, end)
            if start < stop:
                raw = space.read_any(at, stored) if checksums is None else checksums.verified(at, stored)
                data = segments(raw, decoded, sector)
                out[start - offset : stop - offset] = data[start - place : stop - place]
        return bytes(out)


def segments(stored: bytes, length: int, sector: int) -> bytes:
    """Return the ``length`` bytes that segments decode to.

    Raises:
        BadUnit: they do not.
    """
    total, at, out = int.from_bytes(stored[:_WORD], "little"), _WORD, bytearray()
    if not _WORD < total <= len(stored):
        raise BadUnit(f"segments of {total} bytes in {len(stored)}")
    while at < total and len(out) < length:
        if sector - at % sector < _WORD:
            at += sector - at % sector
        size = int.from_bytes(stored[at : at + _WORD], "little")
        at += _WORD
        if not 0 < size <= total - at:
            raise BadUnit(f"a segment of {size} bytes at {at} of {total}")
        out += decompress(stored[at : at + size], min(sector, length - len(out)))
        at += size
    return bytes(filled(bytes(out), length, {"short": sector}))
