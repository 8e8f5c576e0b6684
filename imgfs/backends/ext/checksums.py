"""Checksums of ext4's metadata (metadata_csum): of inodes, extent blocks, directory blocks, attributes.

Source: Linux Documentation/filesystems/ext4, "Checksums": CRC-32C that starts from the UUID or the seed of
the superblock and is stored without its final inversion; what belongs to an inode goes on from its number
and generation.
"""

from __future__ import annotations

import struct
from array import array
from sys import byteorder
from typing import TYPE_CHECKING, Final

from imgfs.backends._crc32c import crc32c
from imgfs.block.sums import records

if TYPE_CHECKING:
    from imgfs.backends.ext.superblock import Superblock

_INVERTED: Final = 0xFFFF_FFFF
_LOW: Final = (0x7C, 0x7E)  # bytes of an inode that hold the halves of its checksum
_HIGH: Final = (0x82, 0x84)
_GENERATION: Final = 0x64
_EXTRA: Final = 0x80
_TAIL: Final = struct.Struct(
    "<IHBBI"
)  # of a directory's block: no inode, 12 bytes, no name, a type of its own
_TAIL_KIND: Final = 0xDE
_ATTRIBUTES: Final = (16, 20)


class Checksums:
    """The checksums of one file system."""

    __slots__ = ("_begun", "_size")

    def __init__(self, superblock: Superblock) -> None:
        self._begun = superblock.checksum_seed ^ _INVERTED
        self._size = superblock.inode_size

    def inodes(self, first: int, table: bytes) -> list[int]:
        """Return the inodes in use whose checksum differs; ``table`` starts with inode ``first``."""
        size, count = self._size, len(table) // self._size
        words, halves = array("I", table), array("H", table)
        if byteorder == "big":
            words.byteswap()
            halves.byteswap()
        heads = array("I", bytes(8 * count))
        heads[::2] = array("I", range(first, first + count))
        heads[1::2] = words[_GENERATION // 4 :: size // 4]
        if byteorder == "big":
            heads.byteswap()
        modes, low = halves[:: size // 2], halves[_LOW[0] // 2 :: size // 2]
        wide = size > 128
        holes = (_LOW, _HIGH) if wide else (_LOW,)
        found = records(table, size, heads.tobytes(), holes, self._begun)
        if not wide:
            rows = zip(modes, found, low, strict=True)
            return [first + i for i, (mode, sum_, one) in enumerate(rows) if mode and (~sum_ ^ one) & 0xFFFF]
        extra, high = halves[_EXTRA // 2 :: size // 2], halves[_HIGH[0] // 2 :: size // 2]
        bad = []
        for i, (mode, sum_) in enumerate(zip(modes, found, strict=True)):
            if mode and sum_ ^ _INVERTED != low[i] | high[i] << 16:
                if extra[i] < 4:  # no room for the upper half
                    one = records(
                        table[i * size : i * size + size],
                        size,
                        heads[2 * i : 2 * i + 2].tobytes(),
                        (_LOW,),
                        self._begun,
                    )
                    if not (~one[0] ^ low[i]) & 0xFFFF:
                        continue
                bad.append(first + i)
        return bad

    def extents(self, number: int, generation: int, block: bytes) -> bool:
        """Say whether the checksum of a block of an extent tree is right."""
        (most,) = struct.unpack_from("<H", block, 4)
        tail = 12 + 12 * most
        if tail + 4 > len(block):
            return False
        return self._of(number, generation, block[:tail]) == int.from_bytes(block[tail : tail + 4], "little")

    def node(self, number: int, generation: int, block: bytes, at: int) -> bool:
        """Say whether the checksum of a node of a hash tree is right, whose limit and count stand at ``at``.

        It covers the node as far as it is in use and the first half of the tail, which may still be what it
        was when the block held names.
        """
        limit, count = struct.unpack_from("<HH", block, at)
        tail, used = at + 8 * limit, at + 8 * count
        if count > limit or tail + 8 > len(block):
            return False
        reserved, stated = block[tail : tail + 4], int.from_bytes(block[tail + 4 : tail + 8], "little")
        return self._of(number, generation, block[:used] + reserved + bytes(4)) == stated

    def leaf(self, number: int, generation: int, block: bytes) -> bool:
        """Say whether the checksum of a directory's block is right, or it has none."""
        inode, record, name, kind, stated = _TAIL.unpack_from(block, len(block) - _TAIL.size)
        if inode or record != _TAIL.size or name or kind != _TAIL_KIND:
            return True
        return self._of(number, generation, block[: -_TAIL.size]) == stated  # type: ignore[no-any-return]  # struct

    def attributes(self, number: int, block: bytes) -> bool:
        """Say whether the checksum of block ``number``, which holds attributes, is right."""
        found = records(block, len(block), struct.pack("<Q", number), (_ATTRIBUTES,), self._begun)[0]
        return found ^ _INVERTED == int.from_bytes(block[slice(*_ATTRIBUTES)], "little")

    def _of(self, number: int, generation: int, data: bytes) -> int:
        return crc32c(struct.pack("<II", number, generation) + data, self._begun) ^ _INVERTED
