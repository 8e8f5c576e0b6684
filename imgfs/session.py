"""Composition root without FUSE: block cache, supervisor, resolver and tree of one set of images."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import trio

from imgfs.block.extents import donation
from imgfs.block.fetch import open_fetcher
from imgfs.errors import EvidenceError
from imgfs.opening.members import gather
from imgfs.opening.resolve import Resolver
from imgfs.opening.system import SYSTEMS
from imgfs.settings import Settings
from imgfs.tree.handles import OpenFile
from imgfs.tree.nodes import Dir
from imgfs.tree.tree import Tree
from imgfs.worker.supervisor import open_supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from imgfs.block.fetch import Fetcher
    from imgfs.block.pieces import ByteSource
    from imgfs.opening.keys import Key
    from imgfs.opening.layers import Layer, Layers
    from imgfs.opening.members import Evidence
    from imgfs.tree.nodes import Node
    from imgfs.worker.supervisor import Supervisor

__all__ = ["Session", "Settings", "open_session"]


class Session:
    """Images resolved into a tree, ready to be walked and read."""

    __slots__ = ("_resolver", "evidence", "fetcher", "supervisor", "tree")

    def __init__(
        self,
        tree: Tree,
        fetcher: Fetcher,
        supervisor: Supervisor,
        resolver: Resolver,
        evidence: list[Evidence],
    ) -> None:
        self.tree = tree
        self.fetcher = fetcher
        self.supervisor = supervisor
        self._resolver = resolver
        self.evidence = evidence

    @property
    def layers(self) -> Layers:
        """Return what was found so far."""
        return self._resolver.layers

    async def resolve(self) -> None:
        """Open containers and tables of all images; file systems open on first access."""
        taken = {SYSTEMS.encode()}
        async with trio.open_nursery() as nursery:
            for evidence in self.evidence:
                name = evidence.path.name.encode("utf-8", "surrogateescape")
                number = 2
                while name in taken:
                    name = evidence.path.name.encode("utf-8", "surrogateescape") + b"~%d" % number
                    number += 1
                taken.add(name)
                nursery.start_soon(self._resolver.disk, evidence, name)
        await self._resolver.assemble()

    async def unlock(self, keys: Sequence[Key], volume: str = "*") -> list[Layer]:
        """Try keys on locked layers; see ``Resolver.unlock``."""
        return await self._resolver.unlock(keys, volume)

    def replaced(self) -> Sequence[tuple[int, bytes]]:
        """Return directories and names in them that became something else since this was last asked."""
        return self._resolver.replaced()

    async def complete(self) -> None:
        """Open everything there is: what ``info`` reports needs no access to wait for."""
        todo: list[Dir] = [self.tree.root, *self.tree.nested_disks]
        while todo:
            folder = todo.pop()
            if folder.spec == SYSTEMS:  # which waits for all others
                continue
            try:
                await folder.complete()
            except EvidenceError:  # recorded; the others are to be opened all the same
                continue
            todo += [child for child in map(folder.child, folder.names()) if isinstance(child, Dir)]

    async def volumes(self) -> AsyncIterator[tuple[str, ByteSource]]:
        """Yield the bytes of every disk and volume, with the path of their directory."""
        for disk_name in self.tree.root.names():
            disk = self.tree.root.child(disk_name)
            if not isinstance(disk, Dir):
                continue
            await disk.complete()
            raw = disk.child(b"disk.raw")
            if raw is not None:
                yield disk_name.decode("utf-8", "backslashreplace"), await raw.open()
            for name in disk.names():
                volume = disk.child(name)
                raw = volume.child(b"volume.raw") if isinstance(volume, Dir) else None
                if raw is not None:
                    path = b"/".join((disk_name, name)).decode("utf-8", "backslashreplace")
                    yield path, await raw.open()

    async def find(self, path: Sequence[bytes]) -> Node:
        """Return the node at a path below the root.

        Raises:
            NotFound, NotADirectory: as the path says.
        """
        node: Node = self.tree.root
        for name in path:
            node = await node.find(name)
        return node

    async def open(self, node: Node) -> OpenFile:
        """Resolve a node's content and return it for reading."""
        source = await node.open()
        for evidence in self.evidence:
            for file in evidence.files:
                file.check()
        return OpenFile(node, source, self.fetcher)

    def statistics(self) -> dict[str, object]:
        """Count what every long-lived object holds and did."""
        return {
            "fetch": asdict(self.fetcher.statistics()),
            "supervisor": asdict(self.supervisor.statistics()),
            "directories": asdict(self.tree.dircache.statistics()),
            "layouts": asdict(self.tree.layouts.statistics()),
            "file_systems": [
                {"spec": str(fs.spec), "workers": [asdict(w) for w in fs.client.statistics()]}
                for fs in self.tree.file_systems
            ],
        }


@asynccontextmanager
async def open_session(paths: Sequence[Path], settings: Settings) -> AsyncIterator[Session]:
    """Open images. ``resolve`` is left to the caller, who may serve the tree while it runs.

    Raises:
        UsageError: a path is no image, or an option does not fit.
        SandboxError: parsers cannot be isolated.
    """
    async with open_fetcher(cache_bytes=settings.cache_bytes, lost_zero=settings.lost_zero) as fetcher:
        evidence = await gather(fetcher, paths, raw=settings.overrule.raw, folders=settings.overrule.folders)
        try:
            newest = max(e.files[0].identity[3] for e in evidence)
            async with (
                open_supervisor(
                    fetcher, unsafe_no_sandbox=settings.unsafe_no_sandbox, donate=donation
                ) as supervisor,
                trio.open_nursery() as nursery,
            ):
                fetcher.hand_decoding_to(supervisor.decoders)
                tree = Tree(
                    raw_links=settings.raw_links,
                    list_nested=settings.list_nested,
                    m_ns=newest,
                    background=nursery.start_soon,
                )
                resolver = Resolver(tree, supervisor, fetcher, settings.overrule)
                session = Session(tree, fetcher, supervisor, resolver, evidence)
                resolver.systems(session.complete, listed=settings.list_system)
                if settings.enter_nested:
                    tree.enter = resolver.enter
                try:
                    yield session
                    nursery.cancel_scope.cancel()
                finally:
                    resolver.close()
        finally:
            for one in evidence:
                one.close()
