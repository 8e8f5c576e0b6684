"""One attempt to open a layer: a worker does it, every outcome is recorded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from imgfs import log
from imgfs.errors import EvidenceError, NeedKey, NeedMembers, NotMine, NotSupported, WorkerError
from imgfs.opening.layers import Layer, Layers
from imgfs.worker.client import open_layer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Backend
    from imgfs.block.pieces import ByteSource
    from imgfs.opening.layers import LayerKind
    from imgfs.opening.place import Place
    from imgfs.worker.client import Layer as Opened
    from imgfs.worker.supervisor import Supervisor

logger = logging.getLogger(__name__)


class Attempts:
    """Opens layers and keeps the record of what was found."""

    __slots__ = ("_forced", "_supervisor", "layers")

    def __init__(self, supervisor: Supervisor, forced: str = "") -> None:
        """``forced`` names the back-end the analyst asked for: that it does not fit is said."""
        self._supervisor = supervisor
        self._forced = forced
        self.layers = Layers()

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
        try:
            opened = await open_layer(
                self._supervisor, backend.name, sources, file_names, place.options, layer.spec
            )
        except NotMine:
            if backend.name == self._forced and not place.nested:
                self.damaged(layer, f"--type {backend.name}: this is none")
            else:
                self.layers.drop(layer)
        except NotSupported as why:
            layer.state, layer.needs = "unsupported", why.message
            logger.info(log.LAYER_UNSUPPORTED, extra={"spec": layer.spec, "why": why.message})
        except NeedKey as why:
            layer.state, layer.needs = "locked", why.message
        except NeedMembers as why:
            layer.state, layer.needs = "incomplete", str(why)
        except (EvidenceError, WorkerError) as why:
            self.damaged(layer, str(why))
        else:
            logger.info(log.LAYER_OPENED, extra={"spec": layer.spec})
            return layer, opened
        return layer, None

    def damaged(self, layer: Layer, why: str) -> None:
        """Record that a layer cannot be read."""
        layer.state = "damaged"
        layer.note(why)
        logger.warning(log.LAYER_DAMAGED, extra={"spec": layer.spec, "why": why})
