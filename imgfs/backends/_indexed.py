"""What the facts of an index say, once they are read again: nothing in them is trusted to be of a kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends._index import Section

_MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class Facts:
    """Units: ``size`` bytes of the disk; ``lost`` rows are [start, stop) of it and why."""

    size: int
    notes: tuple[str, ...]
    lost: tuple[tuple[int, int, str], ...]
    others: dict[str, object]

    def word(self, name: str) -> str:
        """Return a further fact, printable."""
        return str(self.others.get(name, ""))[:1000]


def facts_of(sections: Sequence[Section]) -> Facts:
    """Return the facts of the last section.

    Raises:
        Malformed: they are none.
    """
    said = sections[-1].facts
    size, notes, lost = said.get("size"), said.get("notes"), said.get("lost")
    if not isinstance(size, int) or not isinstance(notes, list) or not isinstance(lost, list):
        raise Malformed("facts of another kind")
    if not 0 < size <= limits.MAX_SIZE:
        raise Malformed("there is nothing in it")
    rows: list[tuple[int, int, str]] = []
    for row in lost[:_MOST]:
        start, stop, why = row
        if not 0 <= start < stop <= size:
            raise Malformed("a lost range outside")
        rows.append((start, stop, str(why)))
    return Facts(size, tuple(str(note)[:1000] for note in notes[:_MOST]), tuple(rows), said)
