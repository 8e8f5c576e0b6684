"""Bytes that only a worker can produce, cut into units so that the cache can hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.block.pieces import Coded, ForeignUnit, number

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgfs.block.pieces import Piece


class ForeignSource:
    """A ByteSource whose units are read by a coroutine function ``read(offset, length)``.

    Units: ``size`` bytes, ``unit`` bytes a unit; the last may be shorter.
    """

    __slots__ = ("_number", "read", "size", "unit")

    def __init__(
        self, size: int, read: Callable[[int, int], Awaitable[bytes]], unit: int = limits.FOREIGN_UNIT
    ) -> None:
        self.size = size
        self.read = read
        self.unit = unit
        self._number = number()

    def plan(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie; see ``ByteSource``."""
        pieces: list[Piece] = []
        unit = self.unit
        while start < stop:
            index, skip = divmod(start, unit)
            held = min(unit, self.size - index * unit)
            taken = min(held - skip, stop - start)
            pieces.append(Coded(ForeignUnit(self._number | index, self, index, held), skip, taken))
            start += taken
        return pieces
