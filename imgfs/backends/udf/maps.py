"""Reading the partition maps of a logical volume.

Source: ECMA-167 3rd edition, 3/10.7; OSTA UDF 1.50, 2.2.8 and 2.2.10 (virtual allocation table);
OSTA UDF 2.60, 2.2.8 to 2.2.12.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Final

from imgfs.backends.udf import icb as icbs
from imgfs.backends.udf.partitions import Metadata, Physical, Sparable, Virtual
from imgfs.backends.udf.structures import EXTENDED_FILE, FILE, fault, identifier
from imgfs.errors import EvidenceError, Malformed
from imgfs.model import LOST

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends._layouts import Row
    from imgfs.backends.udf.partitions import Space
    from imgfs.backends.udf.sequence import Sequence
    from imgfs.backends.udf.volume import Volume

_LOGICAL: Final = 440  # bytes of the logical volume descriptor before its maps
_MOST: Final = 64  # maps
_TABLE: Final = 64 << 20  # bytes of a virtual allocation table: 16 million blocks
_BEHIND: Final = 1024  # blocks before the end in which the table's ICB is looked for: run-out, padding
_ZEROS: Final = 1 << 29  # bytes of zeros behind it, which an image may have in place of the rest of a disc
_PIECE: Final = 1 << 20
_OLD: Final = b"*UDF Virtual Alloc Tbl"
_FREE: Final = 0xFFFF_FFF0  # from here on an entry of a sparing table moves nothing


def read_maps(volume: Volume, sequence: Sequence) -> tuple[str, ...]:
    """Give a volume the spaces of its partition maps; returns what is wrong with them."""
    logical, notes = sequence.logical, list[str]()
    (count,) = struct.unpack_from("<I", logical, 268)
    maps: list[tuple[int, bytes]] = []
    at = _LOGICAL
    for _ in range(min(count, _MOST)):
        if at + 2 > len(logical) or logical[at + 1] < 2 or at + logical[at + 1] > len(logical):
            notes.append(f"{count} partition maps, {len(maps)} are there")
            break
        maps.append((logical[at], logical[at : at + logical[at + 1]]))
        at += logical[at + 1]
    volume.spaces = [None] * len(maps)
    # what lies on other maps is built after those
    for first in (True, False):
        for ref, (kind, raw) in enumerate(maps):
            name = identifier(raw[4:36]) if kind == 2 and len(raw) >= 64 else b""
            if first == (name in (b"*UDF Virtual Partition", b"*UDF Metadata Partition")):
                continue
            try:
                volume.spaces[ref] = _space(volume, sequence, kind, name, raw, maps, notes)
            except EvidenceError as why:
                notes.append(f"partition map {ref}: {why.message}")
    return tuple(notes)


def _space(
    volume: Volume,
    sequence: Sequence,
    kind: int,
    name: bytes,
    raw: bytes,
    maps: list[tuple[int, bytes]],
    notes: list[str],
) -> Space:
    if kind == 1 and len(raw) >= 6:
        return _physical(volume, sequence, int.from_bytes(raw[4:6], "little"))
    number = int.from_bytes(raw[38:40], "little")
    if name == b"*UDF Sparable Partition":
        return _sparable(volume, sequence, _physical(volume, sequence, number), raw, notes)
    if name in (b"*UDF Virtual Partition", b"*UDF Metadata Partition"):
        below = _below(volume, maps, number)
        return _virtual(volume, below, notes) if b"Virtual" in name else _metadata(volume, below, raw, notes)
    raise Malformed(f"of type {kind} {name.decode('latin-1')!r}, which is not known")


def _physical(volume: Volume, sequence: Sequence, number: int) -> Physical:
    raw = sequence.partitions.get(number)
    if raw is None:
        raise Malformed(f"there is no descriptor of partition {number}")
    start, length = struct.unpack_from("<II", raw, 188)
    at, stop = start * sequence.sector, (start + length) * sequence.sector
    return Physical(at, max(at, min(stop, volume.reader.size)), volume.block)


def _below(volume: Volume, maps: list[tuple[int, bytes]], number: int) -> int:
    """Return the map of the same partition on which a virtual or metadata partition lies."""
    for ref, (kind, raw) in enumerate(maps):
        at = 4 if kind == 1 else 38
        same = raw[at : at + 2] == number.to_bytes(2, "little")
        if same and isinstance(volume.spaces[ref], Physical | Sparable):
            return ref
    raise Malformed(f"no partition map of partition {number} lies below it")


def _sparable(volume: Volume, sequence: Sequence, below: Physical, raw: bytes, notes: list[str]) -> Sparable:
    """Read the newest sparing table that is whole. Source: OSTA UDF 2.60, 2.2.9, 2.2.12."""
    packet, tables, size = struct.unpack_from("<HBxI", raw, 40)
    if not packet:
        raise Malformed("packets of no block")
    newest, moved = -1, dict[int, int]()
    for place in struct.unpack_from("<4I", raw, 48)[: min(tables, 4)]:
        try:
            table = volume.reader.read(place * sequence.sector, min(size, 1 << 20))
        except EvidenceError as why:
            notes.append(f"sparing table in sector {place}: {why.message}")
            continue
        wrong = fault(table, (0,), place)
        if wrong or not identifier(table[16:48]).startswith(b"*UDF Sparing Table"):
            notes.append(f"sparing table in sector {place}: {wrong or 'not its identifier'}")
            continue
        entries, rank = struct.unpack_from("<HxxI", table, 48)
        if rank <= newest:
            continue
        pairs = struct.iter_unpack("<II", table[56 : 56 + 8 * min(entries, (len(table) - 56) // 8)])
        newest, moved = rank, {block: at * sequence.sector for block, at in pairs if block < _FREE}
    if newest < 0:
        notes.append("no sparing table is whole: packets that were moved are read from where they were")
    return Sparable(below, packet, moved, volume.reader.size)


def _virtual(volume: Volume, below: int, notes: list[str]) -> Virtual:
    """Read the virtual allocation table, whose ICB is the last thing written."""
    space = volume.space(below)
    base = space.runs(0, 1)[0][1]
    if base == LOST:
        raise Malformed("its partition is empty")
    end = (_written(volume.reader) - base + volume.block - 1) // volume.block
    for block in range(end - 1, max(end - 1 - _BEHIND, -1), -1):
        entries = _table_at(volume, below, block)
        if entries is not None:
            if block < end - 4:
                notes.append(f"virtual allocation table in block {block}, {end - 1 - block} before the end")
            return Virtual(space, entries, volume.block)
    raise Malformed("there is no virtual allocation table at the end")


def _written(reader: Reader) -> int:
    """Return where the zeros behind what was written begin, as far back as is looked."""
    stop = reader.size
    while stop > max(reader.size - _ZEROS, 0):
        start = max(stop - _PIECE, 0)
        try:
            held = len(reader.read(start, stop - start).rstrip(b"\0"))
        except EvidenceError:
            break  # what is lost may be anything
        if held:
            return start + held
        stop = start
    return reader.size


def _table_at(volume: Volume, below: int, block: int) -> array[int] | None:
    """Return the virtual allocation table whose ICB is at a block, None: there is none."""
    try:
        raw = volume.bytes_at(below, block, volume.block)
        if fault(raw, (FILE, EXTENDED_FILE), block):
            return None
        found = icbs.read_icb(volume, below, block)
        if found.type not in (0, icbs.VAT):
            return None
        return _entries(icbs.content(volume, found, _TABLE), found.type)
    except EvidenceError:
        return None


def _entries(table: bytes, kind: int) -> array[int] | None:
    if kind == icbs.VAT:
        if len(table) < 152:
            return None
        skip = int.from_bytes(table[:2], "little")
        body = table[skip:] if skip >= 152 else b""
    elif table[-36:][1:24].rstrip(b"\0") == _OLD:
        body = table[:-36]
    else:
        return None
    return array("I", [value for (value,) in struct.iter_unpack("<I", body[: len(body) & ~3])])


def _metadata(volume: Volume, below: int, raw: bytes, notes: list[str]) -> Metadata:
    """Read where the metadata file and its mirror lie. Source: OSTA UDF 2.60, 2.2.10, 2.2.13."""
    main, mirror = struct.unpack_from("<II", raw, 40)
    copied = bool(raw[58] & 1)  # the mirror has blocks of its own
    files: list[tuple[int, list[Row]]] = []
    for block, kind, name in ((main, icbs.METADATA, "file"), (mirror, icbs.MIRROR, "mirror file")):
        if files and not copied:
            break
        try:
            found = icbs.read_icb(volume, below, block)
            if found.type != kind:
                raise Malformed(f"block {block}: a file of type {found.type}")
            files.append((found.size, icbs.rows_of(volume, found)))
        except EvidenceError as why:
            notes.append(f"metadata {name}: {why.message}")
    if not files:
        raise Malformed("neither the metadata file nor its mirror can be read")
    return Metadata(files, volume.block)
