"""Where inodes lie, and what the cylinder groups say of inodes and fragments; read in pieces and kept.

Source: FreeBSD ``sys/ufs/ffs/fs.h`` (struct cg, cgtod, cg_inosused, cg_blksfree, cg_chkmagic).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.model import LOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._layouts import Row
    from imgfs.backends.ufs.structures import Superblock

_CHUNK: Final = 32 << 10  # bytes of an inode table read at once: a page of a directory needs a few
_CHUNKS: Final = 256  # of them kept: 8 MiB
_GROUPS: Final = 64  # groups kept, a block each: 4 MiB
_GROUP_MAGIC: Final = 0x090255
_BITMAPS_AT: Final = 92  # cg_iusedoff, cg_freeoff
_INITIALISED_AT: Final = 120  # cg_initediblk


class Group(NamedTuple):
    """The bitmaps of a cylinder group. ``inodes``: 1 is in use; ``fragments``: 1 is free."""

    inodes: bytes
    fragments: bytes
    initialised: int  # inodes that were ever written


class Tables:
    """The inodes and bitmaps of one file system."""

    __slots__ = ("_chunks", "_groups", "reader", "superblock")

    def __init__(self, reader: Reader, superblock: Superblock) -> None:
        self.reader = reader
        self.superblock = superblock
        self._chunks: OrderedDict[int, bytes] = OrderedDict()
        self._groups: OrderedDict[int, Group | str] = OrderedDict()

    def inode(self, number: int) -> bytes:
        """Return the bytes of an inode.

        Raises:
            NotFound: outside the file system.
            EvidenceError: the volume cannot supply them.
        """
        sb, size = self.superblock, self.superblock.inode_size
        at = sb.inode_at(number)
        start = at - number % sb.inodes_per_group * size  # of the table
        piece = (at - start) // _CHUNK * _CHUNK
        kept = self._chunks.get(start + piece)
        if kept is None:
            try:
                kept = self.reader.read(start + piece, min(_CHUNK, sb.inodes_per_group * size - piece))
            except EvidenceError:  # a neighbour is lost: this one may be there
                return self.reader.read(at, size)
            if len(self._chunks) >= _CHUNKS:
                self._chunks.popitem(last=False)
            self._chunks[start + piece] = kept
        at -= start + piece
        return kept[at : at + size]

    def is_in_use(self, number: int) -> bool:
        """Say what the bitmap of inodes says. Raises NotFound outside the file system, EvidenceError."""
        sb = self.superblock
        if not 0 <= number < sb.groups * sb.inodes_per_group:
            raise NotFound(f"inode {number}")
        group, index = divmod(number, sb.inodes_per_group)
        return bool(self.group(group).inodes[index >> 3] >> (index & 7) & 1)

    def group(self, number: int) -> Group:
        """Return what a cylinder group says. Raises EvidenceError when it says nothing."""
        kept = self._groups.get(number)
        if kept is None:
            try:
                kept = self._group(number)
            except EvidenceError as why:
                kept = why.message
            if len(self._groups) >= _GROUPS:
                self._groups.popitem(last=False)
            self._groups[number] = kept
        if isinstance(kept, str):
            raise Malformed(kept)
        return kept

    def _group(self, number: int) -> Group:
        sb = self.superblock
        raw = self.reader.read((sb.group_start(number) + sb.group_block) * sb.fragment, sb.block)
        (magic,) = struct.unpack_from(sb.order + "I", raw, 4)
        inodes_at, fragments_at = struct.unpack_from(sb.order + "2I", raw, _BITMAPS_AT)
        (initialised,) = struct.unpack_from(sb.order + "I", raw, _INITIALISED_AT)
        inodes, fragments = -(-sb.inodes_per_group // 8), -(-sb.fragments_per_group // 8)
        if magic != _GROUP_MAGIC:
            raise Malformed(f"cylinder group {number}: no magic number")
        if inodes_at + inodes > len(raw) or fragments_at + fragments > len(raw):
            raise Malformed(f"cylinder group {number}: bitmaps at {inodes_at} and {fragments_at}")
        if sb.version == 1 or not 0 <= initialised <= sb.inodes_per_group:
            initialised = sb.inodes_per_group  # only UFS2 writes inodes when they are first needed
        return Group(
            raw[inodes_at : inodes_at + inodes], raw[fragments_at : fragments_at + fragments], initialised
        )

    def is_free(self, at: int, length: int) -> bool:
        """Say whether all fragments of [at, at + length) bytes are free; False: it cannot be known."""
        return all(free for _, _, free in self._free(at, length))

    def only_free(self, rows: list[Row]) -> list[Row]:
        """Return runs of a deleted file, LOST where its blocks are in use: by somebody else."""
        found: list[Row] = []
        for logical, length, target in rows:
            if target < 0:
                found.append((logical, length, target))
                continue
            for at, count, free in self._free(target, length):
                where, place = logical + at - target, at if free else LOST
                if found and place == LOST == found[-1][2]:
                    found[-1] = (found[-1][0], found[-1][1] + count, LOST)
                elif free and found and found[-1][2] >= 0 and found[-1][2] + found[-1][1] == place:
                    found[-1] = (found[-1][0], found[-1][1] + count, found[-1][2])
                else:
                    found.append((where, count, place))
        return found

    def _free(self, at: int, length: int) -> Iterator[tuple[int, int, bool]]:
        """Yield the parts of [at, at + length) bytes in order: place, length, whether it is free."""
        sb, stop = self.superblock, at + length
        while at < stop:
            first = at // sb.fragment
            group, index = divmod(first, sb.fragments_per_group)
            ends = min(stop, (group + 1) * sb.fragments_per_group * sb.fragment)
            count = -(-ends // sb.fragment) - first
            text, offset = self._bits(group, index, count), 0
            while offset < count:
                free = text[offset] == "1"
                behind = text.find("0" if free else "1", offset)
                behind = count if behind < 0 else behind
                begin = max(at, (first + offset) * sb.fragment)
                yield begin, min(ends, (first + behind) * sb.fragment) - begin, free
                offset = behind
            at = ends

    def _bits(self, group: int, index: int, count: int) -> str:
        """Return the bits of fragments of a group, 1: free; a group that says nothing has none free."""
        try:
            if group >= self.superblock.groups:
                return "0" * count
            whole = self.group(group).fragments
        except EvidenceError:
            return "0" * count
        bits = int.from_bytes(whole[index >> 3 : (index + count + 7) >> 3], "little") >> (index & 7)
        return f"{bits & (1 << count) - 1:0{count}b}"[::-1]
