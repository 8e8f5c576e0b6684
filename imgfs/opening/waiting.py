"""What opens later than its disk: sets when their members are there, locked layers when a key comes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import trio

from imgfs import limits, log
from imgfs.model import FilesInfo, Spec, VolumeTable
from imgfs.opening.attempt import Asked, logger
from imgfs.opening.layers import Layer
from imgfs.opening.place import Place
from imgfs.tree import names

if TYPE_CHECKING:
    from imgfs.opening.attempt import Attempts
    from imgfs.opening.keys import Key
    from imgfs.opening.sets import Member, Spot
    from imgfs.opening.volumes import Locked, Volumes
    from imgfs.tree.tree import Tree
    from imgfs.worker.client import Layer as Opened

_ASKED = limits.PATIENCE_ASKED
_ROUNDS = limits.MAX_DEPTH  # a set in a set in a set ... ends there


@dataclass(frozen=True, slots=True, kw_only=True)
class _Whole:
    """A set whose members are known. ``spot`` None: it is a disk of its own."""

    members: list[Member]
    layer: Layer
    place: Place
    spot: Spot | None


class Waiting:
    """Opens what waited."""

    __slots__ = ("_attempts", "_one", "_shut", "_tree", "_volumes")

    def __init__(self, tree: Tree, attempts: Attempts, volumes: Volumes) -> None:
        self._tree = tree
        self._attempts = attempts
        self._volumes = volumes
        self._one = trio.Lock()
        self._shut: dict[str, _Whole] = {}  # sets that are locked, by address

    async def assemble(self) -> None:
        """Open the sets whose members are known; what is missing of them is lost, and said."""
        async with self._one:
            for _ in range(_ROUNDS):
                sets = self._volumes.sets.take()
                if not sets:
                    return
                for members in sets:
                    await self._assemble(members)

    async def _assemble(self, members: list[Member]) -> None:
        first = members[0]
        disks = {id(member.place.disk) for member in members}
        layer, place = first.layer, first.place
        spot: Spot | None = first.spot
        if len(disks) > 1:
            layer, place, spot = self._apart(members)
        await self._open(_Whole(members=members, layer=layer, place=place, spot=spot))

    async def _open(self, whole: _Whole) -> None:
        """Open a set; one that is locked waits for a key."""
        members, layer, place, spot = whole.members, whole.layer, whole.place, whole.spot
        first = members[0]
        place = replace(place, options=replace(place.options, final=True))
        asked = Asked(
            backend=first.backend,
            sources=[member.source for member in members],
            names=[""] * len(members),
            place=place,
        )
        answer = await self._attempts.again(layer, asked)
        self._shut.pop(layer.spec, None)
        if answer is None:
            if layer.state == "locked":
                self._shut[layer.spec] = whole
            for member in members:
                if member.layer is not layer:
                    member.layer.state, member.layer.notes = layer.state, list(layer.notes)
                    member.layer.needs = layer.needs
            return
        layer.members = [str(member.place.spec) for member in members]
        name = layer.path if spot is None else spot.name
        if spot is None:
            name = self._named(answer, place, layer)
            place = replace(place, path=name)
        took = await self._volumes.take(answer, replace(asked, place=place), layer, spot, apart=spot is None)
        for member in members:
            if took and member.layer is not layer:
                member.layer.state, member.layer.needs = "open", ""
                member.layer.note(f"a member of {name}")

    def _apart(self, members: list[Member]) -> tuple[Layer, Place, None]:
        """Return record and place of a set that is a disk of its own."""
        first = members[0]
        root = f"{first.backend.name}-{names.slug(first.set_id)[:13] or 'set'}"
        place = Place(
            self._tree.directory(spec=root),
            Spec(root),
            root,
            first.place.options,
            max(member.place.depth for member in members),
        )
        layer = Layer(
            spec=str(place.spec.child(first.backend.name)),
            backend=first.backend.name,
            kind="table",
            path=root,
            title=first.backend.title,
        )
        return self._attempts.layers.add(layer), place, None

    def _named(self, answer: Opened, place: Place, layer: Layer) -> str:
        """Put the directory of a set that is a disk of its own into the mount."""
        label = answer.opened.label if isinstance(answer.opened, (FilesInfo, VolumeTable)) else ""
        name = names.distinct((names.slug(label) or place.path).encode(), 2, self._tree.root)
        self._tree.root.add(name, place.disk)
        layer.path = names.printable(name)
        return layer.path

    async def unlock(self, keys: list[Key], volume: str = "*") -> list[Layer]:
        """Try keys on the locked layers whose address or path matches; return the records of those tried."""
        tried: list[Layer] = []
        async with self._one:
            self._attempts.keys += keys
            for spec, locked in list(self._volumes.locked.items()):
                if any(fnmatchcase(text, volume) for text in (spec, locked.layer.path)):
                    tried.append(locked.layer)
                    await self._unlock(spec, locked)
            for spec, whole in list(self._shut.items()):
                named = [one.layer for one in whole.members] + [whole.layer]
                texts = [text for layer in named for text in (layer.spec, layer.path)] + [spec]
                if any(fnmatchcase(text, volume) for text in texts):
                    tried.append(whole.layer)
                    await self._open(whole)
        await self.assemble()
        return tried

    async def _unlock(self, spec: str, locked: Locked) -> None:
        place = locked.asked.place
        asked = replace(locked.asked, place=replace(place, options=replace(place.options, patience=_ASKED)))
        answer = await self._attempts.again(locked.layer, asked)
        if answer is not None:
            del self._volumes.locked[spec]
            shown = locked.shown
            await self._volumes.take(answer, locked.asked, locked.layer, locked.spot, shown=shown)
            logger.info(log.LAYER_UNLOCKED, extra={"spec": spec})
