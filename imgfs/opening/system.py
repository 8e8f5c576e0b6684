"""What an installed system saw: its volumes put together as its own table of mounts says.

A system is found by that table in one of the file systems; a worker reads it, here names are compared. What
it names and is not among these images, or is not certain, is said in the notes of the layer.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from imgfs.backends import Options, discover
from imgfs.errors import EvidenceError, NotADirectory, NotFound, WorkerError
from imgfs.model import Kind, MountTable
from imgfs.opening.assembly import Assembly, Drives, missing
from imgfs.opening.layers import Layer
from imgfs.opening.live import Live
from imgfs.opening.named import Named, rooted
from imgfs.opening.persistence import Persistence
from imgfs.opening.place import Place
from imgfs.tree import names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgfs.block.fetch import Fetcher
    from imgfs.opening.assembly import Changed
    from imgfs.opening.attempt import Attempts
    from imgfs.opening.named import Rooted
    from imgfs.tree.filesystem import FsNode
    from imgfs.tree.nodes import Dir, Node
    from imgfs.tree.tree import Tree

SYSTEMS: Final = "system"  # the directory, beside the disks
# Where the tables lie, by the back-end that reads them; Windows does not tell cases apart.
_TABLES: Final = (
    ("fstab", (b"etc", b"fstab")),
    ("drives", (b"windows", b"system32", b"config", b"system")),
)
_CRYPTTAB: Final = (b"etc", b"crypttab")


class Systems:
    """Fills the directory of installed systems by the first look into it, and again when more is open.

    ``changed`` collects directories, and names in them that mean something else since.
    """

    __slots__ = (
        "_attempts",
        "_complete",
        "_folder",
        "_kept",
        "_live",
        "_looked",
        "_made",
        "_one",
        "_persistence",
        "_tree",
        "changed",
    )

    def __init__(
        self, tree: Tree, attempts: Attempts, fetcher: Fetcher, complete: Callable[[], Awaitable[None]]
    ) -> None:
        """``complete`` opens every file system that there is."""
        self._live = Live(tree, attempts, fetcher)
        self._persistence = Persistence(tree, attempts, self._live)
        self._kept: dict[str, bytes] = {}  # names of what live systems kept, by address
        self._tree = tree
        self._attempts = attempts
        self._complete = complete
        self._folder = tree.directory(spec=SYSTEMS)
        self._folder.fill_with(self._fill)
        self._one = trio.Lock()
        self._looked = False
        self._made: dict[tuple[str, str, str], tuple[bytes, Assembly | Drives] | None] = {}
        self.changed: Changed = set()

    @property
    def folder(self) -> Dir:
        """Return the directory."""
        return self._folder

    async def again(self) -> None:
        """Put together again what somebody looked at: more of it may be open now."""
        if self._looked:
            await self._make()

    def later(self) -> None:
        """Put together again when somebody looks: an image inside an image was opened."""
        if self._looked:
            self._folder.fill_with(self._fill)

    async def _fill(self) -> None:
        await self._make()
        if not self._folder.names():
            raise NotFound("no installed system in these images")

    async def _make(self) -> None:
        async with self._one:
            self._looked = True
            await self._complete()
            await self._live.enter(rooted(self._tree.file_systems, self._attempts.layers))
            every = rooted(self._tree.file_systems, self._attempts.layers)
            named = Named(every)
            locked = [layer.path for layer in self._attempts.layers if layer.state == "locked" and layer.path]
            for one in every:
                for backend, path in _TABLES:
                    await self._system(one, backend, path, named, locked)

            for kept in await self._live.kept(every):
                together = partial(self._live.together, kept)
                await self._changed(kept.place, self._name(kept.one) + b"." + kept.name, together)
            for kind, medium, keeper in await self._persistence.pairs(every):
                together = partial(self._persistence.together, kind, medium, keeper)
                await self._changed(
                    str(keeper.spec), self._name(medium) + b"." + kind.names[0].encode(), together
                )

    async def _changed(
        self, place: str, name: bytes, together: Callable[[str, Dir], Awaitable[Node | None]]
    ) -> None:
        """Put a live system with its changes in, if that is certain; ``place`` is where these are kept."""
        if place in self._kept:
            return
        self._kept[place] = name = names.distinct(name, 2, self._taken())
        path = f"{SYSTEMS}/{names.printable(name)}"
        try:
            node = await together(path, self._folder)
        except (EvidenceError, WorkerError) as why:
            del self._kept[place]  # it may go better another time
            layer = Layer(spec=f"{place}|live", backend="live", kind="system", path=path, title="Live system")
            self._attempts.damaged(self._attempts.layers.add(layer), str(why))
            return
        if node is not None:
            self._folder.put(name, node, await node.attr())

    def _taken(self) -> set[bytes]:
        return {*self._kept.values(), *(made[0] for made in self._made.values() if made)}

    async def _system(
        self, one: Rooted, backend: str, path: Sequence[bytes], named: Named, locked: Sequence[str]
    ) -> None:
        """Put one system together, if a tree has such a table."""
        key = (str(one.fs.spec), one.info.name, backend)
        if key not in self._made:
            self._made[key] = await self._found(one, backend, path)
        if (made := self._made[key]) is None:
            return
        name, system = made
        self.changed |= await system.make(named)
        missing(system.layer, locked)
        if (root := system.root) is not None and self._folder.child(name) is not root:
            self._folder.put(name, root, await root.attr())

    async def _found(
        self, one: Rooted, backend: str, path: Sequence[bytes]
    ) -> tuple[bytes, Assembly | Drives] | None:
        """Let a worker read the table of a tree; None: there is none, or none that can be read."""
        exact = backend == "fstab"
        tables = [await self._table(one, path, exact=exact)]
        tables += [await self._table(one, _CRYPTTAB, exact=True)] if exact and tables[0] else []
        try:
            sources = [await table.open() for table in tables if table is not None]
        except (EvidenceError, WorkerError):
            return None
        if not sources:
            return None
        name = names.distinct(self._name(one), 2, self._taken())
        place = Place(self._folder, one.fs.spec, f"{SYSTEMS}/{names.printable(name)}", Options(), 0)
        file_names = [path.decode() for path, _ in zip((b"", _CRYPTTAB[-1]), sources, strict=False)]
        layer, answer = await self._attempts.open(discover()[backend], sources, place, "system", file_names)
        layer.members.clear()
        if answer is None or not isinstance(answer.opened, MountTable):
            return None
        layer.state = "open"
        layer.notes += answer.opened.notes
        rows = answer.opened.rows
        made = Drives if answer.opened.drives else Assembly
        return name, made(self._tree, one, rows, layer)

    def _name(self, one: Rooted) -> bytes:
        """Return what a system is called: by its volume, and its tree unless that is the first."""
        volume = next((layer for layer in one.lineage if layer.path), None)
        path = volume.path if volume is not None else str(one.fs.spec)
        if one.within:  # in a file of the evidence, whose address is put before its name
            path = path.removeprefix(f"{one.within}/").partition("/")[2] or path
        if one.index:
            path = f"{path}.{one.info.name}"
        return names.escape(path.replace("/", ".").encode())

    async def _table(self, one: Rooted, path: Sequence[bytes], *, exact: bool) -> FsNode | None:
        node = self._tree.root_of(one.fs, one.index)
        try:
            for name in path:
                node = await _entry(node, name, exact=exact)
            return node if (await node.attr()).kind is Kind.REG else None
        except (EvidenceError, WorkerError, NotFound, NotADirectory):
            return None


async def _entry(node: Node, name: bytes, *, exact: bool) -> FsNode:
    """Return an entry of a directory of the evidence; ``exact`` False: whatever the case of its letters.

    Raises:
        NotFound: there is none.
    """
    if not exact:
        index = 0
        while (child := node.row(index)) is not None or await node.more(index):
            if child is not None:
                if child.name.lower() == name:
                    name = child.name
                    break
                index += 1
    return await node.find(name)  # type: ignore[return-value]  # evidence holds nothing else
