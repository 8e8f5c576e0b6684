"""Trips to pool threads: what may wait for a disk, and what computes, each under a limiter of its own.

A slow disk does not starve decoding. Jobs get host files and immutable values, nothing else.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from imgfs import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgfs.block.hostfile import HostFile
    from imgfs.block.pieces import Stored
    from imgfs.block.uring import Ring

A = TypeVar("A")
R = TypeVar("R")

# A miss this long is the kernel reading ahead, hence a sequential reader: what follows is advised.
_SEQUENTIAL: Final = 64 * limits.KIB


class Pool:
    """The threads of one fetcher."""

    __slots__ = ("_codecs", "_reads", "ring", "ringed", "trips")

    def __init__(self) -> None:
        self.ring: Ring | None = None
        self.ringed = 0
        self._reads = trio.CapacityLimiter(limits.BLOCKING_READS)
        # One more than cores: a job is ready while the loop hands out the next (E01: 260 to 320 MB/s).
        self._codecs = trio.CapacityLimiter(len(os.sched_getaffinity(0)) + 1)
        self.trips = 0

    async def read(self, wanted: Sequence[tuple[HostFile, int, memoryview]]) -> None:
        """Fill buffers from (file, offset).

        Raises:
            EvidenceError: as ``HostFile.read_into``.
        """
        if self.ring is not None and all(len(buffer) < _SEQUENTIAL for _, _, buffer in wanted):
            self.ringed += 1
            if await self.ring.read(wanted):
                return
        self.trips += 1
        await trio.to_thread.run_sync(_read_into, wanted, limiter=self._reads)

    async def read_and(self, file: HostFile, offset: int, buffer: memoryview, job: Callable[[], R]) -> R:
        """Fill a buffer from ``offset`` of a file and go on with ``job``, in one trip when it is not small.

        Raises:
            EvidenceError: as ``HostFile.read_into``.
        """
        wanted = [(file, offset, buffer)]
        if len(buffer) < _SEQUENTIAL:
            await self.read(wanted)
            return job()
        self.trips += 1

        def both() -> R:
            _read_into(wanted)
            return job()

        return await trio.to_thread.run_sync(both, limiter=self._reads)

    async def advise(self, stored: Sequence[Stored]) -> None:
        """Announce reads: the kernel may wait for room in the disk's queue."""
        self.trips += 1
        await trio.to_thread.run_sync(_advise, stored, limiter=self._reads)

    async def compute(self, job: Callable[[A], R], argument: A) -> R:
        """Run what computes."""
        self.trips += 1
        return await trio.to_thread.run_sync(job, argument, limiter=self._codecs)


def _advise(stored: Sequence[Stored]) -> None:
    for piece in stored:
        piece.file.advise(piece.offset, piece.length)


def _read_into(wanted: Sequence[tuple[HostFile, int, memoryview]]) -> None:
    if len(wanted) > 1:
        for file, offset, buffer in wanted:
            file.advise(offset, len(buffer))
    file, offset, buffer = wanted[-1]
    if len(buffer) >= _SEQUENTIAL:
        file.advise(offset + len(buffer), limits.BATCH_BYTES)
    for file, offset, buffer in wanted:
        file.read_into(offset, buffer)
