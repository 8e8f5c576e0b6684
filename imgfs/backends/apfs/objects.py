"""Blocks of a container, and the objects in them with their checksums.

Source: Apple File System Reference (2020-06-22), "Objects".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.block.sums import fletcher64
from imgfs.errors import Malformed, Truncated

if TYPE_CHECKING:
    from imgfs.backends import Reader

HEADER: Final = 32
SUPERBLOCK, BTREE, BTREE_NODE, OMAP, CHECKPOINT_MAP, FS = 1, 2, 3, 11, 12, 13
FSTREE, SNAPMETATREE, INTEGRITY_META, FEXT_TREE = 14, 16, 0x1E, 0x1F
EXTENT_LIST_TREE: Final = 10
PHYSICAL: Final = 0x4000_0000
NO_HEADER: Final = 0x2000_0000
KIND: Final = 0xFFFF  # of a type: what it is, without how it is stored
_HEAD: Final = struct.Struct("<8sQQII")


class Head(NamedTuple):
    """What an object says it is."""

    oid: int
    xid: int
    kind: int
    flags: int
    subtype: int


class Blocks:
    """The blocks of a container. Units: ``block`` bytes; ``count`` blocks, as its superblock says."""

    __slots__ = ("_reader", "block", "count", "held")

    def __init__(self, reader: Reader, block: int, count: int) -> None:
        self._reader = reader
        self.block = block
        self.count = count
        self.held = min(reader.size, block * count)  # bytes of it that are there

    def read(self, at: int, size: int = 0) -> bytes:
        """Return ``size`` bytes from block ``at`` on, 0: the block.

        Raises:
            EvidenceError: it lies outside the container, or cannot be read.
        """
        start, size = at * self.block, size or self.block
        if not 0 <= at < self.count or size > self.block * self.count - start:
            raise Malformed(f"block {at}: outside a container of {self.count} blocks")
        if start + size > self.held:
            raise Truncated(f"block {at}: the image ends before it", start=start, stop=start + size)
        return self._reader.read(start, size)


def fletcher(data: bytes) -> bytes:
    """Return the checksum of an object, whose first eight bytes are where it is stored."""
    return fletcher64(memoryview(data)[8:])


def head_of(data: bytes) -> Head:
    """Return what the object at the start of ``data`` says it is."""
    _, oid, xid, kind, subtype = _HEAD.unpack_from(data)
    return Head(oid, xid, kind & KIND, kind & ~KIND, subtype)


def checked(data: bytes, at: int, kinds: tuple[int, ...], oid: int | None = None) -> Head:
    """Return what an object says it is, its checksum compared.

    Raises:
        Malformed: it differs; or the object is of another kind, or another one.
    """
    if fletcher(data) != data[:8]:
        raise Malformed(f"block {at}: checksum")
    head = head_of(data)
    if head.kind not in kinds:
        raise Malformed(f"block {at}: an object of type {head.kind}, {kinds[0]} expected")
    if oid is not None and head.oid != oid:
        raise Malformed(f"block {at}: object {head.oid}, {oid} expected")
    return head
