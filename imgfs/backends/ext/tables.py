"""Where inodes lie: group descriptors, inode tables, inode bitmaps, each read in pieces and kept.

Everything that reads blocks of the file system goes through here. Knows nothing of what inodes mean.

Source: Linux Documentation/filesystems/ext4, "Block Group Descriptors", "Inode Table", "Block and
Inode Bitmaps".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends.ext.checksums import Checksums
from imgfs.backends.ext.superblock import GDT_CSUM, METADATA_CSUM, Superblock
from imgfs.errors import EvidenceError, Malformed, NotFound

if TYPE_CHECKING:
    from imgfs.backends import Reader

_CHUNK: Final = 32 << 10  # bytes of an inode table read at once: a page of a directory needs a few
_BAD: Final = 100_000  # inodes remembered as damaged
_CHUNKS: Final = 256  # of them kept: 8 MiB
_BITMAPS: Final = 64  # inode bitmaps kept
_GROUPS: Final = 65_536  # parsed descriptors kept
_INODE_UNINIT: Final = 0x1  # bg_flags
_DESCRIPTOR: Final = struct.Struct("<IIIHHHH4xHHHH")
_HIGH: Final = struct.Struct("<III6xH")


class Group:
    """A block group as its descriptor states it. Units: block numbers; ``used`` inodes of the table."""

    __slots__ = ("bitmap", "table", "used")

    def __init__(self, bitmap: int, table: int, used: int) -> None:
        self.bitmap = bitmap
        self.table = table
        self.used = used


class Tables:
    """The blocks of one file system, and where its inodes lie in them.

    ``sums`` None: metadata has no checksums.

    Units: ``limit`` bytes that can be read: the file system, or less of it when the volume is shorter.
    """

    __slots__ = (
        "_bitmaps",
        "_chunks",
        "_groups",
        "_reader",
        "_table_size",
        "bad",
        "limit",
        "sums",
        "superblock",
    )

    def __init__(self, reader: Reader, superblock: Superblock) -> None:
        self._reader = reader
        self.superblock = superblock
        self.limit = min(superblock.size, reader.size)
        self._table_size = superblock.inodes_per_group * superblock.inode_size
        self.sums = Checksums(superblock) if superblock.ro_compat & METADATA_CSUM else None
        self.bad: set[int] = set()  # inodes that were seen, whose checksum differs
        self._groups: dict[int, Group] = {}
        self._chunks: dict[int, bytes] = {}
        self._bitmaps: dict[int, bytes] = {}

    def read(self, start: int, length: int) -> bytes:
        """Return bytes of the file system. Raises EvidenceError when it does not have them."""
        if not 0 <= start <= start + length <= self.limit:
            raise Malformed("outside the file system", start=start, stop=start + length)
        return self._reader.read(start, length)

    def block(self, number: int) -> bytes:
        """Return one block.

        Raises:
            Malformed: the number is no data block.
            EvidenceError: the volume cannot supply it.
        """
        size = self.superblock.block
        if number <= self.superblock.first:
            raise Malformed(f"block {number} holds no data")
        return self.read(number * size, size)

    def group(self, number: int) -> Group:
        """Return a block group.

        Raises:
            EvidenceError: its descriptor cannot be read, or its inode table leaves the file system.
        """
        found = self._groups.get(number)
        if found is not None:
            return found
        sb = self.superblock
        index, position = divmod(number, sb.block // sb.descriptor)
        data = self.read(sb.descriptor_block(index) * sb.block + position * sb.descriptor, sb.descriptor)
        _, bitmap, table, _, _, _, flags, _, _, unused, _ = _DESCRIPTOR.unpack_from(data)
        if sb.descriptor >= 64:
            _, bitmap_high, table_high, unused_high = _HIGH.unpack_from(data, 32)
            bitmap |= bitmap_high << 32
            table |= table_high << 32
            unused |= unused_high << 16
        used = sb.inodes_per_group
        if sb.ro_compat & (GDT_CSUM | METADATA_CSUM):  # only then flags and unused counts mean something
            used = 0 if flags & _INODE_UNINIT else max(used - unused, 0)
        if table <= sb.first or table * sb.block + self._table_size > sb.size:
            raise Malformed(f"group {number}: inode table at block {table}")
        if len(self._groups) >= _GROUPS:
            self._groups.clear()
        group = self._groups[number] = Group(bitmap, table, used)
        return group

    def inode(self, number: int) -> bytes:
        """Return the bytes of an inode.

        Raises:
            NotFound: the number is outside the file system.
            EvidenceError: the volume cannot supply them.
        """
        chunk, at = self.located(number)
        return chunk[at : at + self.superblock.inode_size]

    def located(self, number: int) -> tuple[bytes, int]:
        """Return bytes of an inode table and where in them an inode begins; raises as ``inode`` does."""
        sb = self.superblock
        if not 0 < number <= sb.inodes:
            raise NotFound(f"inode {number}")
        number, index = divmod(number - 1, sb.inodes_per_group)
        at = index * sb.inode_size
        start = at - at % _CHUNK
        key = number << 32 | start
        kept = self._chunks.get(key)
        if kept is None:
            table = self.group(number).table * sb.block
            try:
                data = self.read(table + start, min(_CHUNK, self._table_size - start))
            except EvidenceError:  # a neighbour is lost: this one may be there
                return self.read(table + at, sb.inode_size), 0
            if len(self._chunks) >= _CHUNKS:
                del self._chunks[next(iter(self._chunks))]
            kept = self._chunks[key] = data
            if self.sums is not None and len(self.bad) < _BAD:
                first = number * sb.inodes_per_group + start // sb.inode_size + 1
                self.bad.update(self.sums.inodes(first, data))
        return kept, at - start

    def is_allocated(self, number: int) -> bool:
        """Say what the inode bitmap says. Raises as ``inode`` does."""
        sb = self.superblock
        if not 0 < number <= sb.inodes:
            raise NotFound(f"inode {number}")
        group, index = divmod(number - 1, sb.inodes_per_group)
        return bool(self.bitmap(group)[index >> 3] >> (index & 7) & 1)

    def bitmap(self, number: int) -> bytes:
        """Return the inode bitmap of a group, one bit an inode, lowest bit first. Raises EvidenceError."""
        kept = self._bitmaps.get(number)
        if kept is not None:
            return kept
        sb, group = self.superblock, self.group(number)
        length = -(-sb.inodes_per_group // 8)
        # an uninitialised bitmap may hold anything: it stands for zeros
        data = self.block(group.bitmap)[:length] if group.used else bytes(length)
        if len(self._bitmaps) >= _BITMAPS:
            del self._bitmaps[next(iter(self._bitmaps))]
        self._bitmaps[number] = data
        return data
