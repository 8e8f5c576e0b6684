"""From a media to its volumes: tables, gaps, and what lies in each, opened on first access."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.backends import Role
from imgfs.block.extents import ExtentMap
from imgfs.errors import EvidenceError, WorkerError
from imgfs.model import Attr, FilesInfo, Kind, VolumeTable
from imgfs.opening.gaps import bounded, gaps
from imgfs.opening.layers import Layer
from imgfs.opening.place import IN_VOLUME
from imgfs.opening.probe import candidates, look
from imgfs.tree import names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Backend
    from imgfs.block.fetch import Fetcher
    from imgfs.block.pieces import ByteSource
    from imgfs.model import Volume
    from imgfs.opening.attempt import Attempts
    from imgfs.opening.place import Overrule, Place
    from imgfs.tree.nodes import Dir
    from imgfs.tree.tree import Tree
    from imgfs.worker.client import Layer as Opened


class Volumes:
    """Puts volumes and file systems into the directory of a disk."""

    __slots__ = ("_attempts", "_fetcher", "_overrule", "_tree")

    def __init__(self, tree: Tree, attempts: Attempts, fetcher: Fetcher, overrule: Overrule) -> None:
        self._tree = tree
        self._attempts = attempts
        self._fetcher = fetcher
        self._overrule = overrule

    async def cover(self, source: ByteSource, place: Place) -> None:
        """Open the tables and file systems that cover a whole source."""
        for backend in await self._candidates(source, place, in_slot=False):
            if await self._attach(backend, source, place) and backend.exclusive:
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
        await self._trees(answer, folder, sources[0], place, backend)

    async def _candidates(self, source: ByteSource, place: Place, *, in_slot: bool) -> list[Backend]:
        forced = self._overrule.forced
        if not place.nested and forced is not None and forced.role in IN_VOLUME:
            return [forced]
        found = candidates(await look(self._fetcher, source), IN_VOLUME)
        if in_slot and any(b.role is Role.FILES and not b.by_trial and not b.recognised for b in found):
            # the boot record of a file system ends like a partition table
            found = [b for b in found if b.name != "mbr"]
        return found

    async def _attach(self, backend: Backend, source: ByteSource, place: Place) -> bool:
        """Open a table or file system that covers ``source``; say whether it was."""
        kind = "files" if backend.role is Role.FILES else "table"
        layer, answer = await self._attempts.open(backend, [source], place, kind)  # type: ignore[arg-type]  # a literal
        if answer is None:
            if layer.state not in ("unsupported", "locked"):
                return False
            self._folder(source, place, f"{place.prefix}00-{backend.name}", layer)
            return True
        match answer.opened:
            case VolumeTable() as table:
                layer.table(table)
                await self._table(table, source, place.inner(backend.name), layer)
            case FilesInfo() as info:
                layer.files(info)
                folder = self._folder(source, place, f"{place.prefix}00-{names.slug(info.type)}", layer)
                await self._trees(answer, folder, source, place, backend)
            case _:
                self._attempts.damaged(layer, f"{backend.name} answered with a container")
                return False
        return True

    def _folder(self, source: ByteSource, place: Place, name: str, layer: Layer | None = None) -> Dir:
        """Make the directory of a volume, with its bytes."""
        folder = self._tree.directory(spec=layer.spec if layer else str(place.spec))
        folder.add(b"volume.raw", self._tree.raw(source, str(place.spec)))
        shown = names.distinct(name.encode(), 2, place.disk)
        place.disk.add(shown, folder)
        if layer is not None:
            layer.path = f"{place.path}/{names.printable(shown)}"
        return folder

    async def _trees(
        self, answer: Opened, folder: Dir, source: ByteSource, place: Place, backend: Backend
    ) -> None:
        """Hang the trees of a file system into its volume."""
        assert answer.files is not None  # noqa: S101  # FilesInfo comes with its client
        fs = self._tree.attach(answer.files, source, place.spec.child(backend.name))
        for index, tree in enumerate(answer.files.info.trees):
            node = self._tree.root_of(fs, index)
            try:
                attr = await node.attr()
            except (EvidenceError, WorkerError) as why:
                attr = Attr(kind=Kind.DIR, inum=tree.root, mode=0o555, nlink=2, damaged=str(why))
            folder.add(names.distinct(names.escape(tree.name.encode()), index, folder), node, attr)

    async def _table(self, table: VolumeTable, source: ByteSource, place: Place, layer: Layer) -> None:
        """Put the volumes of a table, what is beyond the limit as one, and its gaps into the disk."""
        shown, remainder, said = bounded(table.volumes, source.size)
        layer.notes += said
        place = replace(place, options=replace(place.options, sector=table.sector))
        for volume in shown:
            await self._slot(volume, source, place)
        rest = [("remainder", remainder)] if remainder is not None else []
        rest += [("unallocated", gap) for gap in gaps(table.volumes, source.size)]
        for kind, volume in rest:
            name = f"{kind}-{volume.start // table.sector}"
            window = ExtentMap.window(source, volume.start, volume.stop)
            self._folder(window, place.at(name), f"{place.prefix}{name}")

    async def _slot(self, volume: Volume, source: ByteSource, place: Place) -> None:
        """Put a volume in the tree; a table in it is opened now, a file system on first access."""
        window = ExtentMap.window(source, volume.start, volume.stop)
        base = place.options.base + volume.start
        inner = replace(place.at(str(volume.slot)), options=replace(place.options, base=base))
        found = await self._candidates(window, place, in_slot=True)
        table = place.spec.steps[-1].backend
        if not volume.start:
            # the table itself lies at the start of this volume: found again, it would hold itself for ever
            found = [b for b in found if b.name != table]
        kind = next((b.name for b in found if not b.by_trial), "")
        words = (volume.label, kind, volume.type_name, volume.type_id, "volume")
        name = f"{place.prefix}{volume.slot:02d}-{next(filter(None, map(names.slug, words)))}"
        layer = self._attempts.layers.add(Layer(spec=str(inner.spec), backend=table, kind="volume"))
        layer.volume(volume)
        folder = self._folder(window, inner, name, layer)
        tables = [b for b in found if b.role is not Role.FILES and not b.recognised]
        if place.depth < limits.MAX_DEPTH:
            deeper = replace(inner, prefix=f"{name}.", depth=place.depth + 1)
            for backend in tables:
                if await self._attach(backend, window, deeper) and backend.exclusive:
                    layer.state = "open"
                    return
        rest = [b for b in found if b not in tables]
        if rest:
            folder.fill_with(partial(self._fill, folder, window, inner, rest, layer))
        else:
            layer.state = "open"

    async def _fill(
        self, folder: Dir, source: ByteSource, place: Place, found: list[Backend], volume: Layer
    ) -> None:
        """Open what lies in a volume, on first access."""
        volume.state = "open"
        place = replace(place, path=volume.path)
        for backend in found:
            layer, answer = await self._attempts.open(backend, [source], place, "files")
            if answer is None:
                if layer.state in ("unsupported", "locked") and backend.exclusive:
                    volume.state, volume.needs = layer.state, layer.needs
                    return
                continue
            if not isinstance(answer.opened, FilesInfo):
                self._attempts.damaged(layer, f"{backend.name} answered with no file system")
                continue
            layer.files(answer.opened)
            await self._trees(answer, folder, source, place, backend)
            if backend.exclusive:
                return
