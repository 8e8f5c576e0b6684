"""(In the daemon) one decoder: a sandboxed process that decodes units in memory it shares with the daemon.

Knows slots, descriptors and signals; nothing of strips or files.
"""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from imgfs import limits, log
from imgfs.errors import WorkerDied, WorkerError, WorkerLied, WorkerTimeout
from imgfs.worker import wire
from imgfs.worker.process import END_DEADLINE, stderr_tail

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from imgfs.model import Codec
    from imgfs.worker.decoders import Decoders
    from imgfs.worker.process import Exit

_log: Final = logging.getLogger(__name__)
_REPLY_MAX: Final = 1 << 18


class Retired(WorkerDied):
    """Ended by us, because nobody needs it any more."""


class Slot:
    """Room for one job in the memory of one decoder, held by one task; ``give`` it back.

    ``stored`` is filled by the holder; ``decoded`` is valid after ``decode`` until ``give``.
    """

    __slots__ = ("_decoder", "_number", "decoded", "stored")

    def __init__(self, decoder: Decoder, number: int) -> None:
        self._decoder = decoder
        self._number = number
        base = number * limits.SLOT_BYTES
        self.stored = decoder.memory[base : base + limits.SLOT_STORED]
        self.decoded = decoder.memory[base + limits.SLOT_STORED : base + limits.SLOT_BYTES]

    async def decode(
        self,
        codec: Codec,
        starts: Sequence[int],
        stops: Sequence[int],
        flags: Sequence[int],
        lengths: Sequence[int],
    ) -> dict[int, str]:
        """Decode units: unit i lies in ``stored[starts[i]:stops[i]]``; they follow each other in ``decoded``.

        Returns:
            What failed: why, by number of the unit. What ``decoded`` holds in its place means nothing.

        Raises:
            WorkerDied, WorkerTimeout, WorkerLied: the decoder did not survive it.
        """
        request = wire.DecodeRequest(
            self._number, codec, tuple(starts), tuple(stops), tuple(flags), tuple(lengths)
        )
        return await self._decoder.ask(request)

    async def killed(self) -> bool:
        """Say whether the decoder died by a signal that neither it nor the daemon sent."""
        return await self._decoder.killed()

    def give(self) -> None:
        """Let somebody else have it."""
        self._decoder.give(self._number)


class Decoder:
    """One process and its memory. ``listen`` must run as a task as long as it lives."""

    __slots__ = (
        "_abandoned",
        "_end",
        "_error",
        "_free",
        "_jobs",
        "_owner",
        "_pidfd",
        "_sock",
        "done",
        "gone",
        "idle_since",
        "memory",
        "pid",
    )

    def __init__(
        self,
        owner: Decoders,
        sock: socket.socket,
        memory: memoryview,
        error: int,
        forked: tuple[int, int, Exit],
    ) -> None:
        self._owner = owner
        self._sock = sock
        self.memory = memory
        self._error = error
        self.pid, self._pidfd, self._end = forked
        self._free = list(range(limits.SLOTS))
        self._jobs: dict[int, tuple[trio.Event, list[wire.DecodeReply]]] = {}
        self._abandoned: set[int] = set()  # slots given back before their reply came
        self.gone: WorkerError | None = None
        self.done = 0
        self.idle_since = trio.current_time()

    @property
    def busy(self) -> int:
        """Return how many slots are held."""
        return limits.SLOTS - len(self._free)

    def take(self) -> Slot:
        """Return a free slot; there must be one."""
        return Slot(self, self._free.pop())

    def give(self, number: int) -> None:
        """Take a slot back; one whose job is still under way is free when that ends."""
        if number in self._jobs:
            self._abandoned.add(number)
            return
        self._free.append(number)
        self.idle_since = trio.current_time()
        self._owner.room.release()

    async def ask(self, request: wire.DecodeRequest) -> dict[int, str]:
        """Return what failed of a request; raises as ``Slot.decode``."""
        if self.gone is not None:
            raise self.gone.with_traceback(None)
        replied, reply = trio.Event(), list[wire.DecodeReply]()
        self._jobs[request.slot] = replied, reply
        try:
            self._sock.send(wire.encode(request))
        except OSError:
            self.close(WorkerDied("a decoder died"))
        with trio.move_on_after(limits.DEADLINE["decode"]) as patience:
            await replied.wait()
        if patience.cancelled_caught:
            self.close(WorkerTimeout(f"not decoded in {limits.DEADLINE['decode']:g} s"))
        if not reply:
            assert self.gone is not None  # noqa: S101  # nothing else ends a job without a reply
            raise self.gone.with_traceback(None)
        failed = reply[0].failed
        if any(not 0 <= index < len(request.lengths) for index in failed):
            self.close(WorkerLied("a decoder failed at what it was not asked for"))
            raise WorkerLied("a decoder failed at what it was not asked for")
        return failed

    async def listen(self) -> None:
        """Take replies until the process ends."""
        why: WorkerError = WorkerDied("a decoder died")
        try:
            while True:
                try:
                    data = self._sock.recv(_REPLY_MAX)
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._sock)
                    continue
                if not data:
                    break
                self._replied(wire.decode_decode_reply(data))
        except wire.UNDECODABLE as lie:
            why = WorkerLied(f"reply of a decoder: {lie}")
        except WorkerLied as lie:
            why = lie
        except (OSError, trio.ClosedResourceError):  # it died, or was closed by us
            pass
        finally:
            self.close(why)
            await self._buried()

    async def killed(self) -> bool:
        """Say whether somebody else killed the process: its memory is bounded, so no image can make it so."""
        with trio.move_on_after(END_DEADLINE):
            await self._end.seen.wait()
        status = self._end.status
        died = type(self.gone) is WorkerDied  # and was not ended by us, for being late or a liar
        return died and status is not None and os.waitstatus_to_exitcode(status) == -signal.SIGKILL

    async def _buried(self) -> None:
        """Wait until the process is gone and say how it ended, unless we ended it."""
        with trio.move_on_after(END_DEADLINE, shield=True):
            await self._end.seen.wait()
        self._owner.buried(self, self._end.status)
        if not isinstance(self.gone, Retired):
            tail = stderr_tail(self._error)
            facts = {"spec": "decoder", "why": str(self.gone), "end": str(self._end), "stderr": tail}
            _log.warning(log.WORKER_DIED, extra=facts)
        os.close(self._error)

    def _replied(self, reply: wire.DecodeReply) -> None:
        job = self._jobs.pop(reply.slot, None)
        if job is None:
            raise WorkerLied("a decoder replied to what it was not asked")
        replied, replies = job
        self.done += 1
        replies.append(reply)
        replied.set()
        if reply.slot in self._abandoned:
            self._abandoned.remove(reply.slot)
            self.give(reply.slot)

    def close(self, why: WorkerError) -> None:
        """End the process; jobs under way end with ``why``. A second call does nothing."""
        if self.gone is not None:
            return
        self.gone = why
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        os.close(self._pidfd)
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        jobs, self._jobs = self._jobs, {}
        for replied, _ in jobs.values():
            replied.set()
        for number in self._abandoned:
            self.give(number)
        self._owner.died(self)
