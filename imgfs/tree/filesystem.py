"""A file system in the tree, and its nodes. A node is made from its number whenever it is asked for."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.block.build import build
from imgfs.block.shared import SharedUnits
from imgfs.errors import (
    EvidenceError,
    IsADirectory,
    Malformed,
    NotADirectory,
    NotFound,
    NotSupported,
    WorkerError,
)
from imgfs.model import Attr, Entry, Ino, Kind
from imgfs.tree import facts, links, names
from imgfs.tree.inodes import LOW, SHIFT
from imgfs.tree.nodes import Child
from imgfs.tree.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from imgfs.block.pieces import ByteSource
    from imgfs.model import Layout, Page, Spec
    from imgfs.tree.dircache import Listing
    from imgfs.tree.inodes import Address
    from imgfs.tree.nodes import Node
    from imgfs.tree.tree import Tree
    from imgfs.worker.client import FilesClient

_WALKS = 16  # trees of a file system whose readers are followed; more are forgotten together
_XATTRS_KEPT = 64  # a getxattr follows its listxattr: the last few files suffice


class FileSystem:
    """One opened file system: its worker's client, the bytes below it, and where it hangs."""

    __slots__ = (
        "_walks",
        "apart",
        "client",
        "damaged",
        "guard",
        "id",
        "mounts",
        "of",
        "shared",
        "sources",
        "spec",
        "tree",
        "xattrs",
    )

    def __init__(
        self, tree: Tree, number: int, client: FilesClient, sources: Sequence[ByteSource], spec: Spec
    ) -> None:
        self.tree = tree
        self.id = number
        self.client = client
        self.sources = sources
        self.spec = spec
        self.shared = SharedUnits(str(spec))
        self.of: FileSystem | None = None  # what this is attached again
        self.apart = False  # put together from others: no volume of the images
        # refuses files whose contents are not what it has of them
        self.guard: Callable[[FsNode], Awaitable[None]] | None = None
        self._walks: dict[int, Walk] = {}  # by tree
        # by tree and number of a directory: what an installed system has mounted there
        self.mounts: dict[tuple[int, int], tuple[Node, Attr]] = {}
        self.damaged: dict[str, str] = {}  # listings that are not whole, by tree and number
        self.xattrs: OrderedDict[tuple[int, int, int, int], dict[bytes, bytes]] = OrderedDict()

    def listing(self, tree: int, inum: int) -> Listing:
        """Return the cached listing of a directory."""
        load = partial(self._page, tree, inum)
        return self.tree.dircache.get((self.id, tree, inum), load)

    async def _page(self, tree: int, inum: int, cursor: int) -> Page:
        page = await self.client.list(tree, inum, cursor, limits.PAGE_ENTRIES)
        if page.damaged and len(self.damaged) < limits.EVENTS_KEPT:
            self.damaged[f"{self.client.info.trees[tree].name}/{inum}"] = page.damaged
        return page

    def walked(self, tree: int, inum: int, listing: Listing) -> None:
        """Let the worker list ahead of a reader that walks a tree."""
        folders = [row.entry.attr.inum for row in listing.rows if row.entry.attr.kind is Kind.DIR]
        if tree not in self._walks and len(self._walks) >= _WALKS:
            self._walks.clear()
        ahead = self._walks.setdefault(tree, Walk()).listed(inum, folders)
        if ahead is not None:
            self.tree.background(partial(self._list_ahead, tree), ahead)

    async def _list_ahead(self, tree: int, inum: int) -> None:
        listing = self.listing(tree, inum)
        if listing.untouched:
            with suppress(EvidenceError, WorkerError):  # whoever lists it will be told
                await listing.grow()

    async def entry_attr(self, address: Address) -> Attr:
        """Return attributes from a cached listing, else from the worker."""
        entry = self.tree.dircache.entry(self.id, address.tree, address.inum, address.stream)
        if entry is not None:
            return entry.attr
        return await self.client.stat(address.tree, address.inum, address.stream)

    async def layouts(self, address: Address) -> tuple[Layout, ...]:
        """Return the claim about where a stream lies."""
        entry = self.tree.dircache.entry(self.id, address.tree, address.inum, address.stream)
        if entry is not None and entry.layout is not None:
            return entry.layout
        return await self.client.layout(address.tree, address.inum, address.stream)

    async def source_of(self, address: Address) -> ByteSource:
        """Resolve a stream to checked bytes, once; later opens ask nobody.

        Raises:
            Malformed: the layout fails a check, or is not as long as the attributes say.
            NotSupported: its contents lie elsewhere.
        """
        if self.guard is not None:
            await self.guard(FsNode(self, Ino(0), address))
        key = address[:4]
        source = self.tree.layouts.get(key)
        if source is None:
            claim = await self.layouts(address)
            read = partial(self.client.read, address.tree, address.inum, address.stream)
            spec = f"{self.spec}/{address.inum}"
            source = build(claim, self.sources, spec, foreign=read, shared=self.shared)
            size = (await self.entry_attr(address)).size
            if source.size != size:
                raise Malformed(
                    f"inode {address.inum}: {size} bytes, its layout holds {source.size}", spec=str(self.spec)
                )
            self.tree.layouts.put(key, source)
        return source


class FsNode:
    """A file, directory or stream of the evidence."""

    __slots__ = ("_listing", "_told", "address", "forever", "fs", "ino")

    def __init__(self, fs: FileSystem, ino: Ino, address: Address) -> None:
        self.fs = fs
        self.ino = ino
        self.address = address
        self.forever = True
        self._listing: Listing | None = None
        self._told = False

    async def attr(self) -> Attr:
        """Return the attributes."""
        return await self.fs.entry_attr(self.address)

    def _rows(self) -> Listing:
        if self._listing is None:
            self._listing = self.fs.listing(self.address.tree, self.address.inum)
        return self._listing

    async def find(self, name: bytes) -> Node:
        """Return the entry of that name, or the disk inside ``name`` when it is asked for as ``name@``."""
        if self.ino in self.fs.tree.loops:
            raise NotFound(names.printable(name))
        listing = self._rows()
        row = await listing.find(name)
        if row is None:
            if name.endswith(b"@") and len(name) > 1:
                return await self._nested(name)
            if listing.damaged:
                raise Malformed(
                    f"{names.printable(name)}: not in what is readable of this directory: {listing.damaged}"
                )
            raise NotFound(names.printable(name))
        return self.fs.tree.place(self, row.entry)

    async def entry(self, name: bytes) -> Entry:
        """Return what this directory says of a name.

        Raises:
            NotFound: it has none, as far as it can be read.
        """
        row = None if self.ino in self.fs.tree.loops else await self._rows().find(name)
        if row is None:
            raise NotFound(names.printable(name))
        return row.entry

    async def _nested(self, name: bytes) -> Node:
        row = await self._rows().find(name[:-1])
        if row is None or row.entry.attr.kind is not Kind.REG:
            raise NotFound(names.printable(name))
        return await self.fs.tree.nested(self, row)

    def row(self, index: int) -> Child | None:
        """Return row ``index`` when it has been listed."""
        if self.ino in self.fs.tree.loops:
            return None
        listing = self._rows()
        if index < len(listing.rows):
            if not self._told:
                self._tell(listing)
            name, entry = listing.rows[index]
            attr = entry.attr
            if not self.address.tree and not entry.stream and attr.kind is Kind.REG and 0 < attr.inum <= LOW:
                return Child(name, Ino(self.fs.id << SHIFT | attr.inum), attr)  # nearly all of them
            if self.fs.mounts and attr.kind is Kind.DIR:
                here = self.fs.tree.place(self, entry)
                if (mounted := self.fs.mounts.get((self.address.tree, attr.inum))) is not None:
                    attr = mounted[1]
                return Child(name, here.ino, attr)
            return Child(name, self.fs.tree.number(self, entry), attr)
        if listing.complete:
            return self.fs.tree.nested_row(self, index - len(listing.rows))
        return None

    def _tell(self, listing: Listing) -> None:
        """Say once that this directory is being read from its start."""
        self._told = True
        self.fs.walked(self.address.tree, self.address.inum, listing)

    async def more(self, index: int) -> bool:
        """List on until row ``index`` is there."""
        if self.ino in self.fs.tree.loops:
            return False
        listing = self._rows()
        await listing.at_least(index + 1)
        if index < len(listing.rows):
            return True
        if not self._told:
            self._tell(listing)
        return await self.fs.tree.list_nested(self, listing, index - len(listing.rows))

    @property
    def damaged(self) -> str:
        """Say what is missing from the listing so far; empty: nothing."""
        return self._rows().damaged

    async def open(self) -> ByteSource:
        """Resolve the content, once."""
        attr = await self.attr()
        if attr.kind is Kind.DIR:
            raise IsADirectory(str(self.fs.spec))
        return await self.fs.source_of(self.address)

    async def stored_link(self) -> bytes:
        """Return the target as the evidence has it."""
        if (await self.attr()).kind is not Kind.LNK:
            raise NotADirectory("no link")
        return await self.fs.client.link(self.address.tree, self.address.inum)

    async def link(self) -> bytes:
        """Return the target to be followed: confined to the subvolume unless the mount says raw."""
        target = await self.stored_link()
        if self.fs.tree.raw_links:
            return target.split(b"\0")[0] or b"."
        return links.confine(target, self.fs.tree.depth(self.ino))

    async def xattrs(self) -> Mapping[bytes, bytes]:
        """Return the evidence's attributes and imgfs's own."""
        kept = self.fs.xattrs
        key = self.address[1:]  # with the place: a directory inside itself says so where it is met again
        if key not in kept:
            kept[key] = await self._xattrs()
            if len(kept) > _XATTRS_KEPT:
                kept.popitem(last=False)
        return kept[key]

    async def _xattrs(self) -> dict[bytes, bytes]:
        attr = await self.attr()
        own = {"spec": f"{self.fs.spec}/{self.address.inum}".encode(), **facts.of_attr(attr)}
        stream_of_file = self.address.stream != 0
        evidence = {} if stream_of_file else await self.fs.client.xattrs(self.address.tree, self.address.inum)
        try:
            if attr.kind is Kind.REG:
                own |= facts.of_layout(await self.fs.layouts(self.address))
            if (
                attr.kind is Kind.LNK and b"user.imgfs.link" not in evidence
            ):  # of NTFS it is no path as stored
                own["link"] = await self.stored_link()
        except (EvidenceError, NotSupported) as why:  # what else is known of the file is shown
            own["damaged"] = own.get("damaged") or why.message.encode()
        if attr.kind is Kind.DIR and self.ino in self.fs.tree.loops:
            own["damaged"] = b"a directory that lies inside itself: shown empty"
        return facts.present(attr, evidence, own)


def is_place(entry: Entry) -> bool:
    """Say whether an entry's number depends on where it stands: directories and links do."""
    return entry.stream == 0 and entry.attr.kind in (Kind.DIR, Kind.LNK)
