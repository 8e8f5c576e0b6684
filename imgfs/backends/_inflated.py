"""Long deflated streams, read in pieces: the state of the decoder is kept now and then to go on from."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.errors import Malformed

if TYPE_CHECKING:
    from imgfs.backends import Reader

_EVERY: Final = 16 * limits.MIB  # inflated bytes between two states of about 50 KiB
_KEPT: Final = 1024
_STEP: Final = 256 * limits.KIB  # stored bytes at a time
_MOST: Final = 1 * limits.MIB  # inflated bytes at a time


class Inflated:
    """A raw deflate stream (RFC 1951) of ``stored`` bytes at ``start``, of ``size`` bytes when inflated."""

    def __init__(self, reader: Reader, start: int, stored: int, size: int) -> None:
        self._reader = reader
        self._start, self._stop = start, start + stored
        self.size = size
        self._states = [(0, start, b"", zlib.decompressobj(-zlib.MAX_WBITS))]
        self._now = self._copy(0)

    def _copy(self, index: int) -> tuple[int, int, bytes, zlib._Decompress]:
        at, place, tail, stream = self._states[index]
        return at, place, tail, stream.copy()

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes.

        Raises:
            Malformed: the stream does not inflate that far.
        """
        index = bisect_right([state[0] for state in self._states], offset) - 1
        if not self._states[index][0] <= self._now[0] <= offset:
            self._now = self._copy(index)
        parts: list[bytes] = []
        stop = offset + length
        at, place, tail, stream = self._now
        while at < stop:
            if not tail and place < self._stop:
                count = min(_STEP, self._stop - place)
                tail = self._reader.read(place, count)
                place += count
            try:  # never behind ``stop``: the state is that of the next read
                data = stream.decompress(tail, min(_MOST, offset - at if at < offset else stop - at))
            except zlib.error as why:
                raise Malformed(f"a segment does not inflate: {why}", start=self._start) from why
            tail = stream.unconsumed_tail
            if not data and (stream.eof or (not tail and place >= self._stop)):
                raise Malformed("a segment inflates to less than it says", start=self._start)
            if at >= offset:
                parts.append(data)
            at += len(data)
            if at - self._states[-1][0] >= _EVERY and len(self._states) < _KEPT:
                self._states.append((at, place, tail, stream.copy()))
        self._now = at, place, tail, stream
        return b"".join(parts)
