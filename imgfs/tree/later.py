"""What is opened when somebody looks: the bytes and the tree of a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.errors import IsADirectory
from imgfs.model import Attr, Kind
from imgfs.tree.nodes import _File

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from imgfs.block.pieces import ByteSource
    from imgfs.model import Ino
    from imgfs.tree.nodes import Child, Node


class LaterRaw(_File):
    """A file whose size is known and whose bytes are found when it is opened."""

    __slots__ = ("_attr", "_source", "spec")

    def __init__(
        self, ino: Ino, source: Callable[[], Awaitable[ByteSource]], *, size: int, m_ns: int, spec: str
    ) -> None:
        super().__init__(ino, forever=True)
        self.spec = spec
        self._source = source
        self._attr = Attr(
            kind=Kind.REG, inum=ino, mode=0o444, size=size, allocated=size, m_ns=m_ns, a_ns=m_ns, c_ns=m_ns
        )

    def attr_now(self) -> Attr:
        """Return the attributes."""
        return self._attr

    async def attr(self) -> Attr:
        """Return the attributes."""
        return self._attr

    async def open(self) -> ByteSource:
        """Find the bytes."""
        return await self._source()

    async def xattrs(self) -> Mapping[bytes, bytes]:
        """Return the address of the layer."""
        return {b"user.imgfs.spec": self.spec.encode()}


class LaterTree:
    """The root directory of a tree that is opened by the first look into it; all else is that root's."""

    __slots__ = ("_attr", "_node", "_root", "forever", "ino", "spec")

    def __init__(self, ino: Ino, root: Callable[[], Awaitable[Node]], *, m_ns: int, spec: str) -> None:
        self.ino = ino
        self.forever = False
        self.spec = spec
        self._root = root
        self._node: Node | None = None
        self._attr = Attr(kind=Kind.DIR, inum=ino, mode=0o555, nlink=2, m_ns=m_ns, a_ns=m_ns, c_ns=m_ns)

    async def _ready(self) -> Node:
        if self._node is None:
            self._node = await self._root()  # remembers itself, so that two at once get the same
        return self._node

    def attr_now(self) -> Attr:
        """Return what is known without opening it: when it was taken."""
        return self._attr

    async def attr(self) -> Attr:
        """Return what is known without opening it: when it was taken."""
        return self._attr

    async def find(self, name: bytes) -> Node:
        """Return an entry of the root."""
        return await (await self._ready()).find(name)

    def row(self, index: int) -> Child | None:
        """Return a row of the root, once it is open."""
        return None if self._node is None else self._node.row(index)

    async def more(self, index: int) -> bool:
        """Open it, and bring a row of the root."""
        node = await self._ready()
        return node.row(index) is not None or await node.more(index)

    async def link(self) -> bytes:
        """Refuse: no link."""
        raise IsADirectory(self.spec)

    async def open(self) -> ByteSource:
        """Refuse: a directory has no bytes."""
        raise IsADirectory(self.spec)

    async def xattrs(self) -> Mapping[bytes, bytes]:
        """Return the address of the layer."""
        return {b"user.imgfs.spec": self.spec.encode()}
