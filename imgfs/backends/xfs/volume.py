"""Blocks and inodes of one file system, read in pieces, checked, and kept.

Everything that reads goes through here. Knows nothing of what inodes mean.

Source: XFS Algorithms and Data Structures, 3rd edition, "Metadata Integrity", "Inode Numbers", "Inode
Allocation".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.xfs.checksum import all_intact, intact
from imgfs.errors import EvidenceError, Malformed, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends.xfs.superblock import Superblock

_CHUNK: Final = 32 << 10  # bytes of inodes read at once: 64 of 512
_CHUNKS: Final = 256  # of them kept: 8 MiB
_MARK: Final = b"IN"
INODE_SUM: Final = 100  # byte of di_crc
_OWN: Final = struct.Struct(">Q16s")  # di_ino, di_uuid, byte 152


class Header(NamedTuple):
    """Where a kind of checked metadata states what it is. Units: bytes of the block."""

    checksum: int
    place: int  # of the block, in sectors of 512 bytes
    uuid: int
    owner: int


LONG: Final = Header(64, 24, 40, 56)  # trees of extents
SHORT: Final = Header(52, 16, 32, -1)  # trees of an allocation group
DIRECTORY: Final = Header(4, 8, 24, 40)
ATTRIBUTES: Final = Header(12, 16, 32, 48)
REMOTE: Final = Header(12, 40, 16, 32)  # values of attributes, targets of symbolic links


class Chunk:
    """Some inodes that lie together, and which of them are to be believed. None: not looked at yet."""

    __slots__ = ("data", "good")

    def __init__(self, data: bytes, count: int) -> None:
        self.data = data
        self.good: list[str | None] = [None] * count


class Volume:
    """The blocks of one file system.

    Units: ``limit`` bytes that can be read: the file system, or less of it when the volume is shorter.
    """

    __slots__ = ("_chunks", "_mask", "_reader", "limit", "superblock")

    def __init__(self, reader: Reader, superblock: Superblock) -> None:
        self._reader = reader
        self.superblock = superblock
        self.limit = min(superblock.size, reader.size)
        self._chunks: dict[int, Chunk] = {}
        in_group = superblock.group_bits + superblock.inode_bits
        self._mask = min(_CHUNK // superblock.inode, 1 << in_group) - 1

    def read(self, start: int, length: int) -> bytes:
        """Return bytes of the file system. Raises EvidenceError when it does not have them."""
        if not 0 <= start <= start + length <= self.limit:
            raise Malformed("outside the file system", start=start, stop=start + length)
        return self._reader.read(start, length)

    def place(self, number: int) -> int:
        """Return the byte where a block lies. Raises Malformed when no group has it."""
        at = self.superblock.linear(number)
        if at <= 0:  # block 0 holds the superblock
            raise Malformed(f"block {number:#x} is in no allocation group")
        return at << self.superblock.block_bits

    def block(self, number: int) -> bytes:
        """Return one block. Raises EvidenceError when there is none."""
        return self.read(self.place(number), self.superblock.block)

    def verify(self, data: bytes, header: Header, place: int, owner: int) -> None:
        """Compare a block of checked metadata with what it states of itself.

        Args:
            data: the block.
            header: where it states that.
            place: the byte where it lies.
            owner: the inode, or the allocation group, that it belongs to.

        Raises:
            Malformed: its checksum differs, or it is one of another place, owner or file system.
        """
        if not intact(data, header.checksum):
            raise Malformed("the checksum differs", start=place, stop=place + len(data))
        why = self.misplaced(data, header, place, owner)
        if why:
            raise Malformed(why, start=place, stop=place + len(data))

    def misplaced(self, data: bytes, header: Header, place: int, owner: int) -> str:
        """Say why a block of checked metadata does not belong where it lies, empty: it does."""
        if int.from_bytes(data[header.place : header.place + 8], "big") != place >> 9:
            return "metadata of another place"
        if data[header.uuid : header.uuid + 16] != self.superblock.meta_uuid:
            return "metadata of another file system"
        if header.owner >= 0 and int.from_bytes(data[header.owner : header.owner + 8], "big") != owner:
            return f"metadata of another file than inode {owner}"
        return ""

    def located(self, number: int) -> tuple[bytes, int]:
        """Return bytes and where in them inode ``number`` begins.

        Raises:
            NotFound: no allocation group has that number, or no inode is there.
            EvidenceError: it cannot be read, or is damaged.
        """
        index = number & self._mask
        chunk = self._chunks.get(number - index) or self._chunk(number - index, index)
        if chunk is None:  # a neighbour is lost: this one may be there
            return self._alone(number), 0
        at = index * self.superblock.inode
        why = chunk.good[index]
        if why is None:
            why = chunk.good[index] = self._judge(chunk.data[at : at + self.superblock.inode], number)
        if why:
            raise _error(why, number)
        return chunk.data, at

    def _chunk(self, first: int, index: int) -> Chunk | None:
        """Return inodes from ``first`` on, at least those up to ``index``; None: not all can be read."""
        sb = self.superblock
        start = self._inode_place(first + index) - index * sb.inode
        group, rest = divmod(first, 1 << sb.group_bits + sb.inode_bits)
        count = min(self._mask + 1, (sb.group_size(group) << sb.inode_bits) - rest)
        try:
            data = self.read(start, count * sb.inode)
        except EvidenceError:
            return None
        if len(self._chunks) >= _CHUNKS:
            del self._chunks[next(iter(self._chunks))]
        chunk = self._chunks[first] = Chunk(data, self._mask + 1)
        if sb.checked:
            self._check_all(chunk, first)
        return chunk

    def _inode_place(self, number: int) -> int:
        """Return the byte where an inode would lie. Raises NotFound when no allocation group has it."""
        sb = self.superblock
        group, rest = divmod(number, 1 << sb.group_bits + sb.inode_bits)
        if not 0 <= group < sb.groups or rest >= sb.group_size(group) << sb.inode_bits:
            raise NotFound(f"inode {number} is in no allocation group")
        return (group * sb.group_blocks << sb.block_bits) + rest * sb.inode

    def inode(self, number: int) -> bytes:
        """Return the bytes of an inode; raises as ``located``."""
        data, at = self.located(number)
        return data[at : at + self.superblock.inode]

    def _alone(self, number: int) -> bytes:
        data = self.read(self._inode_place(number), self.superblock.inode)
        why = self._judge(data, number)
        if why:
            raise _error(why, number)
        return data

    def _check_all(self, chunk: Chunk, first: int) -> None:
        """Check the inodes of a chunk in one go; what is wrong with one is found out when it is asked for."""
        size, data, uuid = self.superblock.inode, chunk.data, self.superblock.meta_uuid
        for index, good in enumerate(all_intact(data, size, INODE_SUM)):
            at = index * size
            marked = good and data[at : at + 2] == _MARK and data[at + 4] == 3
            if marked and _OWN.unpack_from(data, at + 152) == (first + index, uuid):
                chunk.good[index] = ""

    def _judge(self, data: bytes, number: int) -> str:
        """Say what is wrong with an inode, empty: nothing; ``_NONE``: there is none."""
        if data[:2] != _MARK:
            return _NONE
        if not self.superblock.checked:
            return "" if data[4] in (1, 2) else f"inode of version {data[4]}"
        if data[4] != 3:
            return f"inode of version {data[4]}"
        if not intact(data, INODE_SUM):
            return "the checksum differs"
        if _OWN.unpack_from(data, 152) != (number, self.superblock.meta_uuid):
            return "it is another inode, or of another file system"
        return ""

    def first_inode(self) -> int:
        """Return the first inode there is: the root directory, when no superblock states it.

        Raises:
            EvidenceError: the tree of inodes of the first allocation group cannot be read.
        """
        sb = self.superblock
        raw = self.read(2 * sb.sector, sb.sector)
        if raw[:4] != b"XAGI" or (sb.checked and not intact(raw, 312)):
            raise Malformed("the header of inodes of the first allocation group is damaged")
        number, level = struct.unpack_from(">II", raw, 20)
        head = 56 if sb.checked else 16
        for _ in range(9):
            block = self.block(number)
            if block[:4] != (b"IAB3" if sb.checked else b"IABT"):
                raise Malformed("no tree of inodes")
            if sb.checked:
                self.verify(block, SHORT, self.place(number), 0)
            if not struct.unpack_from(">H", block, 4)[0]:
                return int(struct.unpack_from(">I", block, head)[0])
            (number,) = struct.unpack_from(">I", block, head + (sb.block - head) // 8 * 4)
        raise Malformed(f"a tree of inodes of {level} levels")

    def pieces(self, start: int, length: int, size: int) -> Iterator[tuple[int, bytes | str]]:
        """Yield what can be read of a range, with its place: whole if possible, else in parts of ``size``."""
        try:
            yield 0, self.read(start, length)
        except EvidenceError:
            for at in range(0, length, size):
                try:
                    yield at, self.read(start + at, min(size, length - at))
                except EvidenceError as why:
                    yield at, why.message


_NONE: Final = "none"


def _error(why: str, number: int) -> NotFound | Malformed:
    return NotFound(f"inode {number}: there is none") if why is _NONE else Malformed(f"inode {number}: {why}")
