"""Live systems: the image that a medium boots, and what was kept of the changes to it.

A live system's image lies in a documented place and is entered like any image in a file. What was written
over it is shown together with it where both are where they are documented to be, and belong together by name;
what was put together is said. All else is shown as the files that it is.

Sources: Fedora's LiveOS_image; dracut.cmdline(7), "Booting live images": ``LiveOS/squashfs.img`` holds the
root file system, or ``LiveOS/rootfs.img`` (earlier ``ext3fs.img``) with it; what changes is kept beside it as
``overlay-LABEL-UUID``, of the file system that it lies in.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends import Options, discover
from imgfs.block.build import build
from imgfs.errors import EvidenceError, ImgfsError, NotADirectory, NotFound
from imgfs.model import Ino, Kind, Media, Spec
from imgfs.opening.layers import Layer
from imgfs.opening.place import Place
from imgfs.opening.snapshots import Snapshots
from imgfs.tree import names
from imgfs.tree.dircache import Row
from imgfs.tree.filesystem import FsNode
from imgfs.tree.nodes import Dir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.block.fetch import Fetcher
    from imgfs.block.pieces import ByteSource
    from imgfs.model import Entry
    from imgfs.opening.attempt import Attempts
    from imgfs.opening.named import Rooted
    from imgfs.tree.filesystem import FileSystem
    from imgfs.tree.nodes import Node
    from imgfs.tree.tree import Tree

_LIVE: Final = b"LiveOS"
_OUTER: Final = (b"squashfs.img",)
_INNER: Final = (b"rootfs.img", b"ext3fs.img")
_OVERLAY: Final = b"overlay-"
_WORK: Final = b"ovlwork"  # beside it, where OverlayFS prepares what it writes
_STORE: Final = "dmsnapshot"
UNION: Final = "overlayfs"
_DEBIAN: Final = (b"live", b"casper")
_IMAGES_MOST: Final = 32
_ENTRIES_MOST: Final = 10_000  # of a folder of few files


@dataclass(frozen=True, slots=True)
class Kept:
    """A file or folder that keeps what a live system changed, where it lies."""

    one: Rooted
    folder: FsNode
    entry: Entry
    name: bytes

    @property
    def fits(self) -> bool:
        """Say whether it is named for the file system that it lies in."""
        info = self.one.fs.client.info
        return self.name.decode("utf-8", "replace") == f"overlay-{info.label}-{info.uuid}"

    @property
    def place(self) -> str:
        """Return its address."""
        return f"{self.folder.fs.spec}/{self.entry.attr.inum}"


class Live:
    """Finds live systems among the trees of file systems."""

    __slots__ = ("_attempts", "_snapshots", "_tree")

    def __init__(self, tree: Tree, attempts: Attempts, fetcher: Fetcher) -> None:
        self._tree = tree
        self._attempts = attempts
        self._snapshots = Snapshots(tree, attempts, fetcher)

    async def enter(self, every: Sequence[Rooted]) -> None:
        """Open the images that live systems boot from, so that what is in them is there like any volume."""
        for one in every:
            for place in _DEBIAN:
                with suppress(ImgfsError):
                    for name in await self.images(one, place):
                        await self.inside(await directory(self._tree.root_of(one.fs, one.index), place), name)
            with suppress(ImgfsError):
                folder = await self._folder(one)
                for name in (*_OUTER, *_INNER):
                    for fs in await self.inside(folder, name):
                        for index in range(len(fs.client.info.trees)):
                            root = self._tree.root_of(fs, index)
                            with suppress(ImgfsError):
                                inner = await directory(root, _LIVE)
                                for image in _INNER:
                                    await self.inside(inner, image)

    async def images(self, one: Rooted, place: bytes) -> list[bytes]:
        """Return the names of the images in a folder of a Debian live medium."""
        with suppress(ImgfsError):
            found = await listed(await directory(self._tree.root_of(one.fs, one.index), place))
            return [name for name in found if name.endswith(b".squashfs")][:_IMAGES_MOST]
        return []

    async def kept(self, every: Sequence[Rooted]) -> list[Kept]:
        """Return what live systems kept of their changes."""
        found: list[Kept] = []
        for one in every:
            with suppress(ImgfsError):
                folder = await self._folder(one)
                some = [name for name in await listed(folder) if name.startswith(_OVERLAY)]
                found += [Kept(one, folder, await folder.entry(name), name) for name in some]
        return found

    async def together(self, kept: Kept, path: str, shown: Dir) -> Node | None:
        """Lay what was kept over the image that it was kept of; None: it is not certain, which is said.

        Raises:
            EvidenceError, WorkerError: it cannot be read.
        """
        try:
            if kept.entry.attr.kind is Kind.REG:
                return await self._store(kept, path, shown)
            if kept.entry.attr.kind is Kind.DIR:
                return await self._union(kept, path)
        except (NotFound, NotADirectory):
            pass  # there is no image, or none that is read, which the record of its layer says
        return None

    async def _store(self, kept: Kept, path: str, shown: Dir) -> Node | None:
        """Lay a store of the device-mapper over the bytes of the image."""
        place = _place(kept, path, shown)
        base, where = await self._image(kept.folder)
        store = await kept.folder.fs.source_of(self._tree.covered(kept.folder, kept.entry).address)
        named = ("", where)
        layer, answer = await self._attempts.open(discover()[_STORE], [store, base], place, "system", named)
        if answer is None or not isinstance(answer.opened, Media) or not _certain(kept, where, layer):
            return None
        made = build(answer.opened.layouts, [store, base], layer.spec, table=answer.table)
        layer.media(answer.opened, made.size)
        try:
            node = await self._snapshots.root_of(made, place.inner(_STORE), layer)
        except EvidenceError as why:
            self._attempts.damaged(layer, str(why))
            return None
        assert isinstance(node, FsNode)  # noqa: S101  # of the file system that was attached
        node.fs.apart = True
        return node

    async def _union(self, kept: Kept, path: str) -> Node | None:
        """Lay a directory over the root that the image holds, as OverlayFS does."""
        await directory(kept.folder, _WORK)  # without it OverlayFS would not have been told to
        upper = kept.folder.fs, kept.folder.address.tree, kept.entry.attr.inum
        lower, where = await self._rooted(kept.folder)
        layer = Layer(
            spec=f"{kept.place}|{UNION}",
            backend=UNION,
            kind="system",
            path=path,
            title="OverlayFS",
            state="open",
        )
        self._attempts.layers.add(layer)
        if not _certain(kept, where, layer):
            return None
        return self._tree.union([upper, (lower.fs, lower.address.tree, lower.address.inum)])

    async def _image(self, folder: FsNode) -> tuple[ByteSource, str]:
        """Return the bytes of the image that is changed, and where it lies.

        Raises:
            NotFound: there is none.
        """
        for name in _INNER:
            with suppress(NotFound):
                entry = await folder.entry(name)
                where = f"{names.printable(_LIVE)}/{names.printable(name)}"
                return await folder.fs.source_of(self._tree.covered(folder, entry).address), where
        inner, outer = await self._within(folder)
        source, where = await self._image(await directory(inner, _LIVE))
        return source, f"{where} in {outer}"

    async def _rooted(self, folder: FsNode) -> tuple[FsNode, str]:
        """Return the root of the live system's file system, and where that lies.

        Raises:
            NotFound: there is none.
        """
        for name in _INNER:
            for fs in await self.inside(folder, name):
                return self._tree.root_of(fs, 0), f"{names.printable(_LIVE)}/{names.printable(name)}"
        inner, outer = await self._within(folder)
        try:
            found, where = await self._rooted(await directory(inner, _LIVE))
        except NotFound:  # it is the root itself
            return inner, outer
        return found, f"{where} in {outer}"

    async def _within(self, folder: FsNode) -> tuple[FsNode, str]:
        """Return the root of what the outer image holds, and where that lies.

        Raises:
            NotFound: there is none.
        """
        for name in _OUTER:
            for fs in await self.inside(folder, name):
                return self._tree.root_of(fs, 0), f"{names.printable(_LIVE)}/{names.printable(name)}"
        raise NotFound("no image of a live system")

    async def _folder(self, one: Rooted) -> FsNode:
        if one.index:  # another view of the same files, as the names of a disc for other readers
            raise NotFound("no live system")
        return await directory(self._tree.root_of(one.fs, one.index), _LIVE)

    async def inside(self, folder: FsNode, name: bytes) -> list[FileSystem]:
        """Enter the image of that name; return the file systems that lie on it.

        Raises:
            WorkerError: it may be there another time.
        """
        try:
            entry = await folder.entry(name)
            if entry.attr.kind is not Kind.REG:
                return []
            disk = await self._tree.nested(folder, Row(name, entry))
            await disk.complete()
            for one in disk.names():
                if isinstance(inner := disk.child(one), Dir):
                    await inner.complete()
        except (EvidenceError, NotFound):
            return []
        start = f"{folder.fs.spec}/{entry.attr.inum}|"
        every = ((str(fs.spec), fs) for fs in self._tree.file_systems)
        return [fs for spec, fs in every if spec.startswith(start) and "/" not in spec[len(start) :]]


def _certain(kept: Kept, where: str, layer: Layer) -> bool:
    """Say whether what was kept belongs to the image, and what is put together."""
    name = f"{names.printable(_LIVE)}/{names.printable(kept.name)}"
    layer.members = [where, name]
    if kept.fits:
        layer.note(f"put together: {where}, and over it what {name} has of changes")
        return True
    layer.state, layer.needs = "unsupported", "it is named for another medium: what it changed is not certain"
    return False


def _place(kept: Kept, path: str, shown: Dir) -> Place:
    root, *steps = kept.place.split("|")
    spec = Spec(root)
    for step in steps:
        spec = spec.child(step)
    return Place(shown, spec, path, Options(), len(steps), nested=True)


async def directory(node: FsNode, name: bytes) -> FsNode:
    """Return a directory in another.

    Raises:
        NotFound, NotADirectory: there is none.
    """
    entry = await node.entry(name)
    if entry.attr.kind is not Kind.DIR:
        raise NotADirectory(names.printable(name))
    return FsNode(node.fs, Ino(0), node.address._replace(inum=entry.attr.inum))


async def listed(node: FsNode) -> list[bytes]:
    """Return the names in a directory of few files."""
    listing = node.fs.listing(node.address.tree, node.address.inum)
    await listing.at_least(_ENTRIES_MOST)
    return [row.name for row in listing.rows[:_ENTRIES_MOST]]
