"""Verified fakes: readers over memory and over a file, for back-ends without workers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from imgfs.errors import Malformed, Truncated

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from imgfs.backends import Reader


class MemoryReader:
    """A ``backends.Reader`` over bytes. ``table`` holds what the back-end wrote with ``write_table``."""

    def __init__(self, data: bytes, *, name: str = "", others: Sequence[MemoryReader] = ()) -> None:
        self._data = data
        self.size = len(data)
        self.name = name
        self.others: Sequence[Reader] = others
        self.table = b""

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; see ``backends.Reader``."""
        if not 0 <= start <= start + length <= self.size:
            raise Truncated("read outside the source", start=start, stop=start + length)
        return self._data[start : start + length]

    def write_table(self, chunks: Iterable[bytes], *, limit: int = 64 << 20) -> int:
        """Keep the table in memory."""
        self.table = b"".join(chunks)
        if len(self.table) > limit:
            raise Malformed(f"table of {len(self.table)} bytes")
        return len(self.table)


class FileReader(MemoryReader):
    """A ``backends.Reader`` over a file of the host."""

    def __init__(self, path: Path | str, *, others: Sequence[MemoryReader] = ()) -> None:
        super().__init__(b"", name=os.path.basename(path), others=others)  # noqa: PTH119  # str or Path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; see ``backends.Reader``."""
        if not 0 <= start <= start + length <= self.size:
            raise Truncated("read outside the source", start=start, stop=start + length)
        return os.pread(self._fd, length, start)

    def close(self) -> None:
        """Close the file; a reader that nobody holds any more closes itself."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    __del__ = close
