"""A queue for one resource that is fair by caller: a `find -R` does not starve the shell beside it."""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from typing import Final

import trio

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

    async def take(self) -> None:
        """Take the turn; waits only when somebody else has it. ``give`` must follow."""
        if self._held:
            await self._wait(CALLER.get())
        self._held = True

    def give(self) -> None:
        """Give the turn to the next caller's first waiter; it stays held in between."""
        if not self._waiting:
            self._held = False
            return
        caller, queue = next(iter(self._waiting.items()))
        del self._waiting[caller]
        queue.popleft().set()
        if queue:
            self._waiting[caller] = queue  # behind the others

    async def _wait(self, caller: int) -> None:
        event = trio.Event()
        queue = self._waiting.setdefault(caller, deque())
        queue.append(event)
        try:
            await event.wait()
        except trio.Cancelled:
            if event.is_set():
                self.give()
            else:
                queue.remove(event)
                if not queue:
                    del self._waiting[caller]
            raise
