"""A queue for one resource that is fair by caller: a `find -R` does not starve the shell beside it."""

from __future__ import annotations

from collections import deque
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CALLER: Final[ContextVar[int]] = ContextVar("imgfs.caller", default=0)  # process number; set by the front-end


class Turns:
    """Hands out one turn at a time, round robin over the callers that wait.

    Atomic sections: take when free; pass on to the next waiter.
    """

    __slots__ = ("_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._waiting: dict[int, deque[trio.Event]] = {}

    @property
    def held(self) -> bool:
        """Say whether somebody has the turn."""
        return self._held

    @property
    def waiting(self) -> int:
        """Return how many wait."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold the turn for the block; waits only when somebody else has it."""
        if self._held:
            await self._wait(CALLER.get())
        self._held = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, caller: int) -> None:
        event = trio.Event()
        queue = self._waiting.setdefault(caller, deque())
        queue.append(event)
        try:
            await event.wait()
        except trio.Cancelled:
            if event.is_set():
                self._pass_on()
            else:
                queue.remove(event)
                if not queue:
                    del self._waiting[caller]
            raise

    def _pass_on(self) -> None:
        """Wake the next caller's first waiter; the turn stays held in between."""
        if not self._waiting:
            self._held = False
            return
        caller, queue = next(iter(self._waiting.items()))
        del self._waiting[caller]
        queue.popleft().set()
        if queue:
            self._waiting[caller] = queue  # behind the others
