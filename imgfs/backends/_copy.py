"""Decoded bytes kept in an index, compressed again in frames that can be read one by one.

Source: RFC 8878 (Zstandard).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._units_index import zeros

if TYPE_CHECKING:
    from imgfs.backends._index import Writer
    from imgfs.backends._units_index import Rows

FRAME: Final = 256 * limits.KIB  # decoded: what a random read decodes, and the unit of a layout of frames
_LEVEL: Final = 1


class Frames:
    """Makes frames, with checksums."""

    def __init__(self) -> None:
        library = importlib.import_module("zstandard")
        self._compress = library.ZstdCompressor(level=_LEVEL, write_checksum=True).compress

    def frame(self, data: bytes) -> bytes:
        """Return one frame."""
        packed: bytes = self._compress(data)
        return packed

    def add(self, data: bytes, rows: Rows, writer: Writer) -> bytes:
        """Append units of at most ``FRAME`` bytes; returns their frames."""
        out: list[bytes] = []
        for at in range(0, len(data), FRAME):
            part = data[at : at + FRAME]
            if zeros(part):
                rows.zero(len(part))
                continue
            place = writer.at
            out.append(writer.blob(self.frame(part)))
            rows.unit(len(part), place, len(out[-1]), copied=True)
        return b"".join(out)
