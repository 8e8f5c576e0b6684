"""The names in a directory: those that count, and those left behind in what deleting frees.

Hash trees need no code of their own: their leaves are blocks of plain entries, and their nodes look
like blocks without any.

Source: Linux Documentation/filesystems/ext4, "Directory Entries", "Linear (Classic) Directories",
"Hash Tree Directories", "Inline Data".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends._deleted_source import Damage, Name
from imgfs.backends.ext.blocks import rows_of
from imgfs.backends.ext.inode import ENCRYPTED, INDEXED, INLINE, Inode, size_of
from imgfs.backends.ext.superblock import FILETYPE
from imgfs.backends.ext.xattr import inline_rest
from imgfs.errors import EvidenceError
from imgfs.limits import SOURCE_READ_MAX
from imgfs.model import LOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._deleted_source import Found
    from imgfs.backends.ext.tables import Tables

_HEAD: Final = struct.Struct("<IHBB")  # inode, rec_len, name_len, file_type
_DOTS: Final = {b".", b".."}
_PAUSE: Final = 16 << 20  # bytes of a directory after which somebody may look at the clock
_ROOT_ENTRIES: Final = 32  # after ".", ".." and what is said of the tree
_NODE_ENTRIES: Final = 8  # after the record that covers the block
_SAID: Final = 100  # blocks with a wrong checksum that are named
_BAD_BLOCKS: Final = 1000  # of one directory: what follows is no directory any more


def live_names(inode: Inode, tables: Tables) -> Iterator[Found]:
    """Yield the entries of a directory in the order they lie, without the dot entries.

    Raises:
        Malformed: nothing says where the directory lies.
    """
    typed = bool(tables.superblock.incompat & FILETYPE)
    unpack = _HEAD.unpack_from
    for piece in _pieces(inode, tables):
        if piece is None or isinstance(piece, Damage):
            yield piece
            continue
        base, data, at, stop = piece
        while at < stop:
            record = _record(data, at, stop)
            if not record:
                yield Damage(f"directory {inode.number}: no entry at {base + at}")
                break
            number, _, length, kind = unpack(data, at)
            if number:
                name = data[at + 8 : at + 8 + length]
                if name not in _DOTS:
                    yield Name(base + at, number, kind if typed else 0, name)
            at += record


def bad_blocks(inode: Inode, tables: Tables) -> list[int]:
    """Return the first bytes of blocks of a directory whose checksum differs, of the first ones alone.

    Raises:
        Malformed: nothing says where the directory lies.
    """
    sums, found = tables.sums, list[int]()
    if sums is None or inode.flags & INLINE:
        return found
    for piece in _pieces(inode, tables):
        if piece is None or len(found) == _SAID:
            break
        if not isinstance(piece, Damage):
            base, data, at, stop = piece
            node = _hash_entries(inode, tables, data, at, base)
            block = data[at:stop]
            if node:
                right = sums.node(inode.number, inode.generation, block, node)
            else:
                right = sums.leaf(inode.number, inode.generation, block)
            if not right:
                found.append(base + at)
    return found


def _hash_entries(inode: Inode, tables: Tables, data: bytes, at: int, base: int) -> int:
    """Return where in a block the entries of a hash tree begin, 0 when it is no node of one."""
    if not inode.flags & INDEXED:
        return 0
    if base + at == 0:
        return _ROOT_ENTRIES
    return _NODE_ENTRIES if _is_hash_node(inode, tables, data, at, base) else 0


def deleted_names(inode: Inode, tables: Tables) -> Iterator[Found]:
    """Yield the entries that lie between the ones that count, and those whose inode was cleared."""
    for piece in _pieces(inode, tables):
        if piece is None or isinstance(piece, Damage):
            yield piece
            continue
        base, data, at, stop = piece
        while at < stop:
            record = _record(data, at, stop)
            if not record:
                break
            number, _, length, _ = _HEAD.unpack_from(data, at)
            begin = at + (8 + (length + 3 & ~3) if number or not length else 0)
            if not _is_hash_node(inode, tables, data, at, base):
                yield from _left_behind(inode, tables, data, (begin, at + record, stop), base)
            at += record


def _record(data: bytes, at: int, stop: int) -> int:
    """Return the length of the record at ``at``, 0 when there can be none."""
    if at + 8 > stop:
        return 0
    _, record, length, _ = _HEAD.unpack_from(data, at)
    if record in (0, 0xFFFF) and stop - at == 0x10000:
        return 0x10000  # 16 bits cannot say it: a block of 64 KiB with a single entry
    if record < 8 + length or record & 3 or at + record > stop:
        return 0
    return record  # type: ignore[no-any-return]  # struct has no types


def _is_hash_node(inode: Inode, tables: Tables, data: bytes, at: int, base: int) -> bool:
    """Say whether a record is the cover of a hash tree node: its slack holds hashes and no names."""
    if not inode.flags & INDEXED:
        return False
    block = tables.superblock.block
    if base + at == 12:  # the ".." of the first block covers the root of the tree
        return True
    number, record, length, _ = _HEAD.unpack_from(data, at)
    if number or length or record < min(block, 0xFFFC) or at % block:
        return False
    return block - 24 <= 8 * int.from_bytes(data[at + 8 : at + 10], "little") <= block - 8


def _left_behind(
    inode: Inode, tables: Tables, data: bytes, where: tuple[int, int, int], base: int
) -> Iterator[Name]:
    at, stop, end = where
    typed = bool(tables.superblock.incompat & FILETYPE)
    free = inode.flags & ENCRYPTED  # encrypted names may hold any byte
    while at + 12 <= stop:
        number, record, length, kind = _HEAD.unpack_from(data, at)
        if not record and not number:
            at += 4
            continue
        size = 8 + (length + 3 & ~3)
        name = data[at + 8 : at + 8 + length]
        if (
            not length
            or record < 8 + length
            or record & 3
            or at + record > end
            or at + 8 + length > stop
            or kind > 7
            or not 0 <= number <= tables.superblock.inodes
            or (not number and at != where[0])
            or (not free and (b"/" in name or b"\0" in name))
        ):
            at += 4
            continue
        if name not in _DOTS:
            yield Name(base + at, number, kind if typed else 0, name)
        at += size


_Piece = tuple[int, bytes, int, int]  # byte of the directory where data begins, data, from, to


def _pieces(inode: Inode, tables: Tables) -> Iterator[_Piece | Damage | None]:
    """Yield the blocks of a directory: each is a chain of records of its own."""
    if inode.flags & INLINE:
        yield 0, inode.data, 4, 60  # the first four bytes name the parent
        rest = inline_rest(inode, tables)
        if rest:
            yield 60, rest, 0, len(rest)
        return
    block, bad, seen = tables.superblock.block, 0, set[int]()
    pause = _PAUSE
    size = size_of(inode, tables)
    if size % block:
        yield Damage(f"directory {inode.number}: size {size} is not in blocks of {block}")
        size -= size % block
    for logical, length, target in rows_of(inode, tables, size):
        if target == LOST:
            yield Damage(f"directory {inode.number}: [{logical}, {logical + length}) is lost")
        if target < 0:
            continue
        for offset in range(0, length, SOURCE_READ_MAX):
            start, take = target + offset, min(SOURCE_READ_MAX, length - offset)
            for at, data in _read(tables, start, take):
                base = logical + offset + at
                if isinstance(data, str):
                    bad += 1
                    yield Damage(f"directory {inode.number}: byte {base}: {data}")
                    if bad > _BAD_BLOCKS:
                        return
                    continue
                for position in range(0, len(data), block):
                    if start + at + position in seen:
                        yield Damage(f"directory {inode.number}: a block is twice in it")
                        return
                    seen.add(start + at + position)
                    yield base, data, position, position + block
            if logical + offset >= pause:
                pause += _PAUSE
                yield None


def _read(tables: Tables, start: int, length: int) -> Iterator[tuple[int, bytes | str]]:
    """Yield what can be read of a range, with its place: whole if possible, else by blocks."""
    try:
        yield 0, tables.read(start, length)
    except EvidenceError:
        block = tables.superblock.block
        for at in range(0, length, block):
            try:
                yield at, tables.read(start + at, block)
            except EvidenceError as why:
                yield at, why.message
