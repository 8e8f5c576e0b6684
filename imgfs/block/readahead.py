"""What to bring before it is asked for: one state per open file, pure."""

from __future__ import annotations

from typing import Final

from imgfs import limits

# The kernel asks for 128 KiB at a time and from several threads: a sequential reader's requests
# arrive out of order by a few of them.
_REQUEST: Final = 128 * limits.KIB
_NEAR: Final = 8 * _REQUEST
_FIRST: Final = 2 * _REQUEST
# A large window ends where a strip of decoded units does (``block.chunks``), if nothing lies between.
_WHOLE: Final = 1 * limits.MIB


class Readahead:
    """A window ahead of a sequential reader: doubled by progress, dropped by a jump."""

    __slots__ = ("_asked", "_end", "_window")

    def __init__(self) -> None:
        self._end = 0  # where the furthest read of this run of reads ended
        self._asked = 0  # what was returned reaches to here
        self._window = 0

    def observe(self, start: int, stop: int) -> tuple[int, int] | None:
        """Take note of a read; return the range to prefetch, None for nothing.

        The range may reach beyond the end of the file. It starts at or behind ``stop``, and ranges
        of one sequential run do not overlap.
        """
        if not self._end - max(self._window, _NEAR) <= start <= self._end + _NEAR:
            self._window = 0
            self._end = self._asked = stop
            return None
        if stop <= self._end:
            return None
        self._end = stop
        self._window = min(max(2 * self._window, _FIRST), limits.READAHEAD_MAX)
        begin, until = max(self._asked, stop), stop + self._window
        if self._window > 2 * _WHOLE:
            until -= until % _WHOLE
        if until - begin < self._window // 4:  # in pieces worth a trip to the pool
            return None
        self._asked = until
        return begin, until
