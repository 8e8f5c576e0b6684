"""B-trees: nodes, verified; what lies in a range of keys, and the last key up to one.

Source: Apple File System Reference (2020-06-22), "B-Trees"; "Sealed Volumes" for hashed trees. Their nodes
name children by an offset from the root's number, which the reference does not say, and other readers do.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.apfs.objects import BTREE, BTREE_NODE, HEADER, checked
from imgfs.backends.apfs.toc import PLACE, entries
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imgfs.backends.apfs.objects import Blocks

ROOT, LEAF, FIXED, HASHED, NOHEADER = 1, 2, 4, 8, 16
INVALID: Final = 0xFFFF
NODE_MAX: Final = 1 << 20
_NODE: Final = struct.Struct("<HHIHH12x")  # flags, level, keys, where the table of contents lies
_DATA: Final = HEADER + _NODE.size
_INFO: Final = 40  # bytes at the end of a root
_FIXED: Final = struct.Struct("<HH")
_FREE: Final = struct.Struct("<HHHH")
_OID: Final = struct.Struct("<Q")
_PAIR: Final = struct.Struct("<QQ")
_LEVELS: Final = 16
_KEPT: Final = 32 << 20  # bytes of nodes
LAST: Final = 1 << 128  # behind all keys

Where = tuple[int, int, int, int]  # key and value of a row: where they begin and end


class Order(NamedTuple):
    """How keys of a tree are compared: as the number that the first ``length`` bytes of one mean."""

    length: int
    turn: int = 0  # bits by which eight bytes are rotated left
    fixed: tuple[int, int] = (0, 0)  # bytes of keys and values of trees in which they are fixed


RECORDS: Final = Order(8, 4)  # file-system records: the object's number, then its type ("j_key_t")
PAIRS: Final = Order(16, 0, (16, 16))
SINGLES: Final = Order(8, 0, (8, 16))


class Node:
    """A node: its keys as numbers, and where keys and values lie in ``data``."""

    __slots__ = ("_places", "at", "bad", "data", "flags", "keys", "level")

    def __init__(self, data: bytes, at: int, order: Order) -> None:
        """Read a node of block ``at``.

        Raises:
            Malformed: its table of contents leaves it, or its keys are out of order.
        """
        self.at = at
        self.data = data
        flags, self.level, count, start, length = _NODE.unpack_from(data, HEADER)
        self.flags = flags
        stop = len(data) - (_INFO if flags & ROOT else 0)
        step = _FIXED if flags & FIXED else _FREE
        toc = _DATA + start
        area = toc + length
        if count * step.size > length or area > stop or bool(flags & LEAF) == bool(self.level):
            raise Malformed(f"node in block {at}: {count} keys, level {self.level}, flags {flags:#x}")
        wide, deep = order.fixed if flags & FIXED else (0, 0)
        if flags & FIXED and not wide:
            raise Malformed(f"node in block {at}: entries of fixed sizes in a tree that has none")
        if self.level and wide:
            deep = _OID.size
        self._places, heads = entries(data, toc, count, area, stop, order.length, wide, deep, order.turn)
        left = count - len(heads) // _OID.size
        if left:  # keys without a value are none of these trees', and no damage
            raw = data[toc : toc + count * step.size]
            left -= sum(row[-1 if flags & FIXED else 2] == INVALID for row in step.iter_unpack(raw))
        self.bad = f"node in block {at}: an entry leaves it" if left else ""
        if self.level and not heads:
            self.bad = f"node in block {at}: of level {self.level} without entries"
        self.keys: Sequence[int] = array("Q", heads)
        if order.length == _PAIR.size:
            pairs = (_PAIR.unpack_from(data, start) for start, *_ in PLACE.iter_unpack(self._places))
            self.keys = [first << 64 | second for first, second in pairs]
        ordered = list(self.keys)
        if ordered != sorted(ordered):
            raise Malformed(f"node in block {at}: keys out of order")

    def places(self, first: int, stop: int) -> Iterator[Where]:
        """Return where keys and values of rows [first, stop) begin and end."""
        return PLACE.iter_unpack(self._places[PLACE.size * first : PLACE.size * stop])

    def place(self, row: int) -> Where:
        """Return where key and value of a row begin and end."""
        return PLACE.unpack_from(self._places, PLACE.size * row)

    def key(self, row: int) -> bytes:
        """Return the bytes of a key."""
        start, stop, _, _ = self.place(row)
        return self.data[start:stop]

    def value(self, row: int) -> bytes:
        """Return the bytes of a value."""
        _, _, start, stop = self.place(row)
        return self.data[start:stop]


class Place(NamedTuple):
    """Where a node lies: block, bytes, and whether it is encrypted."""

    at: int
    size: int = 0
    encrypted: bool = False


class Leaf(NamedTuple):
    """A leaf, and how it was found. ``until``: the key that the one behind it begins with, or ``LAST``."""

    node: Node
    until: int
    trail: list[tuple[Node, int]]  # nodes from the root on, and the rows that led down


class Nodes:
    """The nodes of a container's trees, the last of them kept."""

    __slots__ = ("_blocks", "_kept", "_room")

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self._kept: OrderedDict[tuple[int, int], Node] = OrderedDict()
        self._room = max(_KEPT // blocks.block, 64)

    def node(self, tree: Tree, place: Place, oid: int, digest: bytes) -> Node:
        """Return a node; ``digest`` is what its parent knows of it, empty: nothing.

        Raises:
            EvidenceError: it cannot be read, or is not what was expected there.
        """
        key = (place.at, tree.cipher)
        found = self._kept.get(key)
        if found is None:
            found = self._read(tree, place, oid, digest)
            while len(self._kept) >= self._room:
                self._kept.popitem(last=False)
            self._kept[key] = found
        else:
            self._kept.move_to_end(key)
        return found

    def _read(self, tree: Tree, place: Place, oid: int, digest: bytes) -> Node:
        at, size = place.at, place.size
        if size > NODE_MAX or size % self._blocks.block:
            raise Malformed(f"node in block {at}: of {size} bytes")
        data = self._blocks.read(at, size)
        if place.encrypted and tree.decrypt is not None:
            data = tree.decrypt(at, data)
        if tree.digest is not None:
            found = tree.digest(data) if digest else b""
            if found and found != digest[: len(found)]:
                raise Malformed(f"node in block {at}: its hash is not what the seal says")
        else:
            head = checked(data, at, (BTREE, BTREE_NODE), oid)
            if head.subtype != tree.subtype:
                raise Malformed(f"node in block {at}: of a tree {head.subtype}, {tree.subtype} expected")
        return Node(data, at, tree.order)


class Tree:
    """One tree. ``resolve`` says where a node of a number lies; ``cipher`` tells volumes with keys apart.

    ``digest`` is the hash of a sealed volume's tree, whose nodes have no headers; None: they have. What it
    returns is not compared when it is empty.
    """

    __slots__ = ("_nodes", "_root", "_seal", "cipher", "decrypt", "digest", "order", "resolve", "subtype")

    def __init__(
        self,
        nodes: Nodes,
        root: int,
        subtype: int,
        order: Order,
        resolve: Callable[[int], Place] = Place,
        *,
        cipher: int = 0,
        decrypt: Callable[[int, bytes], bytes] | None = None,
        digest: Callable[[bytes], bytes] | None = None,
        seal: bytes = b"",
    ) -> None:
        self._nodes = nodes
        self._root = root
        self._seal = seal
        self.subtype = subtype
        self.order = order
        self.resolve = resolve
        self.cipher = cipher
        self.decrypt = decrypt
        self.digest = digest

    def root(self) -> Node:
        """Return the root.

        Raises:
            EvidenceError: it cannot be read, or is none.
        """
        node = self._nodes.node(self, self.resolve(self._root), self._root, self._seal)
        if not node.flags & ROOT or node.level >= _LEVELS:
            raise Malformed(f"object {self._root}: no root of a tree, level {node.level}")
        return node

    def _child(self, node: Node, row: int) -> Node:
        """Return the node that a row of another names.

        Raises:
            EvidenceError: it cannot be read, or is not the one.
        """
        if row >= len(node.keys):
            raise Malformed(node.bad)
        _, _, start, stop = node.place(row)
        if stop - start < _OID.size:
            raise Malformed(f"a node's number of {stop - start} bytes")
        (oid,) = _OID.unpack_from(node.data, start)
        digest = b""
        if self.digest is not None:
            oid += self._root
            digest = node.data[start + _OID.size : stop]
        place = self.resolve(oid)
        child = self._nodes.node(self, place, oid, digest)
        if child.level != node.level - 1 or child.flags & ROOT:
            raise Malformed(f"node in block {place.at}: of level {child.level}, {node.level - 1} expected")
        if child.keys and child.keys[0] < node.keys[row]:
            raise Malformed(f"node in block {place.at}: it begins before its parent says")
        return child

    def floor(self, key: int) -> tuple[Node, int] | None:
        """Return leaf and row of the last key up to ``key``, None: there is none.

        Raises:
            EvidenceError: a node on the way cannot be read.
        """
        while True:
            node, before = self.root(), -1
            while node.level:
                row = bisect_right(node.keys, key) - 1
                if row < 0:
                    return None
                before = node.keys[row]
                node = self._child(node, row)
            row = bisect_right(node.keys, key) - 1
            if row >= 0:
                return node, row
            if before <= 0:
                return None
            key = before - 1  # its first key was deleted, and its parent has it still

    def leaf(self, key: int) -> Leaf:
        """Return the leaf that would hold a key; the last of them, where several begin with it.

        Raises:
            EvidenceError: a node on the way cannot be read.
        """
        node, trail = self.root(), []
        while node.level:
            row = max(bisect_right(node.keys, key) - 1, 0)
            trail.append((node, row))
            node = self._child(node, row)
        return Leaf(node, _until(trail), trail)

    def behind(self, leaf: Leaf) -> Leaf:
        """Return the leaf behind another, which is not the last.

        Raises:
            EvidenceError: a node on the way cannot be read.
        """
        trail = leaf.trail[:]
        node, row = trail.pop()
        while row + 1 == len(node.keys):
            node, row = trail.pop()
        row += 1
        while node.level:
            trail.append((node, row))
            node, row = self._child(node, row), 0
        return Leaf(node, _until(trail), trail)

    def leaves(self, first: int, stop: int) -> Iterator[tuple[Node, int, int] | str]:
        """Yield the rows of keys [first, stop) leaf by leaf; a text says what cannot be read."""
        try:
            root = self.root()
        except EvidenceError as why:
            yield why.message
            return
        yield from self._below(root, first, stop, set())

    def _below(
        self, node: Node, first: int, stop: int, seen: set[int]
    ) -> Iterator[tuple[Node, int, int] | str]:
        keys = node.keys
        if node.bad:
            yield node.bad
        if not node.level:
            low, high = bisect_left(keys, first), bisect_left(keys, stop)
            if low < high:
                yield node, low, high
            return
        for row in range(max(bisect_left(keys, first) - 1, 0), bisect_left(keys, stop)):
            try:
                child = self._child(node, row)
                if child.at in seen:  # trees share no nodes: whoever says so wants a walk without end
                    raise Malformed(f"node in block {child.at}: it is met twice")
                seen.add(child.at)
            except EvidenceError as why:
                yield why.message
                continue
            yield from self._below(child, first, stop, seen)


def _until(trail: Sequence[tuple[Node, int]]) -> int:
    """Return the key that what is behind the end of a trail begins with."""
    for node, row in reversed(trail):
        if row + 1 < len(node.keys):
            return node.keys[row + 1]
    return LAST
