"""The root of one installed system: its volumes and folders where its table of mounts puts them.

It may be made again, when more of the volumes are known. What is shown at a place is kept as long as it is
the same: numbers that the kernel knows stay valid, and so does what is open.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from heapq import heapify, heappop
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs import limits
from imgfs.errors import ImgfsError, Malformed, NotADirectory, NotSupported
from imgfs.model import Kind
from imgfs.tree import names
from imgfs.tree.filesystem import FsNode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.model import Attr, Ino, MountRow
    from imgfs.opening.layers import Layer
    from imgfs.opening.named import Named, Rooted
    from imgfs.tree.filesystem import FileSystem
    from imgfs.tree.nodes import Dir, Node
    from imgfs.tree.tree import Tree

Path = tuple[bytes, ...]
Changed = set[tuple["Ino", bytes]]  # directories, and names in them that mean something else now

_LINKS: Final = 40  # followed on one way: as many as the kernel does
_DEEPEST: Final = 128  # folders above a mount


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory of a file system, shown as the root of what is mounted."""

    fs: FileSystem
    tree: int
    inum: int


What = Folder | tuple[Folder, ...]  # a folder, or several laid over each other, the uppermost first


class _At(NamedTuple):
    """A step of a way: ``key`` is what the directory above calls it, None: nothing is mounted in there."""

    name: bytes
    node: Node
    key: tuple[int, int, int] | None


class Assembly:
    """One system. ``root`` is there once it was made."""

    __slots__ = ("_at", "_base", "_mounts", "_one", "_points", "_rows", "_tree", "_views", "layer", "root")

    def __init__(self, tree: Tree, one: Rooted, rows: Sequence[MountRow], layer: Layer) -> None:
        """``layer`` is its record, with what is said of the table itself."""
        self._tree = tree
        self._one = one
        self._rows = _ordered(rows)
        self.layer = layer
        self._base = list(layer.notes)
        self._views: dict[tuple[Path, What], Node] = {}
        self._mounts: dict[tuple[int, int, int], tuple[Node, Attr]] = {}
        self._points: list[tuple[Path, What]] = []
        self._at: dict[tuple[Ino, bytes], Ino] = {}
        self.root = self._view((), Folder(one.fs, one.index, one.info.root))

    async def make(self, named: Named) -> Changed:
        """Put everything in its place; return the places where something else is shown than before."""
        before, self._at = self._at, {}
        self._mounts, self._points = {}, []
        said = replace(self.layer, notes=list(self._base), members=[])
        for row in self._rows:
            where = names.printable(row.where)
            try:
                await self._row(row, named, said)
            except ImgfsError as why:
                said.note(f"{where}: {row.what} is not shown there: {why}")
        for view in self._views.values():
            if isinstance(view, FsNode):
                fs = view.fs
                fs.mounts = {key[1:]: here for key, here in self._mounts.items() if key[0] == fs.id}
        self.layer.notes, self.layer.members = said.notes, said.members
        return {place for place, _ in before.items() ^ self._at.items()}

    async def _row(self, row: MountRow, named: Named, said: Layer) -> None:
        if row.folders:
            folders = ", ".join(names.printable(path) for path in row.folders if path)
            await (self._overlay(row) if row.what.startswith("overlay:") else self._bind(row))
            said.members.append(f"{names.printable(row.where)}: {folders}")
            return
        one = named.find(row, self._one, said)
        if one is not None:
            await self._mount(await self._way(_parts(row.where)), Folder(one.fs, one.index, one.info.root))
            said.members.append(f"{names.printable(row.where)}: {one.fs.spec}")

    async def _overlay(self, row: MountRow) -> None:
        """Lay folders of the system over each other.

        Raises:
            ImgfsError: it cannot be.
        """
        ways = [await self._way(_parts(path)) for path in row.folders if path]
        folders = [await self._source(way[-1].node, b"its folders") for way in ways]
        await self._mount(await self._way(_parts(row.where)), tuple(folders))

    async def _source(self, node: Node, path: bytes) -> Folder:
        """Return a folder of the system as something to show elsewhere.

        Raises:
            ImgfsError: it is none.
        """
        if not isinstance(node, FsNode):
            raise NotSupported("its source is put together from others")
        await _folder(node, path)
        return Folder(node.fs.of or node.fs, node.address.tree, node.address.inum)

    async def _bind(self, row: MountRow) -> None:
        """Show a folder of the system at another place, too.

        Raises:
            ImgfsError: it cannot be.
        """
        source = await self._way(_parts(row.folders[0]))
        folder = await self._source(source[-1].node, row.folders[0])
        target = await self._way(_parts(row.where))
        above = _path(source)
        inner = [(path[len(above) :], point) for path, point in self._points if path[: len(above)] == above]
        place = await self._mount(target, folder)
        for path, point in inner if row.what.startswith("rbind:") else ():
            if path:
                await self._mount(await self._way([*place, *path]), point)

    async def _mount(self, way: list[_At], folder: What) -> Path:
        """Show something at the end of a way; return the path of that.

        Raises:
            NotSupported: nothing can be shown there, or there is too much.
        """
        at, path = way[-1], _path(way)
        await _folder(at.node, b"/".join(path))
        if at.key is None:
            raise NotSupported("over the root, or inside what is put together")
        if len(self._points) >= limits.MAX_MOUNTS:
            raise NotSupported(f"more than {limits.MAX_MOUNTS} mounts")
        view = self._view(path, folder)
        self._mounts[at.key] = view, await view.attr()
        self._at[way[-2].node.ino, at.name] = view.ino
        self._points.append((path, folder))
        return path

    def _view(self, path: Path, folder: What) -> Node:
        """Attach a file system once more: in a system its directories have other places, hence numbers."""
        view = self._views.get((path, folder))
        if view is None:
            if isinstance(folder, tuple):
                view = self._tree.union([(one.fs, one.tree, one.inum) for one in folder])
            else:
                fs = self._tree.attach_again(folder.fs)
                view = self._tree.rooted_at(fs, folder.tree, folder.inum)
            self._views[path, folder] = view
        return view

    async def _way(self, parts: Sequence[bytes]) -> list[_At]:
        """Return the steps of a path, the root first, as the system itself would follow it.

        Raises:
            NotFound, NotADirectory: it leads nowhere.
            Malformed: it is too long, or leads through links without end.
        """
        way = [_At(b"", self.root, None)]
        todo = list(reversed(parts))
        links = 0
        while todo:
            if len(way) > _DEEPEST or len(todo) > limits.MAX_LINK:
                raise Malformed("a path of too many folders")
            part = todo.pop()
            if part == b"..":
                del way[1 + max(len(way) - 2, 0) :]
                continue
            at = await self._step(way[-1].node, names.escape(part))
            if isinstance(at.node, FsNode) and (await at.node.attr()).kind is Kind.LNK:
                links += 1
                if links > _LINKS:
                    raise Malformed("links that lead on and on")
                target = await at.node.stored_link()
                if target.startswith(b"/"):
                    del way[1:]
                todo += reversed(_parts(target))
                continue
            way.append(at)
        return way

    async def _step(self, node: Node, name: bytes) -> _At:
        if not isinstance(node, FsNode):
            return _At(name, await node.find(name), None)
        entry = await node.entry(name)
        key = (node.fs.id, node.address.tree, entry.attr.inum)
        mounted = self._mounts.get(key)
        return _At(name, mounted[0] if mounted else self._tree.covered(node, entry), key)


class Drives:
    """The drives of one system, side by side. ``root`` is there once one of them was found."""

    __slots__ = ("_base", "_folder", "_one", "_rows", "_tree", "_views", "layer")

    def __init__(self, tree: Tree, one: Rooted, rows: Sequence[MountRow], layer: Layer) -> None:
        self._tree = tree
        self._one = one
        self._rows = rows
        self.layer = layer
        self._base = list(layer.notes)
        self._folder = tree.directory(spec=layer.spec)
        self._views: dict[tuple[bytes, FileSystem, int], FsNode] = {}

    @property
    def root(self) -> Dir | None:
        """Return the directory of the drives."""
        return self._folder if self._folder.names() else None

    async def make(self, named: Named) -> Changed:
        """Put the drives in; return the places where something else is shown than before."""
        changed: Changed = set()
        said = replace(self.layer, notes=list(self._base), members=[])
        for row in self._rows:
            if (one := named.find(row, self._one, said)) is None:
                continue
            view = self._views.get((row.where, one.fs, one.index))
            if view is None:
                try:
                    view = self._tree.root_of(self._tree.attach_again(one.fs), one.index)
                    self._folder.put(row.where, view, await view.attr())
                except ImgfsError as why:
                    said.note(f"{names.printable(row.where)}: {row.what} is not shown there: {why}")
                    continue
                self._views[row.where, one.fs, one.index] = view
                changed.add((self._folder.ino, row.where))
            said.members.append(f"{names.printable(row.where)}: {one.fs.spec}")
        if not self._folder.names():
            said.note("none of its drives is among these images")
        self.layer.notes, self.layer.members = said.notes, said.members
        return changed


async def _folder(node: Node, path: bytes) -> None:
    if (await node.attr()).kind is not Kind.DIR:
        raise NotADirectory(names.printable(path))


def _path(way: Sequence[_At]) -> Path:
    return tuple(at.name for at in way[1:])


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]


def _ordered(rows: Sequence[MountRow]) -> list[MountRow]:
    """Return the rows that mount something, each behind those that it lies on or is made of."""
    rows = sorted((row for row in rows if _parts(row.where)), key=_rank)
    at: dict[bytes, list[int]] = {}
    for number, row in enumerate(rows):
        at.setdefault(b"/".join(_parts(row.where)), []).append(number)
    graph: TopologicalSorter[int] = TopologicalSorter()
    for number, row in enumerate(rows):
        above = [path for path in _above(_parts(row.where)[:-1]) if path in at]
        above += [path for folder in row.folders for path in _above(_parts(folder)) if path in at]
        graph.add(number, *(other for path in above for other in at[path] if other != number))
    try:
        graph.prepare()
    except CycleError:  # each is bound into the other: as the file has them
        return rows
    found: list[MountRow] = []
    ready = list(graph.get_ready())
    while ready:
        heapify(ready)  # volumes before folders: where links lead to is not known yet
        graph.done(number := heappop(ready))
        found.append(rows[number])
        ready += graph.get_ready()
    return found


def _rank(row: MountRow) -> tuple[bool, int]:
    return bool(row.folders), len(_parts(row.where))


def _above(parts: Sequence[bytes]) -> list[bytes]:
    return [b"/".join(parts[:end]) for end in range(1, min(len(parts), _DEEPEST) + 1)]


def missing(layer: Layer, locked: Sequence[str]) -> None:
    """Say which locked layers may hold what a system lacks."""
    if locked and any("is not among these images" in note for note in layer.notes):
        layer.note(f"locked here, and may hold what is missing: {', '.join(locked[:8])}")
