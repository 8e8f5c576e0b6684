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
from imgfs.model import PACKED_CODED, PACKED_PLAIN

try:
    from imgfs.block._strips import KINDS, MOST_STORED, MOST_UNITS, Engine
except ImportError:  # built without a compiler: slower, same results
    KINDS = {}

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgfs.block.pieces import Strip
    from imgfs.block.spares import Spares

    Done = Callable[[bytearray | None], None]

_PATIENCE: Final = 1.0  # seconds
_KEYS: Final = (32, 64)  # bytes of a key of AES-XTS


class NativeStrips:
    """An engine, its threads and who is to be told. ``listen`` must run as a task as long as it is used."""

    __slots__ = ("_closed", "_engine", "_next", "_spares", "_threads", "_under_way")

    def __init__(self, spares: Spares) -> None:
        """Decode into blocks of ``spares``; see ``open``."""
        self._engine = Engine()
        self._spares = spares
        self._threads: list[threading.Thread] = []
        self._next = 0
        self._closed = False
        self._under_way: dict[int, tuple[Done, bytearray]] = {}  # by number of the job

    @classmethod
    def open(cls, spares: Spares) -> Self | None:
        """Return an engine; None: there are no decoders for one."""
        return cls(spares) if KINDS else None

    def takes(self, strip: Strip) -> bool:
        """Say whether a strip is of a kind that is decoded here."""
        source = strip.source
        return (
            source.codec.name in KINDS
            and strip.stored.length <= MOST_STORED
            and len(strip.flags) <= MOST_UNITS
            and (not isinstance(source, CipherMap) or len(source.key) in _KEYS)
            and not self._closed
        )

    def start(self, strip: Strip, done: Done) -> None:
        """Start to decode a strip that it ``takes``; ``done`` is told its block.

        None: some of it is not as it should be, see elsewhere why; or ``listen`` was cancelled.
        """
        source, stored = strip.source, strip.stored
        out = self._spares.take(strip.length)
        self._begin()
        number = self._next = self._next + 1
        job = number, KINDS[source.codec.name], stored.file.fd, stored.offset, stored.length
        if isinstance(source, CipherMap):
            self._engine.submit(*job, source.claim.sector, source.key, out, *source.numbered(strip.index))
        else:
            cuts = array("I", bytes(12 * len(strip.flags)))
            cuts[::3], cuts[1::3] = array("I", strip.starts), array("I", strip.ends)
            cuts[2::3] = array("I", self._flags(strip))
            self._engine.submit(*job, source.unit, cuts.tobytes(), out)
        self._under_way[number] = done, out

    @staticmethod
    def _flags(strip: Strip) -> Sequence[int]:
        """Return the flags of units; those that may be verbatim although they count as coded are PLAIN."""
        source = strip.source
        if not source.codec.parameters.get("plain"):
            return strip.flags
        lengths = map(int.__sub__, strip.ends, strip.starts)
        return [
            PACKED_PLAIN if flags == PACKED_CODED and length == source.unit else flags
            for flags, length in zip(strip.flags, lengths, strict=True)
        ]

    async def listen(self) -> None:
        """Say what is done, for ever."""
        event = self._engine.fileno()
        try:
            while True:
                await trio.lowlevel.wait_readable(event)
                for number, right in self._engine.finished():
                    done, out = self._under_way.pop(number)
                    done(out if right else None)
        finally:
            self._closed = True
            self._engine.close()
            for thread in self._threads:  # at most the job under way; a disk that hangs is not waited for
                thread.join(_PATIENCE)
            del self._engine  # and with it its descriptor
            while self._under_way:
                done, _ = self._under_way.popitem()[1]
                done(None)

    def _begin(self) -> None:
        """Start the threads, one for each core, when the first strip comes."""
        while len(self._threads) < len(os.sched_getaffinity(0)):
            self._threads.append(threading.Thread(target=self._engine.work, name="strips", daemon=True))
            self._threads[-1].start()
