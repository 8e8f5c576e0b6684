"""From host files, or a file of the evidence, to the media: one container after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from imgfs import limits
from imgfs.backends import Role, discover
from imgfs.block.build import build
from imgfs.block.hostfile import HostFile
from imgfs.errors import EvidenceError
from imgfs.model import Media
from imgfs.opening.attempt import Asked
from imgfs.opening.indexed import IndexedOpening
from imgfs.opening.layers import Layer
from imgfs.opening.probe import candidates, look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Backend
    from imgfs.block.fetch import Fetcher
    from imgfs.block.pieces import ByteSource
    from imgfs.model import State
    from imgfs.opening.attempt import Attempts
    from imgfs.opening.indexes import Indexes
    from imgfs.opening.place import Overrule, Place
    from imgfs.worker.client import Layer as Opened


class Beside(Protocol):
    """The host files beside an image, which it may name or want; see ``members.Evidence``."""

    def bring(self, name: str) -> HostFile | None:
        """Open a further host file that an image names; None: there is no such file."""

    def kin(self, pattern: str) -> list[str]:
        """Return the names of files of the kind of an image."""

    def release(self, file: HostFile) -> None:
        """Close a file that was brought."""


class Nothing:
    """What lies beside an image inside the evidence: nothing that may be opened."""

    def bring(self, name: str) -> HostFile | None:
        """Return None."""

    def kin(self, pattern: str) -> list[str]:
        """Return no names."""
        del pattern
        return []

    def release(self, file: HostFile) -> None:
        """Have nothing to close."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Further:
    """A further disk of a container, and what it takes to open it: as ``Containers.media`` has it."""

    state: State
    backend: Backend
    sources: Sequence[ByteSource]
    file_names: Sequence[str]
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Shut:
    """A container that waits for a key, and what lies beside it."""

    asked: Asked
    layer: Layer
    beside: Beside


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What taking containers off led to.

    ``place`` is inside the last container; ``readable``: whether to look for volumes, not when a container
    was recognised that cannot be read, because what lies in it is not on the media. ``files`` reads what the
    last container holds instead of a disk, over its ``members`` and their ``names``.
    """

    media: ByteSource
    place: Place
    readable: bool
    further: tuple[Further, ...] = ()
    files: Backend | None = None
    members: Sequence[ByteSource] = ()
    names: Sequence[str] = ()


class Containers:
    """Takes containers off until what is left is no container."""

    __slots__ = ("_attempts", "_fetcher", "_indexing", "_overrule", "shut")

    def __init__(self, attempts: Attempts, fetcher: Fetcher, overrule: Overrule, indexes: Indexes) -> None:
        self._attempts = attempts
        self._fetcher = fetcher
        self._overrule = overrule
        self._indexing = IndexedOpening(attempts, indexes)
        self.shut: dict[str, Shut] = {}  # by address

    async def media(
        self,
        sources: Sequence[ByteSource],
        file_names: Sequence[str],
        place: Place,
        beside: Beside,
        first: Backend | None = None,
        given: tuple[Layer, Opened] | None = None,
    ) -> Found:
        """Open every container around the media.

        ``first`` is the only candidate for the outermost: a further disk of a container that was opened.
        ``given``: that one is open already.
        """
        media, again = sources[0], first is not None
        closed = False
        further: list[Further] = []
        while place.depth < limits.MAX_DEPTH:
            found: tuple[Layer, ByteSource, Media] | None = None
            tried = [first] if first else await self._candidates(media, file_names[0], place)
            first = None
            for backend in tried:
                layer, answer, members, called = (
                    (*given, sources, file_names)
                    if given
                    else await self._with_members(backend, sources, file_names, place, beside)
                )
                given = None
                if answer is None and layer.state == "locked":
                    asked = Asked(backend=backend, sources=members, names=called, place=place)
                    self.shut[layer.spec] = Shut(asked=asked, layer=layer, beside=beside)
                found = self._built(answer, members, layer) if answer is not None else None
                if found is not None:
                    further += [
                        Further(state=state, backend=backend, sources=members, file_names=called, place=place)
                        for state in found[2].states
                    ]
                    break
                closed = closed or layer.state in ("unsupported", "locked")
            if found is None:
                break
            layer, media, claim = found
            layer.media(claim, media.size)
            sector = place.options.sector or (claim.sector if claim.sector != 512 else 0)
            place = place.inner(layer.backend)
            place = replace(place, options=replace(place.options, sector=sector))
            if claim.files:
                reader = self._reader_of(claim, layer)
                return Found(
                    media=media,
                    place=place,
                    readable=reader is not None,
                    files=reader,
                    members=members,
                    names=called,
                )
            sources, file_names = [media], [""]
        if not place.spec.steps and not again:
            raw = Layer(
                spec=str(place.spec), backend="raw", kind="container", path=place.path, title="raw bytes"
            )
            raw.state, raw.size = "open", media.size
            self._attempts.layers.add(raw)
        return Found(media=media, place=place, readable=not closed, further=tuple(further))

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
        beside: Beside,
    ) -> tuple[Layer, Opened | None, Sequence[ByteSource], Sequence[str]]:
        """Open a container; again whenever it names host files that can be brought.

        Returns the record, what was opened, and the members with their names.
        """
        sources, file_names = list(sources), list(file_names)
        most = len(sources) + limits.MAX_WANTS
        kin: dict[str, HostFile] = {}
        called = not backend.kin  # its kin is looked for once
        while True:
            outermost = not place.nested and not place.spec.steps
            if backend.index and outermost and isinstance(sources[0], HostFile):
                return await self._indexing.open(backend, sources[0], file_names[0], place)
            layer, answer = await self._attempts.open(backend, sources, place, "container", file_names)
            if answer is None or not isinstance(answer.opened, Media) or not outermost:
                return layer, answer, sources, file_names
            claim = answer.opened
            strangers = [name for name in kin if name not in claim.wants]
            wanted = [name for name in claim.wants if name not in file_names]
            if claim.kin and not called:
                wanted += [name for name in beside.kin(backend.kin) if name not in file_names]
            more = [(name, file) for name in wanted if (file := beside.bring(name)) is not None]
            if claim.kin and not called:
                kin = {name: file for name, file in more if name not in claim.wants}
                called, strangers = True, []
            if (not more or len(sources) >= most) and not strangers:
                return layer, answer, sources, file_names
            self._attempts.layers.drop(layer)
            if answer.aclose is not None:
                await answer.aclose()
            for name in strangers:
                at = file_names.index(name)
                del sources[at], file_names[at]
                beside.release(kin.pop(name))
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
