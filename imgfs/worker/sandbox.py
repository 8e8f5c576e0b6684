"""Take every right from the calling process but those of a parser. Needs no privilege, only ctypes.

Order matters: limits, death signal and no_new_privs, descriptors, Landlock, last the system-call filter.
Landlock and the filter bind the calling thread: enter while there is one.

Source: landlock(7), seccomp(2), prctl(2), setrlimit(2).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.errors import SandboxError
from imgfs.limits import WORKER_MEMORY
from imgfs.worker import filters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_LANDLOCK_CREATE: Final = 444
_LANDLOCK_RESTRICT: Final = 446
_LANDLOCK_VERSION: Final = 1
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_GET_ACTION_AVAIL: Final = 2
_KILL_PROCESS: Final = 0x8000_0000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Status:
    """What this kernel offers. ``landlock`` is its ABI, 0: none."""

    seccomp: bool
    landlock: int
    machine: bool

    @property
    def missing(self) -> str:
        """Say why parsers cannot be isolated here; empty: they can.

        The filter alone refuses every call that takes a path: Landlock is a second wall, and not asked for.
        """
        if not self.machine:
            return "the system calls of this machine are not known"
        return "" if self.seccomp else "the kernel has no seccomp filters"


def status() -> Status:
    """Ask the kernel what it offers, changing nothing."""
    available = False
    if filters.supported():
        action = ctypes.c_uint32(_KILL_PROCESS)
        number = ctypes.c_long(filters.seccomp_number())
        available = _libc.syscall(number, _SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(action)) == 0
    return Status(seccomp=available, landlock=_landlock_abi(), machine=filters.supported())


def die_with_parent(parent: int) -> None:
    """End this process with the thread that forked it, also when that has just happened."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def renounce() -> None:
    """Give up gaining rights by exec, and being looked into by others of the same user."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)


def enter(keep: Iterable[int], *, memory: int = WORKER_MEMORY, threads: bool = False) -> None:
    """Lock the calling process down for good; ``keep`` are the only descriptors left open.

    ``threads``: it may have some; the filter of system calls alone says then that it has no children.

    Raises:
        SandboxError: the kernel refuses a part.
    """
    try:
        for what, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_AS, memory),
            (resource.RLIMIT_FSIZE, 0),
            *([] if threads else [(resource.RLIMIT_NPROC, 0)]),
        ):
            resource.setrlimit(what, (value, value))
        renounce()
        close_others(keep)
        highest = max(keep, default=-1)
        _landlock()
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, highest + 1))
        _seccomp(threads=threads)
    except (OSError, ValueError) as why:
        raise SandboxError(f"sandbox: {why}") from why


def close_others(keep: Iterable[int]) -> None:
    """Close every descriptor but those of ``keep``."""
    low = 0
    for fd in sorted(keep):
        if low < fd:  # an empty range from 0 would end at -1, which the kernel reads as everything
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1 << 30)


def prove(parent: int, *, memory: int = WORKER_MEMORY) -> dict[str, str]:
    """Try from inside what must fail, and report what refused it; ``memory`` is the limit that was set.

    Raises:
        SandboxError: something got through.
    """
    attempts: dict[str, Callable[[], object]] = {
        "open": lambda: os.open("/", os.O_RDONLY),
        "reopen": lambda: os.open("/proc/self/fd/0", os.O_RDWR),
        "stat": lambda: os.stat("/"),  # noqa: PTH116  # the system call itself
        "socket": lambda: socket.socket(socket.AF_UNIX),
        "signal": lambda: os.kill(parent, 0),
        "execute": lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC),
        "limits": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        "memory": lambda: mmap.mmap(-1, 2 * memory),
    }
    report: dict[str, str] = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError as why:
            report[name] = errno.errorcode.get(why.errno or 0, "?")
        except ValueError:  # what the resource module makes of EPERM
            report[name] = "EPERM"
        else:
            raise SandboxError(f"sandbox: {name} got through")
    return report


def _landlock_abi() -> int:
    version = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint(_LANDLOCK_VERSION))
    return max(int(version), 0)


def _landlock() -> None:
    """Handle every right the kernel knows and grant none; open descriptors stay usable."""
    abi = _landlock_abi()
    if not abi:
        return
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1
    attributes = struct.pack("=QQQ", files, 3, 3)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    size = ctypes.c_size_t(len(attributes))
    ruleset = _checked(_libc.syscall(_LANDLOCK_CREATE, attributes, size, ctypes.c_uint(0)), "landlock")
    try:
        _checked(_libc.syscall(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0)), "landlock")
    finally:
        os.close(ruleset)


def _seccomp(*, threads: bool) -> None:
    if not filters.supported():
        raise OSError(errno.ENOSYS, "the system calls of this machine are not known")
    code = filters.program(os.getpid(), threads=threads)
    held = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(held))  # struct sock_fprog
    number = ctypes.c_long(filters.seccomp_number())
    _checked(
        _libc.syscall(number, ctypes.c_uint(_SECCOMP_SET_MODE_FILTER), ctypes.c_uint(0), header), "seccomp"
    )


def _prctl(option: int, value: int) -> None:
    arguments = [ctypes.c_ulong(n) for n in (value, 0, 0, 0)]
    _checked(_libc.prctl(ctypes.c_int(option), *arguments), "prctl")


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
