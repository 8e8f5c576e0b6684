"""Records no directory shows: released ones whose directory is gone, ones in use that nothing names.

A released record is an orphan when the record of the directory it names as its parent was given to
another file; one in use when no directory in use names it.

Source: NTFS documentation of the Linux-NTFS project, "FILE record", "$FILE_NAME", "File reference".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from imgfs.backends.ntfs.record import DIRECTORY, IN_USE, REFERENCE, state_of
from imgfs.backends.ntfs.volume import sequences_of
from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from imgfs.backends.ntfs.scan import Scan
    from imgfs.backends.ntfs.volume import Volume

_DEPTH: Final = 256  # deleted directories in each other; deeper ones are orphans
_KEPT: Final = 200_000  # directories known to be shown or not


class Orphans:
    """Tells orphans."""

    __slots__ = ("_known", "_parents", "_scan", "_volume")

    def __init__(self, volume: Volume, scan: Scan) -> None:
        self._volume = volume
        self._scan = scan
        self._known: dict[int, bool] = {}  # by reference of a directory
        self._parents: list[int] | None = None  # directories still to be looked at

    def ready(self, deadline: float) -> bool:
        """Tell orphans from what is shown elsewhere until a time; says whether all are told."""
        if not self._scan.has_names(deadline):
            return False
        if self._parents is None:
            self._parents = self._scan.parents()
        while self._parents:
            parent = self._parents.pop()
            if self._is_shown(parent):
                self._scan.place([parent])
            if time.monotonic() > deadline:
                return False
        return True

    def first(self, number: int) -> int:
        """Return the first orphan from ``number`` on, -1: there is none."""
        return self._scan.next_unnamed(number)

    def name(self, number: int) -> bytes:
        """Return the number and, behind it, the name the record itself states."""
        try:
            names = self._scan.stated(number)
        except EvidenceError:
            names = []
        return b"%d-%s" % (number, names[0].name) if names else b"%d" % number

    def _is_shown(self, reference: int) -> bool:
        """Say whether a reference is to a directory that is in the deleted tree or an orphan itself.

        Directories that name each other in a circle would hide all of them: they are orphans.
        """
        known = self._known.get(reference)
        if known is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            known = self._known[reference] = self._leads_up(reference)
        return known

    def _leads_up(self, reference: int) -> bool:
        seen: set[int] = set()
        while len(seen) < _DEPTH:
            if reference in seen:
                return False
            seen.add(reference)
            number = reference & REFERENCE
            try:
                state = state_of(self._volume.mft.record(number))
                if not state.flags & DIRECTORY or reference >> 48 not in sequences_of(state):
                    return len(seen) > 1  # the one before is an orphan, and shows what is in it
                if state.flags & IN_USE:
                    return True
                names = self._scan.stated(number)
            except EvidenceError:
                return len(seen) > 1
            if not names:
                return True
            reference = names[0].parent
        return False
