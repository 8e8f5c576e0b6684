"""The names in a directory: those that count, and those left behind in what deleting frees.

A directory is a chain of blocks of 512 bytes, each a chain of records of its own. Deleting an entry adds
its record to the one before it, or clears its inode number when it is the first of its block; the name
stays until a new one needs the room, and what moves to make room leaves a copy behind.

Source: FreeBSD ``sys/ufs/ufs/dir.h`` (struct direct, DIRBLKSIZ, DIRSIZ, the comment on deletion).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends._deleted_source import Damage, Name
from imgfs.backends.ufs.blocks import rows_of
from imgfs.errors import EvidenceError
from imgfs.model import HOLE, LOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgfs.backends._deleted_source import Found
    from imgfs.backends.ufs.structures import Inode, Superblock
    from imgfs.backends.ufs.tables import Tables

DIRECTORY_BLOCK: Final = 512
_DIRECTORY_MAX: Final = 256 << 20  # bytes of one directory: about ten million entries
_PIECE: Final = 64 * 1024  # a multiple of the directory block
_PAUSE: Final = 2 << 20  # bytes of a directory after which somebody may look at the clock
_DOTS: Final = {b".", b".."}
_TYPES: Final = {0, 1, 2, 4, 6, 8, 10, 12, 14}  # DT_ of dir.h


def live_names(inode: Inode, tables: Tables, *, freed: bool = False) -> Iterator[Found]:
    """Yield the entries of a directory in the order they lie, without the dot entries.

    ``freed``: of a deleted directory only the blocks that nobody uses now.

    Raises:
        EvidenceError: nothing says where the directory lies.
    """
    unpack = _unpacker(tables.superblock)
    for piece in _pieces(inode, tables, freed=freed):
        if piece is None or isinstance(piece, Damage):
            yield piece
            continue
        base, data = piece
        for start in range(0, len(data), DIRECTORY_BLOCK):
            at, stop = start, min(start + DIRECTORY_BLOCK, len(data))
            while at + 8 <= stop:
                number, length, kind, size = unpack(data, at)
                if not _is_record(at, stop, number, length, size):
                    if any(data[at:stop]):
                        yield Damage(f"broken entry at byte {base + at} of the directory")
                    break
                if number:
                    name = data[at + 8 : at + 8 + size]
                    if name not in _DOTS:
                        yield Name(base + at, number, kind, name)
                at += length


def deleted_names(inode: Inode, tables: Tables, *, freed: bool = False) -> Iterator[Found]:
    """Yield the entries that lie behind the ones that count, and those whose inode was cleared."""
    unpack = _unpacker(tables.superblock)
    for piece in _pieces(inode, tables, freed=freed):
        if piece is None or isinstance(piece, Damage):
            yield piece
            continue
        base, data = piece
        for start in range(0, len(data), DIRECTORY_BLOCK):
            at, stop = start, min(start + DIRECTORY_BLOCK, len(data))
            while at + 8 <= stop:
                number, length, _, size = unpack(data, at)
                if not _is_record(at, stop, number, length, size):
                    break
                begin = at + (_room(size) if number else 0)
                yield from _left_behind(tables, data, (begin, at + length, stop), base)
                at += length


def _unpacker(sb: Superblock) -> Callable[[bytes, int], tuple[int, int, int, int]]:
    """Return what reads the head of a record: inode, length of the record, type, length of the name."""
    if sb.typed or sb.order == ">":  # a name is shorter than 256: the upper byte reads as no type
        return struct.Struct(sb.order + "IHBB").unpack_from
    head = struct.Struct(sb.order + "IHH").unpack_from

    def untyped(data: bytes, at: int) -> tuple[int, int, int, int]:
        number, length, size = head(data, at)
        return number, length, 0, size

    return untyped


def _is_record(at: int, stop: int, number: int, length: int, size: int) -> bool:
    return not (length < 8 or length & 3 or at + length > stop or (number and 8 + size > length))


def _room(size: int) -> int:
    """Return the bytes of a record with a name of ``size`` bytes and the zero behind it (DIRSIZ)."""
    return 8 + (size + 4 & ~3)


def _left_behind(tables: Tables, data: bytes, where: tuple[int, int, int], base: int) -> Iterator[Name]:
    at, stop, end = where
    first, sb = at, tables.superblock
    unpack, inodes = _unpacker(sb), sb.groups * sb.inodes_per_group
    while at + 12 <= stop:
        number, length, kind, size = unpack(data, at)
        name = data[at + 8 : at + 8 + size]
        if (
            not size
            or length < _room(size)
            or length & 3
            or at + length > end
            or at + _room(size) > stop
            or kind not in _TYPES
            or number >= inodes
            or (not number and at != first)
            or data[at + 8 + size]
            or b"/" in name
            or b"\0" in name
        ):
            at += 4
            continue
        if name not in _DOTS:
            yield Name(base + at, number, kind, name)
        at += _room(size)


def _pieces(inode: Inode, tables: Tables, *, freed: bool) -> Iterator[tuple[int, bytes] | Damage | None]:
    """Yield the bytes of a directory with their place in it; a hole has no entries."""
    number, pause = inode.attr.inum, _PAUSE
    if inode.attr.size > _DIRECTORY_MAX:
        yield Damage(f"directory {number} claims {inode.attr.size} bytes")
        return
    for logical, length, target in rows_of(tables, inode, freed=freed):
        if target == LOST:
            yield Damage(f"directory {number}: [{logical}, {logical + length}) is lost")
        if target in {HOLE, LOST}:
            continue
        for at in range(0, length, _PIECE):
            try:
                yield logical + at, tables.reader.read(target + at, min(_PIECE, length - at))
            except EvidenceError as why:
                yield Damage(f"directory {number}: byte {logical + at}: {why.message}")
            if logical + at >= pause:
                pause += _PAUSE
                yield None
