"""What was found, layer by layer: the content of layers.json and of ``imgfs info``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from imgfs.tree.facts import iso

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.model import FilesInfo, Media, Volume, VolumeTable

LayerKind = Literal["container", "table", "volume", "files", "system"]
State = Literal["open", "locked", "unsupported", "damaged", "incomplete", "pending"]


@dataclass(slots=True, kw_only=True)
class Layer:
    """One layer. ``path`` is its directory in the mount.

    Units: ``start`` and ``size`` bytes, ``start`` on the layer below, -1: not a range of it; ``progress``: an
    index of it is being made, (done, all) stored bytes; ``lost`` rows are [start, stop) bytes of this layer
    and the reason.
    """

    spec: str
    backend: str
    kind: LayerKind
    state: State = "pending"
    path: str = ""
    title: str = ""
    type: str = ""
    version: str = ""
    label: str = ""
    uuid: str = ""
    slot: int = -1
    start: int = -1
    size: int = -1
    sector: int = 0
    needs: str = ""
    notes: list[str] = field(default_factory=list)
    lost: list[tuple[int, int, str]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    members: list[str] = field(default_factory=list)
    protectors: list[list[str]] = field(default_factory=list)  # slot, kind, id, cost
    progress: tuple[int, int] | None = None

    @property
    def making(self) -> tuple[str, int, int] | None:
        """Return what is being made to read it, bytes done, all of them; None: nothing."""
        if self.progress is None:
            return None
        return (f"{self.path}: {self.needs.rpartition(' ')[0].rpartition(' ')[0]}", *self.progress)

    def note(self, text: str) -> None:
        """Add a remark once."""
        if text not in self.notes:
            self.notes.append(text)

    def created(self, when_ns: int | None) -> None:
        """Take over when a snapshot was taken."""
        if when_ns is not None:
            self.metadata["created"] = iso(when_ns)

    def media(self, media: Media, size: int) -> None:
        """Take over what a container says."""
        self.state = "incomplete" if media.lost else "open"
        self.needs = ""
        self.version = media.version
        self.sector = media.sector
        self.size = size
        self.metadata = dict(media.metadata)
        self.digests = dict(media.digests)
        self.lost = list(media.lost)
        self.notes += media.notes

    def table(self, table: VolumeTable) -> None:
        """Take over what a volume system says."""
        self.state = "open"
        self.type = table.scheme
        self.sector = table.sector
        self.uuid = table.uuid
        self.label = table.label
        self.version = table.version
        self.needs = ""
        self.notes += table.notes
        self.protectors = [[p.slot, p.kind, p.id, p.cost] for p in table.protectors] or self.protectors

    def volume(self, volume: Volume) -> None:
        """Take over what a table says of a slot."""
        self.slot = volume.slot
        self.start = volume.start if volume.layout < 0 else -1
        self.size = volume.stop - volume.start
        self.type = volume.type_name or volume.type_id
        self.label = volume.label
        self.uuid = volume.unique_id

    def files(self, info: FilesInfo) -> None:
        """Take over what a file system says."""
        self.state = "open"
        self.type = info.type
        self.version = info.version
        self.label = info.label
        self.uuid = info.uuid
        self.size = info.size
        self.notes += info.notes


class Layers:
    """All layers of a session in the order they were found."""

    __slots__ = ("_layers",)

    def __init__(self) -> None:
        self._layers: list[Layer] = []

    def add(self, layer: Layer) -> Layer:
        """Record a layer."""
        self._layers.append(layer)
        return layer

    def drop(self, layer: Layer) -> None:
        """Forget a layer that turned out not to be there."""
        self._layers.remove(layer)

    def drop_if(self, layer: Layer) -> None:
        """Forget a layer, unless that has happened."""
        if layer in self._layers:
            self._layers.remove(layer)

    def __iter__(self) -> Iterator[Layer]:
        return iter(list(self._layers))
