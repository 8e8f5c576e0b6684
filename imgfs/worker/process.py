"""(In the daemon) one worker process, and the template that forks them.

Knows frames, descriptors and signals; nothing of states, poisons or formats.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import trio

from imgfs import limits
from imgfs.errors import WorkerDied, WorkerLied, WorkerTimeout
from imgfs.worker import wire

if TYPE_CHECKING:
    from collections.abc import Sequence

_BOOT: Final = (
    "import json, sys; a = json.loads(sys.argv[1]); sys.path[:] = a['path'];"
    " from imgfs.worker.serve import main; main(a['fd'], unsafe=a['unsafe'], extra=a['extra'])"
)
_FIRST_READ: Final = 64 * limits.KIB
_STDERR_TAIL: Final = 2000  # characters of a dead worker's stderr that go to the event log
_QUICK: Final = 40e-6  # seconds to look for a reply before the event loop is asked to
_CHECKPOINT_EVERY: Final = 16  # quick replies between two checkpoints: others must get on
START_DEADLINE: Final = 30.0  # seconds for the template to import every parser
END_DEADLINE: Final = 5.0  # seconds for a killed process to be gone; longer means the kernel holds it


class Exit:
    """How one worker ended: ``status`` as from wait(2), None when the template died first."""

    __slots__ = ("seen", "status")

    def __init__(self) -> None:
        self.seen = trio.Event()
        self.status: int | None = None

    def __str__(self) -> str:
        if self.status is None:
            return "with its template" if self.seen.is_set() else "not yet"
        code = os.waitstatus_to_exitcode(self.status)
        return signal.Signals(-code).name if code < 0 else f"exit {code}"


class Template:
    """The fork server. ``listen`` must run as a task as long as it lives."""

    __slots__ = ("_exits", "_forks", "_number", "_popen", "_ready", "_sock", "dead")

    def __init__(self, *, unsafe: bool, extra: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = [os.path.abspath(entry or ".") for entry in sys.path]  # noqa: PTH100  # strings for sys.path
        arguments = {"path": path, "fd": theirs.fileno(), "unsafe": unsafe, "extra": extra}
        with theirs:
            self._popen = subprocess.Popen(  # noqa: S603  # our own interpreter and program
                [sys.executable, "-I", "-c", _BOOT, json.dumps(arguments)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={"LC_ALL": "C.UTF-8", "TZ": "UTC"},
            )
        ours.setblocking(False)
        self._sock = ours
        self._number = 0
        self._ready = trio.Event()
        self._forks: dict[int, tuple[trio.Event, list[int]]] = {}
        self._exits: dict[int, Exit] = {}
        self.dead = False

    @property
    def pid(self) -> int:
        """Return the process number."""
        return self._popen.pid

    async def wait_ready(self) -> None:
        """Wait until everything is imported.

        Raises:
            WorkerDied: it ended, or takes too long.
        """
        with trio.move_on_after(START_DEADLINE):
            await self._ready.wait()
        if self.dead or not self._ready.is_set():
            self.close()
            raise WorkerDied("the worker template does not start")

    async def listen(self) -> None:
        """Take news of forks and exits until the template ends."""
        try:
            while True:
                try:
                    await trio.lowlevel.wait_readable(self._sock)
                    data, fds, _, _ = socket.recv_fds(self._sock, wire.NEWS.size, 1, socket.MSG_CMSG_CLOEXEC)
                except BlockingIOError:
                    continue
                except (OSError, trio.ClosedResourceError):
                    break
                if not data:
                    break
                self._take(data, fds)
        finally:
            self.close()

    def _take(self, data: bytes, fds: Sequence[int]) -> None:
        kind, number, pid, status = wire.NEWS.unpack(data)
        if kind == wire.READY:
            self._ready.set()
        elif kind in (wire.FORKED, wire.REFUSED) and number in self._forks:
            event, result = self._forks.pop(number)
            result.extend((pid, *fds))
            fds = ()
            event.set()
        elif kind == wire.EXITED and number in self._exits:
            end = self._exits.pop(number)
            end.status = status
            end.seen.set()
        for fd in fds:
            os.close(fd)

    async def fork(self, fds: Sequence[int], kind: int) -> tuple[int, int, Exit]:
        """Return process number, pidfd and exit of a new process that got copies of ``fds``.

        ``kind`` is one of ``wire.FORK_*``.

        Raises:
            WorkerDied: the template is gone or cannot fork.
        """
        self._number += 1
        number = self._number
        event, result = trio.Event(), list[int]()
        end = Exit()
        self._forks[number] = (event, result)
        self._exits[number] = end
        while not self.dead:
            try:
                socket.send_fds(self._sock, [wire.FORK.pack(number, kind)], list(fds))
                break
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock)
            except OSError:
                self.close()
        if not self.dead:
            with trio.CancelScope(shield=True):  # or the pidfd of a worker being born would be lost
                await event.wait()
        if len(result) != 2:
            self._exits.pop(number, None)
            raise WorkerDied("the worker template died" if self.dead else "the worker template cannot fork")
        return result[0], result[1], end

    def close(self) -> None:
        """End the template; its workers end with it."""
        if self.dead:
            return
        self.dead = True
        self._popen.kill()
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()
        self._popen.wait()
        self._ready.set()
        for event, _ in self._forks.values():
            event.set()
        for end in self._exits.values():
            end.seen.set()
        self._forks.clear()
        self._exits.clear()


class Process:
    """One sandboxed process: asked one thing at a time (INV-11), killed through its pidfd."""

    __slots__ = (
        "_end",
        "_error",
        "_pidfd",
        "_received",
        "_sequence",
        "_sock",
        "_unsent",
        "asking",
        "block",
        "gone",
        "lie",
        "pid",
    )

    def __init__(
        self,
        forked: tuple[int, int, Exit],
        control: socket.socket,
        block: socket.socket,
        error: int,
    ) -> None:
        self.pid, self._pidfd, self._end = forked
        self._sock = control
        self.block = block
        self._error = error
        self._sequence = 0
        self._unsent = memoryview(b"")
        self._received = b""
        self.asking = False
        self.gone = False  # its block socket closed: dead while nobody asked
        self.lie = ""

    async def ask(self, payload: bytes, deadline: float) -> tuple[int, bytes]:
        """Return status and message of the reply (INV-10).

        Raises:
            WorkerDied, WorkerTimeout, WorkerLied: and the process is to be ended.
        """
        self._sequence = self._sequence + 1 & 0xFFFF_FFFF
        self.asking = True
        try:
            data = self._quick(wire.frame(self._sequence, wire.OK, payload))
            if data:
                if not self._sequence % _CHECKPOINT_EVERY:
                    await trio.lowlevel.checkpoint()
                return self._split(data)
            with trio.move_on_after(deadline):
                await self._send()
                return await self._receive()
        except (OSError, EOFError, trio.ClosedResourceError):
            if self.lie:
                raise WorkerLied(self.lie) from None
            raise WorkerDied("the worker died") from None
        finally:
            self.asking = False
        raise WorkerTimeout(f"no reply in {deadline:g} s")

    def _quick(self, data: bytes) -> bytes:
        """Send, and return a reply that comes whole and at once; empty: it must be waited for.

        Most replies take the worker a few microseconds, less than a trip through the event loop.
        """
        try:
            self._unsent = memoryview(data)[self._sock.send(data) :]
        except BlockingIOError:
            self._unsent = memoryview(data)
        self._received = b""
        if self._unsent:
            return b""
        until = time.perf_counter() + _QUICK
        while True:
            try:
                data = self._sock.recv(_FIRST_READ)
            except BlockingIOError:
                if time.perf_counter() > until:
                    return b""
                os.sched_yield()
                continue
            if not data:
                raise EOFError
            if len(data) >= wire.PREFIX.size and len(data) >= self._total(data):
                return data
            self._received = data
            return b""

    async def _send(self) -> None:
        while self._unsent:
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock)

    async def _receive(self) -> tuple[int, bytes]:
        data = self._received
        while len(data) < wire.PREFIX.size:
            data += await self._some(_FIRST_READ)
        total = self._total(data)
        if len(data) >= total:
            return self._split(data)
        held = bytearray(total)
        held[: len(data)] = data
        view = memoryview(held)[len(data) :]
        while view:
            try:
                count = self._sock.recv_into(view)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
                continue
            if not count:
                raise EOFError
            view = view[count:]
        return self._split(bytes(held))

    def _total(self, data: bytes) -> int:
        """Return the length of a frame from its prefix; raises WorkerLied for none that can be."""
        length, sequence, status = wire.PREFIX.unpack_from(data)
        if not wire.HEAD <= length <= limits.MESSAGE_MAX or status not in (wire.OK, wire.FAILED):
            raise WorkerLied(f"frame of {length} bytes, status {status}")
        if sequence != self._sequence:
            raise WorkerLied(f"reply to {sequence}, {self._sequence} was asked")
        return int(length) + wire.PREFIX.size - wire.HEAD

    def _split(self, data: bytes) -> tuple[int, bytes]:
        if len(data) != self._total(data):
            raise WorkerLied("bytes behind the reply")
        return data[wire.PREFIX.size - 1], data[wire.PREFIX.size :]

    async def _some(self, most: int) -> bytes:
        while True:
            try:
                data = self._sock.recv(most)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
                continue
            if not data:
                raise EOFError
            return data

    def kill(self) -> None:
        """Send SIGKILL; harmless when it has ended."""
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                return

    async def end(self) -> tuple[Exit, str]:
        """Kill, wait until it is gone, release everything; returns how it ended and its stderr."""
        self.kill()
        with trio.move_on_after(END_DEADLINE, shield=True):
            await self._end.seen.wait()
        tail = self._tail()
        self.release()
        return self._end, tail

    def release(self) -> None:
        """Close what the daemon holds of it; kills it first."""
        self.kill()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            os.close(self._error)
            self._pidfd = -1
            for sock in (self._sock, self.block):
                trio.lowlevel.notify_closing(sock)
                sock.close()

    def _tail(self) -> str:
        return stderr_tail(self._error) if self._pidfd >= 0 else ""


def stderr_tail(fd: int) -> str:
    """Return the end of what a process wrote, printable."""
    try:
        text = os.read(fd, _FIRST_READ).decode("utf-8", "backslashreplace")
    except BlockingIOError:
        return ""
    return repr(text[-_STDERR_TAIL:])[1:-1]
