"""Extents of a file, and the layouts they become.

What is stored of a file is put one behind the other as one stream of sectors, with their checksums where it
has them (``Summed``); compressed extents are units of that, each decoded once however often and in whatever
parts the file refers to it; the file is runs over these.

Source: btrfs.readthedocs.io, "On-disk format" (File extent item), btrfs(5), "COMPRESSION".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs.backends.btrfs.nodes import Gap
from imgfs.backends.btrfs.space import Stack
from imgfs.block.codecs import decode
from imgfs.errors import EvidenceError, Malformed
from imgfs.limits import MAX_LINK, MAX_RUNS, MAX_SIZE
from imgfs.model import HOLE, LOST, PACKED_CODED, Codec, Inline, Linear, Ragged

if TYPE_CHECKING:
    from imgfs.backends.btrfs.checksums import Checksums
    from imgfs.backends.btrfs.nodes import Leaf, Nodes
    from imgfs.backends.btrfs.space import Range, Space
    from imgfs.backends.btrfs.superblock import Root
    from imgfs.model import Layout

EXTENT_DATA: Final = 108
EMPTY: Final = (Inline(b""),)
_HEAD: Final = struct.Struct("<QQBBHB")
_BODY: Final = struct.Struct("<4Q")
_INLINE, _PREALLOCATED = 0, 2
_KINDS: Final = 3
_CODECS: Final = {1: "zlib-short", 2: "lzo-short", 3: "zstd-short"}
_UNIT: Final = 1 << 20  # decoded bytes of a compressed extent: the kernel writes an eighth of it
_ROW: Final = struct.Struct("<QQII")
_LISTED: Final = 4096  # bytes of inline content that travel with a name
_NEAR: Final = 5  # items that may lie between an inode and its content in a listing
_SMALL: Final = 65536  # bytes of inline content


@dataclass(slots=True)
class Map:
    """Where a file lies: rows of (logical, length, kind, a, b), ascending; see ``map_of``."""

    size: int
    rows: list[tuple[int, int, str, int, int]] = field(default_factory=list)
    ranges: dict[Range, int] = field(default_factory=dict)  # stored ranges of addresses, by their turn
    coded: dict[tuple[int, int, int, int], int] = field(default_factory=dict)  # compressed extents
    inline: list[bytes] = field(default_factory=list)
    at: int = 0

    def put(self, length: int, kind: str, one: int = 0, two: int = 0) -> None:
        """Say what the next bytes are; what goes beyond the size is cut off."""
        length = min(length, self.size - self.at)
        if length <= 0:
            return
        if len(self.rows) >= MAX_RUNS:
            raise Malformed(f"more than {MAX_RUNS} extents")
        self.rows.append((self.at, length, kind, one, two))
        self.at += length

    def reach(self, start: int, kind: str) -> None:
        """Say what everything up to ``start`` is that nothing was said of."""
        self.put(min(start, self.size) - self.at, kind)


def map_of(nodes: Nodes, root: Root, number: int, size: int, sector: int) -> Map:
    """Return what the extents of a file say, for all of [0, size)."""
    found = Map(size)
    first, stop = (number, EXTENT_DATA, 0), (number, EXTENT_DATA + 1, 0)
    for item in nodes.items(root, first, stop):
        if isinstance(item, Gap):
            start = item.first[2] if item.first[:2] == first[:2] else 0
            until = item.stop[2] if item.stop[:2] == first[:2] else size
            found.reach(start, "hole")
            found.reach(until, "lost")
            continue
        start = item.key[2]
        if start < found.at:
            raise Malformed(f"inode {number}: two extents hold byte {start}")
        found.reach(start, "hole")
        if found.at < start:
            break  # behind the end: reserved for what may be written
        _extent(found, number, item.data, sector)
    found.reach(size, "hole")
    return found


def _extent(found: Map, number: int, data: bytes, sector: int) -> None:
    if len(data) < _HEAD.size:
        raise Malformed(f"inode {number}: an extent of {len(data)} bytes")
    _, decoded, method, cipher, other, kind = _HEAD.unpack_from(data)
    if kind == _INLINE:
        if decoded > _SMALL:
            raise Malformed(f"inode {number}: {decoded} bytes of inline content")
        try:
            content = _inline(data[_HEAD.size :], decoded, method, cipher or other, sector)
        except EvidenceError:
            found.put(decoded, "lost")
        else:
            found.inline.append(content)
            found.put(len(content), "inline", len(found.inline) - 1)
        found.reach(-(-found.at // sector) * sector, "hole")
        return
    if len(data) < _HEAD.size + _BODY.size or kind >= _KINDS:
        raise Malformed(f"inode {number}: an extent of kind {kind} in {len(data)} bytes")
    at, stored, skip, length = _BODY.unpack_from(data, _HEAD.size)
    if not 0 < length <= MAX_SIZE:
        raise Malformed(f"inode {number}: an extent of {length} bytes")
    if not at or kind == _PREALLOCATED:
        found.put(length, "hole")
    elif (
        (at | stored | skip) % sector
        or not 0 < stored <= MAX_SIZE - at
        or (cipher or other)
        or (method and (method not in _CODECS or not skip < decoded <= _UNIT or stored > _UNIT))
    ):
        found.put(length, "lost")
    elif method:
        key = (at, stored, decoded, method)
        inside = min(length, decoded - skip)
        found.put(inside, "coded", found.coded.setdefault(key, len(found.coded)), skip)
        found.put(length - inside, "lost")
    elif skip + length > stored:
        found.put(length, "lost")
    else:
        wanted = -(-min(length, found.size - found.at) // sector) * sector
        if wanted > 0:
            turn = found.ranges.setdefault((at + skip, wanted), len(found.ranges))
            found.put(length, "plain", turn)


def _inline(stored: bytes, decoded: int, method: int, other: int, sector: int) -> bytes:
    if other or (method and method not in _CODECS):
        raise Malformed("inline content in an unknown encoding")
    if not method:
        if len(stored) < decoded:
            raise Malformed("inline content that is cut off")
        return stored[:decoded]
    return bytes(decode(_codec(method, sector), memoryview(stored), True, decoded))


def _codec(method: int, sector: int) -> Codec:
    return Codec(_CODECS[method], {"short": sector})


def listed(leaf: Leaf, row: int, size: int) -> tuple[Layout, ...] | None:
    """Return the layout of a file whose inode item is in ``row`` when this leaf alone tells it, else None."""
    if not size:
        return EMPTY
    if size > _LISTED or leaf.gaps:
        return None
    keys = leaf.keys
    first = (keys[row][0], EXTENT_DATA, 0)
    for at in range(row + 1, min(row + _NEAR, len(keys))):
        if keys[at] >= first:
            if keys[at] != first:
                return None
            start, length = leaf.places[at]
            if length != _HEAD.size + size:
                return None
            _, decoded, method, cipher, other, kind = _HEAD.unpack_from(leaf.data, start)
            if kind != _INLINE or method or cipher or other or decoded != size:
                return None
            return (Inline(leaf.data[start + _HEAD.size : start + length]),)
    return None


def content_of(found: Map, space: Space) -> bytes:
    """Return a target of a symbolic link.

    Raises:
        EvidenceError: it is too long, or cannot be read.
    """
    if found.size > MAX_LINK:
        raise Malformed(f"a link of {found.size} bytes")
    ranges = list(found.ranges)
    parts = []
    for _, length, kind, one, _ in found.rows:
        if kind == "inline":
            parts.append(found.inline[one][:length])
        elif kind == "plain":
            parts.append(space.read_any(*ranges[one])[:length])
        elif kind == "hole":
            parts.append(bytes(length))
        else:
            raise Malformed("a part of the target is lost")
    return b"".join(parts)


def layouts_of(found: Map, space: Space, checksums: Checksums | None, sector: int) -> tuple[Layout, ...]:
    """Return the layouts of a file; ``checksums`` None: its sectors have none."""
    if not found.size:
        return EMPTY
    if len(found.rows) == 1 and found.rows[0][2] == "inline":
        return (Inline(found.inline[0][: found.size]),)
    stack = Stack(space.tickets)
    ranges: list[Range] = [*found.ranges, *[(key[0], key[1]) for key in found.coded]]
    starts, total = [], 0
    for _, length in ranges:
        starts.append(total)
        total += length
    if total > MAX_SIZE:
        raise Malformed(f"extents of {total} bytes in a file of {found.size}")
    stored = -1
    if ranges:
        stored = stack.add(space.layout(stack, ranges))
        if checksums is not None:
            stored = checksums.over(stack, ranges, stored)
    places = _units(found, stack, starts[len(found.ranges) :], stored, sector)
    inlines = [stack.add(Inline(content)) for content in found.inline]
    rows: list[tuple[int, int, int]] = []
    which: list[int] = []
    for logical, length, kind, one, two in found.rows:
        if kind == "plain":
            target, source = starts[one], stored
        elif kind == "coded":
            source, target = places[one]
            target += two
        elif kind == "inline":
            target, source = 0, inlines[one]
        else:
            target, source = HOLE if kind == "hole" else LOST, 0
        if rows and which[-1] == source and _joined(rows[-1], target):
            rows[-1] = (rows[-1][0], rows[-1][1] + length, rows[-1][2])
        else:
            rows.append((logical, length, target))
            which.append(source)
    stack.add(Linear.of(found.size, rows, which))
    return tuple(stack.layouts)


def _joined(last: tuple[int, int, int], target: int) -> bool:
    return target == last[2] if target < 0 else last[2] >= 0 and last[2] + last[1] == target


def _units(found: Map, stack: Stack, starts: list[int], stored: int, sector: int) -> list[tuple[int, int]]:
    """Return (layout, first byte) of each compressed extent, decoded."""
    places: list[tuple[int, int]] = [(0, 0)] * len(found.coded)
    for method in sorted({key[3] for key in found.coded}):
        rows, at, members = bytearray(), 0, []
        for turn, (key, start) in enumerate(zip(found.coded, starts, strict=True)):
            if key[3] == method:
                rows += _ROW.pack(at, start, key[1], PACKED_CODED)
                members.append((turn, at))
                at += key[2]
        number = stack.add(
            Ragged(size=at, codec=_codec(method, sector), rows=len(members), table=bytes(rows), which=stored)
        )
        for turn, first in members:
            places[turn] = (number, first)
    return places
