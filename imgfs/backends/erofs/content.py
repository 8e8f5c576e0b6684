"""The bytes of files of EROFS: runs, chunks, and clusters that decode in units of many.

Source: erofs.docs.kernel.org, Core on-disk format, Inode data layouts; Chunk-based Format; Compressed Format
Layout.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from imgfs.backends._layouts import linear
from imgfs.backends.erofs.indexes import Extent, extents_of
from imgfs.backends.erofs.inode import CHUNKS, FLAT, INLINE, Inode
from imgfs.backends.erofs.layout import Builder
from imgfs.backends.erofs.partly import decoded
from imgfs.backends.erofs.superblock import PADDED
from imgfs.block.clusters import PLAIN
from imgfs.errors import EvidenceError, Malformed
from imgfs.limits import MAX_RUNS, MIB
from imgfs.model import HOLE, LOST, Foreign, Inline, Kind

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends.erofs.inode import Inodes, Metadata
    from imgfs.backends.erofs.superblock import Superblock
    from imgfs.model import Layout

EMPTY: Final = (Inline(b""),)
_LISTED: Final = 65_536  # bytes of a compressed file whose layout travels with its name
_MOST: Final = 500_000  # runs of a file that fit a message
_INDEXED: Final = 0x20  # of the format of chunks: rows of 8 bytes
_NONE: Final = 0xFFFF_FFFF
_KEPT: Final = 8

Row = tuple[int, int, int]


class Contents:
    """Where the bytes of files lie."""

    __slots__ = ("_inodes", "_kept", "_last", "_metadata", "_packed", "_reader", "_superblock")

    def __init__(self, reader: Reader, metadata: Metadata, superblock: Superblock, inodes: Inodes) -> None:
        self._reader = reader
        self._metadata = metadata
        self._superblock = superblock
        self._inodes = inodes
        self._packed: list[Extent] | None = None
        self._last: tuple[int, list[Extent]] | None = None
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def listed(self, inode: Inode) -> tuple[Layout, ...] | None:
        """Return the layout of a file that says it in a few bytes, None: whoever opens it has to ask."""
        if inode.layout not in (FLAT, INLINE) and inode.size > _LISTED:
            return None
        try:
            return self.layout(inode)
        except EvidenceError:
            return None  # whoever opens it is told

    def layout(self, inode: Inode) -> tuple[Layout, ...]:
        """Say where the content lies. What is no regular file has none.

        Raises:
            NotSupported: an index that nobody has described.
            EvidenceError: the inode contradicts itself.
        """
        if inode.kind is not Kind.REG or not inode.size:
            return EMPTY
        if inode.layout in (FLAT, INLINE, CHUNKS):
            rows = self.rows(inode)
            if len(rows) > _MOST:
                return (Foreign(size=inode.size, why=f"{len(rows)} runs"),)
            return (linear(inode.size, rows),)
        return Builder(inode.size, self._reader.size).layouts(self.extents(inode))

    def extents(self, inode: Inode) -> list[Extent]:
        """Return the extents of a compressed file, those of the packed file in place of what lies in that."""
        if self._last is not None and self._last[0] == inode.number:
            return self._last[1]
        extents = extents_of(inode, self._metadata, self._superblock)
        last = extents[-1] if extents else None
        if last is not None and last.fragment:
            extents[-1:] = self._fragment(last)
        self._last = inode.number, extents  # who reads a part will read the next one
        return extents

    def _fragment(self, extent: Extent) -> list[Extent]:
        """Return the parts of the packed file that an extent is; ``skip`` bytes of the first are others'."""
        superblock = self._superblock
        if not superblock.packed:
            raise Malformed("a fragment, and no packed file")
        packed = self._inodes.read(superblock.packed)
        stop = extent.place + extent.length
        if stop > packed.size or packed.kind is not Kind.REG:
            raise Malformed(f"a fragment at [{extent.place}, {stop}) of {packed.size} bytes")
        found: list[Extent] = []
        if packed.layout in (FLAT, INLINE, CHUNKS):
            for logical, length, target in self.rows(packed):
                low, high = max(logical, extent.place), min(logical + length, stop)
                if low < high:
                    place = target + low - logical if target >= 0 else target
                    start = extent.start + low - extent.place
                    found.append(Extent(start, high - low, PLAIN, place, high - low))
            return found
        if self._packed is None:
            self._packed = extents_of(packed, self._metadata, superblock)
            if any(part.fragment for part in self._packed):
                self._packed = None
                raise Malformed("the packed file has fragments")
        index = bisect_right(self._packed, extent.place, key=lambda part: part.start) - 1
        while index < len(self._packed) and (part := self._packed[index]).start < stop:
            low, high = max(part.start, extent.place), min(part.start + part.length, stop)
            start = extent.start + low - extent.place
            found.append(
                part._replace(start=start, length=high - low, skip=low - part.start, held=part.length)
            )
            index += 1
        return found

    def rows(self, inode: Inode) -> list[Row]:
        """Return the runs of what is not compressed.

        Raises:
            EvidenceError: there are too many, or a table of them leaves the source.
        """
        block, rows = self._superblock.block, list[Row]()
        if inode.layout == CHUNKS:
            return self._chunks(inode)
        whole = inode.size // block * block if inode.layout == INLINE else inode.size
        if whole:
            self._add(rows, 0, whole, inode.word * block)
        if whole < inode.size:
            tail = inode.size - whole
            crosses = inode.behind % block + tail > block
            self._add(rows, whole, tail, LOST if crosses else inode.behind)
        return rows

    def _chunks(self, inode: Inode) -> list[Row]:
        form, block = inode.word & 0xFFFF, self._superblock.block
        if form & ~0x3F or block << (form & 0x1F) > 1 << 48:
            raise Malformed(f"inode {inode.number}: chunks of format {form:#x}")
        chunk = block << (form & 0x1F)
        count = -(-inode.size // chunk)
        if count > MAX_RUNS:
            raise Malformed(f"inode {inode.number}: {count} chunks")
        width = 8 if form & _INDEXED else 4
        raw = self._metadata.read(inode.behind + width - 1 & -width, width * count)
        places = (
            struct.iter_unpack("<HHI", raw)
            if width == 8
            else ((0, 0, n) for (n,) in struct.iter_unpack("<I", raw))
        )
        rows: list[Row] = []
        for index, (_, device, number) in enumerate(places):
            start = index * chunk
            target = HOLE if number == _NONE else LOST if device else number * block
            self._add(rows, start, min(chunk, inode.size - start), target)
        return rows

    def _add(self, rows: list[Row], start: int, length: int, target: int) -> None:
        """Add a run; what leaves the source is LOST, and neighbours are joined."""
        inside = length if target < 0 else max(min(length, self._reader.size - target), 0)
        if inside:
            logical, before, last = rows[-1] if rows else (0, 0, LOST - 1)
            if last == target if target < 0 else last >= 0 and last + before == target:
                rows[-1] = (logical, before + inside, last)
            else:
                rows.append((start, inside, target))
        if inside < length:
            self._add(rows, start + inside, length - inside, LOST)

    def read(self, inode: Inode, offset: int, length: int) -> bytes:
        """Return bytes of any file, decoded here.

        Raises:
            EvidenceError: some are lost, or do not decode.
        """
        stop = offset + length
        if inode.layout in (FLAT, INLINE, CHUNKS):
            parts = []
            for logical, run, target in self.rows(inode):
                low, high = max(offset, logical), min(stop, logical + run)
                if low < high:
                    if target == LOST:
                        raise Malformed(f"inode {inode.number}: bytes [{low}, {high}) are lost")
                    where = target + low - logical
                    parts.append(
                        bytes(high - low) if target == HOLE else self._reader.read(where, high - low)
                    )
            return b"".join(parts)
        extents = self.extents(inode)
        index = bisect_right(extents, offset, key=lambda part: part.start) - 1
        parts = []
        while index < len(extents) and (part := extents[index]).start < stop:
            low = max(offset, part.start) - part.start + part.skip
            high = min(stop, part.start + part.length) - part.start + part.skip
            parts.append(self._decoded(part)[low:high])
            index += 1
        return b"".join(parts)

    def _decoded(self, part: Extent) -> bytes:
        if part.algorithm == PLAIN and part.place == HOLE:
            return bytes(part.length)
        whole = part._replace(length=part.held or part.length)
        key = part.place, whole.length
        data = self._kept.get(key)
        if data is None:
            if whole.length > 12 * MIB:
                data = self._reader.read(part.place, whole.length)
            else:
                stored = self._reader.read(part.place, min(part.stored, self._reader.size - part.place))
                data = decoded(stored, whole, padded=bool(self._superblock.incompat & PADDED))
            self._kept[key] = data
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return data
