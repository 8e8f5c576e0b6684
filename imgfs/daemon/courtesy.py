"""Who reads a lot lets the others go first: what keeps a shell usable beside ``grep -r`` (R14).

One thread answers everybody in the order the kernel asks. A scanner has two reads of a megabyte under way at
any time, and a person's ``ls`` and ``head`` are seven small requests, one behind the other: each waited for
both. So a large read of a process that has had much lets requests be received before it is answered, and
waits a little longer while somebody else keeps asking.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import trio

from imgfs import limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

LARGE: Final = 64 * limits.KIB  # reads that give way
_REQUEST: Final = 16 * limits.KIB  # what a request costs beside its bytes: as much time as reading so many
_MUCH: Final = 4 * limits.MIB  # who had more than that lately is a scanner
_LATELY: Final = 0.25  # seconds in which what was had is halved
_NEAR: Final = 1.0  # seconds after which nobody else is there
_HOLD: Final = 0.003  # seconds that the next request of somebody else may take to come
_MOST: Final = 0.024  # seconds that a read waits at most
_ROUNDS: Final = 4  # of the event loop, in which requests are received that the kernel already holds
_KNOWN: Final = 256  # processes


class Courtesy:
    """What processes had, and when the last of those came that had little."""

    __slots__ = ("_busy", "_had", "_last", "_received", "_turn", "_who", "waited")

    def __init__(self) -> None:
        self._had: OrderedDict[int, tuple[float, float]] = OrderedDict()  # bytes, and when: by process
        self._last = -_NEAR  # when one that had little asked
        self._who = 0  # and which
        self._received = 0
        self._busy = 0  # requests of those that had little, under way
        self._turn = trio.Lock()
        self.waited = 0

    def asked(self, pid: int, size: int = 0) -> None:
        """Take note of a request of a process for ``size`` bytes."""
        now = trio.current_time()
        self._received += 1
        had, when = self._had.pop(pid, (0.0, now))
        had = had * 0.5 ** ((now - when) / _LATELY) + _REQUEST + size
        self._had[pid] = had, now
        if len(self._had) > _KNOWN:
            self._had.popitem(last=False)
        if had < _MUCH:
            self._last, self._who = now, pid

    def greedy(self, pid: int) -> bool:
        """Say whether a process had much while somebody else, who had little, is there."""
        near = self._who != pid and trio.current_time() - self._last < _NEAR
        return near and self._had.get(pid, (0.0, 0.0))[0] > _MUCH

    @contextmanager
    def waiting(self, pid: int) -> Iterator[None]:
        """Say that a request waits for the disk or a decoder: nothing large shall be put before it there."""
        little = self._had.get(pid, (0.0, 0.0))[0] < _MUCH
        self._busy += little
        try:
            yield
        finally:
            self._busy -= little
            if little:
                self._last = trio.current_time()

    @asynccontextmanager
    async def way(self) -> AsyncIterator[None]:
        """Let those who had little go first; then it is one's turn, until the end of the context."""
        self.waited += 1
        begin = trio.current_time()
        async with self._turn:  # one after the other: what comes meanwhile is not behind all of them
            for _ in range(_ROUNDS):
                before = self._received
                await trio.lowlevel.checkpoint()
                if self._received == before:
                    break
            now = trio.current_time()
            while (self._busy or now - self._last < _HOLD) and now - begin < _MOST:
                await trio.sleep(_HOLD)
                now = trio.current_time()
            yield
