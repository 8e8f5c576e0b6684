"""The files at hand while images that build upon each other are read, and what is wanted besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._chain_runs import MAX_RUNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Reader

MAX_NOTES: Final = limits.KIB


@dataclass(slots=True)
class Members:
    """The files at hand, by name; what is wanted besides; what was found out on the way.

    ``left`` is how many runs there may still be.
    """

    readers: Sequence[Reader]
    wants: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left: int = MAX_RUNS
    _taken: set[int] = field(default_factory=set)  # sparse extents: none serves twice
    _tickets: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for ticket, reader in enumerate(self.readers):
            self._tickets.setdefault(reader.name, ticket)

    def find(self, name: str) -> int:
        """Return the ticket of a file, -1: it is not at hand, and wanted if there is room."""
        ticket = self._tickets.get(name, -1)
        if ticket < 0 and len(self.wants) < limits.MAX_WANTS and name not in self.wants:
            self.wants.append(name)
        return ticket

    def take(self, ticket: int) -> bool:
        """Say whether a sparse extent is free, and take it."""
        free = ticket not in self._taken
        self._taken.add(ticket)
        return free

    def say(self, note: str) -> str:
        """Keep a note and return it."""
        if len(self.notes) < MAX_NOTES:
            self.notes.append(note)
        return note


def shown(name: str) -> str:
    """Return a name out of an image for a message."""
    return repr(name[:200])
