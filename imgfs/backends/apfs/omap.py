"""Object maps: where the object of a number lies, in the state of a transaction.

Source: Apple File System Reference (2020-06-22), "Object Maps".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends.apfs.btree import PAIRS, Place, Tree
from imgfs.backends.apfs.objects import OMAP, checked
from imgfs.errors import Malformed

if TYPE_CHECKING:
    from imgfs.backends.apfs.btree import Nodes
    from imgfs.backends.apfs.objects import Blocks

_OMAP: Final = struct.Struct("<IIIIQQQQQ")  # behind the header
_VALUE: Final = struct.Struct("<IIQ")
_DELETED, _ENCRYPTED = 1, 4
_KEPT: Final = 200_000
_SUBTYPE: Final = OMAP


class ObjectMap:
    """One object map. ``flags`` are its own, ``snapshots`` their number."""

    __slots__ = ("_places", "_tree", "flags", "snapshots")

    def __init__(self, blocks: Blocks, nodes: Nodes, at: int) -> None:
        """Read the map in block ``at``.

        Raises:
            EvidenceError: there is none that can be read.
        """
        data = blocks.read(at)
        checked(data, at, (OMAP,), at)
        self.flags, self.snapshots, _, _, tree, *_ = _OMAP.unpack_from(data, 32)
        self._tree = Tree(nodes, tree, _SUBTYPE, PAIRS)
        self._tree.root()
        self._places: dict[tuple[int, int], Place] = {}

    def place(self, oid: int, xid: int) -> Place:
        """Return where an object lay when transaction ``xid`` was over.

        Raises:
            EvidenceError: it was nowhere, or what would say so cannot be read.
        """
        found = self._places.get((oid, xid))
        if found is None:
            if len(self._places) >= _KEPT:
                self._places.clear()
            found = self._places[oid, xid] = self._found(oid, xid)
        return found

    def _found(self, oid: int, xid: int) -> Place:
        last = self._tree.floor(oid << 64 | xid) if oid >> 64 == 0 else None
        if last is None or last[0].keys[last[1]] >> 64 != oid:
            raise Malformed(f"object {oid} of transaction {xid}: the map has none")
        value = last[0].value(last[1])
        if len(value) != _VALUE.size:
            raise Malformed(f"object {oid}: a place of {len(value)} bytes")
        flags, size, at = _VALUE.unpack(value)
        if flags & _DELETED:
            raise Malformed(f"object {oid} of transaction {xid}: deleted")
        return Place(at, size, bool(flags & _ENCRYPTED))
