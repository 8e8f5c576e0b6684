"""The tree of a volume: names of directories, and everything that is recorded of a number.

Source: Apple File System Reference (2020-06-22), "File-System Objects", "Data Streams", "Sealed Volumes".
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.apfs.records import (
    EXTENT,
    INODE,
    NAME,
    NUMBER,
    XATTR,
    Extra,
    Inode,
    Name,
    extra_of,
    inode_of,
    name_of,
)
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.limits import MAX_RUNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgfs.backends.apfs.btree import Node, Tree

_EXTENT: Final = struct.Struct("<QQQ")
_LOGICAL: Final = struct.Struct("<Q")  # behind the number in a key
_SEALED: Final = struct.Struct("<QQ")
_LENGTH: Final = (1 << 56) - 1
_EXTRAS: Final = 4096  # attributes of one file


class Extent(NamedTuple):
    """A run of a stream. Units: ``logical`` and ``length`` bytes; ``block`` 0: a hole.

    ``tweak`` is the block that its cipher counts from.
    """

    logical: int
    length: int
    block: int
    tweak: int


class Item(NamedTuple):
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
        self._leaf: tuple[Node | None, int] = (None, 0)  # in which somebody looked last, and what is behind

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
            for start, stop, begin, end in node.rows[low:high]:
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
            for row in range(low, high):
                kind = node.keys[row] & 15
                if kind == INODE:
                    inode = inode_of(number, node.data, *node.rows[row][2:])
                elif kind == XATTR:
                    extra = extra_of(node.key(row), node.value(row))
                    if len(extras) >= _EXTRAS:
                        damaged = damaged or f"inode {number}: more than {_EXTRAS} attributes"
                        break
                    if extra is None:
                        damaged = damaged or f"inode {number}: an attribute contradicts itself"
                    else:
                        extras.append(extra)
                elif kind == EXTENT and extents is not None:
                    if len(extents) == 2:
                        extents = None
                        break
                    extents.append(_extent(node, row))
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
        """Return as ``Tree.leaves``, for keys of one inode: nearly always they lie in the leaf used last."""
        leaf, until = self._leaf
        if leaf is None or not leaf.keys or not leaf.keys[0] <= first < until:
            try:
                leaf, until = self._leaf = self._tree.leaf(first)
            except EvidenceError:
                return self._tree.leaves(first, stop)  # which says what is missing
        if stop > until or leaf.bad:
            return self._tree.leaves(first, stop)
        low = bisect_left(leaf.keys, first)
        return ((leaf, low, bisect_left(leaf.keys, stop, low)),)

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
                extent = _extent(node, row) if self._extents is None else _sealed(node, row)
                count += 1
                if extent.logical < behind or not extent.length or count > MAX_RUNS:
                    raise Malformed(f"stream {stream}: extents overlap, or there are too many")
                behind = extent.logical + extent.length
                yield extent

    def _stream(self, stream: int) -> Iterator[tuple[Node, int, int] | str]:
        if not 0 < stream <= NUMBER:
            raise Malformed(f"stream {stream}")
        if self._extents is not None:
            return self._extents.leaves(stream << 64, stream + 1 << 64)
        key = stream << 4 | EXTENT
        return self._tree.leaves(key, key + 1)


def _extent(node: Node, row: int) -> Extent:
    key, behind, value, end = node.rows[row]
    if behind - key != 16 or end - value != _EXTENT.size:
        raise Malformed(f"node in block {node.at}: an extent of {end - value} bytes")
    length, block, crypto = _EXTENT.unpack_from(node.data, value)
    return Extent(_LOGICAL.unpack_from(node.data, key + 8)[0], length & _LENGTH, block, crypto)


def _sealed(node: Node, row: int) -> Extent:
    length, block = _SEALED.unpack(node.value(row))
    return Extent(node.keys[row] & (1 << 64) - 1, length & _LENGTH, block, 0)
