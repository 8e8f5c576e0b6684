"""Small reads that must wait for a disk, through io_uring: a trip to a pool thread costs several times that.

Only whole successes are taken from here. Whatever else happens (short reads, errors, a full ring, a kernel
without io_uring), the pool reads again and finds the right words.

Source: io_uring(7), io_uring_setup(2), io_uring_enter(2); linux/io_uring.h.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from typing import TYPE_CHECKING, Final, Self

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.block.hostfile import HostFile

_SETUP: Final = 425  # the same on every machine since these calls were added
_ENTER: Final = 426
_READ: Final = 22
_SINGLE_MMAP: Final = 1
_SQES: Final = 0x1000_0000  # offset at which the entries are mapped
_ENTRIES: Final = 256
_SQE: Final = struct.Struct("<BBHiQQIIQ24x")
_CQE: Final = struct.Struct("<QiI")
_WORD: Final = 0xFFFF_FFFF

# Without giving up the interpreter's lock: none of these calls waits.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = [ctypes.c_long, *[ctypes.c_ulong] * 6]


class _Batch:
    """Reads that one task waits for together."""

    __slots__ = ("left", "task", "whole")

    def __init__(self, left: int) -> None:
        self.left = left
        self.whole = True
        self.task: trio.lowlevel.Task | None = None


class Ring:
    """One submission and completion ring. ``listen`` must run as a task as long as it is used."""

    __slots__ = (
        "_cq_head",
        "_cq_mask",
        "_cq_tail",
        "_cqes",
        "_fd",
        "_memory",
        "_next",
        "_pending",
        "_sq_mask",
        "_sq_tail",
        "_sqes",
        "_usable",
        "_words",
    )

    def __init__(self, fd: int, p: memoryview) -> None:
        """Map the ring ``fd``; ``p`` is its struct io_uring_params as words. See ``open``."""
        sq, cq = p[10:20], p[20:30]
        size = max(sq[6] + 4 * p[0], cq[5] + _CQE.size * p[1])
        self._fd = fd
        self._memory = mmap.mmap(fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        self._sqes = mmap.mmap(fd, 64 * p[0], offset=_SQES)
        self._words = memoryview(self._memory).cast("I")
        self._sq_tail, self._sq_mask = sq[1] // 4, self._words[sq[2] // 4]
        self._cq_head, self._cq_tail, self._cq_mask = cq[0] // 4, cq[1] // 4, self._words[cq[2] // 4]
        self._cqes = cq[5]
        for index in range(p[0]):
            self._words[sq[6] // 4 + index] = index
        # By number of the read; the buffer is kept as long as the kernel may write to it.
        self._pending: dict[int, tuple[_Batch, int, object]] = {}
        self._next = 0
        self._usable = True

    @classmethod
    def open(cls) -> Self | None:
        """Return a ring; None: this kernel gives none."""
        parameters = bytearray(120)
        address = ctypes.addressof(ctypes.c_char.from_buffer(parameters))
        fd = _libc.syscall(_SETUP, _ENTRIES, address, 0, 0, 0, 0)
        if fd < 0:
            return None
        os.set_inheritable(fd, False)
        view = memoryview(parameters).cast("I")
        if not view[5] & _SINGLE_MMAP:
            os.close(fd)
            return None
        return cls(fd, view)

    async def read(self, wanted: Sequence[tuple[HostFile, int, memoryview]]) -> bool:
        """Fill buffers from (file, offset); False: not all of them, and nothing is said of why."""
        if not self._usable or len(self._pending) + len(wanted) > _ENTRIES:
            return False
        batch = _Batch(len(wanted))
        tail = self._words[self._sq_tail]
        for file, offset, buffer in wanted:
            number = self._next = self._next + 1
            held = ctypes.c_char.from_buffer(buffer)
            address = ctypes.addressof(held)
            entry = _READ, 0, 0, file.fd, offset, address, len(buffer), 0, number
            _SQE.pack_into(self._sqes, 64 * (tail & self._sq_mask), *entry)
            self._pending[number] = batch, len(buffer), held
            tail = tail + 1 & _WORD
        self._words[self._sq_tail] = tail
        submitted = _libc.syscall(_ENTER, self._fd, len(wanted), 0, 0, 0, 0)
        if submitted != len(wanted):
            self._usable = False  # what was not taken would be taken in place of the next
            return False
        self._complete()  # what was cached after all
        if not batch.left:
            return batch.whole
        batch.task = trio.lowlevel.current_task()

        def abandon(_: object) -> trio.lowlevel.Abort:
            batch.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abandon)
        return batch.whole

    async def listen(self) -> None:
        """Wake those whose reads are complete, for ever."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._fd)
                self._complete()
        finally:
            self._close()

    def _complete(self) -> None:
        words, head = self._words, self._words[self._cq_head]
        while head != words[self._cq_tail]:
            at = self._cqes + _CQE.size * (head & self._cq_mask)
            number, result, _ = _CQE.unpack_from(self._memory, at)
            head = head + 1 & _WORD
            batch, length, _ = self._pending.pop(number)
            batch.left -= 1
            batch.whole &= result == length
            if not batch.left and batch.task is not None:
                trio.lowlevel.reschedule(batch.task)
        words[self._cq_head] = head

    def _close(self) -> None:
        """Close the ring. The kernel ends what is under way before the last descriptor is gone."""
        self._usable = False
        os.close(self._fd)
        self._words.release()
        self._memory.close()
        self._sqes.close()
        if self._pending:
            _leaked.append(self._pending)


# Buffers the kernel may still write to when a session ends in the middle of a read.
_leaked: Final[list[object]] = []
