"""The names in a directory, in each of the forms it may have.

Entries lie in data blocks of the first 32 GiB, or in the inode; the hash blocks behind them need no code: a
page of a directory carries everything.

Source: XFS Algorithms and Data Structures, 3rd edition, "Directories".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends._deleted_source import Damage, Name
from imgfs.backends.xfs.checksum import all_intact
from imgfs.backends.xfs.extents import blocks_of
from imgfs.backends.xfs.inode import LOCAL, Inode
from imgfs.backends.xfs.volume import DIRECTORY
from imgfs.errors import Malformed
from imgfs.limits import SOURCE_READ_MAX
from imgfs.model import LOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._deleted_source import Found
    from imgfs.backends.xfs.volume import Volume

_SPACE: Final = 32 << 30  # bytes of a directory that hold names
_DOTS: Final = (b".", b"..")
_FREE: Final = 0xFFFF
_PAUSE: Final = 16 << 20  # bytes of a directory after which somebody may look at the clock
_BAD_BLOCKS: Final = 1000  # of one directory: what follows is no directory any more
_HEAD: Final = struct.Struct(">QB")  # inode number, length of the name
_TAIL: Final = struct.Struct(">II")  # of a single block: hashes, stale ones


def names_of(inode: Inode, volume: Volume) -> Iterator[Found]:
    """Yield the entries of a directory in the order they lie, without the dot entries.

    Raises:
        Malformed: nothing says where the directory lies.
    """
    if inode.format == LOCAL:
        yield from _short(inode, volume)
        return
    bad = 0
    for base, data in _blocks(inode, volume):
        if data is None:
            yield None
        elif isinstance(data, str):
            bad += 1
            yield Damage(f"directory {inode.number}: byte {base}: {data}")
            if bad > _BAD_BLOCKS:
                return
        else:
            yield from _block(inode, volume, base, data)


def _short(inode: Inode, volume: Volume) -> Iterator[Found]:
    """Yield the entries that lie in the inode."""
    data, typed = inode.data[: inode.size], volume.superblock.typed
    if len(data) < 6:  # counts and the parent
        raise Malformed(f"directory {inode.number}: {len(data)} bytes in the inode")
    count, wide = data[0] or data[1], bool(data[1])
    width = 8 if wide else 4
    at = 2 + width
    for _ in range(count):
        length = data[at] if at < len(data) else 0
        stop = at + 3 + length + typed + width
        if not length or stop > len(data):
            yield Damage(f"directory {inode.number}: no entry at {at}")
            return
        name = data[at + 3 : at + 3 + length]
        number = int.from_bytes(data[stop - width : stop], "big")
        yield Name(at, number, data[stop - width - 1] if typed else 0, name)
        at = stop


def _block(inode: Inode, volume: Volume, base: int, data: bytes) -> Iterator[Found]:
    """Yield the entries of one data block."""
    sb = volume.superblock
    typed, alone = sb.typed, data[:4] in (b"XDB3", b"XD2B")
    at, stop = 64 if sb.checked else 16, len(data)
    if alone:
        count, _ = _TAIL.unpack_from(data, stop - 8)
        stop -= 8 + 8 * count
        if stop < at:
            yield Damage(f"directory {inode.number}: {count} hashes in a block of {len(data)} bytes")
            return
    unpack, shortest = _HEAD.unpack_from, 16
    while at + shortest <= stop:
        number, length = unpack(data, at)
        if number >> 48 == _FREE:
            size = number >> 32 & 0xFFFF
            if size < 8 or size & 7 or at + size > stop:
                yield Damage(f"directory {inode.number}: no entry at {base + at}")
                return
            at += size
            continue
        end = at + 9 + length
        size = 9 + length + typed + 2 + 7 & ~7
        if not length or at + size > stop:
            yield Damage(f"directory {inode.number}: no entry at {base + at}")
            return
        name = data[at + 9 : end]
        if name not in _DOTS:
            yield Name(base + at, number, data[end] if typed else 0, name)
        at += size


def _blocks(inode: Inode, volume: Volume) -> Iterator[tuple[int, bytes | str | None]]:
    """Yield the data blocks of a directory with their places in it; or what is wrong with one; or a pause."""
    sb, pause = volume.superblock, _PAUSE
    size, parts = sb.directory, sb.directory >> sb.block_bits
    if inode.size % size:
        yield inode.size, f"the size is not in blocks of {size}"
    rows = blocks_of(inode, volume, 0, min(inode.size // size * parts, _SPACE >> sb.block_bits))
    held: list[bytes] = []  # of a block that lies in several pieces
    first = 0
    for logical, length, target in rows:
        if target < 0:
            if target == LOST:
                yield logical, f"[{logical}, {logical + length}) is lost"
            held = []
            continue
        at = 0
        while at < length:
            ahead = (logical + at) % size
            if ahead or length - at < size:
                take = min(size - ahead, length - at)
                if not ahead:
                    held, first = [], target + at
                if held or not ahead:
                    found = _read(volume, target + at, take)
                    if isinstance(found, str):
                        yield logical + at, found
                        held = []
                    else:
                        held.append(found)
                        if ahead + take == size:
                            yield from _judged(inode, volume, logical + at - ahead, first, b"".join(held))
                            held = []
                at += take
                continue
            take = min((length - at) // size * size, SOURCE_READ_MAX // size * size)
            for offset, data in volume.pieces(target + at, take, size):
                place = logical + at + offset
                if isinstance(data, str):
                    yield place, data
                else:
                    yield from _judged(inode, volume, place, target + at + offset, data)
            at += take
            if logical + at >= pause:
                pause = logical + at + _PAUSE
                yield logical, None


def _read(volume: Volume, start: int, length: int) -> bytes | str:
    return next(data for _, data in volume.pieces(start, length, length))


def _judged(
    inode: Inode, volume: Volume, base: int, place: int, data: bytes
) -> Iterator[tuple[int, bytes | str]]:
    """Yield the blocks that ``data`` consists of, checked."""
    sb = volume.superblock
    size = sb.directory
    marks = (b"XDB3", b"XDD3") if sb.checked else (b"XD2B", b"XD2D")
    good = all_intact(data, size, DIRECTORY.checksum) if sb.checked else []
    for at in range(0, len(data), size):
        block, why = data[at : at + size], ""
        if sb.checked:
            why = volume.misplaced(block, DIRECTORY, place + at, inode.number)
            if not good[at // size]:
                why = "the checksum differs"
        if block[:4] not in marks or (block[:4] == marks[0] and inode.size != size):
            why = "no block of a directory"
        yield base + at, why or block
