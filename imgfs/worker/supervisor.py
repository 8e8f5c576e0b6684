"""(In the daemon) all workers of a session: the template they come from, and how many may live.

Atomic section: oldest idle worker chosen -> retired.
"""

from __future__ import annotations

import os
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from imgfs import limits
from imgfs.block.extents import donation
from imgfs.errors import SandboxError
from imgfs.worker import sandbox, wire
from imgfs.worker.blocks import serve_blocks
from imgfs.worker.decoders import Decoders
from imgfs.worker.life import State
from imgfs.worker.process import Process, Template

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from imgfs.worker.blocks import Donate, Fetches
    from imgfs.worker.life import Worker
    from imgfs.worker.process import Exit

_RETIRE_EVERY: Final = 30.0


@dataclass(frozen=True, slots=True)
class SupervisorStatistics:
    """Counters of all workers of a session. ``live`` and ``decoders`` are processes now."""

    live: int
    decoders: int
    starts: int
    deaths: int
    templates: int
    sandbox: str


class Supervisor:
    """All workers of a session: one template, at most ``limits.LIVE_WORKERS`` idle processes."""

    __slots__ = (
        "_extra",
        "_fetcher",
        "_starting",
        "_template",
        "_templates",
        "_unsafe",
        "deaths",
        "decoders",
        "donate",
        "live",
        "nursery",
        "opening",
        "starts",
        "status",
    )

    def __init__(
        self, fetcher: Fetches, nursery: trio.Nursery, *, unsafe: bool, extra: str, donate: Donate
    ) -> None:
        self._fetcher = fetcher
        self.nursery = nursery
        self._unsafe = unsafe
        self._extra = extra
        self.donate = donate
        self.status = sandbox.status()
        self._template: Template | None = None
        self._starting = trio.Semaphore(1)
        self._templates = 0
        self.live: dict[Worker, None] = {}
        self.opening = trio.CapacityLimiter(4)  # openings at once: they are CPU-bound, in processes
        self.starts = self.deaths = 0
        self.decoders = Decoders(self)

    async def template(self) -> Template:
        """Return a living template, started when there is none.

        Raises:
            WorkerDied: it does not start.
        """
        async with self._starting:
            if self._template is None or self._template.dead:
                self._templates += 1
                self._template = Template(unsafe=self._unsafe, extra=self._extra)
                self.nursery.start_soon(self._template.listen)
                await self._template.wait_ready()
            return self._template

    async def fork(self, fds: Sequence[int], kind: int) -> tuple[int, int, Exit]:
        """Fork a process from the template; see ``Template.fork``.

        Raises:
            WorkerDied: the template is gone.
        """
        return await (await self.template()).fork(fds, kind)

    async def spawn(self, worker: Worker, donated: Sequence[int], table: int) -> Process:
        """Return a new process that waits for its first request.

        Raises:
            WorkerDied: the template is gone.
        """
        self._make_room()
        control, control_theirs = socket.socketpair()
        block, block_theirs = socket.socketpair()
        error, error_theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            fds = [control_theirs.fileno(), block_theirs.fileno(), error_theirs]
            fds += [table] if table >= 0 else []
            kind = wire.FORK_WITH_TABLE if table >= 0 else wire.FORK_WORKER
            forked = await self.fork([*fds, *donated], kind)
        except BaseException:
            control.close()
            block.close()
            os.close(error)
            raise
        finally:
            control_theirs.close()
            block_theirs.close()
            os.close(error_theirs)
        control.setblocking(False)
        block.setblocking(False)
        process = Process(forked, control, block, error)
        self.starts += 1
        self.live[worker] = None
        self.nursery.start_soon(serve_blocks, process, worker.sources, self._fetcher)
        return process

    def _make_room(self) -> None:
        """Retire the longest idle workers; when all are busy there are more for a while."""
        idle = sorted((w for w in self.live if w.state is State.READY), key=lambda w: w.idle_since)
        for worker in idle[: max(0, len(self.live) - limits.LIVE_WORKERS + 1)]:
            worker._retire()

    async def retire_idle(self) -> None:
        """Retire what nobody asked anything for ten minutes; for ever."""
        while True:
            await trio.sleep(_RETIRE_EVERY)
            old = trio.current_time() - limits.IDLE_WORKER
            for worker in [w for w in self.live if w.state is State.READY and w.idle_since < old]:
                worker._retire()
            self.decoders.retire_idle()

    def statistics(self) -> SupervisorStatistics:
        """Return the counters."""
        report = f"seccomp {self.status.seccomp}, landlock ABI {self.status.landlock}"
        return SupervisorStatistics(
            live=len(self.live),
            decoders=len(self.decoders.live),
            starts=self.starts,
            deaths=self.deaths,
            templates=self._templates,
            sandbox="off" if self._unsafe else report,
        )

    def close(self) -> None:
        """Kill every process."""
        self.decoders.close()
        for worker in list(self.live):
            if worker._process is not None:
                worker._process.release()
        self.live.clear()
        if self._template is not None:
            self._template.close()


@asynccontextmanager
async def open_supervisor(
    fetcher: Fetches,
    *,
    unsafe_no_sandbox: bool = False,
    extra_backends: str = "",
    donate: Donate = donation,
) -> AsyncIterator[Supervisor]:
    """Run a supervisor for the block; every process is gone when it ends.

    ``extra_backends`` names back-ends outside the package as ``module:MAPPING``.

    Raises:
        SandboxError: the kernel cannot isolate parsers and ``unsafe_no_sandbox`` is False.
    """
    missing = sandbox.status().missing
    if missing and not unsafe_no_sandbox:
        raise SandboxError(f"parsers cannot be isolated: {missing}")
    async with trio.open_nursery() as nursery:
        supervisor = Supervisor(
            fetcher, nursery, unsafe=unsafe_no_sandbox, extra=extra_backends, donate=donate
        )
        nursery.start_soon(supervisor.retire_idle)
        try:
            yield supervisor
        finally:
            supervisor.close()
            nursery.cancel_scope.cancel()
