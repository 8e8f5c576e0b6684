"""(In the daemon) the decoders of a session: sandboxed processes that decode units beside the event loop.

Threads would share the interpreter's lock with the loop: they reached half of what two cores can. Bytes
travel in a memory file that a decoder can fill but not resize; a result is copied out of it before it is
used, so that a decoder taken over by one image cannot touch what was decoded before.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import socket
from typing import TYPE_CHECKING, Final

import trio

from imgfs import limits
from imgfs.errors import WorkerDied
from imgfs.worker import wire
from imgfs.worker.decoder import Decoder, Retired

if TYPE_CHECKING:
    from imgfs.worker.decoder import Slot
    from imgfs.worker.supervisor import Supervisor

_F_ADD_SEALS: Final = 1033
_SEAL_RESIZE: Final = 1 | 2 | 4  # sealing, shrinking, growing
_AT_ONCE: Final = 3  # decoders that may die in a row before having decoded anything


class Decoders:
    """All decoders of a session, at most one for each core, started by the first job that needs one."""

    __slots__ = ("_closed", "_lost", "_most", "_not_before", "_starting", "_supervisor", "live", "room")

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._most = len(os.sched_getaffinity(0))
        self.room = trio.Semaphore(self._most * limits.SLOTS)
        self._starting = trio.Lock()
        self.live: list[Decoder] = []
        self._lost = 0  # decoders in a row that died before having decoded anything
        self._not_before = 0.0
        self._closed = False

    async def take(self) -> Slot:
        """Return a slot of the least busy decoder, waiting for one in turn.

        Raises:
            WorkerDied: no decoder can be started.
        """
        await self.room.acquire()
        try:
            while (decoder := self._least()) is None:
                await self._start()
            return decoder.take()
        except BaseException:
            self.room.release()
            raise

    def _least(self) -> Decoder | None:
        """Return the decoder to ask; None: another is to be started."""
        decoder = min(self.live, key=lambda one: one.busy, default=None)
        full = decoder is None or decoder.busy == limits.SLOTS
        return None if full or (decoder.busy and len(self.live) < self._most) else decoder  # type: ignore[union-attr]  # full covers None

    async def _start(self) -> None:
        async with self._starting:
            if self._least() is not None:  # another task has started one meanwhile
                return
            if self._closed or trio.current_time() < self._not_before:
                raise WorkerDied("the session ends" if self._closed else "decoders die while they start")
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            error, error_theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            memory = os.memfd_create("imgfs-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.ftruncate(memory, limits.SLOTS * limits.SLOT_BYTES)
                fcntl.fcntl(memory, _F_ADD_SEALS, _SEAL_RESIZE)
                view = memoryview(mmap.mmap(memory, 0))
                forked = await self._supervisor.fork(
                    [theirs.fileno(), memory, error_theirs], wire.FORK_DECODER
                )
            except BaseException:
                ours.close()
                os.close(error)
                raise
            finally:
                theirs.close()
                os.close(error_theirs)
                os.close(memory)
            ours.setblocking(False)
            decoder = Decoder(self, ours, view, error, forked)
            self.live.append(decoder)
            self._supervisor.nursery.start_soon(decoder.listen)

    def died(self, decoder: Decoder) -> None:
        """Take note that a decoder is gone."""
        if decoder in self.live:
            self.live.remove(decoder)
        if isinstance(decoder.gone, Retired):
            return
        self._supervisor.deaths += 1

    def buried(self, decoder: Decoder, status: int | None) -> None:
        """Take note of how a decoder ended, as from wait(2). A killed one might have lived."""
        if status is None or os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
            return
        self._lost = 0 if decoder.done else self._lost + 1
        if self._lost >= _AT_ONCE:
            self._not_before = trio.current_time() + limits.BACK_OFF_MAX
            self._lost = 0

    def retire_idle(self) -> None:
        """End decoders that nobody has needed for a while: each holds its slots' memory."""
        old = trio.current_time() - limits.IDLE_DECODER
        for decoder in [one for one in self.live if not one.busy and one.idle_since < old]:
            decoder.close(Retired("retired"))

    def close(self) -> None:
        """End all of them for good."""
        self._closed = True
        for decoder in list(self.live):
            decoder.close(Retired("the session ends"))
