"""From a host file to a tree: containers, then volumes, then file systems, each opened by a worker.

Containers and tables are opened at once; what lies in a volume is opened on first access, because a disk
may have four thousand of them. Whatever fails, the bytes of the layer that was reached stay in the tree.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from imgfs import limits
from imgfs.backends import Options, Role, discover
from imgfs.block.extents import ExtentMap
from imgfs.errors import EvidenceError, MediaChanged, UsageError
from imgfs.model import Spec
from imgfs.opening.attempt import Attempts
from imgfs.opening.containers import Containers
from imgfs.opening.layers import Layer
from imgfs.opening.place import IN_VOLUME, Place
from imgfs.opening.probe import candidates, look
from imgfs.opening.volumes import Volumes
from imgfs.tree import names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.block.fetch import Fetcher
    from imgfs.block.pieces import ByteSource
    from imgfs.opening.layers import Layers
    from imgfs.opening.members import Evidence
    from imgfs.opening.place import Overrule
    from imgfs.tree.nodes import Dir
    from imgfs.tree.tree import Tree
    from imgfs.worker.supervisor import Supervisor


class Resolver:
    """Builds the tree of one session."""

    __slots__ = ("_attempts", "_containers", "_fetcher", "_overrule", "_tree", "_volumes")

    def __init__(self, tree: Tree, supervisor: Supervisor, fetcher: Fetcher, overrule: Overrule) -> None:
        if overrule.type and overrule.forced is None:
            raise UsageError(f"--type {overrule.type}: known are {', '.join(sorted(discover()))}")
        self._tree = tree
        self._fetcher = fetcher
        self._overrule = overrule
        self._attempts = Attempts(supervisor)
        self._containers = Containers(self._attempts, fetcher, overrule)
        self._volumes = Volumes(tree, self._attempts, fetcher, overrule)

    @property
    def layers(self) -> Layers:
        """Return what was found so far."""
        return self._attempts.layers

    async def disk(self, evidence: Evidence, name: bytes) -> Dir:
        """Resolve one disk and put it in the tree under ``name``."""
        shown = names.printable(name)
        disk = self._tree.directory(spec=shown)
        resolved = trio.Event()
        disk.fill_with(resolved.wait)
        self._tree.root.add(name, disk)
        over = self._overrule
        options = Options(sector=over.sector, tz=over.tz, codepage=over.codepage)
        place = Place(disk, Spec(shown), shown, options, 0)
        try:
            await self._resolve(evidence.files, [file.name for file in evidence.files], place)
        except (EvidenceError, MediaChanged) as why:
            layer = Layer(spec=shown, backend="raw", kind="container", path=shown, title="raw bytes")
            self._attempts.damaged(self.layers.add(layer), str(why))
            if disk.child(b"disk.raw") is None:
                disk.add(b"disk.raw", self._tree.raw(evidence.files[0], shown))
        finally:
            resolved.set()
        return disk

    async def enter(self, source: ByteSource, spec: str, name: bytes) -> Dir | None:
        """Resolve the disk inside a file of the evidence; None when nothing is recognised in it."""
        depth = spec.count("|")
        if depth >= limits.MAX_DEPTH or not source.size:
            return None
        window = await look(self._fetcher, source)
        if not candidates(window, (Role.MEDIA, *IN_VOLUME), trials=False):
            return None
        root, *steps = spec.split("|")
        inner = Spec(root)
        for step in steps:
            inner = inner.child(step)
        disk = self._tree.directory(spec=spec)
        options = Options(tz=self._overrule.tz, codepage=self._overrule.codepage)
        path = f"{spec}/{names.printable(name)}@"
        await self._resolve([source], [""], Place(disk, inner, path, options, depth, nested=True))
        return disk

    async def _resolve(self, sources: Sequence[ByteSource], file_names: Sequence[str], place: Place) -> None:
        media, place, readable = await self._containers.media(sources, file_names, place)
        place.disk.add(b"disk.raw", self._tree.raw(media, str(place.spec)))
        start = 0 if place.nested else self._overrule.offset
        if start >= media.size > 0:
            raise UsageError(f"--offset {start}: the media of {place.path} ends at {media.size}")
        inner = replace(place.inner("offset", str(start), ""), options=replace(place.options, base=start))
        await self._volumes(ExtentMap.window(media, start, media.size), inner)

    # --- volumes -----------------------------------------------------------------------------------
    async def _candidates(self, source: ByteSource, *, in_slot: bool) -> list[Backend]:
        forced = discover().get(self._overrule.type)
        if forced is not None and forced.role in _IN_VOLUME:
            return [forced]
        found = candidates(await look(self._fetcher, source), _IN_VOLUME)
        if in_slot and any(b.role is Role.FILES and not b.by_trial and not b.recognised for b in found):
            # the boot record of a file system ends like a partition table
            found = [b for b in found if b.name != "mbr"]
        return found

    async def _volumes(self, source: ByteSource, place: Place) -> None:
        """Open the tables and file systems that cover a whole source."""
        for backend in await self._candidates(source, in_slot=False):
            if await self._attach(backend, source, place) and backend.exclusive:
                return

    async def _attach(self, backend: Backend, source: ByteSource, place: Place) -> bool:
        spec = place.spec.child(backend.name)
        kind = "files" if backend.role is Role.FILES else "table"
        layer = self.layers.add(child_layer(spec, backend.name, kind, path=place.path, title=backend.title))  # type: ignore[arg-type]  # mypy widens the literal
        answer = await self._open(backend, [source], [""], place.options, layer)
        if answer is None:
            if layer.state in ("unsupported", "locked"):
                self._volume_dir(source, place, f"{place.prefix}00-{backend.name}", layer)
                return True
            return False
        match answer.opened:
            case VolumeTable() as table:
                layer.table(table)
                await self._table(table, source, place.inner(backend.name, "", place.prefix), layer)
            case FilesInfo() as info:
                layer.files(info)
                folder = self._volume_dir(source, place, f"{place.prefix}00-{names.slug(info.type)}", layer)
                await self._trees(answer, folder, source, spec)
            case _:
                layer.state = "damaged"
                layer.note(f"{backend.name} answered with a container")
                return False
        return True

    def _volume_dir(self, source: ByteSource, place: Place, name: str, layer: Layer) -> Dir:
        folder = self._tree.directory(spec=layer.spec)
        folder.add(b"volume.raw", self._tree.raw(source, str(place.spec)))
        shown = names.distinct(name.encode(), 2, place.disk.names())
        place.disk.add(shown, folder)
        layer.path = f"{place.path}/{names.printable(shown)}"
        return folder

    async def _trees(self, answer: Opened, folder: Dir, source: ByteSource, spec: Spec) -> None:
        assert answer.files is not None  # noqa: S101  # FilesInfo comes with its client
        fs = self._tree.attach(answer.files, source, spec)
        for index, tree in enumerate(answer.files.info.trees):
            node = self._tree.root_of(fs, index)
            try:
                attr = await node.attr()
            except (EvidenceError, WorkerError) as why:
                attr = Attr(kind=Kind.DIR, inum=tree.root, mode=0o555, nlink=2, damaged=str(why))
            folder.add(names.distinct(names.escape(tree.name.encode()), index, folder.names()), node, attr)

    async def _table(self, table: VolumeTable, source: ByteSource, place: Place, layer: Layer) -> None:
        shown, remainder, said = bounded(table.volumes, source.size)
        layer.notes += said
        place = replace(place, options=replace(place.options, sector=table.sector))
        for volume in shown:
            await self._slot(volume, source, place)
        if remainder is not None:
            window = ExtentMap.window(source, remainder.start, remainder.stop)
            folder = self._tree.directory(spec=str(place.spec))
            folder.add(b"volume.raw", self._tree.raw(window, str(place.spec)))
            place.disk.add(f"{place.prefix}remainder-{remainder.start // table.sector}".encode(), folder)
        for gap in gaps(table.volumes, source.size):
            spec = replace(
                place.spec,
                steps=(
                    *place.spec.steps[:-1],
                    replace(place.spec.steps[-1], locator=f"unallocated-{gap.start // table.sector}"),
                ),
            )
            name = f"{place.prefix}unallocated-{gap.start // table.sector}"
            folder = self._tree.directory(spec=str(spec))
            folder.add(
                b"volume.raw", self._tree.raw(ExtentMap.window(source, gap.start, gap.stop), str(spec))
            )
            place.disk.add(names.distinct(name.encode(), 2, place.disk.names()), folder)

    async def _slot(self, volume: Volume, source: ByteSource, place: Place) -> None:
        """Put a volume in the tree; a table in it is opened now, a file system on first access."""
        table = place.spec.steps[-1].backend
        spec = Spec(
            place.spec.root, (*place.spec.steps[:-1], replace(place.spec.steps[-1], locator=str(volume.slot)))
        )
        window = ExtentMap.window(source, volume.start, volume.stop)
        inner = replace(
            place, spec=spec, options=replace(place.options, base=place.options.base + volume.start)
        )
        found = await self._candidates(window, in_slot=True)
        if not volume.start:
            # the table itself lies at the start of this volume: found again, it would hold itself for ever
            found = [b for b in found if b.name != table]
        kind = next((b.name for b in found if not b.by_trial), "")
        label = (
            names.slug(volume.label)
            or kind
            or names.slug(volume.type_name)
            or names.slug(volume.type_id)
            or "volume"
        )
        layer = self.layers.add(child_layer(spec, table, "volume", path=place.path))
        layer.volume(volume)
        name = f"{place.prefix}{volume.slot:02d}-{label}"
        folder = self._volume_dir(window, inner, name, layer)
        tables = [b for b in found if b.role is not Role.FILES and not b.recognised]
        if place.depth < limits.MAX_DEPTH:
            prefix = f"{name}."
            for backend in tables:
                if (
                    await self._attach(backend, window, replace(inner, prefix=prefix, depth=place.depth + 1))
                    and backend.exclusive
                ):
                    layer.state = "open"
                    return
        rest = [b for b in found if b not in tables]
        if not rest:
            layer.state = "open"
            return
        folder.fill_with(partial(self._fill, folder, window, inner, rest, layer))

    async def _fill(
        self, folder: Dir, source: ByteSource, place: Place, found: list[Backend], volume: Layer
    ) -> None:
        """Open what lies in a volume, on first access."""
        volume.state = "open"
        for backend in sorted(found, key=order):
            spec = place.spec.child(backend.name)
            layer = self.layers.add(
                child_layer(spec, backend.name, "files", path=volume.path, title=backend.title)
            )
            answer = await self._open(backend, [source], [""], place.options, layer)
            if answer is None:
                if layer.state in ("unsupported", "locked") and backend.exclusive:
                    volume.state = layer.state
                    volume.needs = layer.needs
                    return
                continue
            if not isinstance(answer.opened, FilesInfo):
                layer.state = "damaged"
                continue
            layer.files(answer.opened)
            await self._trees(answer, folder, source, spec)
            if backend.exclusive:
                return

    # --- one attempt ---------------------------------------------------------------------------------
    async def _open(
        self,
        backend: Backend,
        sources: Sequence[ByteSource],
        file_names: Sequence[str],
        options: Options,
        layer: Layer,
    ) -> Opened | None:
        """Let a worker open a layer; what it says instead is recorded in ``layer``."""
        try:
            return await open_layer(self._supervisor, backend.name, sources, file_names, options, layer.spec)
        except NotMine:
            self.layers.drop(layer)
        except NotSupported as why:
            layer.state = "unsupported"
            layer.needs = why.message
        except NeedKey as why:
            layer.state = "locked"
            layer.needs = why.message
        except NeedMembers as why:
            layer.state = "incomplete"
            layer.needs = str(why)
        except (EvidenceError, WorkerError) as why:
            layer.state = "damaged"
            layer.note(str(why))
        return None
