"""Thin pools: which block of the pool's data each block of a thin volume is.

A block nobody wrote is a hole, or the external origin's. What the metadata does not say for sure is lost.

Source: kernel documentation admin-guide/device-mapper/thin-provisioning.rst and persistent-data.rst;
lvmthin(7); the fields by comparing thin_dump(8) with what the kernel wrote.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._dm_blocks import BLOCK, Blocks, checksum
from imgfs.backends._lvm2_bodies import Body, inherited, merged
from imgfs.backends._lvm2_content import Content
from imgfs.backends._lvm2_label import SECTOR
from imgfs.errors import Malformed
from imgfs.layouts import HOLE, LOST

if TYPE_CHECKING:
    from imgfs.backends._dm_blocks import Leaf
    from imgfs.backends._lvm2_bodies import Range
    from imgfs.backends._lvm2_group import Logical, Segment
    from imgfs.backends._lvm2_volumes import Volumes

_SUPERBLOCK: Final = struct.Struct("<IIQ16sQIIQQ128s128sQQIIQIII")
_SALT: Final = 160_774
_MAGIC: Final = 27_022_010
_VERSIONS: Final = (1, 2)
_NEEDS_CHECK: Final = 1
_DETAILS: Final = struct.Struct("<QQII")
_TIME: Final = 24  # bits of a mapping that say when it was made
_NAMED: Final = 16  # devices, in what is said
_RANGES: Final = 1000  # lost ranges of a volume that are kept one by one


@dataclass(slots=True)
class Pool:
    """A pool that can be asked. ``data`` is its data, ``which`` and ``base`` where it lies.

    Units: ``block`` bytes.
    """

    blocks: Blocks
    mappings: int
    details: int
    block: int
    data: Body
    which: int
    base: int
    transaction: int


def body(volumes: Volumes, volume: Logical, segment: Segment) -> Body:
    """Return the bytes of a thin volume.

    Raises:
        EvidenceError: its pool does not say where they are.
    """
    pool = _pool(volumes, segment.text("thin_pool"))
    device = segment.number("device_id", -1)
    root = pool.blocks.find(pool.mappings, device, 8)
    if root is None:
        raise Malformed(f"device {device} is not in the pool")
    details = pool.blocks.find(pool.details, device, _DETAILS.size)
    origin = None
    if name := segment.text("external_origin"):
        origin = volumes.body(name)
    filled = _Filled(volumes, pool, segment.length, origin)
    for leaf in pool.blocks.leaves(int.from_bytes(root, "little"), 8, -(-segment.length // pool.block)):
        filled.add(leaf)
    found = filled.done()
    if filled.damage:
        volumes.say(volume.name, f"{len(filled.damage)} parts of its map are damaged: {filled.damage[0]}")
    if filled.outside:
        volumes.say(volume.name, f"{filled.outside} blocks beyond the pool's data")
    if details is not None:
        mapped = _DETAILS.unpack(details)[0]
        if mapped != filled.mapped and not filled.damage and filled.whole:
            volumes.say(volume.name, f"{filled.mapped} blocks are mapped, the pool counts {mapped}")
    return found


def _pool(volumes: Volumes, name: str) -> Pool:
    """Return a pool, opened once.

    Raises:
        EvidenceError: it is damaged.
    """
    if name not in volumes.pools:
        volumes.pools[name] = None
        volumes.pools[name] = _opened(volumes, name)
    pool = volumes.pools[name]
    if pool is None:
        raise Malformed(f"the metadata of pool {name!r} cannot be read")
    return pool


def _opened(volumes: Volumes, name: str) -> Pool:
    logical = volumes.group.logical.get(name)
    if logical is None or len(logical.segments) != 1 or logical.segments[0].kind != "thin-pool":
        raise Malformed(f"no pool {name!r}")
    segment = logical.segments[0]
    content = Content(volumes.stack, volumes.body(segment.text("metadata")))
    raw = content.read(0, BLOCK)
    fields = _SUPERBLOCK.unpack_from(raw)
    crc, flags, number, _, magic, version, _, transaction, held, _, _, mappings, details = fields[:13]
    sectors, metadata_sectors, _, _, _, incompatible = fields[13:19]
    if magic != _MAGIC or crc != checksum(raw[4:], _SALT) or number:
        raise Malformed(f"the metadata of pool {name!r} fails its checksum")
    if version not in _VERSIONS or metadata_sectors * SECTOR != BLOCK or incompatible:
        raise Malformed(f"metadata of pool {name!r}: version {version}, features {incompatible:#x}")
    if sectors * SECTOR != segment.sectors("chunk_size") or not 0 < sectors <= limits.GIB // SECTOR:
        raise Malformed(f"blocks of {sectors} sectors in pool {name!r}")
    if flags & _NEEDS_CHECK:
        volumes.say(name, "its metadata asks for a check")
    if held:
        volumes.say(name, "it holds a snapshot of its metadata")
    if transaction != segment.number("transaction_id"):
        volumes.say(name, f"transaction {transaction}, the group says {segment.number('transaction_id')}")
    data = volumes.body(segment.text("pool"))
    which, base = volumes.stack.lower(data)
    blocks = Blocks(content)
    _say_unknown(volumes, name, blocks, details)
    return Pool(
        blocks=blocks,
        mappings=mappings,
        details=details,
        block=sectors * SECTOR,
        data=data,
        which=which,
        base=base,
        transaction=transaction,
    )


def _say_unknown(volumes: Volumes, name: str, blocks: Blocks, details: int) -> None:
    """Say which devices of a pool no volume of the group is: removed from the text, and not from the pool."""
    segments = (segment for logical in volumes.group.logical.values() for segment in logical.segments)
    known = {s.section.get("device_id") for s in segments if s.section.get("thin_pool") == name}
    found = [key for leaf in blocks.leaves(details, _DETAILS.size) for key in leaf.keys if key not in known]
    if found:
        named = ", ".join(map(str, found[:_NAMED]))
        volumes.say(name, f"{len(found)} devices of the pool are no volumes of the group: {named}")


class _Filled:
    """The columns of one thin volume while the leaves of its map come in."""

    def __init__(self, volumes: Volumes, pool: Pool, size: int, origin: Body | None) -> None:
        self._volumes = volumes
        self._pool = pool
        self._size = size
        self._origin = origin
        self._other = volumes.stack.lower(origin) if origin is not None else (0, 0)
        self._columns = (array("q"), array("q"), array("q"), array("H"))
        self._end = 0  # of what the columns cover
        self._lost: list[Range] = []
        self._data_end = pool.data.size
        self.mapped = self.outside = 0
        self.damage: list[str] = []

    @property
    def whole(self) -> bool:
        """Say whether the volume shows all of what the pool has for it."""
        return self._size % self._pool.block == 0

    def add(self, leaf: Leaf) -> None:
        """Take the next leaf."""
        block = self._pool.block
        if leaf.why:
            self.damage.append(leaf.why)
            self._lose(leaf.low * block, leaf.high * block)
            return
        places = array("Q", leaf.values)
        row, count = 0, len(places)
        keys = leaf.keys
        logical, lengths, targets, lowers = self._columns
        room = limits.MAX_RUNS - 2 * count
        while row < count:
            key, place = keys[row], places[row] >> _TIME
            last = row + 1
            while last < count and keys[last] - key == last - row == (places[last] >> _TIME) - place:
                last += 1
            start, length, at = key * block, (last - row) * block, place * block
            ends = start + length > self._size or at + length > self._data_end
            if not row or ends or self._origin is not None or len(logical) > room:
                self._map(start, length, at)
            else:  # most of millions: a hole before it or none, and it continues nothing
                if start > self._end:
                    logical.append(self._end)
                    lengths.append(start - self._end)
                    targets.append(HOLE)
                    lowers.append(0)
                logical.append(start)
                lengths.append(length)
                targets.append(self._pool.base + at)
                lowers.append(self._pool.which)
                self._end = start + length
                self.mapped += last - row
            row = last

    def done(self) -> Body:
        """Return the volume."""
        self._unwritten(self._size)
        stack, (logical, length, target, which) = self._volumes.stack, self._columns
        below = [self._pool.data, *([self._origin] if self._origin else [])]
        repeated = sum(body.laid(self.mapped * self._pool.block) for body in below)
        stack.repeat(repeated)
        number = stack.lay_columns(self._size, self._columns)
        runs = zip(logical, length, which, target, strict=True)
        lost = merged([*self._lost, *inherited(runs, stack, below)])
        weight = len(logical) + repeated
        return Body(self._size, [(0, self._size, number, 0)], weight, tuple(lost))

    def _map(self, start: int, length: int, place: int) -> None:
        stop = min(start + length, self._size)
        if start >= stop:
            return
        self.mapped += length // self._pool.block
        self._unwritten(start)
        inside = max(0, min(stop - start, self._data_end - place))
        if inside:
            self._row(start, inside, self._pool.base + place, self._pool.which)
        if start + inside < stop:
            self.outside += -(-(stop - start - inside) // self._pool.block)
            self._lose(start + inside, stop)

    def _unwritten(self, until: int) -> None:
        """Cover what nobody wrote up to ``until``."""
        start = self._end
        until = min(until, self._size)
        if self._origin is not None and start < min(until, self._origin.size):
            stop = min(until, self._origin.size)
            self._row(start, stop - start, self._other[1] + start, self._other[0])
            start = stop
        if start < until:
            self._row(start, until - start, HOLE, 0)

    def _lose(self, start: int, stop: int) -> None:
        stop = min(stop, self._size)
        if start >= stop:
            return
        self._unwritten(start)
        self._row(start, stop - start, LOST, 0)
        if len(self._lost) < _RANGES:
            self._lost.append((start, stop))
        else:
            self._lost[-1] = (self._lost[-1][0], stop)

    def _row(self, start: int, length: int, target: int, which: int) -> None:
        logical, lengths, targets, lowers = self._columns
        if logical:
            follows = targets[-1] + lengths[-1] if targets[-1] >= 0 else targets[-1]
            if target == follows and lowers[-1] == which:
                lengths[-1] += length
                self._end = start + length
                return
        if len(logical) >= limits.MAX_RUNS:
            raise Malformed(f"in more than {limits.MAX_RUNS} pieces")
        logical.append(start)
        lengths.append(length)
        targets.append(target)
        lowers.append(which)
        self._end = start + length
