"""Containers that are read by an index: found in the cache, or made now, which may take minutes."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from imgfs import log
from imgfs.backends._index import NAME
from imgfs.errors import EvidenceError, NotSupported, WorkerError
from imgfs.model import Indexing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Backend
    from imgfs.block.hostfile import HostFile
    from imgfs.block.pieces import ByteSource
    from imgfs.opening.attempt import Attempts
    from imgfs.opening.indexes import Indexes
    from imgfs.opening.layers import Layer
    from imgfs.opening.place import Place
    from imgfs.worker.client import Layer as Opened

logger = logging.getLogger(__name__)


class IndexedOpening:
    """Opens containers that may need an index."""

    __slots__ = ("_attempts", "_indexes")

    def __init__(self, attempts: Attempts, indexes: Indexes) -> None:
        self._attempts = attempts
        self._indexes = indexes

    async def open(
        self, backend: Backend, image: HostFile, name: str, place: Place
    ) -> tuple[Layer, Opened | None, Sequence[ByteSource], Sequence[str]]:
        """Open a container with its index if it needs one.

        Returns the record, what was opened (None: the record says why not), and the members with their names.
        """
        index = self._indexes.find(image, backend)
        notes: list[str] = []
        while True:
            sources, names = ([image, index], [name, NAME]) if index else ([image], [name])
            layer, answer = await self._attempts.open(backend, sources, place, "container", names)
            layer.members = [name] if name else []
            if answer is None or not isinstance(answer.opened, Indexing) or answer.index is None:
                layer.notes += notes
                return layer, answer, sources, names
            if index is not None and notes:  # what was just made is none
                await answer.index.aclose()
                self._attempts.damaged(layer, "the index that was made of it cannot be read")
                return layer, None, sources, names
            if index is not None:
                self._indexes.drop(image, backend, index)
                logger.warning(log.INDEX_DAMAGED, extra={"spec": layer.spec})
            index = await self._made(backend, image, layer, answer, notes)
            if index is None:
                return layer, None, [image], [name]
            self._attempts.layers.drop(layer)

    async def _made(
        self, backend: Backend, image: HostFile, layer: Layer, answer: Opened, notes: list[str]
    ) -> HostFile | None:
        """Make an index; None: the record says why there is none."""
        client, claim = answer.index, answer.opened
        assert client is not None  # noqa: S101  # the caller looked
        assert isinstance(claim, Indexing)  # noqa: S101  # as above
        what = "copying what it holds" if claim.copy else "building index"
        if claim.why:
            layer.note(claim.why)

        def progress(done: int) -> None:
            layer.progress = done, claim.total
            layer.needs = f"{what} {100 * done // claim.total} %"

        progress(0)
        logger.info(log.INDEX_BEGUN, extra={"spec": layer.spec, "copy": claim.copy})
        draft = self._indexes.draft(image, backend)
        try:
            await client.build(draft.write, progress)
            image.check(now=True)  # an index of something else would be stored under its name
            file = self._indexes.keep(draft)
        except* NotSupported as whys:
            layer.state, layer.needs = "unsupported", _first(whys).message
            logger.info(log.LAYER_UNSUPPORTED, extra={"spec": layer.spec, "why": layer.needs})
        except* (EvidenceError, WorkerError) as whys:
            layer.needs = ""
            self._attempts.damaged(layer, f"no index could be made: {_first(whys)}")
        else:
            logger.info(log.INDEX_MADE, extra={"spec": layer.spec, "bytes": file.size, "memory": draft.why})
            held = f"{file.size} bytes " + (f"in memory ({draft.why})" if draft.why else f"in {file.path}")
            kind = "a copy of what it holds" if claim.copy else "an index"
            notes.append(f"{kind} was made to read it: {held}")
            return file
        finally:
            layer.progress = None
            draft.close()
            await client.aclose()
        return None


def _first(
    whys: BaseExceptionGroup[NotSupported | EvidenceError | WorkerError],
) -> NotSupported | EvidenceError | WorkerError:
    """Return one of the errors of several workers."""
    why = whys.exceptions[0]
    return _first(why) if isinstance(why, BaseExceptionGroup) else why
