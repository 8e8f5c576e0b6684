"""B-trees of HFS+: descent by key, and the records of the leaves from there on.

Source: Apple Technical Note TN1150, B-Trees.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from imgfs.backends.hfs.volume import read_rows
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgfs.backends import Reader
    from imgfs.backends.hfs.volume import Rows

Record = tuple[bytes, int, int, int]  # node, where the key starts, where the body starts, where it ends
_DESCRIPTOR: Final = struct.Struct(">IIbBHH")
_HEADER: Final = struct.Struct(">HIIIIHHI")  # at 14: depth, root, records, first, last, node, key, nodes
_LEAF, _INDEX, _HEADER_NODE = -1, 0, 1
_VARIABLE: Final = 4  # attribute: keys of index nodes have the length they say
_DEPTH: Final = 16
_KEPT: Final = 128


@dataclass(frozen=True, slots=True)
class _Node:
    kind: int
    height: int
    next: int
    data: bytes
    offsets: tuple[int, ...]  # of the records, and where the last one ends


class BTree:
    """One tree. ``key`` turns (node, start, stop) of a key into what compares as the tree sorts."""

    def __init__(
        self,
        reader: Reader,
        rows: Rows,
        size: int,
        what: str,
        key: Callable[[bytes, int, int], Any],
    ) -> None:
        """Read the header node.

        Raises:
            Malformed: it is none, or states an impossible node size.
        """
        self._reader = reader
        self._rows = rows
        self._what = what
        self.key = key
        self._kept: OrderedDict[int, _Node] = OrderedDict()
        if size < 512:
            raise Malformed(f"{what}: a tree of {size} bytes")
        head = read_rows(reader, rows, 0, 128)
        if head[8] != _HEADER_NODE:
            raise Malformed(f"{what}: the first node is no header")
        _, self._root, _, self._first, _, node, self._longest, _ = _HEADER.unpack_from(head, 14)
        self.compare = head[14 + 37]
        (attributes,) = struct.unpack_from(">I", head, 14 + 38)
        if node < 512 or node & node - 1 or node > 32768:
            raise Malformed(f"{what}: nodes of {node} bytes")
        self._variable = bool(attributes & _VARIABLE)
        self._node_size = node
        self._nodes = size // node

    def first(self) -> Iterator[Record | str]:
        """Yield all records."""
        return self._leaves(self._first, None) if self._root else iter(())

    def seek(self, target: Any) -> Iterator[Record | str]:
        """Yield the records from the first whose key is not below ``target``; strings say what is damaged.

        Raises:
            EvidenceError: the way down is damaged.
        """
        number, above = self._root, _DEPTH + 1
        if not number:
            return iter(())
        while True:
            node = self._node(number)
            if node.kind == _LEAF:
                return self._leaves(number, target)
            if node.kind != _INDEX or not node.height < above or len(node.offsets) < 2:
                raise Malformed(
                    f"{self._what}: node {number} of kind {node.kind}, height {node.height} within the index"
                )
            above = node.height
            number = self._child(node, number, target)

    def _child(self, node: _Node, number: int, target: Any) -> int:
        low, high = 0, len(node.offsets) - 1  # the first child whose key is above the target
        while low < high:
            middle = (low + high) // 2
            start, body, _ = self._parts(node, number, middle)
            if self.key(node.data, start, body) <= target:
                low = middle + 1
            else:
                high = middle
        _, body, stop = self._parts(node, number, max(low - 1, 0))
        if body + 4 > stop:
            raise Malformed(f"{self._what}: node {number} has an index record without a pointer")
        return int.from_bytes(node.data[body : body + 4], "big")

    def _parts(self, node: _Node, number: int, index: int) -> tuple[int, int, int]:
        start, stop = node.offsets[index], node.offsets[index + 1]
        length = int.from_bytes(node.data[start : start + 2], "big")
        if node.kind == _INDEX and not self._variable:
            length = self._longest
        body = start + 2 + length + (length & 1)
        if start + 8 > stop or body > stop:
            raise Malformed(f"{self._what}: record {index} of node {number} has a key of {length} bytes")
        return start, body, stop

    def _leaves(self, number: int, target: Any) -> Iterator[Record | str]:
        seen: set[int] = set()
        below, first = target is not None, 0
        while number:
            if number in seen:
                yield f"{self._what}: node {number} follows itself"
                return
            seen.add(number)
            try:
                node = self._node(number)
            except EvidenceError as why:
                yield why.message
                return
            if node.kind != _LEAF:
                yield f"{self._what}: node {number} among the leaves is none"
                return
            if below:
                first = self._not_below(node, number, target)
            for index in range(first, len(node.offsets) - 1):
                try:
                    start, body, stop = self._parts(node, number, index)
                except EvidenceError as why:
                    yield why.message
                    continue
                if below:
                    if self.key(node.data, start, body) < target:
                        continue
                    below = False
                yield node.data, start, body, stop
            number, first = node.next, 0

    def _not_below(self, node: _Node, number: int, target: Any) -> int:
        """Return the first record of a leaf whose key is not below; 0 when one on the way is damaged."""
        low, high = 0, len(node.offsets) - 1
        try:
            while low < high:
                middle = (low + high) // 2
                start, body, _ = self._parts(node, number, middle)
                if self.key(node.data, start, body) < target:
                    low = middle + 1
                else:
                    high = middle
        except EvidenceError:
            return 0
        return low

    def _node(self, number: int) -> _Node:
        node = self._kept.get(number)
        if node is None:
            node = self._kept[number] = self._read(number)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(number)
        return node

    def _read(self, number: int) -> _Node:
        size = self._node_size
        if not 0 < number < self._nodes:
            raise Malformed(f"{self._what}: node {number} of {self._nodes}")
        data = read_rows(self._reader, self._rows, number * size, size)
        following, _, kind, height, count, _ = _DESCRIPTOR.unpack_from(data)
        if 14 + 2 * (count + 1) > size:
            raise Malformed(f"{self._what}: node {number} claims {count} records")
        offsets = struct.unpack_from(f">{count + 1}H", data, size - 2 * (count + 1))[::-1]
        if offsets[0] < 14 or offsets[-1] > size - 2 * (count + 1) or list(offsets) != sorted(set(offsets)):
            raise Malformed(f"{self._what}: the records of node {number} overlap")
        return _Node(kind, height, following, data, offsets)
