"""The clusters of a compressed file: which bytes each decodes to, where it is stored.

Source: erofs.docs.kernel.org, Compressed Format Layout, Per-Inode Compression Metadata; the description of
"compacted" packs and of big clusters in the log of Linux (commits 152a333a5895 and b86269f43892).
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.erofs.inode import FULL, Inode
from imgfs.backends.erofs.superblock import DEVICES, PADDED
from imgfs.block.clusters import LZ4, PLAIN, ZSTD
from imgfs.errors import Malformed, NotSupported
from imgfs.limits import MAX_RUNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgfs.backends.erofs.inode import Metadata
    from imgfs.backends.erofs.superblock import Superblock

_SHORT, _BIG_1, _BIG_2, _TAIL, _TURNED, _FRAGMENT = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20  # of h_advise
_WHOLE: Final = 1 << 63  # of the header: all of the file is a fragment
_PARTIAL: Final = 1 << 15  # of di_advise: the cluster decodes to more
_COUNT: Final = 1 << 11  # of a distance: it is a number of blocks instead
_HEAD_1, _NO_HEAD, _HEAD_2 = 1, 2, 3
_MOST: Final = 12 << 20  # decoded bytes of a cluster
_LONGEST: Final = 1 << 20  # stored bytes of one
_MANY: Final = 2_000_000  # clusters of one file: half of a worker's memory

Row = tuple[int, int, int, bool, int]  # type, offset in its cluster, block, partial; blocks it says it has


class Extent(NamedTuple):
    """Bytes [start, start + length) of a file. ``algorithm`` as in ``block.clusters``.

    ``turn``: the byte of a stored cluster of PLAIN where it begins. ``whole``: all it decodes to is here,
    and zeros ahead of it fill it up. ``fragment``: it lies in the packed file, at byte ``place`` of that.
    ``held`` > 0: the cluster decodes to so many bytes, of which ``skip`` come before these.
    """

    start: int
    length: int
    algorithm: int
    place: int
    stored: int
    turn: int = 0
    whole: bool = True
    fragment: bool = False
    skip: int = 0
    held: int = 0


def extents_of(inode: Inode, metadata: Metadata, superblock: Superblock) -> list[Extent]:
    """Return the extents of a compressed file, in order and without gaps.

    Raises:
        NotSupported: an index that nobody has described.
        EvidenceError: the index contradicts itself.
    """
    if not inode.size:
        return []
    at = inode.behind + 7 & ~7
    raw = metadata.read(at, 8)
    (word,) = struct.unpack("<Q", raw)
    if word & _WHOLE:
        return [Extent(0, inode.size, PLAIN, word & ~_WHOLE, inode.size, fragment=True)]
    offset, advise, algorithms, bits = struct.unpack("<IHBB", raw)
    shift = superblock.block.bit_length() - 1 + (bits & 0xF)
    count = -(-inode.size // (1 << shift))
    if count > MAX_RUNS or bits >> 4 or shift > 24:
        raise Malformed(f"inode {inode.number}: {count} clusters of 2^{shift} bytes")
    if inode.layout == FULL:
        if advise & _SHORT:
            raise NotSupported(f"inode {inode.number}: an index of encoded extents is not read")
        rows, end = _full(metadata, at + 16, count, advise), at + 16 + 8 * count
    else:
        rows, end = _compact(metadata, at + 8, count, advise, shift)
    return _Walk(inode, superblock, advise, algorithms, shift).extents(rows, end, offset)


class _Walk:
    """From rows of the index to extents."""

    def __init__(
        self, inode: Inode, superblock: Superblock, advise: int, algorithms: int, shift: int
    ) -> None:
        self._inode = inode
        self._block = superblock.block
        self._padded = bool(superblock.incompat & PADDED)
        self._advise = advise
        self._shift = shift
        second = algorithms >> 4 if superblock.incompat & DEVICES else algorithms & 15
        self._algorithms = {0: PLAIN, _HEAD_1: algorithms & 15, _HEAD_2: second}

    def extents(self, rows: Iterable[Row], end: int, offset: int) -> list[Extent]:
        """Return the extents; ``end`` is the byte behind the index, ``offset`` the word of its header."""
        inode, shift = self._inode, self._shift
        found: list[Extent] = []
        head: Row | None = None  # the last one, whose length the next one tells
        start = blocks = 0
        first = False  # the row is the first behind a head
        for index, row in enumerate(rows):
            if row[0] == _NO_HEAD:
                if first:
                    blocks = row[4]
                first = False
                continue
            at = (index << shift) + row[1]
            if at >= inode.size:  # a mark of where the file ends
                continue
            if at <= start if head is not None else at:
                raise Malformed(f"inode {inode.number}: clusters do not follow each other")
            if head is not None:
                found.append(self._stored(start, at - start, head, blocks))
            if len(found) > _MANY:
                raise NotSupported(f"inode {inode.number}: more than {_MANY} clusters")
            head, start, blocks, first = row, at, 0, True
        if head is None:
            raise Malformed(f"inode {inode.number}: no cluster")
        length = inode.size - start
        if self._advise & _FRAGMENT:
            found.append(Extent(start, length, PLAIN, offset, length, fragment=True))
        elif self._advise & _TAIL and offset >> 16:
            found.append(self._extent(start, length, head, end, offset >> 16))
        else:
            found.append(self._stored(start, length, head, blocks))
        return found

    def _stored(self, start: int, length: int, row: Row, blocks: int) -> Extent:
        """Return an extent that lies in ``blocks`` blocks, 0: in as many as a cluster has."""
        stored = blocks * self._block or 1 << self._shift
        return self._extent(start, length, row, row[2] * self._block, stored)

    def _extent(self, start: int, length: int, row: Row, place: int, stored: int) -> Extent:
        kind, offset, _, partial, _ = row
        algorithm = self._algorithms[kind]
        if length > _MOST or stored > _LONGEST or algorithm > PLAIN or (kind and algorithm > ZSTD):
            raise Malformed(
                f"inode {self._inode.number}: {stored} bytes of algorithm {algorithm} for {length}"
            )
        turn = 0
        if algorithm == PLAIN:
            if self._advise & _TURNED and stored >= self._block:
                turn = offset % self._block
            if length > stored:
                raise Malformed(f"inode {self._inode.number}: {length} bytes in a cluster of {stored}")
        whole = not partial and (self._padded or algorithm != LZ4)
        return Extent(start, length, algorithm, place, stored, turn, whole)


def _full(metadata: Metadata, at: int, count: int, advise: int) -> Iterator[Row]:
    """Yield the rows of an index of 8 bytes for each cluster."""
    big = advise & (_BIG_1 | _BIG_2)
    for flags, offset, word in struct.iter_unpack("<HHI", metadata.read(at, 8 * count)):
        kind = flags & 3
        if kind == _NO_HEAD:
            yield kind, 0, 0, False, word & _COUNT - 1 if big and word & _COUNT else 0
        else:
            yield kind, offset, word, bool(flags & _PARTIAL), 0


def _compact(metadata: Metadata, at: int, count: int, advise: int, shift: int) -> tuple[Iterator[Row], int]:
    """Return the rows of an index of packs, and the byte behind it."""
    low = max(shift, 12)
    if low > 14 or (advise & _SHORT and low > 12):
        raise Malformed(f"packs for clusters of 2^{shift} bytes")
    first = (32 - at % 32) // 4 % 8 if advise & _SHORT else count
    first = min(first, count)
    short = (count - first) // 16 * 16 if advise & _SHORT else 0
    ahead, behind = -(-first // 2) * 8, -(-(count - first - short) // 2) * 8
    raw = metadata.read(at, ahead + 2 * short + behind)
    big = bool(advise & (_BIG_1 | _BIG_2))

    def rows() -> Iterator[Row]:
        for begin in range(0, len(raw), 8):
            if begin == ahead:
                for pack in range(ahead, ahead + 2 * short, 32):
                    yield from _pack(raw[pack : pack + 32], 16, 14, low, big=big)
            if begin < ahead or begin >= ahead + 2 * short:
                yield from _pack(raw[begin : begin + 8], 2, 16, low, big=big)

    return islice(rows(), count), at + len(raw)


def _pack(raw: bytes, count: int, width: int, low: int, *, big: bool) -> list[Row]:
    """Return the rows of one pack: words of bits, and behind them the block its clusters are counted from."""
    words = int.from_bytes(raw[:-4], "little")
    block = int.from_bytes(raw[-4:], "little")
    rows: list[Row] = []
    if not big:
        block += 1  # counted up before each head
    pending = False  # a head whose size is not known yet
    for _ in range(count):
        word = words & (1 << width) - 1
        words >>= width
        kind, value = word >> low & 3, word & (1 << low) - 1
        if kind == _NO_HEAD:
            blocks = value & _COUNT - 1 if big and value & _COUNT else 0
            if blocks:
                block += blocks
            elif pending:
                block += 1
            pending = False
            rows.append((kind, 0, 0, False, blocks))
            continue
        if pending:
            block += 1
        rows.append((kind, value, block & 0xFFFF_FFFF, False, 0))
        pending = True
    return rows
