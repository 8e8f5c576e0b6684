"""Directories of SquashFS: runs of entries behind headers.

Source: "Squashfs Binary Format" (dr-emann.github.io/squashfs), Directory Table; see ``older``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Literal

from imgfs.backends.squashfs.metadata import BLOCK
from imgfs.backends.squashfs.older import fields
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.squashfs.inode import Inode
    from imgfs.backends.squashfs.metadata import Metadata, Place
    from imgfs.backends.squashfs.superblock import Superblock

_DOTS: Final = 3  # bytes that the size of a directory counts for "." and ".."
_LONGEST: Final = 8 + 256  # bytes of an entry
_NAMES_MAX: Final = 3_000_000  # of one directory: two thirds of a worker's memory

Name = tuple[bytes, int, int]  # name, place of the inode, type


class Directories:
    """The directory table of one file system."""

    __slots__ = ("_endian", "_entry", "_head", "_major", "_metadata", "_order", "_table")

    def __init__(self, metadata: Metadata, superblock: Superblock) -> None:
        self._metadata = metadata
        self._table = superblock.directory_table
        self._major = superblock.major
        self._order = order = superblock.order
        self._endian: Literal["little", "big"] = "little" if order == "<" else "big"
        self._head = struct.Struct(order + {4: "III", 3: "BII", 2: "I"}[self._major])
        self._entry = struct.Struct(order + {4: "HhHH", 3: "HBh", 2: "HB"}[self._major])

    def names(self, inode: Inode) -> Iterator[Name | str]:
        """Yield what a directory holds. Strings say what is damaged; an index tells names behind that."""
        place = self._table + inode.start, inode.offset
        at, count = 0, 0
        stop = inode.size - _DOTS if self._major > 2 else inode.size
        while True:
            try:
                for name in self._from(place, at, stop):
                    at = name[3]
                    yield name[:3]
                    count += 1
                    if count >= _NAMES_MAX:
                        yield f"more than {_NAMES_MAX} names"
                        return
            except EvidenceError as why:
                yield why.message
                further = self._further(inode, at)
                if further is None:
                    return
                at, place = further
            else:
                return

    def _from(self, place: Place, at: int, stop: int) -> Iterator[tuple[bytes, int, int, int]]:
        """Yield entries from a header on, each with the byte of the directory behind it.

        Raises:
            EvidenceError: what follows cannot be read.
        """
        metadata, head, entry, major = self._metadata, self._head, self._entry, self._major
        block, offset = place
        data, following = metadata.block(block)
        if offset > len(data):
            why = f"a directory at byte {offset} of a block of {len(data)}"
            raise Malformed(why, start=block, stop=following)
        unpack, width = entry.unpack_from, entry.size
        left = 0  # entries of this header
        start = 0
        missing: EvidenceError | None = None  # what is behind the block: entries before it are still whole
        while stop - at >= (width if left else head.size):
            if missing is None and len(data) - offset < min(_LONGEST, stop - at):
                try:
                    more, following = metadata.block(following)
                    data, offset = data[offset:] + more, 0
                except EvidenceError as why:
                    missing = why
            if missing is not None and len(data) - offset < (width if left else head.size):
                raise missing
            if not left:
                left, start = self._run(data, offset)
                offset += head.size
                at += head.size
                continue
            if major == 4:
                inside, _, kind, length = unpack(data, offset)
            else:
                word, length = unpack(data, offset)[:2]
                inside, kind = fields(word, (13, 3), self._order)
            after = offset + width + length + 1
            name = data[offset + width : after]
            if len(name) != length + 1 or length > 255:
                if missing is not None:
                    raise missing
                raise Malformed(f"a name of {length + 1} bytes")
            at += after - offset
            offset = after
            left -= 1
            yield name, start << 16 | inside, kind, at

    def _run(self, data: bytes, offset: int) -> tuple[int, int]:
        """Return how many entries a header has, and where the block of their inodes is stored."""
        numbers = self._head.unpack_from(data, offset)
        if self._major == 2:
            numbers = tuple(fields(numbers[0], (8, 24), self._order))
        if numbers[0] > 255:
            raise Malformed(f"{numbers[0] + 1} entries behind one header")
        return numbers[0] + 1, numbers[1]

    def _further(self, inode: Inode, at: int) -> tuple[int, Place] | None:
        """Return the first header behind byte ``at`` that the index of a large directory names."""
        try:
            place = inode.behind
            for _ in range(inode.indexed):
                width = 8 if self._major == 2 else 9 if self._major == 3 else 12
                raw = self._metadata.read(place, width)
                if self._major == 2:
                    index, start, size = fields(int.from_bytes(raw, self._endian), (27, 29, 8), self._order)
                else:
                    index, start, size = struct.unpack(self._order + ("IIB" if width == 9 else "III"), raw)
                if index > at:
                    return index, (self._table + start, (inode.offset + index) % BLOCK)
                if size > 255:
                    break
                place = self._metadata.moved(place, width + size + 1)
        except EvidenceError:
            pass
        return None
