"""Information control blocks: what a file is, and where its content lies.

Source: ECMA-167 3rd edition, 4/14.6 (ICB tag), 4/14.7 (indirect entry), 4/14.9 (file entry), 4/14.17
(extended file entry), 4/14.14 (allocation descriptors), 4/14.5 (allocation extent descriptor); OSTA UDF 2.60,
2.3.5 to 2.3.10.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.udf.structures import (
    CONTINUED,
    EXTENDED_FILE,
    FILE,
    INDIRECT,
    Address,
    kind_of,
    long_address,
)
from imgfs.errors import EvidenceError, Malformed
from imgfs.limits import MAX_RUNS, MAX_SIZE
from imgfs.model import HOLE, LOST, Kind

if TYPE_CHECKING:
    from imgfs.backends._layouts import Row
    from imgfs.backends.udf.volume import Volume

STREAMS, VAT, METADATA, MIRROR = 13, 248, 250, 251  # types of files
KINDS: Final = {
    0: Kind.REG, 4: Kind.DIR, 5: Kind.REG, 6: Kind.BLK, 7: Kind.CHR, 9: Kind.FIFO, 10: Kind.SOCK,
    12: Kind.LNK, 13: Kind.DIR, 249: Kind.REG,
}  # fmt: skip
RECORDED, ALLOCATED, NOTHING, FOLLOWS = range(4)  # types of extents
SHORT, LONG, EXTENDED, INLINE = range(4)  # forms of allocation descriptors
_BLOCKS: Final = 1 << 32
_NOWHERE: Final = Address(0, 0, 0)
_ZEROS: Final = bytes(16)
_MOVES: Final = 1024  # of an ICB that was rewritten on media that are written once
_WIDTHS: Final = {SHORT: 8, LONG: 16, EXTENDED: 20}
_SHORT: Final = struct.Struct("<II")
_FILE: Final = struct.Struct("<16xIHHHxBIHH III HBBI QQ 12s12s12s I 16x 32x Q II")
_EXTENDED: Final = struct.Struct("<16xIHHHxBIHH III HBBI QQQ 12s12s12s12s I 4x 16x 16s 32x Q II")


class Icb(NamedTuple):
    """A file entry. Units: bytes; ``blocks`` logical blocks. ``stamps``: M, A, C, B as stored."""

    ref: int
    block: int
    type: int
    flags: int
    uid: int
    gid: int
    permissions: int
    links: int
    size: int
    blocks: int
    stamps: tuple[bytes, bytes, bytes, bytes]
    attributes: bytes  # the area of extended attributes
    more: Address  # the ICB of further ones
    streams: Address
    data: bytes  # allocation descriptors, or the content itself
    unique: int

    @property
    def number(self) -> int:
        """Return the number that identifies the file."""
        return self.ref * _BLOCKS + self.block

    @property
    def kind(self) -> Kind:
        """Return what it is. Raises Malformed when it is nothing a user sees."""
        try:
            return KINDS[self.type]
        except KeyError:
            raise Malformed(f"ICB {self.block}: a file of type {self.type}") from None


def place_of(number: int) -> tuple[int, int]:
    """Return partition map and block of a file's number."""
    return number // _BLOCKS, number % _BLOCKS


def read_icb(volume: Volume, ref: int, block: int) -> Icb:
    """Return the file entry at a block, the last one where its ICB was written again elsewhere.

    Raises:
        EvidenceError: there is none that is whole.
    """
    raw = volume.descriptor(ref, block, (FILE, EXTENDED_FILE))
    icb = _parse(raw, ref, block)
    return icb if int.from_bytes(raw[20:22], "little") != 4096 else _moved(volume, icb)


def _moved(volume: Volume, icb: Icb) -> Icb:
    """Follow indirect entries behind a file entry. Source: ECMA-167 4/A.5; OSTA UDF 2.60, 6.6."""
    ref, block = icb.ref, icb.block
    for _ in range(_MOVES):
        try:
            raw = volume.descriptor(ref, block + 1, (INDIRECT,))
        except EvidenceError:
            return icb  # nothing was written behind it
        following = long_address(raw, 36)
        if not following.length & 0x3FFF_FFFF or following.length >> 30:
            return icb
        ref, block = following.ref, following.block
        try:
            found = volume.descriptor(ref, block, (FILE, EXTENDED_FILE))
        except EvidenceError:
            return icb  # reserved, and not yet written
        icb = _parse(found, ref, block)._replace(ref=icb.ref, block=icb.block)
    raise Malformed(f"ICB {icb.block}: more than {_MOVES} entries")


def _parse(raw: bytes, ref: int, block: int) -> Icb:
    if kind_of(raw) == FILE:
        fields = _FILE.unpack_from(raw)
        size, blocks, accessed, modified, changed = fields[15:20]
        born, streams, at = b"", _NOWHERE, _FILE.size
        more = _NOWHERE if raw[112:128] == _ZEROS else long_address(raw, 112)
    else:
        fields = _EXTENDED.unpack_from(raw)
        size, _, blocks, accessed, modified, born, changed = fields[15:22]
        streams, at = _NOWHERE if fields[23] == _ZEROS else long_address(fields[23], 0), _EXTENDED.size
        more = _NOWHERE if raw[136:152] == _ZEROS else long_address(raw, 136)
    unique, attributes, descriptors = fields[-3:]
    if size > MAX_SIZE:
        raise Malformed(f"ICB {block}: {size} bytes")
    if at + attributes + descriptors > len(raw):
        raise Malformed(f"ICB {block}: {attributes} and {descriptors} bytes in a block of {len(raw)}")
    return Icb(
        ref, block, fields[4], fields[7], fields[8], fields[9], fields[10], fields[11], size, blocks,
        (modified, accessed, changed, born), raw[at : at + attributes], more, streams,
        raw[at + attributes : at + attributes + descriptors], unique,
    )  # fmt: skip


def inline(icb: Icb) -> bytes | None:
    """Return the content when the ICB holds it, else None.

    Raises:
        Malformed: there is less than the size says.
    """
    if icb.flags & 7 != INLINE:
        return None
    if icb.size > len(icb.data):
        raise Malformed(f"ICB {icb.block}: {icb.size} bytes, {len(icb.data)} are there")
    return icb.data[: icb.size]


def rows_of(volume: Volume, icb: Icb, *, copy: int = 0) -> list[Row]:
    """Say where the content lies: runs up to its size, HOLE where nothing was recorded.

    Raises:
        EvidenceError: allocation descriptors that contradict themselves, or cannot be read.
    """
    form = icb.flags & 7
    width = _WIDTHS.get(form)
    if width is None:
        raise Malformed(f"ICB {icb.block}: allocation descriptors of form {form}")
    if form == SHORT and len(icb.data) >= width:
        length, block = _SHORT.unpack_from(icb.data)
        if length == icb.size:  # what most files are: one extent
            held = volume.runs(icb.ref, block, length, copy)
            if len(held) == 1:
                return [(0, length, held[0][1])]
    rows: list[Row] = []
    at, recorded, data, seen = 0, 0, icb.data, set[tuple[int, int]]()
    ref = icb.ref
    while data and at < icb.size:
        following: Address | None = None
        for start in range(0, len(data) - width + 1, width):
            address, known = _descriptor(data, start, form, ref)
            length = address.length & 0x3FFF_FFFF
            kind = address.length >> 30
            if not length or at >= icb.size:
                break
            if kind == FOLLOWS:
                following = address
                break
            take = min(length, icb.size - at)
            if kind != RECORDED:
                _put(rows, at, take, HOLE)
            elif known < length:
                _put(rows, at, take, LOST)  # compressed: no revision of UDF knows how
            else:
                recorded += -(-length // volume.block)
                logical = at
                for part, target in volume.runs(address.ref, address.block, take, copy):
                    _put(rows, logical, part, target)
                    logical += part
            at += take
            if len(rows) > MAX_RUNS:
                raise Malformed(f"ICB {icb.block}: more than {MAX_RUNS} extents")
        if following is None:
            break
        if (following.ref, following.block) in seen:
            raise Malformed(f"ICB {icb.block}: its extents go round in a circle")
        seen.add((following.ref, following.block))
        try:
            data = _continued(volume, following)
        except EvidenceError:
            recorded = -1  # what it would say is LOST
            break
        ref = following.ref
    if at < icb.size:  # Linux forgets the hole at the end of many extents: then no recorded block is missing
        _put(rows, at, icb.size - at, HOLE if recorded == icb.blocks else LOST)
    return rows


def _continued(volume: Volume, address: Address) -> bytes:
    raw = volume.descriptor(address.ref, address.block, (CONTINUED,), address.length & 0x3FFF_FFFF)
    (length,) = struct.unpack_from("<I", raw, 20)
    return raw[24 : 24 + min(length, len(raw) - 24)]


def _descriptor(data: bytes, at: int, form: int, ref: int) -> tuple[Address, int]:
    """Return one allocation descriptor, and how many bytes of its extent are recorded."""
    if form == SHORT:
        length, block = _SHORT.unpack_from(data, at)
        return Address(length, block, ref), length & 0x3FFF_FFFF
    if form == LONG:
        address = long_address(data, at)
        return address, address.length & 0x3FFF_FFFF
    length, _, information, block, where = struct.unpack_from("<IIIIH", data, at)
    whole = (length & 0x3FFF_FFFF) == information
    return Address(length, block, where), information if whole else 0


def _put(rows: list[Row], at: int, length: int, target: int) -> None:
    """Add a run, to the last one if it goes on there."""
    if rows:
        logical, before, start = rows[-1]
        if start + before == target if start >= 0 and target >= 0 else start == target:
            rows[-1] = logical, before + length, start
            return
    rows.append((at, length, target))


def content(volume: Volume, icb: Icb, most: int) -> bytes:
    """Return the whole content of a small file.

    Raises:
        EvidenceError: it is larger than ``most``, or part of it is lost.
    """
    if icb.size > most:
        raise Malformed(f"ICB {icb.block}: {icb.size} bytes where {most} are the most")
    data = inline(icb)
    if data is not None:
        return data
    parts = []
    for logical, length, target in rows_of(volume, icb):
        if target == LOST:
            raise Malformed(f"ICB {icb.block}: bytes from {logical} on are lost")
        parts.append(bytes(length) if target == HOLE else volume.reader.read(target, length))
    return b"".join(parts)
