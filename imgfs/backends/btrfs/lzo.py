"""Extents compressed by LZO, decoded by the worker: segments of a sector, each a stream of its own.

Source: btrfs.readthedocs.io, "Compression", and the description of the format there: the length of all, then
for each segment its length and its bytes; a length does not cross a sector, what is left of one is skipped.
"""

from __future__ import annotations

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


def slots(found: Map) -> tuple[list[int], int]:
    """Return where each such extent lies among the bytes that the worker decodes, and how many those are.

    Each begins a unit of its own: a bad one costs no other.
    """
    places, at = [], 0
    for key in found.coded:
        if key[3] == METHOD:
            places.append(at)
            at += -(-key[2] // FOREIGN_UNIT) * FOREIGN_UNIT
    return places, at


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


def read(
    found: Map, space: Space, checksums: Checksums | None, sector: int, offset: int, length: int
) -> bytes:
    """Return ``length`` bytes from ``offset`` on of what the worker decodes of a file.

    Raises:
        EvidenceError: they are stored nowhere, or do not decode.
    """
    places, size = slots(found)
    if not 0 <= offset <= offset + length <= size:
        raise Malformed(f"no bytes [{offset}, {offset + length}) are to be decoded")
    out = bytearray(length)
    keys = [key for key in found.coded if key[3] == METHOD]
    for place, (at, stored, decoded, _) in zip(places, keys, strict=True):
        start, stop = max(place, offset), min(place + decoded, offset + length)
        if start < stop:
            raw = space.read_any(at, stored) if checksums is None else checksums.verified(at, stored)
            data = segments(raw, decoded, sector)
            out[start - offset : stop - offset] = data[start - place : stop - place]
    return bytes(out)
