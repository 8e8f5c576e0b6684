"""Strips read and decoded by threads that never hold the interpreter's lock: the usual ones, of usual codecs.

What such a thread cannot do as a whole (a bad unit, an odd one, a disk that fails) is done again by somebody
who says what is wrong; so a result of here is right, and there is none of anything else.
"""

from __future__ import annotations

import os
import threading
from array import array
from typing import TYPE_CHECKING, Final, Self

import trio

from imgfs.block.enciphered import CipherMap

try:
    from imgfs.block._strips import KINDS, MOST_STORED, Engine
except ImportError:  # built without a compiler: slower, same results
    KINDS = {}

if TYPE_CHECKING:
    from imgfs.block.pieces import Strip
    from imgfs.block.spares import Spares

_MOST_UNITS: Final = 1024


class NativeStrips:
    """An engine, its threads and who waits for it. ``listen`` must run as a task as long as it is used."""

    __slots__ = ("_closed", "_engine", "_next", "_right", "_spares", "_threads", "_waiting")

    def __init__(self, spares: Spares) -> None:
        """Decode into blocks of ``spares``; see ``open``."""
        self._engine = Engine()
        self._spares = spares
        self._threads = 0
        self._next = 0
        self._closed = False
        self._waiting: dict[int, trio.lowlevel.Task] = {}  # by number of the job
        self._right: set[int] = set()  # numbers of jobs that ended well, until their task has seen it

    @classmethod
    def open(cls, spares: Spares) -> Self | None:
        """Return an engine; None: there are no decoders for one."""
        return cls(spares) if KINDS else None

    def takes(self, strip: Strip) -> bool:
        """Say whether a strip is of a kind that is decoded here."""
        return (
            strip.source.codec.name in KINDS
            and not isinstance(strip.source, CipherMap)
            and strip.stored.length <= MOST_STORED
            and len(strip.coded) <= _MOST_UNITS
            and not self._closed
        )

    async def decode(self, strip: Strip) -> bytearray | None:
        """Return the block of a strip; None: some of it is not as it should be, see elsewhere why."""
        source, stored = strip.source, strip.stored
        cuts = array("I", [0]) * (3 * len(strip.coded))
        cuts[::3], cuts[1::3] = array("I", strip.starts), array("I", strip.ends)
        cuts[2::3] = array("I", strip.coded)
        out = self._spares.take(strip.length)
        self._start()
        number = self._next = self._next + 1
        kind = KINDS[source.codec.name]
        self._engine.submit(
            number, kind, stored.file.fd, stored.offset, stored.length, source.unit, cuts.tobytes(), out
        )
        self._waiting[number] = trio.lowlevel.current_task()

        def abandon(_: object) -> trio.lowlevel.Abort:
            del self._waiting[number]  # the engine keeps the block until it is done with it
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abandon)
        if number not in self._right:
            return None
        self._right.remove(number)
        return out

    async def listen(self) -> None:
        """Wake those whose strips are done, for ever."""
        event = self._engine.fileno()
        try:
            while True:
                await trio.lowlevel.wait_readable(event)
                for number, right in self._engine.finished():
                    task = self._waiting.pop(number, None)
                    if task is not None:
                        if right:
                            self._right.add(number)
                        trio.lowlevel.reschedule(task)
        finally:
            self._closed = True
            self._engine.close()

    def _start(self) -> None:
        """Start the threads, one for each core, when the first strip comes."""
        while self._threads < len(os.sched_getaffinity(0)):
            self._threads += 1
            threading.Thread(target=self._engine.work, name="strips", daemon=True).start()
