"""From a host file to a tree: containers, then volumes, then file systems, each opened by a worker.

Containers and tables are opened at once; what lies in a volume is opened on first access, because a disk
may have four thousand of them. Whatever fails, the bytes of the layer that was reached stay in the tree.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from imgfs import limits, log
from imgfs.backends import Options, Role, discover
from imgfs.block.extents import ExtentMap
from imgfs.errors import EvidenceError, MediaChanged, UsageError
from imgfs.model import Spec
from imgfs.opening.attempt import Attempts, logger
from imgfs.opening.containers import Containers, Nothing
from imgfs.opening.indexes import Indexes
from imgfs.opening.layers import Layer
from imgfs.opening.place import IN_VOLUME, Place
from imgfs.opening.probe import candidates, look
from imgfs.opening.system import SYSTEMS, Systems
from imgfs.opening.volumes import Volumes
from imgfs.opening.waiting import Waiting
from imgfs.tree import names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgfs.block.fetch import Fetcher
    from imgfs.block.pieces import ByteSource
    from imgfs.model import Ino
    from imgfs.opening.containers import Beside, Found, Further, Shut
    from imgfs.opening.keys import Key
    from imgfs.opening.layers import Layers
    from imgfs.opening.members import Evidence
    from imgfs.opening.place import Overrule
    from imgfs.tree.nodes import Dir
    from imgfs.tree.tree import Tree
    from imgfs.worker.supervisor import Supervisor

_MEDIA: Final = b"disk.raw"


class Resolver:
    """Builds the tree of one session."""

    __slots__ = (
        "_attempts",
        "_containers",
        "_fetcher",
        "_held",
        "_indexes",
        "_one",
        "_overrule",
        "_replaced",
        "_systems",
        "_tree",
        "_volumes",
        "waiting",
    )

    def __init__(self, tree: Tree, supervisor: Supervisor, fetcher: Fetcher, overrule: Overrule) -> None:
        if overrule.type and overrule.forced is None:
            raise UsageError(f"--type {overrule.type}: known are {', '.join(sorted(discover()))}")
        self._tree = tree
        self._fetcher = fetcher
        self._overrule = overrule
        self._attempts = Attempts(supervisor, overrule.type, overrule.keys)
        self._indexes = Indexes()
        self._containers = Containers(self._attempts, fetcher, overrule, self._indexes)
        self._volumes = Volumes(tree, self._attempts, fetcher, overrule)
        self.waiting = Waiting(tree, self._attempts, self._volumes)
        self._systems: Systems | None = None
        self._one = trio.Lock()
        self._replaced: list[tuple[Ino, bytes]] = []  # directory and name of what became something else
        self._held: list[trio.Event] = []  # disks that are whole when sets are

    def systems(self, complete: Callable[[], Awaitable[None]], *, listed: bool) -> None:
        """Make the directory of installed systems; ``complete`` opens all that there is."""
        self._systems = Systems(self._tree, self._attempts, self._fetcher, complete)
        self._tree.root.add(SYSTEMS.encode(), self._systems.folder, listed=listed)

    def replaced(self) -> list[tuple[Ino, bytes]]:
        """Return directories and names in them that became something else since this was last asked."""
        found, self._replaced = self._replaced, []
        if self._systems is not None:
            found += self._systems.changed
            self._systems.changed.clear()
        return found

    @property
    def layers(self) -> Layers:
        """Return what was found so far."""
        return self._attempts.layers

    def close(self) -> None:
        """Close what was opened beside the evidence."""
        self._indexes.close()

    async def disk(self, evidence: Evidence, name: bytes) -> Dir:
        """Resolve one disk and put it in the tree under ``name``."""
        shown = names.printable(name)
        disk = self._tree.directory(spec=shown)
        resolved = trio.Event()
        disk.fill_with(partial(soon, resolved))
        self._tree.root.add(name, disk)
        over = self._overrule
        patience = limits.PATIENCE_ASKED if over.forced and over.forced.by_key else limits.PATIENCE
        options = Options(sector=over.sector, tz=over.tz, codepage=over.codepage, patience=patience)
        place = Place(disk, Spec(shown), shown, options, 0)
        try:
            sources, members = zip(*evidence.members, strict=True)
            await self._resolve(sources, members, place, evidence)
        except (EvidenceError, MediaChanged) as why:
            layer = Layer(spec=shown, backend="raw", kind="container", path=shown, title="raw bytes")
            self._attempts.damaged(self.layers.add(layer), str(why))
            if _MEDIA not in disk:
                disk.add(_MEDIA, self._tree.raw(evidence.files[0], shown))
        finally:
            if self._volumes.sets.on(disk):
                self._held.append(resolved)
            else:
                resolved.set()
        return disk

    async def assemble(self) -> None:
        """Open the sets of all disks that were resolved."""
        held, self._held = self._held, []
        try:
            await self.waiting.assemble()
        finally:
            for resolved in held:
                resolved.set()

    async def unlock(self, keys: Sequence[Key], volume: str = "*") -> list[Layer]:
        """Try keys on what is locked, volumes and containers; see ``Waiting.unlock``."""
        tried = await self.waiting.unlock(list(keys), volume)
        async with self._one:
            for spec, shut in list(self._containers.shut.items()):
                if any(fnmatchcase(text, volume) for text in (spec, shut.layer.path)):
                    tried.append(shut.layer)
                    await self._reopen(spec, shut)
        await self.waiting.assemble()
        if self._systems is not None:
            await self._systems.again()
        return tried

    async def _reopen(self, spec: str, shut: Shut) -> None:
        """Try keys on a container: its disk shows the media then, where it showed the image as it is."""
        asked, layer = shut.asked, shut.layer
        answer = await self._attempts.again(layer, asked)
        if answer is None:
            return
        del self._containers.shut[spec]
        for other in self.layers:
            if other.backend == "raw" and other.spec == str(asked.place.spec):
                self.layers.drop(other)
        found = await self._containers.media(
            asked.sources, asked.names, asked.place, shut.beside, first=asked.backend, given=(layer, answer)
        )
        await self._fill(found)
        for further in found.further:
            self._further(further, shut.beside)
        logger.info(log.LAYER_UNLOCKED, extra={"spec": spec})

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
        place = Place(disk, inner, path, options, depth, nested=True)
        await self._resolve([source], [""], place, Nothing())
        await self.waiting.assemble()
        if self._systems is not None:
            self._systems.later()
        return disk

    async def _resolve(
        self, sources: Sequence[ByteSource], file_names: Sequence[str], place: Place, beside: Beside
    ) -> None:
        found = await self._containers.media(sources, file_names, place, beside)
        await self._fill(found)
        for further in found.further:
            self._further(further, beside)

    async def _fill(self, found: Found) -> None:
        """Put a media and what is on it into the directory of its disk."""
        media, place = found.media, found.place
        if _MEDIA in place.disk:
            self._replaced.append((place.disk.ino, _MEDIA))
        place.disk.put(_MEDIA, self._tree.raw(media, str(place.spec)))
        start = 0 if place.nested else self._overrule.offset
        if start >= media.size > 0:
            raise UsageError(f"--offset {start}: the media of {place.path} ends at {media.size}")
        if start:
            inner = place.inner("offset").at(str(start))
            place = replace(inner, options=replace(place.options, base=start))
            media = ExtentMap.window(media, start, media.size)
        if found.files is not None:
            await self._volumes.only(found.files, (found.media, *found.members), ("", *found.names), place)
        elif found.readable:
            await self._volumes.cover(media, place)

    def _further(self, further: Further, beside: Beside) -> None:
        """Make the directory of a further disk of a container; it is opened on first access."""
        place, state = further.place, further.state
        name = f"snapshot-{names.slug(state.name) or state.key}".encode()
        shown = names.distinct(names.escape(name), len(place.disk.names()), place.disk)
        options = replace(place.options, state=state.key)
        folder = self._tree.directory(
            spec=str(replace(place, options=options).inner(further.backend.name).spec)
        )
        inside = replace(
            place, disk=folder, options=options, path=f"{place.path}/{names.printable(shown)}", prefix=""
        )
        place.disk.add(shown, folder)
        folder.fill_with(partial(self._open, replace(further, place=inside), beside))

    async def _open(self, further: Further, beside: Beside) -> None:
        """Open a further disk of a container.

        Raises:
            EvidenceError: it cannot be read, which the record of its layer says.
        """
        place = further.place
        found = await self._containers.media(
            further.sources, further.file_names, place, beside, first=further.backend
        )
        if found.place.depth == place.depth:
            place.disk.fill_with(partial(_refuse, f"{place.path} cannot be read"))  # tried once
            await _refuse(f"{place.path} cannot be read")
        await self._fill(found)


async def soon(event: trio.Event) -> None:
    """Wait for an event, but not for ever: deriving a key may take minutes."""
    with trio.move_on_after(limits.RESOLVE_PATIENCE):
        await event.wait()


async def _refuse(why: str) -> None:
    """Say that a directory cannot be completed.

    Raises:
        EvidenceError: always.
    """
    raise EvidenceError(why)
