"""The mount as a tree: numbers to nodes, nodes to numbers, and where directories and links stand.

Atomic section: a place is looked up, numbered and recorded in one step. ``_parents`` holds directories and
links the kernel knows; it forgets with the kernel, which keeps the parents of everything it holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.errors import NotFound, NotSupported
from imgfs.model import Ino, Kind
from imgfs.tree.dircache import DirCache
from imgfs.tree.filesystem import FileSystem, FsNode, is_place
from imgfs.tree.handles import LayoutCache
from imgfs.tree.inodes import ALIAS, MAX_FILE_SYSTEMS, Address, Aliases, pack, unpack
from imgfs.tree.later import LaterRaw, LaterTree
from imgfs.tree.merged import Merged, own_contents
from imgfs.tree.nodes import Blob, Child, Dir, Raw

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgfs.block.pieces import ByteSource
    from imgfs.model import Entry, Spec
    from imgfs.tree.dircache import Listing, Row
    from imgfs.tree.nodes import Node
    from imgfs.worker.client import FilesClient

    # (source, address, name) -> the disk directory inside; None when it is no image
    Background = Callable[[Callable[[int], Awaitable[None]], int], None]
    Enter = Callable[[ByteSource, str, bytes], Awaitable[Dir | None]]


def _never(_work: Callable[[int], Awaitable[None]], _argument: int) -> None:
    """Do nothing in the background."""


class Tree:
    """All nodes of one mount. ``root`` has number 1."""

    def __init__(
        self,
        *,
        layout_bytes: int = limits.LAYOUT_CACHE_BYTES,
        raw_links: bool = False,
        list_nested: bool = False,
        m_ns: int = 0,
        background: Background | None = None,
    ) -> None:
        self.dircache = DirCache()
        self.layouts = LayoutCache(layout_bytes)
        self.raw_links = raw_links
        self.loops: set[Ino] = set()
        self.enter: Enter | None = None
        self.background: Background = background or _never
        self._list_nested = list_nested
        self._static: dict[int, Node] = {}
        self._file_systems: list[FileSystem] = []
        self._aliases = Aliases()
        self._parents: dict[Ino, Ino] = {}
        self._nested: dict[tuple[int, int, int, int], Dir] = {}
        self._images: dict[Ino, list[Child]] = {}
        self.m_ns = m_ns
        self.root = self.directory()

    # --- making ------------------------------------------------------------------------------------
    def _new(self) -> Ino:
        return Ino(len(self._static) + 1)

    def directory(self, spec: str = "") -> Dir:
        """Make a directory of ours."""
        node = Dir(self._new(), m_ns=self.m_ns, spec=spec)
        self._static[node.ino] = node
        return node

    def raw(self, source: ByteSource, spec: str) -> Raw:
        """Make a file of the bytes of a layer."""
        node = Raw(self._new(), source, m_ns=self.m_ns, spec=spec)
        self._static[node.ino] = node
        return node

    def later_raw(
        self, source: Callable[[], Awaitable[ByteSource]], *, size: int, m_ns: int, spec: str
    ) -> LaterRaw:
        """Make a file whose bytes are found when it is opened."""
        node = LaterRaw(self._new(), source, size=size, m_ns=m_ns, spec=spec)
        self._static[node.ino] = node
        return node

    def later_tree(self, root: Callable[[], Awaitable[Node]], *, m_ns: int, spec: str) -> LaterTree:
        """Make the root of a tree that is opened by the first look into it."""
        node = LaterTree(self._new(), root, m_ns=m_ns, spec=spec)
        self._static[node.ino] = node
        return node

    def blob(self, render: Callable[[], bytes]) -> Blob:
        """Make a report."""
        node = Blob(self._new(), render, m_ns=self.m_ns)
        self._static[node.ino] = node
        return node

    def attach(self, client: FilesClient, sources: Sequence[ByteSource], spec: Spec) -> FileSystem:
        """Give a file system over ``sources`` its number; its trees are then made with ``root_of``.

        Raises:
            NotSupported: 32,767 file systems are attached.
        """
        if len(self._file_systems) >= MAX_FILE_SYSTEMS:
            raise NotSupported(f"more than {MAX_FILE_SYSTEMS} file systems in one mount")
        fs = FileSystem(self, len(self._file_systems) + 1, client, sources, spec)
        self._file_systems.append(fs)
        return fs

    def attach_again(self, fs: FileSystem) -> FileSystem:
        """Give a file system a further number: its directories lie elsewhere there.

        Raises:
            NotSupported: 32,767 file systems are attached.
        """
        again = self.attach(fs.client, fs.sources, fs.spec)
        again.of = fs.of or fs
        return again

    def root_of(self, fs: FileSystem, tree: int) -> FsNode:
        """Return the root of a subvolume; its number is never freed."""
        return self.rooted_at(fs, tree, fs.client.info.trees[tree].root)

    def rooted_at(self, fs: FileSystem, tree: int, inum: int) -> FsNode:
        """Return a directory that is the root of what is shown of ``fs``; its number is never freed."""
        address = Address(fs.id, tree, inum)
        ino = pack(address)
        if ino is None:
            ino = self._aliases.number(address)
            self._aliases.hold(ino)
        self._parents[ino] = Ino(0)
        return FsNode(fs, ino, address)

    def union(self, folders: Sequence[tuple[FileSystem, int, int]]) -> Merged:
        """Lay directories over each other, the uppermost first: file systems, trees, and numbers.

        Raises:
            NotSupported: 32,767 file systems are attached.
        """
        layers = [self.rooted_at(self.attach_again(fs), tree, inum) for fs, tree, inum in folders]
        for layer in layers[:-1]:
            layer.fs.guard = own_contents
        return self.merged(layers, None)

    def merged(self, layers: Sequence[FsNode], parent: Merged | None) -> Merged:
        """Make a directory of several trees; ``parent`` None: it is the root of what is shown."""
        node = Merged(self, self._new(), layers, parent, parent.roots if parent else layers)
        self._static[node.ino] = node
        self.put_below(node.ino, parent.ino if parent else Ino(0))
        return node

    def put_below(self, ino: Ino, parent: Ino) -> None:
        """Record where a directory stands."""
        self._parents[ino] = parent

    # --- numbers -------------------------------------------------------------------------------------
    def node(self, ino: Ino) -> Node:
        """Return the node of a number.

        Raises:
            NotFound: nothing has it.
        """
        if ino & ALIAS:
            address = self._aliases.address(ino)
            if address is None:
                raise NotFound(f"inode {ino:#x}")
            return FsNode(self._file_systems[address.fs - 1], ino, address)
        fs, inum = unpack(ino)
        if not fs:
            static = self._static.get(ino)
            if static is None:
                raise NotFound(f"inode {ino:#x}")
            return static
        if fs > len(self._file_systems):
            raise NotFound(f"inode {ino:#x}")
        return FsNode(self._file_systems[fs - 1], ino, Address(fs, 0, inum))

    def number(self, parent: FsNode, entry: Entry) -> Ino:
        """Return the number of an entry as it stands in ``parent``, recording the place."""
        address = Address(parent.address.fs, parent.address.tree, entry.attr.inum, entry.stream)
        if not is_place(entry):
            return pack(address) or self._aliases.number(address)
        ino = pack(address) or self._aliases.number(address)
        if self._parents.get(ino, parent.ino) != parent.ino:
            address = address._replace(position=parent.ino)
            ino = self._aliases.number(address)
        self._parents[ino] = parent.ino
        if entry.attr.kind is Kind.DIR and ino not in self.loops and self._inside_itself(parent, address):
            self.loops.add(ino)
        return ino

    def place(self, parent: FsNode, entry: Entry) -> Node:
        """Return the node of an entry as it stands in ``parent``, or what is mounted there."""
        mounts = parent.fs.mounts
        if mounts and (mounted := mounts.get((parent.address.tree, entry.attr.inum))) is not None:
            self._parents[mounted[0].ino] = parent.ino
            return mounted[0]
        return self.covered(parent, entry)

    def covered(self, parent: FsNode, entry: Entry) -> FsNode:
        """Return the node of an entry as it stands in ``parent``, whatever is mounted there."""
        ino = self.number(parent, entry)
        if ino & ALIAS:
            address = self._aliases.address(ino)
            assert address is not None  # noqa: S101  # numbered in the line above
        else:
            address = Address(parent.address.fs, parent.address.tree, entry.attr.inum, entry.stream)
        return FsNode(parent.fs, ino, address)

    def _inside_itself(self, parent: FsNode, address: Address) -> bool:
        ino = parent.ino
        seen = 0
        while ino and seen < limits.MAX_LINK:  # a path longer than PATH_MAX / 1 cannot be walked to
            above = self._address(ino)
            if above is not None and above[:3] == address[:3]:
                return True
            ino = self._parents.get(ino, Ino(0))
            seen += 1
        return seen >= limits.MAX_LINK

    def _address(self, ino: Ino) -> Address | None:
        if ino & ALIAS:
            return self._aliases.address(ino)
        fs, inum = unpack(ino)
        return Address(fs, 0, inum)

    def depth(self, ino: Ino) -> int:
        """Return how many levels the directory that holds ``ino`` lies below its subvolume's root."""
        levels = -1
        parent = self._parents.get(ino, Ino(0))
        while parent and levels < limits.MAX_LINK:
            levels += 1
            parent = self._parents.get(parent, Ino(0))
        return max(levels, 0)

    def hold(self, ino: Ino) -> None:
        """Count a lookup the kernel was answered."""
        if ino & ALIAS:
            self._aliases.hold(ino)

    def forget_unheld(self, ino: Ino) -> None:
        """Free an alias that was made for a row the kernel's buffer had no room for."""
        if ino & ALIAS and not self._parents.get(ino):
            self._aliases.forget(ino, 0)

    def forget(self, ino: Ino, lookups: int) -> None:
        """Take back lookups; places and aliases the kernel no longer knows are dropped."""
        if self._parents.get(ino, 1) == 0:
            return  # the root of a subvolume stays
        if ino & ALIAS and self._aliases.forget(ino, lookups) is None:
            return
        self._parents.pop(ino, None)
        self.loops.discard(ino)
        self._images.pop(ino, None)

    # --- images inside images ------------------------------------------------------------------------
    async def nested(self, parent: FsNode, row: Row) -> Dir:
        """Return the disk inside a file.

        Raises:
            NotFound: the file is no image.
        """
        address = Address(parent.address.fs, parent.address.tree, row.entry.attr.inum, row.entry.stream)
        disk = self._nested.get(address[:4])
        if disk is None:
            source = await parent.fs.source_of(address)
            spec = f"{parent.fs.spec}/{address.inum}"
            disk = await self.enter(source, spec, row.name) if self.enter else None
            if disk is None:
                raise NotFound("no image is recognised in this file")
            disk = self._nested.setdefault(address[:4], disk)
        return disk

    @property
    def nested_disks(self) -> list[Dir]:
        """Return the disks inside files that were entered."""
        return list(self._nested.values())

    def nested_row(self, parent: FsNode, index: int) -> Child | None:
        """Return row ``index`` of the disks listed beside their files."""
        images = self._images.get(parent.ino, [])
        return images[index] if index < len(images) else None

    async def list_nested(self, parent: FsNode, listing: Listing, index: int) -> bool:
        """Find the images among a listed directory's files, when the mount shows them."""
        if not self._list_nested:
            return False
        if parent.ino not in self._images:
            images: list[Child] = []
            for row in listing.rows:
                if row.entry.attr.kind is Kind.REG and row.name + b"@" not in listing.index:
                    try:
                        disk = await self.nested(parent, row)
                    except NotFound:
                        continue
                    images.append(Child(row.name + b"@", disk.ino, disk.attr_now()))
            self._images[parent.ino] = images
        return index < len(self._images[parent.ino])

    @property
    def file_systems(self) -> list[FileSystem]:
        """Return what is attached, by number, without what is attached again."""
        return [fs for fs in self._file_systems if fs.of is None]
