"""Blocks whose memory is used again: a new one of a megabyte costs as much as decoding half of it."""

from __future__ import annotations

from collections import deque
from sys import getrefcount
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from imgfs.block.pieces import Block

_KEPT: Final = 8
_UNSHARED: Final = 2  # what getrefcount says of an object with one name: that and its argument


class Spares:
    """The last blocks that a cache has dropped."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: deque[bytearray] = deque(maxlen=_KEPT)

    def add(self, block: Block) -> None:
        """Take a block that nobody will look for any more; somebody may still hold it."""
        if type(block) is bytearray:
            self._kept.append(block)

    def take(self, length: int) -> bytearray:
        """Return a block of ``length`` bytes, whatever they are, that nobody else refers to."""
        for _ in range(len(self._kept)):
            block = self._kept.popleft()
            # Its views refer to it, too.
            if len(block) == length and getrefcount(block) == _UNSHARED:
                return block
        return bytearray(length)
