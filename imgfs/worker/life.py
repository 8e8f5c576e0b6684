"""(In the daemon) the life of a worker: start, deadline, death, poison, quarantine.

Atomic section: exit seen -> poisoned -> caller told.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from imgfs import limits, log
from imgfs.errors import WorkerDied, WorkerError, WorkerLied, WorkerTimeout
from imgfs.worker import wire
from imgfs.worker.blocks import Donation
from imgfs.worker.checks import check_opened
from imgfs.worker.record import Record, verb
from imgfs.worker.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgfs.backends import Options
    from imgfs.block.pieces import ByteSource
    from imgfs.model import Opened
    from imgfs.worker.process import Process
    from imgfs.worker.supervisor import Supervisor

_log: Final = logging.getLogger(__name__)
_T = TypeVar("_T")
_ASKED_MAX: Final = 8  # times one request is asked when deaths are not its fault (the template died)
_DEATHS: Final = (WorkerDied, WorkerTimeout, WorkerLied)


class State(Enum):
    """Where a worker is in its life (ARCHITECTURE.md, section 8)."""

    COLD = "cold"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    DEAD = "dead"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """Counters of one worker since it was made."""

    state: str
    calls: int
    starts: int
    deaths: int
    poisoned: int
    waiting: int


class Worker:
    """One parser instance over its sources, across the processes that it takes.

    Every change of ``state`` is one method named in section 8; they never wait.
    """

    __slots__ = (
        "_calls",
        "_deaths",
        "_expected",
        "_memory",
        "_not_before",
        "_openings_died",
        "_process",
        "_starts",
        "_supervisor",
        "_turns",
        "backend",
        "idle_since",
        "names",
        "options",
        "record",
        "sources",
        "spec",
        "state",
        "table",
    )

    def __init__(
        self,
        supervisor: Supervisor,
        backend: str,
        sources: Sequence[ByteSource],
        names: Sequence[str],
        options: Options,
        spec: str,
        *,
        record: Record,
        expected: Opened | None = None,
        memory: int = limits.WORKER_MEMORY,
    ) -> None:
        """``memory``: bytes of address space the process may have."""
        self._supervisor = supervisor
        self.backend = backend
        self.sources = tuple(sources)
        self.names = tuple(names)
        self.options = options
        self.spec = spec
        self.record = record
        self._memory = memory
        self._expected = expected  # what a fresh process must open again
        self.table = -1  # memory file of the first opening
        self.state = State.COLD
        self.idle_since = 0.0
        self._process: Process | None = None
        self._turns = Turns()
        self._not_before = 0.0
        self._openings_died = 0
        self._calls = self._starts = self._deaths = 0

    # --- what others call -------------------------------------------------------------------------
    async def open(self, table: int = -1) -> wire.OpenReply:
        """Start a process, open the sources, and return what they are; ``table`` is a memory file.

        Raises:
            NotMine, NeedMembers, NeedKey, NotSupported, EvidenceError: what the back-end said.
            WorkerDied, WorkerTimeout, WorkerLied: twice, or at once for a deadline.
        """
        await self._turns.take()
        self.table = table
        try:
            return await self._ensured()
        finally:
            self.table = -1
            self._turns.give()

    async def call(self, request: wire.FilesRequest, accept: Callable[[bytes], _T]) -> _T:
        """Return the reply to a request, decoded and checked by ``accept``.

        Raises:
            WorkerDied, WorkerTimeout, WorkerLied: the request killed its worker, as it is told now.
            Poisoned, Quarantined: it did before.
            EvidenceError, NotFound, NotSupported: what the back-end said.
        """
        try:
            self.record.refuse(request)
        except WorkerError:
            await trio.lowlevel.checkpoint()  # a caller that asks for ever must not stop the others
            raise
        await self._turns.take()
        try:
            self.record.refuse(request)
            died = 0
            for _ in range(_ASKED_MAX):
                if self._process is None or self._process.gone or self.state is not State.READY:
                    await self._ensured()
                try:
                    return await self._ask(request, accept)
                except _DEATHS as why:
                    template_died = await self._bury_process(why, str(request))
                    if template_died:
                        continue
                    died += 1
                    # A page that is too slow is asked for again by the client, in smaller pieces.
                    last = died == 2 or (
                        isinstance(why, WorkerTimeout) and isinstance(request, wire.ListRequest)
                    )
                    if last:
                        self._poison(request, why)
                        why.request = str(request)
                        raise
            raise WorkerDied("the worker template keeps dying", request=str(request))
        finally:
            self._turns.give()

    def statistics(self) -> WorkerStatistics:
        """Return the counters."""
        return WorkerStatistics(
            state=self.state.value,
            calls=self._calls,
            starts=self._starts,
            deaths=self._deaths,
            poisoned=self.record.poisoned,
            waiting=self._turns.waiting,
        )

    async def aclose(self) -> None:
        """End the process, whatever it does."""
        process, self._process = self._process, None
        self._supervisor.live.pop(self, None)
        self.state = State.QUARANTINED if self.state is State.QUARANTINED else State.COLD
        if process is not None:
            await process.end()

    # --- waiting parts ----------------------------------------------------------------------------
    async def _ensured(self) -> wire.OpenReply:
        """Return when a process is READY; opens again once when an opening dies."""
        if self._process is not None and self._process.gone and self.state is State.READY:
            await self._bury_process(WorkerDied("the worker died while idle"), "idle")
        if self.state is State.READY:
            return wire.OpenReply(opened=self._expected)  # type: ignore[arg-type]  # never COLD before
        died = 0
        for _ in range(_ASKED_MAX):
            if self.state is State.DEAD:
                await trio.lowlevel.checkpoint()  # refusing at once must not stop the others
                self._back_off()
            self._start()
            try:
                return await self._opened()
            except _DEATHS as why:
                if await self._bury_process(why, "open"):
                    continue
                died += 1
                if died == 2 or isinstance(why, WorkerTimeout):
                    why.request = "open"
                    raise
        raise WorkerDied("the worker template keeps dying", request="open")

    async def _opened(self) -> wire.OpenReply:
        try:
            donation = Donation(self.sources, self.names, self._supervisor.donate)
            try:
                self._process = await self._supervisor.spawn(self, donation.fds, self.table)
            finally:
                donation.close()
            request = wire.OpenRequest(
                backend=self.backend,
                tickets=donation.tickets,
                sector=self.options.sector,
                tz=self.options.tz,
                codepage=self.options.codepage,
                base=self.options.base,
                state=self.options.state,
                keys=self.options.keys,
                final=self.options.final,
                memory=self._memory,
                threads=self.options.threads,
                patience=self.options.patience,
                keyless=self.options.keyless,
            )
            patience = limits.DEADLINE["unlock" if self.options.keys else "open"]
            status, payload = await self._process.ask(wire.encode(request), patience)
            if status == wire.FAILED:
                raise wire.decode_failure(payload)  # noqa: TRY301  # leaves through the clean-up below
            reply = _decoded(wire.decode_open, payload)
            check_opened(reply, [source.size for source in self.sources])
            if self._expected is not None and reply.opened != self._expected:
                raise WorkerLied("a fresh worker opened something else")  # noqa: TRY301  # as above
        except _DEATHS:
            raise
        except BaseException:
            self._retire()
            raise
        self._ready(reply)
        return reply

    async def _ask(self, request: wire.FilesRequest, accept: Callable[[bytes], _T]) -> _T:
        process = self._process
        assert process is not None  # noqa: S101  # _ensured
        self._begin()
        try:
            status, payload = await process.ask(wire.encode(request), limits.DEADLINE[verb(request)])
            if status == wire.FAILED:
                failure = wire.decode_failure(payload)
                self._finish()
                raise failure
            result = _decoded(accept, payload)
        except trio.Cancelled:
            self._retire()  # a reply is under way that nobody will take
            raise
        self._finish()
        return result

    async def _bury_process(self, why: WorkerError, request: str) -> bool:
        """See a process off; say whether its template died first, so that no request is to blame."""
        self._died()
        process, self._process = self._process, None
        template_died = process is None
        end, tail = "not born", ""
        if process is not None:
            with trio.CancelScope(shield=True):
                exit_, tail = await process.end()
            template_died = exit_.status is None and exit_.seen.is_set()
            end = str(exit_)
        event = {WorkerTimeout: log.WORKER_TIMEOUT, WorkerLied: log.WORKER_LIED}.get(
            type(why), log.WORKER_DIED
        )
        facts = {"spec": self.spec, "request": request, "why": str(why), "end": end, "stderr": tail}
        _log.warning(event, extra=facts)
        return template_died

    def _poison(self, request: wire.FilesRequest, why: WorkerError) -> None:
        facts = {"spec": self.spec, "request": str(request), "why": str(why)}
        _log.warning(log.WORKER_POISONED, extra=facts)
        if self.record.poison(request, str(why), trio.current_time()):
            self._bury()

    # --- transitions ------------------------------------------------------------------------------
    def _start(self) -> None:
        self._move(State.STARTING, State.COLD)
        self._starts += 1

    def _ready(self, reply: wire.OpenReply) -> None:
        self._move(State.READY, State.STARTING)
        self._openings_died = 0
        self._expected = reply.opened
        self.idle_since = trio.current_time()

    def _begin(self) -> None:
        self._move(State.BUSY, State.READY)
        self._calls += 1

    def _finish(self) -> None:
        self._move(State.READY, State.BUSY)
        self.idle_since = trio.current_time()

    def _retire(self) -> None:
        """Let the process go that nobody needs; the next request starts another."""
        self._move(State.COLD, State.READY, State.BUSY, State.STARTING)
        process, self._process = self._process, None
        if process is not None:
            process.release()
        self._supervisor.live.pop(self, None)

    def _died(self) -> None:
        opening = self.state is State.STARTING
        self._move(State.DEAD, State.STARTING, State.READY, State.BUSY)
        self._deaths += 1
        self._supervisor.deaths += 1
        self._supervisor.live.pop(self, None)
        delay = 0.0
        if opening:
            self._openings_died += 1
            if self._openings_died > 1:
                delay = min(
                    limits.BACK_OFF_FIRST * 2 ** min(self._openings_died - 2, 20), limits.BACK_OFF_MAX
                )
        self._not_before = trio.current_time() + delay

    def _back_off(self) -> None:
        left = self._not_before - trio.current_time()
        if left > 0:
            raise WorkerDied(
                f"workers die while opening; the next is started in {left:.1f} s", request="open"
            )
        self._move(State.COLD, State.DEAD)

    def _bury(self) -> None:
        self.record.quarantine()
        _log.warning(log.WORKER_QUARANTINED, extra={"spec": self.spec, "why": self.record.quarantined})
        self._move(State.QUARANTINED, State.DEAD)

    def _move(self, to: State, *come_from: State) -> None:
        if self.state not in come_from:
            raise AssertionError(f"{self.spec}: {self.state.value} -> {to.value}")
        self.state = to


def _decoded(decode: Callable[[bytes], _T], payload: bytes) -> _T:
    try:
        return decode(payload)
    except wire.UNDECODABLE as why:
        raise WorkerLied(f"reply: {why}") from None
