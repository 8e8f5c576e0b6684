"""(In the daemon) making the index of a container: workers give it piece by piece, nothing is looked at.

Parts are made side by side and handed on in order. A worker that gets no further within the deadline ends it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from imgfs import limits
from imgfs.errors import WorkerLied, WorkerTimeout
from imgfs.worker import checks, wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgfs.model import Indexing, Slice
    from imgfs.worker.life import Worker

_AHEAD: Final = 4  # parts for each worker that may wait for the ones before them


@dataclass(slots=True)
class _Part:
    pieces: list[bytes] = field(default_factory=list)
    done: int = 0
    whole: bool = False


class IndexClient:
    """The workers that make one index."""

    def __init__(self, indexing: Indexing, first: Worker, further: Callable[[], Worker]) -> None:
        """``first`` has opened the container; ``further`` makes one more worker for it."""
        self.indexing = indexing
        self._workers = [first]
        self._further = further
        self._next = 0  # part that nobody has taken
        self._written = 0  # part that is being handed on
        self._parts: dict[int, _Part] = {}
        self._behind = 0  # stored bytes of parts that are handed on
        self._held = 0
        self._room = trio.Condition()
        self._turn = trio.Lock()

    async def build(self, write: Callable[[bytes], Awaitable[None]], progress: Callable[[int], None]) -> None:
        """Make it: ``write`` gets its bytes in order, ``progress`` how many stored bytes were gone through.

        Raises:
            EvidenceError, NotSupported: what the back-end said.
            WorkerDied, WorkerTimeout, WorkerLied: it did not survive, get on with, or keep to it.
        """
        most = min(len(os.sched_getaffinity(0)), self.indexing.parts)
        while len(self._workers) < most:
            self._workers.append(self._further())
        async with trio.open_nursery() as nursery:
            for worker in self._workers:
                nursery.start_soon(self._work, worker, write, progress)

    async def aclose(self) -> None:
        """End all workers."""
        for worker in self._workers:
            await worker.aclose()

    async def _work(
        self, worker: Worker, write: Callable[[bytes], Awaitable[None]], progress: Callable[[int], None]
    ) -> None:
        while self._next < self.indexing.parts:
            number, self._next = self._next, self._next + 1
            part = self._parts[number] = _Part()
            async with self._room:
                while number - self._written >= _AHEAD * len(self._workers):
                    await self._room.wait()
            step, moved = 0, trio.current_time()
            while not part.whole:
                piece = await self._step(worker, number, step, part.done)
                now = trio.current_time()
                moved = now if piece.done > part.done or piece.last else moved
                if now - moved > limits.DEADLINE["index"]:
                    raise WorkerTimeout(f"no progress in {limits.DEADLINE['index']:g} s", request="index")
                step += 1
                part.done, part.whole = piece.done, piece.last
                part.pieces.append(piece.data)
                self._held += len(piece.data)
                await self._hand_on(write)
                if self._held > limits.INDEX_AHEAD:
                    raise WorkerLied("parts of an index are too large", request="index")
                most = self.indexing.total
                progress(min(self._behind + sum(one.done for one in self._parts.values()), most))

    async def _step(self, worker: Worker, number: int, step: int, done: int) -> Slice:
        def accept(payload: bytes) -> Slice:
            piece = wire.decode_slice(payload)
            checks.check_slice(piece, done, self.indexing.total)
            return piece

        return await worker.call(wire.IndexRequest(number, step), accept)

    async def _hand_on(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Write what is next."""
        async with self._turn:
            while (part := self._parts.get(self._written)) is not None:
                while part.pieces:
                    data = part.pieces.pop(0)
                    self._held -= len(data)
                    await write(data)
                if not part.whole or part.pieces:
                    return
                del self._parts[self._written]
                self._behind += part.done
                self._written += 1
                async with self._room:
                    self._room.notify_all()
