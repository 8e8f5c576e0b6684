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
    from imgfs.opening.containers import Bring
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
        self._attempts = Attempts(supervisor, overrule.type)
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
            sources, members = zip(*evidence.members, strict=True)
            await self._resolve(sources, members, place, evidence.bring)
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
        place = Place(disk, inner, path, options, depth, nested=True)
        await self._resolve([source], [""], place, lambda _: None)
        return disk

    async def _resolve(
        self, sources: Sequence[ByteSource], file_names: Sequence[str], place: Place, bring: Bring
    ) -> None:
        found = await self._containers.media(sources, file_names, place, bring)
        media, place = found.media, found.place
        place.disk.add(b"disk.raw", self._tree.raw(media, str(place.spec)))
        start = 0 if place.nested else self._overrule.offset
        if start >= media.size > 0:
            raise UsageError(f"--offset {start}: the media of {place.path} ends at {media.size}")
        if start:
            inner = place.inner("offset").at(str(start))
            place = replace(inner, options=replace(place.options, base=start))
            media = ExtentMap.window(media, start, media.size)
        if found.files is not None:
            await self._volumes.only(found.files, (found.media, *found.members), ("", *found.names), place)
        elif not found.closed:
            await self._volumes.cover(media, place)
