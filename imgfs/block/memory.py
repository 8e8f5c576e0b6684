"""Bytes that are held in memory: content stored in metadata, and sources made by tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.block.pieces import Bytes

if TYPE_CHECKING:
    from imgfs.block.pieces import Piece


class Memory:
    """A ByteSource over bytes."""

    __slots__ = ("_data", "size")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def plan(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie; see ``ByteSource``."""
        return [Bytes(self._data, start, stop - start)] if stop > start else []
