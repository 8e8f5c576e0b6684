"""One attempt to open a layer: a worker does it, every outcome is recorded."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgfs import limits, log
from imgfs.block.hostfile import HostFile
from imgfs.errors import (
    EvidenceError,
    NeedKey,
    NeedMembers,
    NotMine,
    NotSupported,
    UsageError,
    WorkerError,
)
from imgfs.opening.keys import HEADER
from imgfs.opening.layers import Layer, Layers
from imgfs.worker.client import open_layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Backend
    from imgfs.block.pieces import ByteSource
    from imgfs.opening.keys import Key
    from imgfs.opening.layers import LayerKind
    from imgfs.opening.place import Place
    from imgfs.worker.client import Layer as Opened
    from imgfs.worker.supervisor import Supervisor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked to be opened, so that it can be asked again: with a key, with all members."""

    backend: Backend
    sources: Sequence[ByteSource]
    names: Sequence[str]
    place: Place


class Attempts:
    """Opens layers and keeps the record of what was found."""

    __slots__ = ("_forced", "_supervisor", "keys", "layers", "needs")

    def __init__(self, supervisor: Supervisor, forced: str = "", keys: Sequence[Key] = ()) -> None:
        """``forced`` names the back-end the analyst asked for: that it does not fit is said."""
        self._supervisor = supervisor
        self._forced = forced
        self.keys = list(keys)
        self.layers = Layers()
        # what the last attempt at a layer lacked, by address
        self.needs: dict[str, NeedKey | NeedMembers] = {}

    async def open(
        self,
        backend: Backend,
        sources: Sequence[ByteSource],
        place: Place,
        kind: LayerKind,
        file_names: Sequence[str] = ("",),
    ) -> tuple[Layer, Opened | None]:
        """Let a worker open a layer.

        Returns:
            The record of the layer and what was opened; None when it was not, and the record says why.
            A layer that turned out not to be there is no longer recorded.
        """
        layer = self.layers.add(
            Layer(
                spec=str(place.spec.child(backend.name, place.state)),
                backend=backend.name,
                kind=kind,
                path=place.path,
                title=backend.title,
                members=[name for name in file_names if name],
            )
        )
        asked = Asked(backend=backend, sources=sources, names=file_names, place=place)
        return layer, await self.again(layer, asked)

    async def again(self, layer: Layer, asked: Asked) -> Opened | None:
        """Let a worker open a layer that is recorded; see ``open``."""
        self.needs.pop(layer.spec, None)
        try:
            opened = await self._opened(layer, asked)
        except NotMine:
            if asked.backend.name == self._forced and not asked.place.nested:
                self.damaged(layer, f"--type {asked.backend.name}: this is none")
            else:
                self.layers.drop(layer)
        except NotSupported as why:
            layer.state, layer.needs = "unsupported", why.message
            logger.info(log.LAYER_UNSUPPORTED, extra={"spec": layer.spec, "why": why.message})
        except NeedKey as why:
            self._locked(layer, why)
        except NeedMembers as why:
            layer.state, layer.needs = "incomplete", f"{why.of - why.have} more of {why.of} members"
            layer.uuid = why.set_id
            self.needs[layer.spec] = why
        except UsageError as why:  # a keyfile that cannot be read: what is locked stays so
            self._locked(layer, NeedKey(why.message))
        except (EvidenceError, WorkerError) as why:
            self.damaged(layer, str(why))
        else:
            logger.info(log.LAYER_OPENED, extra={"spec": layer.spec})
            return opened
        return None

    async def without(self, layer: Layer, asked: Asked) -> Opened | None:
        """Open what of a locked layer needs no key, and leave its record locked; None: nothing."""
        try:
            return await self._ask(layer, asked)
        except (NeedKey, NeedMembers, NotMine, NotSupported, EvidenceError, WorkerError) as why:
            logger.info(log.LAYER_LOCKED, extra={"spec": layer.spec, "why": str(why)})
            return None

    async def _opened(self, layer: Layer, asked: Asked) -> Opened:
        """Open without a key first, so that what is locked is known; then with those that may fit."""
        try:
            if asked.backend.by_key:  # nothing tells it from noise but a key that opens it
                memory = min(asked.backend.memory, _most())
                raise NeedKey(kinds=asked.backend.keys, memory=memory)  # noqa: TRY301  # asked like the others
            return await self._ask(layer, asked)
        except NeedKey as need:
            fitting = [key for key in self.keys if key.fits(layer.spec, asked.backend.keys)]
            layer.protectors = [list(row) for row in need.protectors]
            if not fitting:
                if asked.backend.by_key:
                    raise NotMine(asked.backend.name) from None
                raise
            if HEADER in asked.backend.keys:
                return await self._apart(layer, asked, fitting)
            memory = _allowed(need.memory)
            threads = len(os.sched_getaffinity(0)) if need.memory else 1
            asked = replace(asked, place=asked.place.with_keys((key.secret() for key in fitting), threads))
            try:
                return await self._ask(layer, asked, memory=memory)
            except NeedKey as still:
                if asked.backend.by_key and not still.message and layer.state != "locked":
                    raise NotMine(asked.backend.name) from None
                more = still.message.removeprefix(need.message).lstrip("; ")
                tried = (
                    "the key does not open it"
                    if len(fitting) == 1
                    else f"none of {len(fitting)} keys opens it"
                )
                said = "; ".join(filter(None, (need.message, tried, more)))
                raise NeedKey(said, kinds=need.kinds, protectors=need.protectors) from still

    async def _apart(self, layer: Layer, asked: Asked, keys: Sequence[Key]) -> Opened:
        """Open with the headers that the analyst named, one after the other.

        Raises:
            NotMine: none of them is of this volume, or its key does not open it.
            UsageError: one cannot be read.
        """
        for key in keys:
            header = HostFile.open(Path(key.header))
            try:
                threads = len(os.sched_getaffinity(0))
                place = asked.place.with_keys([key.secret()], threads)
                more = replace(asked, sources=[*asked.sources, header], names=[*asked.names, ""], place=place)
                return await self._ask(layer, more, memory=_allowed(limits.DERIVE_MEMORY // 4))
            except (NeedKey, NotMine) as why:
                logger.info(log.LAYER_LOCKED, extra={"spec": layer.spec, "why": str(why)})
            finally:
                header.close()
        raise NotMine(asked.backend.name)

    async def _ask(self, layer: Layer, asked: Asked, memory: int = limits.WORKER_MEMORY) -> Opened:
        place, backend = asked.place, asked.backend
        return await open_layer(
            self._supervisor,
            backend.name,
            asked.sources,
            asked.names,
            place.options,
            layer.spec,
            memory=memory,
        )

    def _locked(self, layer: Layer, why: NeedKey) -> None:
        layer.state, layer.needs = "locked", why.message or f"one of {', '.join(why.kinds)}"
        layer.protectors = [list(row) for row in why.protectors]
        self.needs[layer.spec] = why
        logger.info(log.LAYER_LOCKED, extra={"spec": layer.spec, "why": layer.needs})

    def damaged(self, layer: Layer, why: str) -> None:
        """Record that a layer cannot be read."""
        layer.state = "damaged"
        layer.note(why)
        logger.warning(log.LAYER_DAMAGED, extra={"spec": layer.spec, "why": why})


def _available() -> int:
    """Return how many bytes of memory can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * limits.KIB
    return limits.WORKER_MEMORY


def _most() -> int:
    """Return how many bytes deriving a key may take on this machine."""
    return min(limits.DERIVE_MEMORY, max(_available() // 2, limits.WORKER_MEMORY))


def _allowed(claimed: int) -> int:
    """Return the address space for deriving a key that says it takes ``claimed`` bytes.

    Raises:
        NeedKey: it takes more than is allowed, or than this machine has.
    """
    if not claimed:
        return limits.WORKER_MEMORY
    most = _most()
    if claimed > most:
        mib = limits.MIB
        raise NeedKey(
            f"its header asks for {claimed // mib} MiB to derive a key, {most // mib} MiB are allowed here"
        )
    return limits.WORKER_MEMORY + claimed
