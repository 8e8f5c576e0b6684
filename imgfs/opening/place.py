"""Where resolving has arrived, and what the analyst overrules on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imgfs.backends import Role, discover

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgfs.backends import Backend, Options
    from imgfs.model import Secret, Spec
    from imgfs.opening.keys import Key
    from imgfs.tree.nodes import Dir

IN_VOLUME: Final = (Role.SNAPSHOTS, Role.VOLUMES, Role.FILES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrule:
    """What the analyst knows better than detection.

    ``type`` forces one back-end in its role; ``raw`` skips containers; ``look_in`` are further folders for
    files that an image names. Units: ``offset`` and ``sector`` bytes; ``offset`` 0 means the table decides
    where volumes lie.
    """

    offset: int = 0
    sector: int = 0
    type: str = ""
    raw: bool = False
    tz: str = "UTC"
    codepage: str = "cp437"
    keys: tuple[Key, ...] = ()
    look_in: tuple[str, ...] = ()

    @property
    def folders(self) -> tuple[Path, ...]:
        """Return ``look_in`` as paths."""
        return tuple(map(Path, self.look_in))

    @property
    def forced(self) -> Backend | None:
        """Return the back-end that ``type`` names."""
        return discover().get(self.type)


@dataclass(frozen=True, slots=True)
class Place:
    """The directory of the disk, the address, and how deep it is. ``prefix`` starts the names of volumes.

    ``nested``: the disk lies in a file of the evidence; what is overruled concerns host files only.
    """

    disk: Dir
    spec: Spec
    path: str
    options: Options
    depth: int
    prefix: str = ""
    nested: bool = False

    @property
    def state(self) -> str:
        """Return what names the further disk of a container that is opened here; empty: its own."""
        return f"snapshot-{self.options.state}" if self.options.state else ""

    def inner(self, backend: str) -> Place:
        """Return the place one layer further in."""
        options = replace(self.options, state="", keys=(), threads=1, final=False)
        spec = self.spec.child(backend, self.state)
        return replace(self, spec=spec, options=options, depth=self.depth + 1)

    def with_keys(self, keys: Iterable[Secret], threads: int) -> Place:
        """Return the place for one attempt with keys, ``threads`` of which may derive others from them."""
        return replace(self, options=replace(self.options, keys=tuple(keys), threads=threads))

    def at(self, locator: str) -> Place:
        """Return the place of a child that the last layer names."""
        last = replace(self.spec.steps[-1], locator=locator)
        return replace(self, spec=replace(self.spec, steps=(*self.spec.steps[:-1], last)))
