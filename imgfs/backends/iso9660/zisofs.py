"""Compressed files of Rock Ridge discs: blocks of one size, each a zlib stream.

Source: zisofs and zisofs2 as described by libburnia, doc/zisofs_format.txt and
doc/zisofs2_format.txt (the ZF entry, the header, the table of block pointers).
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.errors import Malformed
from imgfs.limits import MAX_SIZE
from imgfs.model import PACKED_CODED, PACKED_HOLE, Codec, Packed

if TYPE_CHECKING:
    from collections.abc import Callable


_MAGIC: Final = {b"pz": bytes.fromhex("37E45396C9DBD607"), b"PZ": bytes.fromhex("EF2255A1BC1B95A0")}
_SMALLEST, _LARGEST = 12, 20  # powers of two: 15 to 17 in version 1, to 20 in version 2
_BLOCKS: Final = 1 << 18  # of one file: 8 GiB in the usual 32 KiB; the table travels in the reply


class Zipped(NamedTuple):
    """A ZF entry. Units: ``size`` bytes when decoded, ``header`` bytes, ``unit`` power of two."""

    form: bytes
    size: int
    header: int
    unit: int


def zipped(body: bytes) -> Zipped | None:
    """Return what a ZF entry says, None: a compression that is not known."""
    if len(body) < 16 or body[4:6] not in _MAGIC or not _SMALLEST <= body[7] <= _LARGEST:
        return None
    form = body[4:6]
    (size,) = struct.unpack_from("<I" if form == b"pz" else "<Q", body, 8)
    return Zipped(form, size, body[6] * 4, body[7]) if size <= MAX_SIZE else None


def packed(told: Zipped, stored: int, read: Callable[[int, int], bytes], base: int, which: int) -> Packed:
    """Say where the blocks of a file lie.

    Args:
        told: the file's ZF entry.
        stored: bytes of the file as it is stored.
        read: returns bytes of the file as it is stored.
        base: where it begins in ``which``.
        which: ticket, or earlier layout of the reply.

    Raises:
        EvidenceError: header and table contradict the entry, or each other.
    """
    wide = told.form == b"PZ"
    unit, width = 1 << told.unit, 8 if wide else 4
    count = -(-told.size // unit)
    if count > _BLOCKS or told.header + (count + 1) * width > stored:
        raise Malformed(f"zisofs: {count} blocks in {stored} bytes")
    head = read(0, 24 if wide else 16)
    if head[:8] != _MAGIC[told.form]:
        raise Malformed("zisofs: no header")
    if wide:
        size, header, power = struct.unpack_from("<Q", head, 12)[0], head[9] * 4, head[11]
    else:
        size, header, power = struct.unpack_from("<I", head, 8)[0], head[12] * 4, head[13]
    if (size, header, power) != (told.size, told.header, told.unit):
        raise Malformed("zisofs: the header contradicts the directory")
    places = array("Q" if wide else "I", read(header, (count + 1) * width))
    table = array("Q", bytes(count * 16))
    before = places[0] if count else 0
    if before < header:
        raise Malformed(f"zisofs: the first block at {before}")
    for index in range(count):
        after = places[index + 1]
        if not before <= after <= stored or after - before > 2 * unit:
            raise Malformed(f"zisofs: block {index} at [{before}, {after}) of {stored}")
        length = after - before
        table[2 * index] = base + before if length else 0
        table[2 * index + 1] = length | (PACKED_CODED if length else PACKED_HOLE) << 32
        before = after
    return Packed(size=told.size, unit=unit, codec=Codec("zlib"), table=table.tobytes(), which=which)
