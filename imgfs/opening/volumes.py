"""From a media to its volumes: tables, gaps, and what lies in each, opened on first access."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.backends import Role
from imgfs.block.build import build_all
from imgfs.block.extents import ExtentMap
from imgfs.errors import EvidenceError, NeedKey, NeedMembers, WorkerError
from imgfs.model import DISK, Attr, FilesInfo, Kind, VolumeTable
from imgfs.opening.attempt import Asked
from imgfs.opening.certain import certain
from imgfs.opening.gaps import bounded, gaps
from imgfs.opening.layers import Layer
from imgfs.opening.place import IN_VOLUME
from imgfs.opening.probe import candidates, look
from imgfs.opening.sets import Member, Sets, Spot
from imgfs.opening.snapshots import Snapshots
from imgfs.tree import names
from imgfs.tree.nodes import Dir

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from imgfs.backends import Backend
    from imgfs.block.fetch import Fetcher
    from imgfs.block.pieces import ByteSource
    from imgfs.model import Volume
    from imgfs.opening.attempt import Attempts
    from imgfs.opening.place import Overrule, Place
    from imgfs.tree.nodes import Node
    from imgfs.tree.tree import Tree
    from imgfs.worker.client import Layer as Opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Locked:
    """A layer that waits for a key, and where what is in it will go."""

    asked: Asked
    layer: Layer
    spot: Spot | None
    shown: set[str] = field(default_factory=set)  # trees of it that need no key


class Volumes:
    """Puts volumes and file systems into the directory of a disk."""

    __slots__ = ("_attempts", "_fetcher", "_overrule", "_snapshots", "_tree", "locked", "sets")

    def __init__(self, tree: Tree, attempts: Attempts, fetcher: Fetcher, overrule: Overrule) -> None:
        self._tree = tree
        self._attempts = attempts
        self._fetcher = fetcher
        self._overrule = overrule
        self._snapshots = Snapshots(tree, attempts, fetcher)
        self.sets = Sets()
        self.locked: dict[str, Locked] = {}  # by address

    async def cover(self, source: ByteSource, place: Place) -> None:
        """Open the tables and file systems that cover a whole source."""
        found = await self._candidates(source, place, in_slot=False)
        beside = [backend for backend in found if backend.role is Role.SNAPSHOTS]
        for backend in [backend for backend in found if backend not in beside]:
            if not await self._attach(backend, source, place):
                continue
            if backend.role is Role.FILES and beside:
                folder = place.disk.child(place.disk.names()[-1])  # that of the file system
                assert isinstance(folder, Dir)  # noqa: S101  # attaching made it
                for one in beside:
                    await self._snapshots.show(one, folder, source, place)
            if backend.exclusive:
                return

    async def only(
        self, backend: Backend, sources: Sequence[ByteSource], file_names: Sequence[str], place: Place
    ) -> None:
        """Open the files of a container that holds no disk: ``sources`` are its media and its members."""
        layer, answer = await self._attempts.open(backend, sources, place, "files", file_names)
        if answer is None:
            return
        if not isinstance(answer.opened, FilesInfo):
            self._attempts.damaged(layer, f"{backend.name} answered with no file system")
            return
        layer.files(answer.opened)
        folder = self._folder(sources[0], place, f"00-{names.slug(answer.opened.type)}", layer)
        await self._trees(answer, folder, sources[:1], place, backend)

    async def _candidates(self, source: ByteSource, place: Place, *, in_slot: bool) -> list[Backend]:
        forced = self._overrule.forced
        if not place.nested and forced is not None and forced.role in IN_VOLUME:
            return [forced]
        kinds = {kind for key in self._attempts.keys for kind in key.kinds}
        found = candidates(await look(self._fetcher, source), IN_VOLUME, kinds=kinds)
        found = certain(found, place)
        if in_slot and any(b.role is Role.FILES and not b.by_trial and not b.recognised for b in found):
            # the boot record of a file system ends like a partition table
            found = [b for b in found if b.name != "mbr"]
        return found

    async def _attach(
        self, backend: Backend, source: ByteSource, place: Place, spot: Spot | None = None
    ) -> bool:
        """Open a table or file system that covers ``source``; say whether it is there.

        ``spot`` is the directory that the source has already; None: it has none.
        """
        kind = "files" if backend.role is Role.FILES else "table"
        layer, answer = await self._attempts.open(backend, [source], place, kind)  # type: ignore[arg-type]  # a literal
        asked = Asked(backend=backend, sources=[source], names=[""], place=place)
        if answer is not None:
            return await self.take(answer, asked, layer, spot)
        if layer.state not in ("unsupported", "locked", "incomplete"):
            return False
        spot = spot or self._spot(source, place, backend, layer)
        layer.path = f"{place.path}/{spot.name}"
        need = self._attempts.needs.get(layer.spec)
        if isinstance(need, NeedMembers):
            self.sets.park(
                Member(
                    backend=backend, set_id=need.set_id, source=source, place=place, layer=layer, spot=spot
                )
            )
        elif isinstance(need, NeedKey):
            self.locked[layer.spec] = locked = Locked(asked=asked, layer=layer, spot=spot)
            if backend.partly:
                await self._partly(locked, spot)
        return True

    async def _partly(self, locked: Locked, spot: Spot) -> None:
        """Show what of a locked file system needs no key."""
        asked, layer = locked.asked, locked.layer
        place = replace(asked.place, options=replace(asked.place.options, keyless=True))
        answer = await self._attempts.without(layer, replace(asked, place=place))
        if answer is not None and isinstance(answer.opened, FilesInfo):
            needs = layer.needs
            layer.files(answer.opened)
            layer.state, layer.needs = "locked", needs
            roots = await self._rooted(answer, asked.sources, place, asked.backend)
            self._hang(spot.folder, roots, asked.backend)
            locked.shown.update(name for name, _, _ in roots)

    async def take(
        self,
        answer: Opened,
        asked: Asked,
        layer: Layer,
        spot: Spot | None,
        *,
        apart: bool = False,
        shown: Collection[str] = (),
    ) -> bool:
        """Put what was opened where it belongs; say whether it was something.

        ``apart``: the volumes have a disk of their own, and no name before theirs. ``shown``: trees that are
        there already.
        """
        backend, source, place = asked.backend, asked.sources[0], asked.place
        match answer.opened:
            case VolumeTable() as table if table.layouts:
                layer.table(table)
                inner = place.inner(backend.name)
                if not apart:
                    spot = spot or self._spot(source, place, backend, layer)
                    inner = replace(inner, prefix=f"{spot.name}.")
                return await self._maps(answer, table, asked.sources, inner, layer)
            case VolumeTable() as table:
                layer.table(table)
                await self._table(table, source, place.inner(backend.name), layer)
            case FilesInfo() as info:
                if shown:
                    layer.notes.clear()  # all is said again, and what was locked is not
                layer.files(info)
                name = f"{place.prefix}00-{names.slug(info.type)}"
                roots = await self._rooted(answer, asked.sources, place, backend)
                roots = [root for root in roots if root[0] not in shown]
                if spot is None:  # what lies on several disks has no bytes of its own
                    folder = self._folder(None if apart else source, place, name, layer)
                else:
                    folder, layer.path = spot.folder, f"{place.path}/{spot.name}"
                self._hang(folder, roots, backend)
            case _:
                self._attempts.damaged(layer, f"{backend.name} answered with a container")
                return False
        return True

    def _spot(self, source: ByteSource, place: Place, backend: Backend, layer: Layer) -> Spot:
        """Make the directory of a layer that covers a whole source."""
        folder = self._folder(source, place, f"{place.prefix}00-{backend.name}", layer)
        return Spot(folder=folder, name=layer.path.rpartition("/")[2])

    def _folder(self, source: ByteSource | None, place: Place, name: str, layer: Layer | None = None) -> Dir:
        """Make the directory of a volume, with its bytes if it has some of its own."""
        folder = self._tree.directory(spec=layer.spec if layer else str(place.spec))
        if source is not None:
            folder.add(b"volume.raw", self._tree.raw(source, str(place.spec)))
        shown = names.distinct(name.encode(), 2, place.disk)
        place.disk.add(shown, folder)
        if layer is not None:
            layer.path = f"{place.path}/{names.printable(shown)}"
        return folder

    async def _trees(
        self, answer: Opened, folder: Dir, sources: Sequence[ByteSource], place: Place, backend: Backend
    ) -> None:
        """Hang the trees of a file system into its volume."""
        self._hang(folder, await self._rooted(answer, sources, place, backend), backend)

    async def _rooted(
        self, answer: Opened, sources: Sequence[ByteSource], place: Place, backend: Backend
    ) -> list[tuple[str, Node, Attr]]:
        """Return the roots of a file system's trees, with their names."""
        assert answer.files is not None  # noqa: S101  # FilesInfo comes with its client
        fs = self._tree.attach(answer.files, sources, place.spec.child(backend.name))
        found: list[tuple[str, Node, Attr]] = []
        for index, tree in enumerate(answer.files.info.trees):
            node = self._tree.root_of(fs, index)
            try:
                attr = await node.attr()
            except (EvidenceError, WorkerError) as why:
                attr = Attr(kind=Kind.DIR, inum=tree.root, mode=0o555, nlink=2, damaged=str(why))
            found.append((tree.name, node, attr))
        return found

    def _hang(self, folder: Dir, roots: list[tuple[str, Node, Attr]], backend: Backend) -> None:
        """Put trees into the directory of their volume, all at once: a listing has none of them or all."""
        taken = set(folder.names())
        for index, (tree, node, attr) in enumerate(roots):
            name = names.escape(tree.encode())
            if name in taken:  # of another file system in the same volume: a bridge disc
                name = f"{backend.name}-".encode() + name if index else backend.name.encode()
            folder.add(names.distinct(name, index, folder), node, attr)

    async def _table(self, table: VolumeTable, source: ByteSource, place: Place, layer: Layer) -> None:
        """Put the volumes of a table, what is beyond the limit as one, and its gaps into the disk."""
        shown, remainder, said = bounded(table.volumes, source.size)
        layer.notes += said
        place = replace(place, options=replace(place.options, sector=table.sector))
        for volume in shown:
            window = ExtentMap.window(source, volume.start, volume.stop)
            base = place.options.base + volume.start
            inner = replace(place.at(str(volume.slot)), options=replace(place.options, base=base))
            await self._volume(volume, window, inner, f"{volume.slot:02d}-")
        rest = [("remainder", remainder)] if remainder is not None else []
        rest += [("unallocated", gap) for gap in gaps(table.volumes, source.size)]
        for kind, volume in rest:
            name = f"{kind}-{volume.start // table.sector}"
            window = ExtentMap.window(source, volume.start, volume.stop)
            self._folder(window, place.at(name), f"{place.prefix}{name}")

    async def _maps(
        self,
        answer: Opened,
        table: VolumeTable,
        sources: Sequence[ByteSource],
        place: Place,
        layer: Layer,
    ) -> bool:
        """Put the volumes of a table that are maps of their own into the disk; say whether they can be."""
        try:
            made = build_all(table.layouts, sources, layer.spec, table=answer.table)
        except EvidenceError as why:
            self._attempts.damaged(layer, str(why))
            return False
        if len(table.volumes) > limits.MAX_VOLUMES:
            layer.note(f"{len(table.volumes)} volumes: the first {limits.MAX_VOLUMES} are shown")
        place = replace(place, options=replace(place.options, base=0))
        for volume in table.volumes[: limits.MAX_VOLUMES]:
            if volume.layout < 0:
                layer.note(f"volume {volume.slot} of {layer.backend} has no map")
                continue
            locator = names.slug(volume.label) or str(volume.slot)
            number = "" if volume.label or len(table.volumes) == 1 else f"{volume.slot:02d}-"
            await self._volume(volume, made[volume.layout], place.at(locator), number)
        return True

    async def _volume(self, volume: Volume, source: ByteSource, place: Place, number: str) -> None:
        """Put a volume in the tree; a table in it is opened now, a file system on first access."""
        found = await self._candidates(source, place, in_slot=volume.type_id != DISK)
        table = place.spec.steps[-1].backend
        if not volume.start and volume.layout < 0:
            # the table itself lies at the start of this volume: found again, it would hold itself for ever
            found = [b for b in found if b.name != table]
        kind = next((b.name for b in found if not b.by_trial and not b.by_key and b.exclusive), "")
        # what a key opened holds that header still; and a file system that is seen is no ciphertext
        plain = any(b.role is Role.FILES and b.name == kind for b in found)
        found = [b for b in found if not b.by_key or (b.name != table and not plain)]
        words = (volume.label, kind, volume.type_name, volume.type_id, "volume")
        name = f"{place.prefix}{number}{next(filter(None, map(names.slug, words)))}"
        layer = self._attempts.layers.add(Layer(spec=str(place.spec), backend=table, kind="volume"))
        layer.volume(volume)
        spot = Spot(folder=self._folder(source, place, name, layer), name=layer.path.rpartition("/")[2])
        tables = [b for b in found if (b.role is Role.VOLUMES or b.sets) and not b.recognised]
        if place.depth < limits.MAX_DEPTH:
            deeper = replace(place, prefix=f"{spot.name}.", depth=place.depth + 1)
            for backend in tables:
                if await self._attach(backend, source, deeper, spot) and backend.exclusive:
                    layer.state = "open"
                    return
        rest = [b for b in found if b not in tables]
        if rest:
            spot.folder.fill_with(partial(self._fill, spot.folder, source, place, rest, layer))
        else:
            layer.state = "open"

    async def _fill(
        self, folder: Dir, source: ByteSource, place: Place, found: list[Backend], volume: Layer
    ) -> None:
        """Open what lies in a volume, on first access."""
        volume.state = "open"
        place = replace(place, path=volume.path)
        for backend in found:
            if backend.role is Role.SNAPSHOTS:
                await self._snapshots.show(backend, folder, source, place)
                continue
            if await self._files(backend, folder, source, place, volume):
                return

    async def _files(
        self, backend: Backend, folder: Dir, source: ByteSource, place: Place, volume: Layer
    ) -> bool:
        """Open a file system into the directory of its volume; say whether nothing else can be there."""
        layer, answer = await self._attempts.open(backend, [source], place, "files")
        if answer is None:
            if layer.state in ("unsupported", "locked") and backend.exclusive:
                volume.state, volume.needs = layer.state, layer.needs
                return True
            return False
        if not isinstance(answer.opened, FilesInfo):
            self._attempts.damaged(layer, f"{backend.name} answered with no file system")
            return False
        layer.files(answer.opened)
        await self._trees(answer, folder, [source], place, backend)
        return backend.exclusive
