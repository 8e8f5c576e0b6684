"""The system-call filter of a worker: allow-list, and its assembly for seccomp.

Source: Linux Documentation/userspace-api/seccomp_filter.rst; asm/unistd_64.h and asm-generic/unistd.h for
the numbers; linux/filter.h and linux/bpf_common.h for the instructions.
"""

from __future__ import annotations

import errno
import platform
import struct
from typing import Final

# fmt: off
# ruff: noqa: E501, SIM905  # tables read better in rows
_X86_64: Final = {
    "read": 0, "write": 1, "close": 3, "fstat": 5, "poll": 7, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
    "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "pread64": 17, "writev": 20,
    "select": 23, "sched_yield": 24, "mremap": 25, "madvise": 28, "getpid": 39, "sendto": 44, "recvfrom": 45,
    "sendmsg": 46, "recvmsg": 47, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "exit": 60, "getrusage": 98,
    "ptrace": 101, "sigaltstack": 131, "mount": 165, "gettid": 186, "futex": 202, "restart_syscall": 219,
    "clock_gettime": 228, "exit_group": 231, "tgkill": 234, "add_key": 248, "keyctl": 250, "openat": 257,
    "newfstatat": 262, "ppoll": 271, "unshare": 272, "preadv": 295, "perf_event_open": 298,
    "process_vm_readv": 310, "process_vm_writev": 311, "getrandom": 318, "bpf": 321, "execveat": 322,
    "userfaultfd": 323, "io_uring_setup": 425, "clone3": 435, "set_robust_list": 273, "rseq": 334,
}
_AARCH64: Final = {
    "read": 63, "write": 64, "close": 57, "fstat": 80, "lseek": 62, "mmap": 222, "mprotect": 226, "munmap": 215,
    "brk": 214, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "pread64": 67, "writev": 66,
    "sched_yield": 124, "mremap": 216, "madvise": 233, "getpid": 172, "sendto": 206, "recvfrom": 207,
    "sendmsg": 211, "recvmsg": 212, "clone": 220, "execve": 221, "exit": 93, "getrusage": 165, "ptrace": 117,
    "sigaltstack": 132, "mount": 40, "gettid": 178, "futex": 98, "restart_syscall": 128, "clock_gettime": 113,
    "exit_group": 94, "tgkill": 131, "add_key": 217, "keyctl": 219, "openat": 56, "newfstatat": 79, "ppoll": 73,
    "unshare": 97, "preadv": 69, "perf_event_open": 241, "process_vm_readv": 270, "process_vm_writev": 271,
    "getrandom": 278, "bpf": 280, "execveat": 281, "userfaultfd": 282, "io_uring_setup": 425, "clone3": 435,
    "set_robust_list": 99, "rseq": 293,
}
# fmt: on
_MACHINES: Final = {"x86_64": (0xC000_003E, _X86_64, 317), "aarch64": (0xC000_00B7, _AARCH64, 277)}

# Work on descriptors already held, memory, clocks, signals to itself, the end.
ALLOWED: Final = (
    "read write close fstat poll ppoll lseek munmap brk rt_sigaction rt_sigprocmask rt_sigreturn pread64 preadv "
    "writev select sched_yield mremap madvise getpid sendto recvfrom sendmsg recvmsg exit exit_group getrusage "
    "gettid futex clock_gettime getrandom restart_syscall sigaltstack"
).split()
# Only an attack asks for these: the process ends. Everything else is refused with EPERM.
DEADLY: Final = (
    "execve execveat ptrace process_vm_readv process_vm_writev fork vfork clone clone3 bpf userfaultfd "
    "io_uring_setup keyctl add_key unshare mount perf_event_open"
).split()

_KILL: Final = 0x8000_0000
_ERRNO: Final = 0x0005_0000
_ALLOW: Final = 0x7FFF_0000
_LOAD: Final = 0x20
_EQUAL: Final = 0x15
_AT_LEAST: Final = 0x35
_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_ARGUMENTS: Final = 16  # offset of the arguments in struct seccomp_data, 8 bytes each, low word first
_PROT_EXEC: Final = 4
_AT_EMPTY_PATH: Final = 0x1000
_CLONE_THREAD: Final = 0x1_0000
_X32: Final = 0x4000_0000


def supported() -> bool:
    """Say whether the numbers of this machine are known."""
    return platform.machine() in _MACHINES


def seccomp_number() -> int:
    """Return the number of seccomp(2) on this machine."""
    return _MACHINES[platform.machine()][2]


def program(pid: int, *, threads: bool = False) -> bytes:
    """Return the filter for the process ``pid``, which may signal itself and nobody else.

    ``threads``: it may have some, and still no children: what derives a key works in lanes. The architecture is compared first: a call through another ABI has other numbers.
    """
    architecture, number, _ = _MACHINES[platform.machine()]
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
    ]
    code.append((_LOAD, 0, 0, 0))
    if platform.machine() == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for name in ALLOWED:
        if name in number:
            code += [(_EQUAL, 0, 1, number[name]), (_RETURN, 0, 0, _ALLOW)]
    if threads:  # clone3 hides its flags behind a pointer: without it the C library asks for clone
        code += [(_EQUAL, 0, 1, number["clone3"]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
        for name in ("set_robust_list", "rseq"):  # what a thread is born with
            code += [(_EQUAL, 0, 1, number[name]), (_RETURN, 0, 0, _ALLOW)]
        code += [(_EQUAL, 0, 4, number["clone"]), (_LOAD, 0, 0, _ARGUMENTS)]
        code += [(_ANY_BIT, 0, 1, _CLONE_THREAD), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _KILL)]
    for name in DEADLY:
        if name in number:
            code += [(_EQUAL, 0, 1, number[name]), (_RETURN, 0, 0, _KILL)]
    for name in ("mmap", "mprotect"):  # memory is never made executable
        code += [
            (_EQUAL, 0, 4, number[name]),
            (_LOAD, 0, 0, _ARGUMENTS + 8 * 2),
            (_ANY_BIT, 0, 1, _PROT_EXEC),
        ]
        code += [(_RETURN, 0, 0, _ERRNO | errno.EACCES), (_RETURN, 0, 0, _ALLOW)]
    # glibc implements fstat as newfstatat with an empty path.
    code += [
        (_EQUAL, 0, 4, number["newfstatat"]),
        (_LOAD, 0, 0, _ARGUMENTS + 8 * 3),
        (_ANY_BIT, 0, 1, _AT_EMPTY_PATH),
    ]
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EACCES)]
    code += [(_EQUAL, 0, 4, number["tgkill"]), (_LOAD, 0, 0, _ARGUMENTS), (_EQUAL, 0, 1, pid)]
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    code += [(_EQUAL, 0, 1, number["openat"]), (_RETURN, 0, 0, _ERRNO | errno.EACCES)]
    code += [(_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    return b"".join(struct.pack("<HBBI", *row) for row in code)
