"""What is said of an array of md: names of levels and layouts, and its state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends._md_super import BITMAP, IN_SYNC, JOURNAL, PARTIAL
from imgfs.backends._parity import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgfs.backends._md_super import Shape, Super

_REDUNDANT: Final = (1, 4, 5, 6, 10)
_SAID: Final = 16  # members named in a note


def state(head: Super) -> list[str]:
    """Return what is to be said of the array as a whole."""
    notes = [f"{head.events} events"]
    redundant = head.shape.level in _REDUNDANT
    if redundant and not head.clean:
        notes.append("it was not shut down cleanly: copies may differ, parity may not fit the data")
    elif redundant and head.resynced != IN_SYNC:
        notes.append(f"copies or parity are in sync up to byte {head.resynced} of the members")
    if head.features & BITMAP:
        notes.append("it has a bitmap of what may differ")
    if head.features & JOURNAL:
        notes.append("it has a journal")
    if head.features & PARTIAL:
        notes.append("it has a log of partial parity, which is not applied")
    return notes


def level(shape: Shape) -> str:
    """Return what users call a level and its layout."""
    match shape.level:
        case -1:
            return "linear"
        case -4:
            return "multipath"
        case 5 | 6:
            return f"raid{shape.level} {NAMES.get(shape.layout, shape.layout)}"
        case 10:
            near, far, offset = shape.layout & 255, shape.layout >> 8 & 255, shape.layout >> 16 & 1
            words = [f"near={near}"] if near > 1 or far <= 1 else []
            words += [f"{'offset' if offset else 'far'}={far}"] if far > 1 else []
            return f"raid10 {' '.join(words)}"
        case _:
            return f"raid{shape.level}"


def name(head: Super) -> str:
    """Return the name of an array without that of the host it was made on."""
    return head.name.rpartition(":")[2] or head.name


def listed(words: Iterable[str]) -> str:
    shown = list(words)
    more = f" and {len(shown) - _SAID} more" if len(shown) > _SAID else ""
    return ", ".join(shown[:_SAID]) + more
