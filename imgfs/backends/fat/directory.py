"""Directories as pages of entries. A page begins at a slot: nothing is kept between two of them.

What comes out is in the order it lies; what cannot be read is passed over and said.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.fat.volume import SLOT, Item
from imgfs.errors import EvidenceError, NotFound
from imgfs.model import LOST

if TYPE_CHECKING:
    from imgfs.backends._layouts import Row
    from imgfs.backends.fat.volume import Form, Volume

_PIECE: Final = 64 << 10  # bytes parsed at once: a page of short names
_SECTOR: Final = 512
_ENTRY_MAX: Final = 21 * SLOT  # the longest name and its entry


class Slots(NamedTuple):
    """What was found from some slot of a directory on.

    ``items`` come with their numbers. ``next`` is the slot to go on with, -1: there is no more. ``ended``
    says that it lies behind the end of the directory, where only deleted entries can be.
    """

    items: list[tuple[int, Item]]
    next: int
    ended: bool
    damaged: str


class Directory:
    """The bytes of a directory. ``rows`` cover them without gaps. Units: ``size`` bytes."""

    __slots__ = ("_form", "_rows", "_starts", "_volume", "damaged", "size")

    def __init__(self, volume: Volume, form: Form, rows: list[Row], damaged: str = "") -> None:
        self._volume = volume
        self._form = form
        self._rows = rows
        self._starts = [logical for logical, _, _ in rows]
        self.size = rows[-1][0] + rows[-1][1] if rows else 0
        self.damaged = damaged

    def page(
        self, slot: int, room: int, deadline: float, *, marked: bool = False, ended: bool = False
    ) -> Slots:
        """Return at most ``room`` entries from ``slot`` on; see ``Form.parse`` for ``marked``, ``ended``."""
        items: list[tuple[int, Item]] = []
        at, damaged = slot * SLOT, ""
        while at < self.size and len(items) < room:
            length = min(_PIECE, max((room - len(items)) * 3 * SLOT, _ENTRY_MAX), self.size - at)
            data, why = self._read(at, length)
            damaged = damaged or why
            if not data:
                at = self._behind(at)
            else:
                final = at + len(data) >= self.size or len(data) < length
                parsed = self._form.parse(data, room - len(items), final=final, marked=marked, ended=ended)
                items += [(self._number(at + item.slot * SLOT), item) for item in parsed.items]
                at, ended = at + parsed.used, parsed.ended
                if ended and not marked:
                    return Slots(items, -1, ended, damaged)
                if not parsed.used:  # a set longer than what was read
                    at += SLOT
            if time.monotonic() > deadline:
                break
        return Slots(items, at // SLOT if at < self.size else -1, ended, damaged)

    def _read(self, at: int, length: int) -> tuple[bytes, str]:
        """Return bytes from ``at`` on, fewer if those behind cannot be read, and why."""
        parts: list[bytes] = []
        stop = at + length
        while at < stop:
            logical, run, target = self._rows[bisect_right(self._starts, at) - 1]
            take = min(logical + run, stop) - at
            if target == LOST:
                return b"".join(parts), "" if parts else f"bytes from {at} on are lost"
            try:
                parts.append(self._volume.read(target + at - logical, take))
            except EvidenceError as why:
                if parts:
                    return b"".join(parts), ""
                try:
                    sector = min(_SECTOR - at % _SECTOR, take)
                    return self._volume.read(target + at - logical, sector), ""
                except EvidenceError:
                    return b"", f"byte {at}: {why.message}"
            at += take
        return b"".join(parts), ""

    def _behind(self, at: int) -> int:
        """Return where to go on behind what cannot be read."""
        logical, run, target = self._rows[bisect_right(self._starts, at) - 1]
        return logical + run if target == LOST else min(at - at % _SECTOR + _SECTOR, logical + run)

    def behind(self, number: int) -> int:
        """Return the slot behind the first one of an entry that was found here."""
        at = self._volume.slot(number)
        for logical, run, target in self._rows:
            if target != LOST and target <= at < target + run:
                return (logical + at - target) // SLOT + 1
        raise NotFound(f"entry {number} is of another directory")

    def _number(self, at: int) -> int:
        logical, _, target = self._rows[bisect_right(self._starts, at) - 1 if len(self._rows) > 1 else 0]
        return self._volume.number(target + at - logical)
