"""Chunks of a UDIF image that the worker decodes: codecs without a library built for hostile input.

Each chunk starts at a slot, which is what one read of a worker brings: a chunk that does not decode costs
none of its neighbours. What a slot has behind the end of its chunk is nobody's, and zeros.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import _adc, _lzfse
from imgfs.block.codecs import decode
from imgfs.errors import Truncated
from imgfs.model import Codec

if TYPE_CHECKING:
    from collections.abc import Callable

CODECS: Final = {0x8000_0005: "zlib", 0x8000_0006: "bzip2", 0x8000_0008: "xz"}  # of ``block.codecs``
_OWN: Final = {0x8000_0004: _adc.decompress, 0x8000_0007: _lzfse.decompress}
LARGEST: Final = 4 * limits.MIB  # decoded in Python within the deadline of a read; Apple writes up to 1 MiB
_SLOT: Final = limits.FOREIGN_UNIT
_KEPT: Final = 8  # decoded chunks: 32 MiB at most


class ForeignChunks:
    """A space in which chunks lie one after the other, each from a slot on.

    Units: bytes. ``kinds`` are the types of the chunks, as tables name them.
    """

    __slots__ = ("_kept", "_lengths", "_offsets", "_slots", "_stored", "kinds")

    def __init__(self) -> None:
        self.kinds = array("Q")
        self._lengths = array("Q")
        self._offsets = array("Q")
        self._stored = array("Q")
        self._slots = array("Q", [0])  # where each chunk starts, in slots; then where the next one will
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    @property
    def size(self) -> int:
        """Return the size of the space."""
        return self._slots[-1] * _SLOT

    def add(self, kind: int, length: int, offset: int, stored: int) -> int:
        """Append a chunk of ``length`` bytes, stored at ``offset`` of the data fork; returns its place."""
        at = self.size
        self.kinds.append(kind)
        self._lengths.append(length)
        self._offsets.append(offset)
        self._stored.append(stored)
        self._slots.append(self._slots[-1] - (-length // _SLOT))
        return at

    def read(self, offset: int, length: int, stored: Callable[[int, int], bytes]) -> bytes:
        """Return exactly ``length`` bytes of the space; ``stored(offset, length)`` reads the data fork.

        Raises:
            Truncated: the range leaves the space.
            EvidenceError: a chunk does not decode, or cannot be read.
        """
        if not 0 <= offset <= offset + length <= self.size:
            raise Truncated("read outside the chunks", start=offset, stop=offset + length)
        parts = []
        while length > 0:
            row = bisect_right(self._slots, offset // _SLOT) - 1
            skip = offset - self._slots[row] * _SLOT
            taken = min((self._slots[row + 1] - self._slots[row]) * _SLOT - skip, length)
            parts.append(self._decoded(row, stored)[skip : skip + taken].ljust(taken, b"\0"))
            offset, length = offset + taken, length - taken
        return b"".join(parts)

    def _decoded(self, row: int, stored: Callable[[int, int], bytes]) -> bytes:
        if (held := self._kept.get(row)) is not None:
            self._kept.move_to_end(row)
            return held
        kind, length = self.kinds[row], self._lengths[row]
        # No encoder doubles its input: what is longer is not read.
        data = stored(self._offsets[row], min(self._stored[row], 2 * length + limits.KIB))
        if kind in _OWN:
            found = _OWN[kind](data, length)
        else:
            found = bytes(decode(Codec(CODECS[kind]), memoryview(data), True, length))
        self._kept[row] = found
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return found
