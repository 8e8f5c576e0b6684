"""Volumes of one set that lie on several sources: they wait for each other, and open once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgfs.backends import Backend
    from imgfs.block.pieces import ByteSource
    from imgfs.opening.layers import Layer
    from imgfs.opening.place import Place
    from imgfs.tree.nodes import Dir


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A directory that a volume has already, and its name in that of the disk."""

    folder: Dir
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One source of a set. ``set_id`` is empty where the member cannot say which set it is of."""

    backend: Backend
    set_id: str
    source: ByteSource
    place: Place
    layer: Layer
    spot: Spot


class Sets:
    """Members that wait for the rest of their set."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[Member] = []

    def park(self, member: Member) -> None:
        """Let a member wait."""
        self._waiting.append(member)

    def on(self, disk: Dir) -> bool:
        """Say whether a member on a disk is waiting."""
        return any(member.place.disk is disk for member in self._waiting)

    def take(self) -> list[list[Member]]:
        """Return the sets, whose members wait no more; one that names no set is in every set of its kind."""
        waiting, self._waiting = self._waiting, []
        named: dict[tuple[str, str], list[Member]] = {}
        for member in waiting:
            if member.set_id:
                named.setdefault((member.backend.name, member.set_id), []).append(member)
        strays = [member for member in waiting if not member.set_id]
        found = list(named.values())
        for stray in strays:
            of_kind = [group for group in found if group[0].backend is stray.backend]
            for group in of_kind:
                group.append(stray)
            if not of_kind:
                found.append([stray])
        return found
