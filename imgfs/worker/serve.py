"""(In the worker) the template: a single-threaded process that imports parsers once and forks workers.

Started by exec, never forked from a threaded process. It reads no image byte. It ends with the daemon,
and every worker ends with it.
"""

from __future__ import annotations

import codecs
import faulthandler
import gc
import importlib
import mmap
import os
import select
import signal
import socket
import sys
import time
import zoneinfo
from array import array
from typing import TYPE_CHECKING, Final, NoReturn

from imgfs.backends import discover
from imgfs.errors import SandboxError
from imgfs.worker import answer, decode, sandbox, wire
from imgfs.worker.reader import readers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Backend

# Trees and listings are hundreds of thousands of small objects without cycles: looking for some among them
# at the default rate is a quarter of the time of a walk.
_COLLECT: Final = (50_000, 20, 50)
_CODECS: Final = ("utf-8", "utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "latin-1", "ascii", "mac-roman")
_CODEPAGES: Final = ("cp437", "cp850", "cp1252", "idna", "raw_unicode_escape", "unicode_escape")


def main(fd: int, *, unsafe: bool, extra: str = "") -> NoReturn:
    """Serve fork requests of the daemon on the descriptor ``fd`` until it closes.

    ``extra`` names further back-ends as ``module:MAPPING``; tests bring their own that way.
    """
    # The parent's number is asked first: if it has already died, somebody else's is compared below.
    parent = os.getppid()
    sandbox.die_with_parent(parent)
    sandbox.renounce()
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=fd)
    backends = _load(extra)
    wake, signalled = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(signalled)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    gc.collect()
    gc.freeze()  # what is imported stays shared with the children
    gc.set_threshold(*_COLLECT)
    try:
        control.send(wire.NEWS.pack(wire.READY, 0, os.getpid(), 0))
    except BrokenPipeError:
        os._exit(0)  # the daemon is gone
    numbers: dict[int, int] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready == wake:
                os.read(wake, 4096)
                _reap(control, numbers)
            else:
                _fork(control, numbers, backends, unsafe=unsafe)


def _load(extra: str) -> dict[str, Backend]:
    """Import everything now: nothing can be imported in the sandbox."""
    backends = dict(discover())
    if extra:
        module, _, name = extra.partition(":")
        backends.update(getattr(importlib.import_module(module), name))
    for library in sorted({name for backend in backends.values() for name in backend.imports}):
        try:
            importlib.import_module(library)
        except ImportError:
            continue  # an extra that is not installed: its back-end says so when it is asked
    for name in _CODECS + _CODEPAGES:
        codecs.lookup(name)
    return backends


def _reap(control: socket.socket, numbers: dict[int, int]) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        number = numbers.pop(pid, None)
        if number is not None:
            control.send(wire.NEWS.pack(wire.EXITED, number, pid, status))


def _fork(
    control: socket.socket, numbers: dict[int, int], backends: dict[str, Backend], *, unsafe: bool
) -> None:
    data, fds, _, _ = socket.recv_fds(control, wire.FORK.size, wire.FDS_MAX, socket.MSG_CMSG_CLOEXEC)
    if not data:
        os._exit(0)  # the daemon is gone
    number, kind = wire.FORK.unpack(data)
    template = os.getpid()
    try:
        pid = os.fork()
    except OSError as why:
        control.send(wire.NEWS.pack(wire.REFUSED, number, 0, why.errno or 0))
        pid = -1
    if pid == 0:
        try:
            if kind == wire.FORK_DECODER:
                _decoder(template, fds, unsafe=unsafe)
            else:
                _worker(template, fds, backends, has_table=kind == wire.FORK_WITH_TABLE, unsafe=unsafe)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            os._exit(0)  # the daemon is gone, or has what it wanted
        except BaseException as why:  # noqa: BLE001  # a child must never return into the template's loop
            os.write(2, f"{type(why).__name__}: {why}\n".encode("utf-8", "backslashreplace"))
        finally:
            os._exit(70)
    if pid > 0:
        numbers[pid] = number
        held = os.pidfd_open(pid)
        news = wire.NEWS.pack(wire.FORKED, number, pid, 0)
        control.sendmsg([news], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [held]))])
        os.close(held)
    for fd in fds:
        os.close(fd)


def _worker(
    template: int, fds: Sequence[int], backends: dict[str, Backend], *, has_table: bool, unsafe: bool
) -> NoReturn:
    """Become a worker: read the request, prepare what it names, lose every right, open, serve."""
    control_fd, block_fd, error_fd = fds[:3]
    table = fds[3] if has_table else -1
    donated = fds[4:] if has_table else fds[3:]
    _born(template, error_fd)
    control = socket.socket(fileno=control_fd)
    block = socket.socket(fileno=block_fd)
    keep = {1, 2, *fds} - {error_fd}
    length, sequence, _ = wire.PREFIX.unpack(wire.receive_exactly(control, wire.PREFIX.size))
    request = wire.decode_open_request(wire.receive_exactly(control, length - wire.HEAD))
    _prepare(request)
    report: dict[str, str] = {}
    try:
        if unsafe:
            sandbox.close_others(keep)
        else:
            sandbox.enter(keep, memory=request.memory, threads=request.threads > 1)
            report = sandbox.prove(template, memory=request.memory)
    except SandboxError as why:
        control.sendall(wire.frame(sequence, wire.FAILED, wire.encode_failure(why)))
        raise
    reader = readers(request, block, donated, table)
    answer.serve(control, request, sequence, reader, backends, report)


def _decoder(template: int, fds: Sequence[int], *, unsafe: bool) -> NoReturn:
    """Become a decoder: import what codecs need, lose every right, decode."""
    _born(template, fds[2])
    decode.prepare()
    control = socket.socket(fileno=fds[0])
    memory = mmap.mmap(fds[1], 0)  # outlives its descriptor
    if unsafe:
        sandbox.close_others({1, 2, fds[0]})
    else:
        sandbox.enter({1, 2, fds[0]})
        sandbox.prove(template)
    decode.serve(control, memoryview(memory))


def _born(template: int, error: int) -> None:
    """Do what every child does first."""
    sandbox.die_with_parent(template)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(error, 1)
    os.dup2(error, 2)


def _prepare(request: wire.OpenRequest) -> None:
    """Load what needs files: the time zone, for Python and for C, and the code page."""
    os.environ["TZ"] = request.tz
    time.tzset()
    try:
        zoneinfo.ZoneInfo(request.tz)
        codecs.lookup(request.codepage)
    except (zoneinfo.ZoneInfoNotFoundError, LookupError, ValueError) as why:
        os.write(2, f"{why}\n".encode("utf-8", "backslashreplace"))


if __name__ == "__main__":
    main(int(sys.argv[1]), unsafe=False)
