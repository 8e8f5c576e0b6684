"""The tree of a volume: names of directories, and everything that is recorded of a number.

Source: Apple File System Reference (2020-06-22), "File-System Objects", "Data Streams", "Sealed Volumes".
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import msgspec

from imgfs.backends.apfs.records import (
    EXTENT,
    INODE,
    NAME,
    NUMBER,
    XATTR,
    Extra,
    Inode,
    extra_of,
    inode_of,
    name_of,
)
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.limits import MAX_RUNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgfs.backends.apfs.btree import Leaf, Node, Tree, Where
    from imgfs.backends.apfs.records import Name

_EXTENT: Final = struct.Struct("<QQQ")
_LOGICAL: Final = struct.Struct("<Q")  # behind the number in a key
_SEALED: Final = struct.Struct("<QQ")
_LENGTH: Final = (1 << 56) - 1
_EXTRAS: Final = 4096  # attributes of one file


# A run of a stream: logical, length, block (0: a hole), the block that its cipher counts from. Units: bytes.
Extent = tuple[int, int, int, int]


class Item(msgspec.Struct, frozen=True):
    """What is recorded of one number. ``extents`` are given when there are few, None: they are asked for."""

    inode: Inode
    extras: list[Extra]
    extents: list[Extent] | None
    damaged: str


class Catalog:
    """The records of one volume in one state; ``extents`` is the tree of a sealed volume's runs."""

    __slots__ = ("_extents", "_hashed", "_leaf", "_tree")

    def __init__(self, tree: Tree, extents: Tree | None, *, hashed: bool) -> None:
        self._tree = tree
        self._extents = extents
        self._hashed = hashed
        self._leaf: Leaf | None = None  # in which somebody looked last

    def names(self, directory: int) -> Iterator[Name | str]:
        """Yield the names of a directory in the order of their keys; a text says what cannot be read."""
        key = directory << 4 | NAME
        hashed = self._hashed
        for found in self._tree.leaves(key, key + 1):
            if isinstance(found, str):
                yield found
                continue
            node, low, high = found
            data = node.data
            for start, stop, begin, end in node.places(low, high):
                name = name_of(data[start:stop], data, begin, end, hashed=hashed)
                yield f"directory {directory}: a record contradicts itself" if name is None else name

    def item(self, number: int) -> Item:
        """Return what is recorded of a number.

        Raises:
            NotFound: there is no inode.
            EvidenceError: it cannot be read.
        """
        if not 0 < number <= NUMBER:
            raise NotFound(f"inode {number}")
        inode: Inode | None = None
        extras: list[Extra] = []
        extents: list[Extent] | None = [] if self._extents is None else None
        damaged = ""
        first = number << 4 | INODE
        for found in self._slices(first, (number << 4 | EXTENT) + 1):
            if isinstance(found, str):
                damaged = damaged or found
                continue
            node, low, high = found
            for key, row in zip(node.keys[low:high], node.places(low, high), strict=True):
                kind = key & 15
                if kind == EXTENT:
                    if extents is None:
                        continue
                    if len(extents) == 2:
                        extents = None
                        break
                    extents.append(_extent(node, row))
                elif kind == INODE:
                    inode = inode_of(number, node.data, row[2], row[3])
                elif kind == XATTR:
                    extra = extra_of(node.data[row[0] : row[1]], node.data[row[2] : row[3]])
                    if len(extras) >= _EXTRAS:
                        damaged = damaged or f"inode {number}: more than {_EXTRAS} attributes"
                        break
                    if extra is None:
                        damaged = damaged or f"inode {number}: an attribute contradicts itself"
                    else:
                        extras.append(extra)
            if (extents is None and self._extents is None) or len(extras) >= _EXTRAS:
                break
        if inode is None:
            if damaged:
                raise Malformed(damaged)
            raise NotFound(f"inode {number}")
        if inode.private != number or damaged:
            extents = None
        return Item(inode, extras, extents, damaged)

    def _slices(self, first: int, stop: int) -> Iterable[tuple[Node, int, int] | str]:
        """Return as ``Tree.leaves``, for keys of one inode: nearly always they lie in the leaf used last.

        Who lists goes on with the next inode, so that the leaf behind is the one that will be asked for.
        """
        leaf = self._leaf
        try:
            if leaf is None or not leaf.node.keys or not leaf.node.keys[0] <= first < leaf.until:
                leaf = self._leaf = self._tree.leaf(first)
            node, until, _ = leaf
            low = bisect_left(node.keys, first)
            if stop <= until and not node.bad:
                return ((node, low, bisect_left(node.keys, stop, low)),)
            behind = self._tree.behind(leaf) if stop > until else leaf
        except EvidenceError:
            return self._tree.leaves(first, stop)  # which says what is missing
        if stop > behind.until or node.bad or behind.node.bad:
            return self._tree.leaves(first, stop)
        self._leaf = behind
        return (node, low, len(node.keys)), (behind.node, 0, bisect_left(behind.node.keys, stop))

    def runs(self, stream: int) -> Iterator[Extent]:
        """Yield the runs of a stream, ascending.

        Raises:
            Malformed: some cannot be read, or they are out of order.
        """
        behind = count = 0
        for found in self._stream(stream):
            if isinstance(found, str):
                raise Malformed(found)
            node, low, high = found
            for row in range(low, high):
                extent = _extent(node, node.place(row)) if self._extents is None else _sealed(node, row)
                logical, length, _, _ = extent
                count += 1
                if logical < behind or not length or count > MAX_RUNS:
                    raise Malformed(f"stream {stream}: extents overlap, or there are too many")
                behind = logical + length
                yield extent

    def _stream(self, stream: int) -> Iterator[tuple[Node, int, int] | str]:
        if not 0 < stream <= NUMBER:
            raise Malformed(f"stream {stream}")
        if self._extents is not None:
            return self._extents.leaves(stream << 64, stream + 1 << 64)
        key = stream << 4 | EXTENT
        return self._tree.leaves(key, key + 1)


def _extent(node: Node, row: Where) -> Extent:
    key, behind, value, end = row
    if behind - key != 16 or end - value != _EXTENT.size:
        raise Malformed(f"node in block {node.at}: an extent of {end - value} bytes")
    length, block, crypto = _EXTENT.unpack_from(node.data, value)
    return _LOGICAL.unpack_from(node.data, key + 8)[0], length & _LENGTH, block, crypto


def _sealed(node: Node, row: int) -> Extent:
    length, block = _SEALED.unpack(node.value(row))
    return node.keys[row] & (1 << 64) - 1, length & _LENGTH, block, 0
