"""What a file system's workers did wrong: poisoned requests, and the quarantine they lead to. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.errors import Poisoned, Quarantined

if TYPE_CHECKING:
    from imgfs.worker.wire import FilesRequest

_POISONS_KEPT: Final = 10_000  # requests; the oldest is asked again when more are poisoned

Culprit = tuple[str, int, int]


def verb(request: FilesRequest) -> str:
    """Return the verb of a request."""
    return str(type(request).__struct_config__.tag)


def culprit(request: FilesRequest) -> Culprit:
    """Return what a request is counted as: the pages of one listing are one culprit."""
    return verb(request), request.tree, request.inum


class Record:
    """Poisons of one file system, shared by its workers.

    A request that is poisoned is refused without a process. Five distinct culprits within ten minutes
    quarantine the file system.
    """

    __slots__ = ("_culprits", "_poisoned", "quarantined")

    def __init__(self) -> None:
        self._poisoned: dict[FilesRequest, str] = {}
        self._culprits: dict[Culprit, float] = {}
        self.quarantined = ""  # why; empty: it is not

    def refuse(self, request: FilesRequest) -> None:
        """Return when the request may be asked.

        Raises:
            Quarantined, Poisoned: it may not.
        """
        if self.quarantined:
            raise Quarantined(self.quarantined, request=str(request))
        why = self._poisoned.get(request)
        if why is not None:
            raise Poisoned(f"{verb(request)} killed its worker before: {why}", request=str(request))

    def poison(self, request: FilesRequest, why: str, now: float) -> bool:
        """Remember a request that killed its workers; say whether that makes a quarantine."""
        self._poisoned[request] = why
        if len(self._poisoned) > _POISONS_KEPT:
            del self._poisoned[next(iter(self._poisoned))]
        self._culprits[culprit(request)] = now
        recent = [at for at in self._culprits.values() if now - at <= limits.POISON_WINDOW]
        self._culprits = {k: at for k, at in self._culprits.items() if now - at <= limits.POISON_WINDOW}
        return len(recent) >= limits.POISONS

    def quarantine(self) -> None:
        """Refuse everything from now on."""
        self.quarantined = f"{limits.POISONS} requests killed workers within {limits.POISON_WINDOW:g} s"

    @property
    def poisoned(self) -> int:
        """Return how many requests are refused."""
        return len(self._poisoned)
