"""CoreStorage: the encrypted metadata, which lists logical volumes, their segments, and what encrypts them.

Blocks of 8 KiB are written over and over; of those that describe one object the last transaction counts.

Source: libfvde, "FileVault Drive Encryption (FVDE)", section "Encrypted metadata", blocks 0x0019, 0x001a,
0x0024, 0x0105, 0x0305, 0x0505. Where the document is vague libfvde (LGPL) was read: the tweak of a block is
its number; 0x001a names a volume, and the objects of its blocks 0x0305 and 0x0505.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.backends import _cs_xml
from imgfs.backends._crc32c import crc32c_all
from imgfs.backends._cs_label import BLOCK, block_of
from imgfs.errors import EvidenceError, Malformed
from imgfs.model import Codec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends._cs_label import Block, Header

_CONTEXT: Final = 0x0019
_VOLUME: Final = 0x001A
_CHAIN: Final = 0x0024
_LIST: Final = 0x0105
_LOOSE: Final = 0x0304
_SEGMENTS: Final = 0x0305
_BASE: Final = 0x0505
_KNOWN: Final = frozenset((_CONTEXT, _VOLUME, _CHAIN, _LIST, _LOOSE, _SEGMENTS, _BASE))
_SEGMENT: Final = struct.Struct("<8xQI12xQ")  # 40 bytes
_AT: Final = 64  # places in blocks count from their header
_NUMBER: Final = (1 << 48) - 1
_VOLUMES_MOST: Final = 64  # Mac OS makes one, rarely two
_CONTEXTS_TOGETHER: Final = 4 * _cs_xml.SIZE_MOST
_PREFIX: Final = "com.apple.corestorage."


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Blocks of a logical volume on a physical one, by its index. Units: blocks."""

    logical: int
    count: int
    member: int
    physical: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Logical:
    """A logical volume. Units: ``size`` bytes."""

    name: str
    uuid: str
    family: bytes
    size: int
    segments: tuple[Segment, ...]


@dataclass(slots=True)
class Catalogue:
    """What the metadata says. ``contexts`` are property lists of encryption by the identifier of a family."""

    volumes: list[Logical] = field(default_factory=list)
    contexts: dict[bytes, dict[str, object]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def decrypted(header: Header, stored: bytes) -> tuple[list[Block], int]:
    """Return the blocks of one copy of the metadata, and how many are damaged."""
    from imgfs.block import ciphers

    data = bytearray(stored[: len(stored) // BLOCK * BLOCK])
    places = range(0, len(data), BLOCK)
    used = [at for at in places if data[at : at + BLOCK].strip(data[at : at + 1])]
    codec = Codec("aes-xts", {"key": header.key + header.uuid, "iv": b"plain64"})
    ciphers.decrypt(codec, BLOCK, 0, 1, data)
    raw = [bytes(data[at : at + BLOCK]) for at in used]
    sums = crc32c_all([one[8:] for one in raw]) if raw else []
    stated = [int.from_bytes(one[:4], "little") ^ 0xFFFF_FFFF for one in raw]
    good = [one for one, crc, said in zip(raw, sums, stated, strict=True) if crc == said]
    blocks = [block for one in good if (block := block_of(one, checked=True)) is not None]
    wiped = sum(one[:8] == b"LVFwiped" for one in raw)
    return blocks, len(raw) - wiped - len(good)


def catalogue(blocks: Sequence[Block]) -> Catalogue:
    """Return what blocks say, by the last transaction of each."""
    last: dict[tuple[int, int], Block] = {}
    for block in blocks:
        key = (block.type, block.object)
        if block.type in _KNOWN and (key not in last or block.transaction >= last[key].transaction):
            last[key] = block
    found = Catalogue()
    room = _CONTEXTS_TOGETHER
    for block in last.values():
        if block.type == _CONTEXT:
            room -= int.from_bytes(block.data[44:48], "little")  # bytes when unpacked
            if room < 0:
                found.notes.append("more property lists of encryption than are looked at")
                break
            try:
                _context(block, last, found)
            except (EvidenceError, zlib.error) as why:
                found.notes.append(f"block 0x0019 of object {block.object}: {why}")
    listed = _listed(last)
    volumes: dict[int, tuple[int, Block]] = {}
    for block in last.values():
        if block.type == _VOLUME:
            number = int.from_bytes(block.data[:8], "little")
            if number not in volumes or block.transaction >= volumes[number][0]:
                volumes[number] = (block.transaction, block)
    for number, (_, block) in sorted(volumes.items()):
        if len(found.volumes) >= _VOLUMES_MOST:
            found.notes.append(f"{len(volumes)} volumes: the first {_VOLUMES_MOST} are shown")
            break
        if listed and number not in listed:
            found.notes.append(f"volume {number} was removed")
            continue
        try:
            found.volumes.append(_logical(block, last, alone=len(volumes) == 1))
        except (EvidenceError, ValueError) as why:
            found.notes.append(f"volume {number}: {why}")
    loose = sum(min(int.from_bytes(b.data[:4], "little"), 202) for b in last.values() if b.type == _LOOSE)
    if loose:
        found.notes.append(f"{loose} segments of blocks 0x0304, which nothing is known to refer to")
    return found


def _listed(last: dict[tuple[int, int], Block]) -> set[int]:
    """Return the numbers of the volumes that there are; nothing where no list is known."""
    lists = [block for (kind, _), block in last.items() if kind == _LIST]
    if not lists:
        return set()
    newest = max(lists, key=lambda block: block.transaction)
    count = int.from_bytes(newest.data[:4], "little")
    entries = newest.data[8 : 8 + 16 * min(count, (len(newest.data) - 8) // 16)]
    return {number for number, _ in struct.iter_unpack("<QQ", entries)}


def _logical(block: Block, last: dict[tuple[int, int], Block], *, alone: bool) -> Logical:
    data = block.data
    segments_of, base_of = struct.unpack_from("<Q24xQ", data, 8)
    packed, unpacked, at, length = struct.unpack_from("<4I", data, 56)
    if packed != unpacked:
        raise Malformed("its property list is compressed")
    listed = _cs_xml.parse(_stored(data, at, length))
    size = _cs_xml.number(listed, f"{_PREFIX}lv.size")
    segments = _named(last, _SEGMENTS, segments_of, alone=alone)
    base = _named(last, _BASE, base_of, alone=alone)
    offset = _base(base) if base is not None else 0
    if segments is None:
        raise Malformed("no block lists its segments")
    if size < 0:
        raise Malformed(f"a size of {size} bytes")
    return Logical(
        name=_cs_xml.text(listed, f"{_PREFIX}lv.name"),
        uuid=_cs_xml.text(listed, f"{_PREFIX}lv.uuid"),
        family=UUID(_cs_xml.text(listed, f"{_PREFIX}lv.familyUUID")).bytes,
        size=size,
        segments=tuple(_segments(segments, offset)),
    )


def _named(last: dict[tuple[int, int], Block], kind: int, number: int, *, alone: bool) -> Block | None:
    """Return the block of an object; of the only volume the newest of its kind where no object is named."""
    if number:
        return last.get((kind, number))
    of_kind = [block for (one, _), block in last.items() if one == kind]
    return max(of_kind, key=lambda block: block.transaction) if of_kind and alone else None


def _base(block: Block) -> int:
    count = int.from_bytes(block.data[:4], "little")
    if count > 1:
        raise Malformed(f"{count} places of one volume")
    return int.from_bytes(block.data[16:24], "little") & _NUMBER if count else 0


def _segments(block: Block, offset: int) -> list[Segment]:
    count = int.from_bytes(block.data[:4], "little")
    if count > (len(block.data) - 8) // _SEGMENT.size:
        raise Malformed(f"{count} segments in one block")
    found = []
    for number in range(count):
        logical, length, physical = _SEGMENT.unpack_from(block.data, 8 + number * _SEGMENT.size)
        if length:
            place = (physical & _NUMBER) + offset
            found.append(Segment(logical=logical, count=length, member=physical >> 48, physical=place))
    return sorted(found, key=lambda one: one.logical)


def _stored(data: bytes, at: int, length: int) -> bytes:
    if at < _AT + 64 or at - _AT + length > len(data):
        raise Malformed(f"{length} bytes at {at} of a block")
    return data[at - _AT : at - _AT + length]


def _context(block: Block, last: dict[tuple[int, int], Block], found: Catalogue) -> None:
    """Take over a property list of encryption, which may be compressed and continued in other blocks."""
    data = block.data
    following, packed, unpacked, at, length = struct.unpack_from("<Q4I", data, 32)
    if max(packed, unpacked) > _cs_xml.SIZE_MOST:
        raise Malformed(f"a property list of {packed} bytes, {unpacked} when unpacked")
    chain = [_stored(data, at, length)]
    names = set()
    while following and sum(map(len, chain)) < packed and following not in names:
        names.add(following)
        more = last.get((_CHAIN, following))
        if more is None:
            raise Malformed(f"object {following}, which continues it, is missing")
        following, held = struct.unpack_from("<QQ", more.data)
        chain.append(more.data[16 : 16 + min(held, len(more.data) - 16)])
    raw = b"".join(chain)
    if packed != unpacked:
        machine = zlib.decompressobj()
        raw = machine.decompress(raw, unpacked + 1)
        if len(raw) != unpacked:
            raise Malformed(f"{len(raw)} bytes unpacked, {unpacked} stated")
    listed = _cs_xml.parse(raw)
    try:
        family = UUID(_cs_xml.text(listed, f"{_PREFIX}lvf.uuid")).bytes
    except ValueError:
        family = b""
    found.contexts[family] = listed
