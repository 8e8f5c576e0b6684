"""A host file: descriptor, size, identity, positional reads. Knows no formats and no event loop.

The only module that calls ``os.pread*`` (INV-3, INV-14). Image files are never mapped: a page fault
would stall the event loop, and a host file cut short would end the daemon with SIGBUS.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from imgfs import limits
from imgfs.block.pieces import Stored
from imgfs.errors import EvidenceError, MediaChanged, Truncated, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.block.pieces import Piece

# O_NONBLOCK: opening a FIFO by mistake must not hang; it means nothing for files and disks.
# A file whose small reads keep missing is asked for what is cached only now and then: the read that waits
# finds the same out at the price of one call.
_MANY = 8
_NOW_AND_THEN = 16
_SMALL = 64 * limits.KIB
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class NotCached(Exception):
    """The bytes are not in the page cache, or the file system cannot say; read in a pool thread."""


class Identity(NamedTuple):
    """What must stay the same while a file is served. Block devices have no meaningful times."""

    device: int
    inode: int
    size: int
    m_ns: int
    c_ns: int


class HostFile:
    """An open host file or block device; a ByteSource.

    Units: ``size`` bytes, as of opening.
    """

    __slots__ = (
        "_changed",
        "_checked_at",
        "_clock",
        "_missed",
        "_nowait",
        "_ours",
        "fd",
        "identity",
        "name",
        "path",
        "size",
    )

    def __init__(
        self, fd: int, path: str, *, ours: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take over ``fd``; see ``open``. ``ours``: imgfs wrote it; its times mean nothing."""
        self.fd = fd
        self.path = path
        self.name = Path(path).name
        self._ours = ours
        self.identity = self._identified()
        self.size = self.identity.size
        self._clock = clock
        self._checked_at = clock()
        self._changed = ""
        self._nowait = True
        self._missed = 0  # small reads in a row that were not cached

    @classmethod
    def open(
        cls, path: str | Path, *, dir_fd: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> Self:
        """Open a regular file or block device read-only, without touching its access time.

        Raises:
            UsageError: it cannot be opened, is of another type, or is empty.
        """
        shown = os.fspath(path)
        try:
            try:
                fd = os.open(path, _FLAGS | os.O_NOATIME, dir_fd=dir_fd)
            except PermissionError:  # O_NOATIME is for the owner only
                fd = os.open(path, _FLAGS, dir_fd=dir_fd)
        except OSError as why:
            raise UsageError(f"{shown}: {why.strerror}") from why
        try:
            return cls(fd, shown, clock=clock)
        except BaseException:
            os.close(fd)
            raise

    def plan(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie; see ``ByteSource``."""
        return [Stored(self, start, stop - start)] if stop > start else []

    def reopen(self) -> int:
        """Return a fresh open file description: one that is shared would share its flags and position.

        Raises:
            MediaChanged: the descriptor leads to another file by now.
        """
        fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _identify(fd, self.path, ours=self._ours) != self.identity:
                self._latch()
        except BaseException:
            os.close(fd)
            raise
        return fd

    def check(self, *, now: bool = False) -> None:
        """Compare the file with what was opened, at most once a second unless ``now``.

        Raises:
            MediaChanged: size, inode or times differ, or differed before.
        """
        if self._changed:
            raise MediaChanged(self._changed)
        clock = self._clock()
        if not now and clock - self._checked_at < limits.CHECK_HOST_EVERY:
            return
        self._checked_at = clock
        try:
            identity = self._identified()
        except UsageError:  # cut to nothing
            self._latch()
        if identity != self.identity:
            self._latch()

    def read_nowait(self, offset: int, length: int) -> bytearray:
        """Return ``length`` bytes from the page cache.

        Raises:
            NotCached: some of them would have to be waited for.
        """
        buffer = bytearray(length)
        self.read_into_nowait(offset, buffer)
        return buffer

    def read_into_nowait(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill ``buffer`` from the page cache.

        Raises:
            NotCached: some bytes would have to be waited for; ``buffer`` is partly overwritten.
        """
        if not self._nowait:
            raise NotCached
        if self._missed > _MANY and len(buffer) < _SMALL and self._missed % _NOW_AND_THEN:
            self._missed += 1
            raise NotCached
        try:
            got = os.preadv(self.fd, [buffer], offset, os.RWF_NOWAIT)
        except OSError as why:
            if why.errno == errno.EOPNOTSUPP:
                self._nowait = False
            self._missed += 1
            raise NotCached from None  # a real error is found, and named, by the blocking read
        if got != len(buffer):
            self._missed += 1
            raise NotCached
        self._missed = 0

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes; may wait for the disk.

        Raises:
            Truncated: the file ends before the range does.
            EvidenceError: the host cannot read it.
        """
        try:
            data = os.pread(self.fd, length, offset)
        except OSError as why:
            raise self._unreadable(why, offset, length) from why
        if len(data) == length:
            return data
        buffer = bytearray(length)
        buffer[: len(data)] = data
        self.read_into(offset + len(data), memoryview(buffer)[len(data) :])
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill ``buffer``; may wait for the disk; short reads are continued.

        Raises:
            Truncated: the file ends before the range does.
            EvidenceError: the host cannot read it.
        """
        done, length = 0, len(buffer)
        while done < length:
            try:
                got = os.preadv(self.fd, [buffer[done:]], offset + done)
            except OSError as why:
                raise self._unreadable(why, offset, length) from why
            if not got:
                message = f"host file ends at {offset + done}, {self.size} bytes when opened"
                raise Truncated(message, spec=self.name, start=offset + done, stop=offset + length)
            done += got

    def advise(self, offset: int, length: int) -> None:
        """Ask the kernel to read a range into the page cache soon."""
        with suppress(OSError):  # advice; the read itself reports what is wrong
            os.posix_fadvise(self.fd, offset, length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def _identified(self) -> Identity:
        return _identify(self.fd, self.path, ours=self._ours)

    def _latch(self) -> None:
        self._changed = f"{self.path}: the file changed while it was served"
        raise MediaChanged(self._changed)

    def _unreadable(self, why: OSError, offset: int, length: int) -> EvidenceError:
        message = f"host file cannot be read: {why.strerror}"
        return EvidenceError(message, spec=self.name, start=offset, stop=offset + length)

    def __repr__(self) -> str:
        return f"HostFile({self.path!r}, size={self.size})"


def _identify(fd: int, path: str, *, ours: bool) -> Identity:
    """Return the identity of an open file.

    Raises:
        UsageError: neither a regular file nor a block device, or empty.
    """
    facts = os.fstat(fd)
    if stat.S_ISREG(facts.st_mode):
        found = Identity(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    elif stat.S_ISBLK(facts.st_mode):
        found = Identity(facts.st_rdev, facts.st_ino, os.lseek(fd, 0, os.SEEK_END), 0, 0)
    else:
        kind = "a directory" if stat.S_ISDIR(facts.st_mode) else "neither a file nor a block device"
        raise UsageError(f"{path}: {kind}, not an image")
    if not found.size:
        raise UsageError(f"{path}: empty, not an image")
    return found._replace(m_ns=0, c_ns=0) if ours else found
