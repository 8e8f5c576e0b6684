"""Grains of a stream: by their markers where its footer or its tables are damaged; how long they may be.

Source: VMware, "Virtual Disk Format 5.0", "Stream-Optimized Compressed Sparse Extents": every grain is
preceded by a marker of its place and length, every table by one of its kind and its sectors.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from itertools import islice
from operator import sub
from typing import TYPE_CHECKING, Final

from imgfs.backends._vmdk_descriptor import SECTOR
from imgfs.errors import EvidenceError
from imgfs.model import PACKED_CODED

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends._vmdk_sparse import Grains

UNKNOWN: Final = 0xFFFF_FFFF  # an entry that nothing is known of; as a place it would lie beyond 2 TiB
MAX_GRAINS: Final = 1 << 24  # of a disk that is scanned: 1 TiB in grains of 64 KiB
MAX_MARKERS: Final = 1 << 21  # looked at: ten seconds
_MARKER: Final = struct.Struct("<QII")
_DATA: Final = 12  # bytes of the marker of a grain
_END, _FOOTER = 0, 3
_LOW: Final = 0xFFFF_FFFF
_CHUNK: Final = 1 << 16  # words of rows looked at together
_FLAGS: Final = PACKED_CODED << 32  # of a row of a grain, above its length


@dataclass(frozen=True, slots=True)
class Scan:
    """Where each grain was found, in sectors; 0: nowhere, UNKNOWN: the scan does not say.

    ``whole`` says that the scan met every marker from the first to the end of the stream.
    """

    places: array[int]
    whole: bool
    found: int


def scan(reader: Reader, grains: Grains) -> Scan | None:
    """Go through the markers of a stream; None: it has none, or the disk is too large for that.

    A place where no marker can be is passed sector by sector; then grains not met stay UNKNOWN.
    """
    count = -(-grains.size // grains.grain)
    if not grains.marker or count > MAX_GRAINS:
        return None
    places = array("I", [UNKNOWN]) * count
    at = max(grains.overhead, sum(grains.descriptor), SECTOR)
    at += -at % SECTOR
    whole, ended, found = True, False, 0
    for _ in range(MAX_MARKERS):
        if at + SECTOR > reader.size:
            break
        value, length, kind = _marker(reader, at)
        if length:
            index, odd = divmod(value * SECTOR, grains.grain)
            fits = length <= 2 * grains.grain and at + _DATA + length <= reader.size
            if not odd and index < count and fits:
                if places[index] == UNKNOWN:
                    places[index] = at // SECTOR
                    found += 1
                else:
                    whole = False
                at += -(-(_DATA + length) // SECTOR) * SECTOR
                continue
        elif kind == _END and not value and at + 2 * SECTOR > reader.size:
            ended = True
            break
        elif _END < kind <= _FOOTER and at + (1 + value) * SECTOR <= reader.size:
            at += (1 + value) * SECTOR
            continue
        whole = False
        at += SECTOR
    if whole and ended:
        return Scan(array("I", [0 if place == UNKNOWN else place for place in places]), True, found)
    return Scan(places, False, found)


def _marker(reader: Reader, at: int) -> tuple[int, int, int]:
    try:
        value, length, kind = _MARKER.unpack(reader.read(at, _MARKER.size))
    except EvidenceError:
        return 0, 0, UNKNOWN
    return value, length, kind


def tighten(rows: array[int]) -> None:
    """Let no grain reach into the next one behind it: markers, which hold lengths, are not read.

    A decoder ignores what lies behind its stream, so that a bound of the length is enough.
    """
    for at in range(0, len(rows), _CHUNK):
        words = rows[at : at + _CHUNK + 2]
        offsets, lengths = words[::2], words[1::2]
        distances = list(map(sub, islice(offsets, 1, None), offsets))
        if distances and min(distances) > 0 and max(distances) <= min(lengths) & _LOW:
            bounded = list(map(_FLAGS.__or__, distances))  # a stream as it is written
        else:
            pairs = zip(distances, lengths, strict=False)
            bounded = [_FLAGS | step if 0 < step < held & _LOW else held for step, held in pairs]
        rows[at + 1 : at + 1 + 2 * len(bounded) : 2] = array("Q", bounded)
