"""A Reader as the file object libyal libraries want."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imgfs.backends import Reader


class ReaderFile:
    """Sequential reads with a position, over a Reader."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._at = 0

    def read(self, length: int = -1) -> bytes:
        """Return up to ``length`` bytes; fewer at the end."""
        left = max(self._reader.size - self._at, 0)
        taken = left if length < 0 else min(length, left)
        data = self._reader.read(self._at, taken) if taken else b""
        self._at += taken
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._reader.size}[whence]
        if origin + offset < 0:
            raise OSError("a position before the file")
        self._at = origin + offset
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def get_size(self) -> int:
        """Return the number of bytes."""
        return self._reader.size

    def close(self) -> None:
        """Do nothing: the reader belongs to the worker."""
