"""The kernel's pages of small files: filled while they are opened, so that reading them asks nobody.

A page that the kernel waits for is locked, and storing into it would wait for the answer to that very
request: content is given only while no other handle of the file is open or being opened, since reads
(and read-ahead, and mappings) hold theirs.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio

from imgfs import limits
from imgfs.block.foreign import ForeignSource
from imgfs.errors import ImgfsError

if TYPE_CHECKING:
    from imgfs.tree.handles import OpenFile

# One chunk of an E01: what is read whole anyway. Larger files are left to the kernel's read-ahead.
SMALL: Final = 32 * limits.KIB
_REMEMBERED: Final = 200_000  # files given; forgetting them costs a second copy, nothing else


class Pages:
    """Which files are open, and whose content the kernel was given."""

    __slots__ = ("_given", "_open", "stored")

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()
        self._given: set[int] = set()
        self.stored = 0

    def opening(self, inode: int) -> None:
        """Take note that a handle is being made: before anything is awaited."""
        self._open[inode] += 1

    def closed(self, inode: int) -> None:
        """Take note that a handle is gone, or was not made."""
        self._open[inode] -= 1
        if not self._open[inode]:
            del self._open[inode]

    async def give(self, inode: int, file: OpenFile) -> None:
        """Store the whole of a small file in the kernel's page cache.

        What cannot be read is left to the read itself, which says why.
        """
        if not 0 < file.size <= SMALL or inode in self._given or isinstance(file.source, ForeignSource):
            return
        try:
            try:
                data = file.read_nowait(0, file.size)
            except trio.WouldBlock:
                data = await file.read(0, file.size)
        except ImgfsError:
            return
        if self._open[inode] != 1:
            return
        with suppress(OSError):  # the kernel has forgotten the file meanwhile
            pyfuse3.notify_store(inode, 0, data)  # type: ignore[arg-type]  # any buffer
            self.stored += 1
            if len(self._given) >= _REMEMBERED:
                self._given.clear()
            self._given.add(inode)
