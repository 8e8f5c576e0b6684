"""From host files, or a file of the evidence, to the media: one container after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.backends import Role, discover
from imgfs.block.build import build
from imgfs.errors import EvidenceError
from imgfs.model import Media
from imgfs.opening.layers import Layer
from imgfs.opening.probe import candidates, look

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgfs.backends import Backend
    from imgfs.block.fetch import Fetcher
    from imgfs.block.hostfile import HostFile
    from imgfs.block.pieces import ByteSource
    from imgfs.opening.attempt import Attempts
    from imgfs.opening.place import Overrule, Place
    from imgfs.worker.client import Layer as Opened

    Bring = Callable[[str], HostFile | None]


@dataclass(frozen=True, slots=True)
class Found:
    """The media, and the place inside the last container.

    ``closed``: a container was recognised that cannot be read: what lies in it is not on the media.
    ``files`` reads what the last container holds instead of a disk, over its ``members``.
    """

    media: ByteSource
    place: Place
    closed: bool = False
    files: Backend | None = None
    members: Sequence[ByteSource] = ()
    names: Sequence[str] = ()


class Containers:
    """Takes containers off until what is left is no container."""

    __slots__ = ("_attempts", "_fetcher", "_overrule")

    def __init__(self, attempts: Attempts, fetcher: Fetcher, overrule: Overrule) -> None:
        self._attempts = attempts
        self._fetcher = fetcher
        self._overrule = overrule

    async def media(
        self,
        sources: Sequence[ByteSource],
        file_names: Sequence[str],
        place: Place,
        bring: Bring,
    ) -> Found:
        """Open every container around the media; ``bring`` opens a further host file that one names."""
        media = sources[0]
        closed = False
        while place.depth < limits.MAX_DEPTH:
            found: tuple[Layer, ByteSource, Media] | None = None
            for backend in await self._candidates(media, file_names[0], place):
                opening = self._with_members(backend, sources, file_names, place, bring)
                layer, answer, members, brought = await opening
                found = self._built(answer, members, layer) if answer is not None else None
                if found is not None:
                    break
                closed = closed or layer.state in ("unsupported", "locked")
            if found is None:
                break
            layer, media, claim = found
            layer.media(claim, media.size)
            sector = place.options.sector or (claim.sector if claim.sector != 512 else 0)
            place = replace(place.inner(layer.backend), options=replace(place.options, sector=sector))
            if claim.files:
                return Found(
                    media, place, files=self._reader_of(claim, layer), members=members, names=brought
                )
            sources, file_names = [media], [""]
        if not place.spec.steps:
            raw = Layer(
                spec=str(place.spec), backend="raw", kind="container", path=place.path, title="raw bytes"
            )
            raw.state, raw.size = "open", media.size
            self._attempts.layers.add(raw)
        return Found(media, place, closed)

    def _reader_of(self, claim: Media, layer: Layer) -> Backend | None:
        """Return the back-end that a container names; None: it is none for files."""
        backend = discover().get(claim.files)
        if backend is not None and backend.role is Role.FILES:
            return backend
        self._attempts.damaged(layer, f"{layer.backend} names no back-end for its files")
        return None

    async def _with_members(
        self,
        backend: Backend,
        sources: Sequence[ByteSource],
        file_names: Sequence[str],
        place: Place,
        bring: Bring,
    ) -> tuple[Layer, Opened | None, Sequence[ByteSource], Sequence[str]]:
        """Open a container; again whenever it names host files that can be brought."""
        sources, file_names = list(sources), list(file_names)
        most = len(sources) + limits.MAX_WANTS
        while True:
            layer, answer = await self._attempts.open(backend, sources, place, "container", file_names)
            outermost = not place.nested and not place.spec.steps
            if answer is None or not isinstance(answer.opened, Media) or not outermost:
                return layer, answer, sources, file_names
            wanted = [name for name in answer.opened.wants if name not in file_names]
            more = [(name, file) for name in wanted if (file := bring(name)) is not None]
            if not more or len(sources) >= most:
                return layer, answer, sources, file_names
            self._attempts.layers.drop(layer)
            if answer.aclose is not None:
                await answer.aclose()
            sources += [file for _, file in more]
            file_names += [name for name, _ in more]

    def _built(
        self, answer: Opened, sources: Sequence[ByteSource], layer: Layer
    ) -> tuple[Layer, ByteSource, Media] | None:
        """Check what a container says of its media; None when it cannot be true."""
        claim = answer.opened
        if not isinstance(claim, Media):
            self._attempts.damaged(layer, f"{layer.backend} answered with something that is no media")
            return None
        try:
            media = build(claim.layouts, sources, layer.spec, table=answer.table, foreign=answer.foreign)
        except EvidenceError as why:
            self._attempts.damaged(layer, str(why))
            return None
        return layer, media, claim

    async def _candidates(self, media: ByteSource, name: str, place: Place) -> list[Backend]:
        outermost = not place.nested and not place.spec.steps
        if outermost and self._overrule.raw:
            return []
        forced = self._overrule.forced
        if outermost and forced is not None and forced.role is Role.MEDIA:
            return [forced]
        return candidates(await look(self._fetcher, media), (Role.MEDIA,), name=name)
