"""Extended attributes of SquashFS 4.

Source: "Squashfs Binary Format" (dr-emann.github.io/squashfs), Extended Attribute Table.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends.squashfs.inode import NO_XATTRS
from imgfs.backends.squashfs.metadata import BLOCK
from imgfs.backends.squashfs.superblock import NONE
from imgfs.errors import EvidenceError, Malformed
from imgfs.limits import MAX_XATTRS

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends.squashfs.metadata import Metadata, Place
    from imgfs.backends.squashfs.superblock import Superblock

_PREFIXES: Final = {0: b"user.", 1: b"trusted.", 2: b"security."}
_OUTSIDE: Final = 0x100  # of a type: the value is somewhere else, here is its place
_ENTRY: Final = 16
_TOTAL: Final = 4 << 20  # bytes of all values of one file: a message holds 16 MiB
_DAMAGED: Final = b"user.imgfs.xattrs_damaged"


class Xattrs:
    """The table of one file system, read when somebody asks."""

    __slots__ = ("_metadata", "_reader", "_superblock", "_table")

    def __init__(self, reader: Reader, metadata: Metadata, superblock: Superblock) -> None:
        self._reader = reader
        self._metadata = metadata
        self._superblock = superblock
        self._table: tuple[int, int, list[int]] | None = None  # where values are, how many rows, their blocks

    def get(self, number: int) -> dict[bytes, bytes]:
        """Return the attributes of a row; what cannot be read is left out, and said."""
        found: dict[bytes, bytes] = {}
        if number == NO_XATTRS or self._superblock.xattr_table == NONE:
            return found
        try:
            self._read(number, found)
        except EvidenceError as why:
            found[_DAMAGED] = str(why)[:200].encode("utf-8", "replace")
        return found

    def _read(self, number: int, found: dict[bytes, bytes]) -> None:
        order, metadata = self._superblock.order, self._metadata
        if self._table is None:
            place = self._superblock.xattr_table
            start, rows, _ = struct.unpack(order + "QII", self._reader.read(place, 16))
            self._table = start, rows, metadata.table(place + 16, rows, _ENTRY, "Q")
        start, rows, blocks = self._table
        if number >= rows:
            raise Malformed(f"extended attributes {number} of {rows}")
        block, offset = divmod(number * _ENTRY, BLOCK)
        reference, count, _ = struct.unpack(order + "QII", metadata.read((blocks[block], offset), _ENTRY))
        at: Place = start + (reference >> 16), reference & 0xFFFF
        total = names = 0
        for _ in range(count):
            kind, length = struct.unpack(order + "HH", metadata.read(at, 4))
            at = metadata.moved(at, 4)
            name = _PREFIXES.get(kind & 0xFF, b"squashfs.%d." % (kind & 0xFF)) + metadata.read(at, length)
            at = metadata.moved(at, length)
            value, at = self._value(start, at, outside=bool(kind & _OUTSIDE))
            if name.startswith(b"user.imgfs."):
                name = b"squashfs." + name  # an image must not speak in our name
            total += len(value)
            names += len(name) + 1
            if len(name) > 255 or b"\0" in name or names > MAX_XATTRS // 2 or total > _TOTAL:
                raise Malformed("extended attributes of too much")
            found.setdefault(name, value)

    def _value(self, start: int, at: Place, *, outside: bool) -> tuple[bytes, Place]:
        """Return the value at a place, and the place behind it."""
        order, metadata = self._superblock.order, self._metadata
        (size,) = struct.unpack(order + "I", metadata.read(at, 4))
        behind = metadata.moved(at, 4)
        if outside:
            if size != 8:
                raise Malformed(f"the place of a value in {size} bytes")
            (reference,) = struct.unpack(order + "Q", metadata.read(behind, 8))
            return self._value(start, (start + (reference >> 16), reference & 0xFFFF), outside=False)[
                0
            ], metadata.moved(behind, 8)
        if size > MAX_XATTRS:
            raise Malformed(f"an extended attribute of {size} bytes")
        return metadata.read(behind, size), metadata.moved(behind, size)
