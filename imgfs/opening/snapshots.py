"""What a volume was: each snapshot a tree and its bytes, beside the live tree, opened when looked into."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from imgfs import limits
from imgfs.backends import Role
from imgfs.block.build import build
from imgfs.errors import EvidenceError
from imgfs.model import FilesInfo, Media, VolumeTable
from imgfs.opening.layers import Layer
from imgfs.opening.probe import candidates, look

if TYPE_CHECKING:
    from imgfs.backends import Backend
    from imgfs.block.fetch import Fetcher
    from imgfs.block.pieces import ByteSource
    from imgfs.model import Volume
    from imgfs.opening.attempt import Attempts
    from imgfs.opening.place import Place
    from imgfs.tree.nodes import Dir, Node
    from imgfs.tree.tree import Tree


class Snapshots:
    """Puts the snapshots of a volume into its directory."""

    __slots__ = ("_attempts", "_fetcher", "_tree")

    def __init__(self, tree: Tree, attempts: Attempts, fetcher: Fetcher) -> None:
        self._tree = tree
        self._attempts = attempts
        self._fetcher = fetcher

    async def show(self, backend: Backend, folder: Dir, source: ByteSource, place: Place) -> None:
        """List the snapshots of a volume, oldest first, without opening one."""
        layer, answer = await self._attempts.open(backend, [source], place, "table")
        if answer is None:
            return
        if not isinstance(answer.opened, VolumeTable):
            self._attempts.damaged(layer, f"{backend.name} answered with no snapshots")
            return
        layer.table(answer.opened)
        for volume in answer.opened.volumes[: limits.MAX_STATES]:
            name = f"{backend.name}{volume.slot}"
            inner = place.inner(backend.name).at(str(volume.slot))
            record = self._attempts.layers.add(
                Layer(spec=str(inner.spec), backend=backend.name, kind="volume", path=f"{place.path}/{name}")
            )
            record.volume(volume)
            record.start = -1  # it is laid over the volume, nowhere in one piece
            record.created(volume.created_ns)
            one = _Snapshot(self, backend, source, place, volume, record)
            m_ns = volume.created_ns or self._tree.m_ns
            spec = str(inner.spec)
            tree = self._tree.later_tree(one.root, m_ns=m_ns, spec=spec)
            raw = self._tree.later_raw(one.source, size=volume.stop, m_ns=m_ns, spec=spec)
            folder.add(name.encode(), tree, tree.attr_now())
            folder.add(f"{name}.raw".encode(), raw, raw.attr_now())

    async def bytes_of(
        self, backend: Backend, source: ByteSource, place: Place, volume: Volume, layer: Layer
    ) -> ByteSource:
        """Return the bytes of a snapshot.

        Raises:
            EvidenceError: they cannot be found, which the record says.
        """
        key = str(volume.slot)
        asked = replace(place, options=replace(place.options, state=key))
        opening, answer = await self._attempts.open(backend, [source], asked, "container")
        self._attempts.layers.drop_if(opening)  # the snapshot is recorded already
        if answer is None or not isinstance(answer.opened, Media):
            self._attempts.damaged(layer, "; ".join(opening.notes) or opening.needs or "it cannot be opened")
            raise EvidenceError(layer.notes[-1], spec=layer.spec)
        made = build(answer.opened.layouts, [source], layer.spec, table=answer.table)
        layer.media(answer.opened, made.size)
        return made

    async def root_of(self, source: ByteSource, place: Place, layer: Layer) -> Node:
        """Return the root of the file system of a snapshot.

        Raises:
            EvidenceError: there is none that can be read.
        """
        found = candidates(await look(self._fetcher, source), (Role.FILES,), trials=False)
        place = replace(place, path=layer.path)
        for backend in found:
            inside, answer = await self._attempts.open(backend, [source], place, "files")
            if answer is None or not isinstance(answer.opened, FilesInfo) or answer.files is None:
                continue
            inside.files(answer.opened)
            fs = self._tree.attach(answer.files, [source], place.spec.child(backend.name))
            return self._tree.root_of(fs, 0)
        raise EvidenceError("no file system that can be read", spec=layer.spec)


class _Snapshot:
    """One snapshot, opened at most once."""

    def __init__(
        self,
        owner: Snapshots,
        backend: Backend,
        lower: ByteSource,
        place: Place,
        volume: Volume,
        layer: Layer,
    ) -> None:
        self._open = partial(owner.bytes_of, backend, lower, place, volume, layer)
        self._inner = place.inner(backend.name).at(str(volume.slot))
        self._owner = owner
        self._layer = layer
        self._once = trio.Lock()
        self._source: ByteSource | None = None
        self._node: Node | None = None

    async def source(self) -> ByteSource:
        """Return its bytes."""
        async with self._once:
            if self._source is None:
                self._source = await self._open()
            return self._source

    async def root(self) -> Node:
        """Return the root of its file system."""
        source = await self.source()
        async with self._once:
            if self._node is None:
                self._node = await self._owner.root_of(source, self._inner, self._layer)
            return self._node
