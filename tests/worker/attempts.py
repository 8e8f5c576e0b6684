# ruff: noqa: PLW0108, S606  # the system calls themselves are the point
"""What a captured parser would try; run inside and outside the sandbox, one forked child each."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import resource
import signal
import socket
import struct
from typing import TYPE_CHECKING

from imgfs.worker import sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_buffer = ctypes.create_string_buffer(256)


def call(number: int, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _thread() -> None:
    import _thread

    _thread.start_new_thread(print, ())


# Outside the sandbox each of these succeeds, or fails for a reason of its own (LATER says which may).
ATTEMPTS: dict[str, Callable[[], object]] = {
    "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "open fuse": lambda: os.open("/dev/fuse", os.O_RDWR),
    "stat": lambda: os.stat("/etc/passwd"),
    "listdir": lambda: os.listdir("/"),
    "kill parent": lambda: os.kill(os.getppid(), 0),
    "unlink": lambda: os.unlink("/imgfs-no-such-file"),
    "tcp": lambda: socket.socket(),
    "unix": lambda: socket.socket(socket.AF_UNIX),
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "fork": lambda: os.fork() or os._exit(0),
    "fchmod": lambda: os.fchmod(1, 0o777),
    "mmap exec": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC | mmap.PROT_WRITE),
    "memory": lambda: len(bytearray(2 << 30)),
    "memfd": lambda: os.memfd_create("x"),
    "setuid": lambda: os.setuid(os.getuid()),
    "ptrace": lambda: call(101, 0, 0, 0, 0),
    "thread": _thread,
    "late import": lambda: __import__("xml.dom.expatbuilder"),
    "tiocsti": lambda: fcntl.ioctl(1, 0x5412, b"x"),
    "io_uring": lambda: call(425, 4, _buffer),
    "userfaultfd": lambda: call(323, 1),
    "keyctl": lambda: call(250, 0, -3, 0),
    "process_vm_readv": lambda: call(310, os.getppid(), _buffer, 0, _buffer, 0, 0),
    "bpf": lambda: call(321, 0, _buffer, 64),
    "mount": lambda: call(165, b"none", b"/imgfs-no-such-dir", b"tmpfs", 0, None),
    "unshare": lambda: call(272, 0x10000000),
    "proc mem": lambda: os.open("/proc/self/mem", os.O_RDWR),
    "reopen": lambda: os.open("/proc/self/fd/1", os.O_RDWR),
    "by handle": lambda: call(304, 1, _buffer, 0),
    "openat2": lambda: call(437, -100, b"/etc/passwd", struct.pack("QQQ", 0, 0, 0), 24),
    "legacy open": lambda: call(2, b"/etc/passwd", 0),
    "x32": lambda: call(0x40000000 + 39),
    "tgkill parent": lambda: call(234, os.getppid(), os.getppid(), 0),
    "pidfd parent": lambda: call(434, os.getppid(), 0),
    "setrlimit": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    "dumpable": lambda: sandbox._prctl(4, 1),
    "mprotect exec": lambda: call(
        10, ctypes.c_void_p(ctypes.addressof(_buffer) & ~4095), ctypes.c_size_t(4096), 7
    ),
    "dup": lambda: os.dup(1),
    "pipe": os.pipe,
    "shmget": lambda: call(29, 0, 4096, 0o1600),
    "clone3": lambda: call(435, _buffer, 64),
    "abort": os.abort,
    "segv": lambda: ctypes.string_at(0),
}
SUPPORTED = platform.machine() == "x86_64"
FAULTS = {"abort": signal.SIGABRT, "segv": signal.SIGSEGV}


def attempt(name: str, *, inside: bool, uid: int) -> str:
    """Return ``done``, ``errno N`` or ``signal N`` of an attempt in a forked child of the user ``uid``."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open("/dev/null", os.O_RDWR)
            os.dup2(null, 1)
            os.dup2(null, 2)
            if uid != os.getuid():
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            if inside:
                sandbox.enter({1, 2, write})
            try:
                ATTEMPTS[name]()
                text = "done"
            except OSError as why:
                text = f"errno {why.errno}"
            except (MemoryError, ValueError, ImportError, RuntimeError) as why:
                text = f"refused {type(why).__name__}"
            os.write(write, text.encode())
        finally:
            os._exit(0)
    os.close(write)
    text = os.read(read, 200).decode()
    os.close(read)
    _, status = os.waitpid(pid, 0)
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else text or "done"
