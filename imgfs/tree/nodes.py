"""What a directory entry means: a directory of ours, the bytes of a layer, a report, or evidence.

Nodes answer; they know no FUSE and no opening. ``row`` never waits, ``more`` brings rows that are not there
yet: a reader asks for one row after the other and stops when its buffer is full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from imgfs.block.memory import Memory
from imgfs.errors import IsADirectory, NotADirectory, NotFound
from imgfs.model import Attr, Kind

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from imgfs.block.pieces import ByteSource
    from imgfs.model import Ino


class Child(NamedTuple):
    """One row of a directory as a front-end shows it."""

    name: bytes
    ino: Ino
    attr: Attr


class Node(Protocol):
    """What every entry of the mount can do."""

    ino: Ino
    forever: bool  # attributes and names never change again

    async def attr(self) -> Attr:
        """Return the attributes."""

    async def find(self, name: bytes) -> Node:
        """Return the entry of that name.

        Raises:
            NotFound: there is none.
            NotADirectory: this is no directory.
        """

    def row(self, index: int) -> Child | None:
        """Return row ``index``, None when it is not there (yet)."""

    async def more(self, index: int) -> bool:
        """Bring row ``index``; False: the directory ends before it."""

    async def open(self) -> ByteSource:
        """Resolve the content, once."""

    async def link(self) -> bytes:
        """Return the target to be followed."""

    async def xattrs(self) -> Mapping[bytes, bytes]:
        """Return the extended attributes by full name."""


class Dir:
    """A directory imgfs makes. ``fill`` runs once, before anything but known children is answered."""

    __slots__ = ("_attr", "_children", "_fill", "_filling", "_order", "forever", "ino", "spec")

    def __init__(self, ino: Ino, *, m_ns: int = 0, spec: str = "") -> None:
        self.ino = ino
        self.forever = False
        self.spec = spec
        self._attr = Attr(kind=Kind.DIR, inum=ino, mode=0o555, nlink=2, m_ns=m_ns, a_ns=m_ns, c_ns=m_ns)
        self._children: dict[bytes, tuple[Node, Attr | None]] = {}
        self._order: list[bytes] = []
        self._fill: Callable[[], Awaitable[None]] | None = None
        self._filling: trio.Event | None = None

    def add(self, name: bytes, node: Node, attr: Attr | None = None, *, listed: bool = True) -> None:
        """Put a child in. ``attr`` is kept for rows; None asks the node when it is a Dir, Raw or Blob.

        ``listed`` False: it is there for who asks for it by name.
        """
        self._children[name] = (node, attr)
        if listed:
            self._order.append(name)

    def put(self, name: bytes, node: Node, attr: Attr | None = None) -> None:
        """Put a child in, or in the place of the one of that name."""
        if name in self._children:
            self._children[name] = (node, attr)
        else:
            self.add(name, node, attr)

    def fill_with(self, fill: Callable[[], Awaitable[None]]) -> None:
        """Set what completes this directory; it runs once at a time, until it succeeds."""
        self._fill = fill

    async def complete(self) -> None:
        """Wait until everything that will ever be in here is."""
        while self._fill is not None:
            if self._filling is not None:
                await self._filling.wait()
                continue
            self._filling = trio.Event()
            try:
                await self._fill()
                self._fill = None
            finally:
                self._filling.set()
                self._filling = None

    def __contains__(self, name: bytes) -> bool:
        return name in self._children

    def names(self) -> list[bytes]:
        """Return the children's names in order."""
        return list(self._order)

    def child(self, name: bytes) -> Node | None:
        """Return a child that is there already."""
        pair = self._children.get(name)
        return pair[0] if pair else None

    def attr_now(self) -> Attr:
        """Return the attributes."""
        return self._attr

    async def attr(self) -> Attr:
        """Return the attributes."""
        return self._attr

    async def find(self, name: bytes) -> Node:
        """Return a child, completing the directory only when it is not there yet."""
        node = self.child(name)
        if node is None:
            await self.complete()
            node = self.child(name)
        if node is None:
            raise NotFound(name.decode("utf-8", "backslashreplace"))
        return node

    def row(self, index: int) -> Child | None:
        """Return row ``index`` once the directory is complete."""
        if self._fill is not None or index >= len(self._order):
            return None
        name = self._order[index]
        node, attr = self._children[name]
        if attr is None:
            assert isinstance(node, Dir | Raw | Blob)  # noqa: S101  # INV: evidence nodes come with attributes
            attr = node.attr_now()
        return Child(name, node.ino, attr)

    async def more(self, index: int) -> bool:
        """Complete the directory."""
        await self.complete()
        return index < len(self._order)

    async def open(self) -> ByteSource:
        """Refuse: a directory has no bytes."""
        raise IsADirectory(self.spec)

    async def link(self) -> bytes:
        """Refuse: no link."""
        raise IsADirectory(self.spec)

    async def xattrs(self) -> Mapping[bytes, bytes]:
        """Return the address of the layer."""
        return {b"user.imgfs.spec": self.spec.encode()} if self.spec else {}


class _File:
    """What Raw and Blob share: they are no directories and no links."""

    __slots__ = ("forever", "ino")

    def __init__(self, ino: Ino, *, forever: bool) -> None:
        self.ino = ino
        self.forever = forever

    async def find(self, name: bytes) -> Node:
        raise NotADirectory(name.decode("utf-8", "backslashreplace"))

    def row(self, index: int) -> Child | None:
        del index
        return None

    async def more(self, index: int) -> bool:
        raise NotADirectory(str(index))

    async def link(self) -> bytes:
        raise NotADirectory("no link")


class Raw(_File):
    """The bytes of a layer: disk.raw, volume.raw."""

    __slots__ = ("_attr", "_source", "spec")

    def __init__(self, ino: Ino, source: ByteSource, *, m_ns: int, spec: str) -> None:
        super().__init__(ino, forever=True)
        self._source = source
        self.spec = spec
        self._attr = Attr(
            kind=Kind.REG,
            inum=ino,
            mode=0o444,
            size=source.size,
            allocated=source.size,
            m_ns=m_ns,
            a_ns=m_ns,
            c_ns=m_ns,
        )

    def attr_now(self) -> Attr:
        """Return the attributes."""
        return self._attr

    async def attr(self) -> Attr:
        """Return the attributes."""
        return self._attr

    async def open(self) -> ByteSource:
        """Return the layer itself."""
        return self._source

    async def xattrs(self) -> Mapping[bytes, bytes]:
        """Return the address of the layer."""
        return {b"user.imgfs.spec": self.spec.encode()}


class Blob(_File):
    """A report made when it is opened. Its size is that of the moment it is asked."""

    __slots__ = ("_m_ns", "_render")

    def __init__(self, ino: Ino, render: Callable[[], bytes], *, m_ns: int) -> None:
        super().__init__(ino, forever=False)
        self._render = render
        self._m_ns = m_ns

    def attr_now(self) -> Attr:
        """Return the attributes of this moment."""
        m_ns = self._m_ns
        size = len(self._render())
        return Attr(
            kind=Kind.REG,
            inum=self.ino,
            mode=0o444,
            size=size,
            allocated=size,
            m_ns=m_ns,
            a_ns=m_ns,
            c_ns=m_ns,
        )

    async def attr(self) -> Attr:
        """Return the attributes of this moment."""
        return self.attr_now()

    async def open(self) -> ByteSource:
        """Render the report; a handle keeps what it opened."""
        return Memory(self._render())

    async def xattrs(self) -> Mapping[bytes, bytes]:
        """Return nothing."""
        return {}
