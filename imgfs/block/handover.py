"""Strips decoded by other processes: stored bytes are put into a slot of shared memory, results copied out.

The copy is what keeps decoded bytes the daemon's own: who decodes one image never touches another's.
"""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Final, Protocol

import trio

from imgfs.block.hostfile import NotCached
from imgfs.block.pieces import Stored
from imgfs.errors import BadUnit, WorkerError
from imgfs.model import PACKED_CODED, PACKED_PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from imgfs.block.pieces import Block, StoredUnit, Strip, Unit
    from imgfs.block.pool import Pool
    from imgfs.block.spares import Spares
    from imgfs.model import Codec

_LETHAL_SECONDS: Final = 60.0  # what ended a decoder is not decoded again so soon: it may have been killed
_LETHAL_KEPT: Final = 10_000
_KILLED_AT_MOST: Final = 8  # times that a suspect is tried again because somebody else killed its decoder


class Slot(Protocol):
    """Room for one job: ``stored`` is filled by us, ``decoded`` valid after ``decode`` until ``give``."""

    @property
    def stored(self) -> memoryview:
        """Return where stored bytes go."""

    @property
    def decoded(self) -> memoryview:
        """Return where decoded bytes come."""

    async def decode(
        self,
        codec: Codec,
        starts: Sequence[int],
        stops: Sequence[int],
        flags: Sequence[int],
        lengths: Sequence[int],
    ) -> dict[int, str]:
        """Decode units of ``stored``, one behind the other; return what failed and why, by number.

        Raises:
            WorkerError: the decoder did not survive it.
        """

    async def killed(self) -> bool:
        """Say whether the decoder was ended by somebody else: what it decoded is not to blame."""

    def give(self) -> None:
        """Let somebody else have the slot."""


class Decoders(Protocol):
    """Who decodes."""

    async def take(self) -> Slot:
        """Return a slot, waiting for one in turn.

        Raises:
            WorkerError: there is no decoder.
        """


class Handover:
    """What a fetcher has decoded elsewhere."""

    __slots__ = ("_decoders", "_lethal", "_pool", "_spares")

    def __init__(self, decoders: Decoders, pool: Pool, spares: Spares) -> None:
        self._decoders = decoders
        self._pool = pool
        self._spares = spares
        self._lethal: dict[int, float] = {}  # when, by key of the unit

    def suspected(self, units: Iterable[Unit]) -> bool:
        """Say whether one of these ended decoders."""
        return bool(self._lethal) and any(unit.key in self._lethal for unit in units)

    def refuse(self, unit: Unit) -> None:
        """Return when the daemon itself may decode a unit.

        Raises:
            BadUnit: decoding it ended decoders a moment ago.
        """
        at = self._lethal.get(unit.key)
        if at is not None:
            if trio.current_time() < at + _LETHAL_SECONDS:
                raise BadUnit("decoding it ended the process that did")
            del self._lethal[unit.key]

    async def strip(self, strip: Strip) -> Block | Exception | None:
        """Return the block of a strip, or the failure of one of its units; None: there is no decoder."""
        try:
            slot = await self._decoders.take()
        except WorkerError:
            return None
        unit = strip.source.unit
        lengths = [*repeat(unit, len(strip.flags) - 1), strip.length % unit or unit]
        try:
            await self._fill(strip.stored, slot)
            failed = await slot.decode(strip.source.codec, strip.starts, strip.ends, strip.flags, lengths)
            return BadUnit(failed[min(failed)]) if failed else self._copied(slot.decoded[: strip.length])
        except WorkerError as why:
            return why
        finally:
            slot.give()

    async def suspects(self, units: Iterable[StoredUnit]) -> None:
        """Decode units of a strip that ended decoders, each alone, and remember those that do it again."""
        for unit in units:
            for _ in range(_KILLED_AT_MOST):
                if (guilty := await self._guilty(unit)) is not None:
                    break
            if guilty is not False:  # not proven, perhaps, but the daemon is not the place to find out
                self._remember(unit)

    async def _guilty(self, unit: StoredUnit) -> bool | None:
        """Say whether a unit ends its decoder; None: somebody else did."""
        try:
            slot = await self._decoders.take()
        except WorkerError:
            return True
        try:
            stored = unit.pieces[0]
            assert isinstance(stored, Stored)  # noqa: S101  # what made it part of a strip
            await self._fill(stored, slot)
            flags = PACKED_CODED if unit.coded else PACKED_PLAIN
            await slot.decode(unit.codec, [0], [stored.length], [flags], [unit.length])
        except WorkerError:
            return None if await slot.killed() else True
        finally:
            slot.give()
        return False

    def _remember(self, unit: StoredUnit) -> None:
        self._lethal[unit.key] = trio.current_time()
        if len(self._lethal) > _LETHAL_KEPT:
            del self._lethal[next(iter(self._lethal))]

    async def _fill(self, stored: Stored, slot: Slot) -> None:
        room = slot.stored[: stored.length]
        try:
            stored.file.read_into_nowait(stored.offset, room)
        except NotCached:
            await self._pool.read([(stored.file, stored.offset, room)])

    def _copied(self, decoded: memoryview) -> bytearray:
        block = self._spares.take(len(decoded))
        memoryview(block)[:] = decoded
        return block
