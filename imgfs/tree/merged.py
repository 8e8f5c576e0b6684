"""Directories of several trees laid over each other, as OverlayFS shows them.

The uppermost entry of a name counts. Of directories all are shown together, down to one that is opaque or
that something else covers. What is whited out is not there.

Source: the kernel's Documentation/filesystems/overlayfs.rst (whiteouts and opaque directories, redirect_dir,
"Metadata only copy up", "Nesting overlayfs mounts": user.overlay and xattr whiteouts).

Atomic section: rows of a layer are taken over between two awaits, under a lock: one task brings them.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

import trio

from imgfs import limits
from imgfs.errors import EvidenceError, IsADirectory, Malformed, NotFound, NotSupported, WorkerError
from imgfs.model import Kind
from imgfs.tree import names
from imgfs.tree.filesystem import FsNode
from imgfs.tree.nodes import Child

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgfs.block.pieces import ByteSource
    from imgfs.model import Attr, Entry, Ino
    from imgfs.tree.dircache import Listing, Row
    from imgfs.tree.nodes import Node
    from imgfs.tree.tree import Tree

_SPACES: Final = (b"trusted.overlay.", b"user.overlay.")
_LAYER: Final = 1 << 48  # a position is a layer and a row of it
_REDIRECTS: Final = 32


class Merged:
    """A directory that lies in several trees, the uppermost first."""

    __slots__ = (
        "_at",
        "_bad",
        "_children",
        "_layers",
        "_lock",
        "_marks",
        "_order",
        "_parent",
        "_tree",
        "forever",
        "ino",
        "roots",
    )

    def __init__(
        self, tree: Tree, ino: Ino, layers: Sequence[FsNode], parent: Merged | None, roots: Sequence[FsNode]
    ) -> None:
        """``layers`` hold it; ``roots`` are the trees themselves, all of them."""
        self.ino = ino
        self.forever = True
        self.roots = roots
        self._tree = tree
        self._layers = [FsNode(layer.fs, ino, layer.address) for layer in layers]
        self._parent = parent
        self._lock = trio.Lock()
        self._children: dict[bytes, Node] = {}  # directories of all trees but the lowest
        self._marks: dict[int, bytes] = {}  # by layer: how it is opaque
        self._order: array[int] = array("Q")
        self._bad = ""  # what could not be brought
        self._at = 0  # the position that is taken over next

    async def attr(self) -> Attr:
        """Return the attributes of the uppermost."""
        return await self._layers[0].attr()

    async def xattrs(self) -> Mapping[bytes, bytes]:
        """Return the extended attributes of the uppermost."""
        return await self._layers[0].xattrs()

    async def link(self) -> bytes:
        """Refuse: no link."""
        raise IsADirectory(str(self._layers[0].fs.spec))

    async def open(self) -> ByteSource:
        """Refuse: a directory has no bytes."""
        raise IsADirectory(str(self._layers[0].fs.spec))

    @property
    def damaged(self) -> str:
        """Say what is missing from the listings so far; empty: nothing."""
        found = (self._listing(number).damaged for number in range(len(self._layers)))
        return next(filter(None, found), self._bad)

    # --- rows --------------------------------------------------------------------------------------
    def _listing(self, number: int) -> Listing:
        layer = self._layers[number]
        return layer.fs.listing(layer.address.tree, layer.address.inum)

    def row(self, index: int) -> Child | None:
        """Return row ``index`` when it was brought."""
        if index >= len(self._order):
            return None
        number, at = divmod(self._order[index], _LAYER)
        rows = self._listing(number).rows
        if at >= len(rows):
            return None
        name, entry = rows[at]
        if entry.attr.kind is Kind.DIR and name in self._children:
            return Child(name, self._placed(name).ino, entry.attr)
        return Child(name, self._tree.covered(self._layers[number], entry).ino, entry.attr)

    async def more(self, index: int) -> bool:
        """Bring rows until ``index`` is there; False: the directory ends before."""
        async with self._lock:
            while index >= len(self._order):
                if not await self._grow():
                    return False
        number, at = divmod(self._order[index], _LAYER)
        await self._listing(number).at_least(at + 1)  # it may have left the cache
        return True

    async def _grow(self) -> bool:
        """Take over the rows of the layer in turn; False: there are no more."""
        number, at = divmod(self._at, _LAYER)
        if number >= len(self._layers):
            return False
        above = [await self._whole(layer) for layer in range(number)]
        listing = self._listing(number)
        await listing.at_least(at + 1)
        rows = listing.rows[at:]
        if not rows:  # what is missing from this layer might hide what is below
            self._at = (len(self._layers) if listing.damaged else number + 1) * _LAYER
            return True
        base = self._is_base(number)
        for offset, row in enumerate(rows):
            if above and any(row.name in upper.index for upper in above):
                continue
            try:
                if await self._is_whiteout(number, row.entry):
                    continue
                if row.entry.attr.kind is Kind.DIR and not base:
                    await self._folder(row.name)
            except (EvidenceError, WorkerError) as why:  # whoever asks for it is told
                self._bad = f"{names.printable(row.name)}: {why}"
                continue
            self._order.append(number * _LAYER + at + offset)
        self._at = number * _LAYER + at + len(rows)
        return True

    async def _whole(self, number: int) -> Listing:
        """Return the listing of a layer, read to its end."""
        listing = self._listing(number)
        await listing.at_least(_LAYER)
        return listing

    # --- names -------------------------------------------------------------------------------------
    async def find(self, name: bytes) -> Node:
        """Return the entry of that name, or the disk inside ``name`` when it is asked for as ``name@``."""
        if name in self._children:
            return self._placed(name)
        found = await self._first(name)
        if found is None and name.endswith(b"@") and len(name) > 1:
            found = await self._first(name[:-1])
            if found is not None and found[1].entry.attr.kind is Kind.REG:
                return await self._tree.nested(self._layers[found[0]], found[1])
            found = None
        if found is None:
            raise NotFound(names.printable(name))
        number, row = found
        if row.entry.attr.kind is Kind.DIR and not self._is_base(number):
            return await self._folder(name)
        return self._tree.covered(self._layers[number], row.entry)

    async def _first(self, name: bytes) -> tuple[int, Row] | None:
        """Return the uppermost entry of a name and its layer; None: there is none, or it is whited out."""
        for number, layer in enumerate(self._layers):
            row = await _row(layer, name)
            if row is not None:
                return None if await self._is_whiteout(number, row.entry) else (number, row)
        return None

    def _placed(self, name: bytes) -> Node:
        child = self._children[name]
        self._tree.put_below(child.ino, self.ino)
        if isinstance(child, FsNode):  # it lies in itself
            self._tree.loops.add(child.ino)
        return child

    def _is_base(self, number: int) -> bool:
        """Say whether a layer is of the lowest tree, which covers nothing."""
        return self._layers[number].fs is self.roots[-1].fs

    async def _folder(self, name: bytes) -> Node:
        """Return a directory that lies in a tree above the lowest; what lies in itself is shown empty."""
        if name not in self._children:
            layers = await self._together(name)
            up: Merged | None = self
            while up is not None and up._layers[0].address[:3] != layers[0].address[:3]:
                up = up._parent
            if name not in self._children:  # nobody else did while this waited
                self._children[name] = layers[0] if up else self._tree.merged(layers, self)
        return self._placed(name)

    async def _together(self, name: bytes) -> list[FsNode]:
        """Return the directories of a name that are shown as one, the uppermost first."""
        found: list[FsNode] = []
        where: list[FsNode | None] = list(self._layers)
        turns = 0
        for number in range(len(where)):
            layer = where[number]
            if layer is None:
                continue
            row = await _row(layer, name)
            if row is None:
                continue
            if row.entry.attr.kind is not Kind.DIR:
                break
            node = self._tree.covered(FsNode(layer.fs, self.ino, layer.address), row.entry)
            found.append(node)
            said = await _said(node)
            if said.get(b"opaque") == b"y":
                break
            if target := said.get(b"redirect"):
                turns += 1
                if turns > _REDIRECTS:
                    raise Malformed("directories that are renamed on and on")
                name, where = await self._redirected(target, where)
        if not found:
            raise NotFound(names.printable(name))
        return found

    async def _redirected(
        self, target: bytes, where: list[FsNode | None]
    ) -> tuple[bytes, list[FsNode | None]]:
        """Return the name and the directories in which what lies below a renamed directory is found."""
        if not target.startswith(b"/"):
            return names.escape(target), where
        *above, name = [part for part in target.split(b"/") if part]
        moved: list[FsNode | None] = []
        for layer in where:
            root = next((root for root in self.roots if layer is not None and root.fs is layer.fs), None)
            moved.append(root and await _below(root, above))
        return names.escape(name), moved

    # --- what covers -------------------------------------------------------------------------------
    async def _is_whiteout(self, number: int, entry: Entry) -> bool:
        attr = entry.attr
        if attr.kind is Kind.CHR:
            return not attr.rdev
        if attr.kind is not Kind.REG or attr.size or self._is_base(number):
            return False
        if number not in self._marks:
            self._marks[number] = (await _said(self._layers[number])).get(b"opaque", b"")
        if self._marks[number] != b"x":
            return False
        return b"whiteout" in await _said(self._tree.covered(self._layers[number], entry))


async def _row(node: FsNode, name: bytes) -> Row | None:
    """Return what one tree says of a name.

    Raises:
        Malformed: its directory is not whole, and what is readable of it has no such name.
    """
    listing = node.fs.listing(node.address.tree, node.address.inum)
    row = await listing.find(name)
    if row is None and listing.damaged:
        raise Malformed(f"{names.printable(name)}: not in what is readable of it: {listing.damaged}")
    return row


async def _below(node: FsNode, path: Sequence[bytes]) -> FsNode | None:
    for name in path[: limits.MAX_LINK]:
        row = await _row(node, names.escape(name))
        if row is None or row.entry.attr.kind is not Kind.DIR:
            return None
        node = FsNode(node.fs, node.ino, node.address._replace(inum=row.entry.attr.inum))
    return node


async def _said(node: FsNode) -> dict[bytes, bytes]:
    """Return what OverlayFS keeps with a file, without its name space."""
    evidence = await node.fs.client.xattrs(node.address.tree, node.address.inum)
    found: dict[bytes, bytes] = {}
    for space in reversed(_SPACES):
        found |= {
            name.removeprefix(space): value for name, value in evidence.items() if name.startswith(space)
        }
    return found


async def own_contents(fs_node: FsNode) -> None:
    """Refuse a file whose contents lie in a lower tree.

    Raises:
        NotSupported: only its attributes were copied up.
    """
    if b"metacopy" in await _said(fs_node):
        raise NotSupported("only its attributes are here: its contents lie in the tree below")
