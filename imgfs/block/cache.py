"""Decoded units: least recently used by bytes, single flight.

Atomic sections (no await inside): lookup -> join or start; decoded -> kept -> waiters woken.

Invariants: INV-5, INV-6, INV-7 (only ``Coded`` units come here).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from imgfs import limits
from imgfs.block.pieces import Block, ForeignUnit, StoredUnit, Strip
from imgfs.block.statistics import CacheStatistics
from imgfs.errors import ImgfsError

if TYPE_CHECKING:
    from collections.abc import Iterable

# Decodes units together, since neighbours share a read and a trip to the pool. An outcome is the
# block or the failure of its unit.
Outcome = Block | Exception
U = TypeVar("U", StoredUnit | ForeignUnit, Strip)
Decode = Callable[[Sequence[U]], Awaitable[Sequence[Outcome]]]


class _Flight:
    """Units being decoded together, and what became of them."""

    __slots__ = ("done", "outcomes")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.outcomes: dict[int, Outcome] = {}  # by key


class BlockCache(Generic[U]):
    """A bounded cache of decoded units.

    Decoding belongs to the given nursery, so that a cancelled reader does not cancel what others
    wait for. Failures are shared by the waiters of one flight and are not kept.
    """

    __slots__ = (
        "_blocks",
        "_capacity",
        "_decode",
        "_evicted",
        "_failed",
        "_flights",
        "_hits",
        "_joined",
        "_misses",
        "_nursery",
        "_used",
        "at_once",
        "recycle",
    )

    def __init__(
        self,
        capacity: int,
        decode: Decode[U],
        nursery: trio.Nursery,
    ) -> None:
        self._capacity = capacity
        self._decode: Decode[U] = decode
        self._nursery = nursery
        self._blocks: OrderedDict[int, Block] = OrderedDict()
        self._flights: dict[int, _Flight] = {}
        self.recycle: Callable[[Block], None] | None = None  # told what is dropped
        # Starts to decode a unit without a task and tells its block, or None; False: cannot be.
        self.at_once: Callable[[U, Callable[[Block | None], None]], bool] | None = None
        self._used = 0
        self._hits = self._misses = self._joined = self._evicted = self._failed = 0

    def held(self, key: int) -> Block | None:
        """Return the block of a unit if it is held."""
        block = self._blocks.get(key)
        if block is not None:
            self._hits += 1
            self._blocks.move_to_end(key)
        return block

    async def get(self, unit: U) -> Block:
        """Return a block, decoded if need be; always a checkpoint.

        Raises:
            EvidenceError: the unit does not decode.
        """
        return (await self.get_all([[unit]]))[unit.key]

    async def get_all(self, batches: Iterable[Sequence[U]]) -> dict[int, Block]:
        """Return the blocks of all units by key; always a checkpoint. Each batch is decoded together.

        Raises:
            EvidenceError: a unit does not decode; the first one is named.
        """
        blocks: dict[int, Block] = {}
        for key, outcome in (await self.outcomes(batches)).items():
            if isinstance(outcome, Exception):
                raise outcome.with_traceback(None)  # one instance for all waiters: no growing trace
            blocks[key] = outcome
        return blocks

    async def outcomes(self, batches: Iterable[Sequence[U]]) -> dict[int, Outcome]:
        """Return the block or the failure of all units by key; else as ``get_all``."""
        found: dict[int, Outcome] = {}
        waiting: list[tuple[int, _Flight]] = []
        for batch in batches:
            self.prefetch(batch)
            for unit in batch:
                flight = self._flights.get(unit.key)
                if flight is not None:
                    self._joined += 1
                    waiting.append((unit.key, flight))
                elif (block := self.held(unit.key)) is not None:
                    found[unit.key] = block
        if not waiting:
            await trio.lowlevel.checkpoint()
        for key, flight in waiting:
            await flight.done.wait()
            found[key] = flight.outcomes[key]
        return found

    def prefetch(self, units: Sequence[U]) -> None:
        """Start to decode what is neither held nor being decoded; never waits, never raises."""
        missing = [unit for unit in units if not self.has(unit)]
        if not missing:
            return
        self._misses += len(missing)
        flight = _Flight()
        self._flights.update(dict.fromkeys([unit.key for unit in missing], flight))
        started = (
            len(missing) == 1
            and self.at_once is not None
            and self.at_once(missing[0], partial(self._landed, missing, flight))
        )
        if not started:
            self._nursery.start_soon(self._fly, missing, flight)

    def holds(self, key: int) -> bool:
        """Say whether the block of a unit is held."""
        return key in self._blocks

    def has(self, unit: U) -> bool:
        """Return whether a unit is held or being decoded."""
        return self.has_key(unit.key)

    def has_key(self, key: int) -> bool:
        """Return whether a unit of that key is held or being decoded."""
        return key in self._blocks or key in self._flights

    def put(self, unit: U, block: Block) -> None:
        """Keep a block that was decoded between two awaits, hence by nobody else."""
        if unit.key in self._blocks or len(block) > self._capacity // limits.CACHE_LARGEST_SHARE:
            return
        self._used += len(block)
        self._blocks[unit.key] = block
        while self._used > self._capacity:
            _, gone = self._blocks.popitem(last=False)
            self._used -= len(gone)
            self._evicted += 1
            if self.recycle is not None:
                self.recycle(gone)

    def drop(self, key: int) -> None:
        """Forget a block that nobody will ask for again, if it is held; it may be in use."""
        block = self._blocks.pop(key, None)
        if block is not None:
            self._used -= len(block)
            if self.recycle is not None:
                self.recycle(block)

    def statistics(self) -> CacheStatistics:
        """Return the counters."""
        return CacheStatistics(
            hits=self._hits,
            misses=self._misses,
            joined=self._joined,
            evicted=self._evicted,
            failed=self._failed,
            blocks=len(self._blocks),
            used=self._used,
            capacity=self._capacity,
            in_flight=len(self._flights),
        )

    def debug_check(self) -> None:
        """Assert INV-5 and INV-6."""
        used = sum(map(len, self._blocks.values()))
        largest = max(map(len, self._blocks.values()), default=0)
        if used != self._used or used > self._capacity:
            raise AssertionError(f"INV-6: {used} bytes held, {self._used} counted of {self._capacity}")
        if largest > self._capacity // limits.CACHE_LARGEST_SHARE:
            raise AssertionError(f"INV-6: a block of {largest} bytes is kept")
        if self._flights.keys() & self._blocks.keys():
            raise AssertionError("INV-5: a unit is held and being decoded")

    async def _fly(self, units: Sequence[U], flight: _Flight) -> None:
        """Decode units and wake their waiters, whatever happens."""
        outcomes: Sequence[Outcome] = ()
        try:
            outcomes = await self._decode(units)
        except Exception as why:  # noqa: BLE001  # raised by every waiter, whose barrier reports it
            outcomes = [why] * len(units)
        finally:
            if len(outcomes) != len(units):  # cancelled: the session ends
                outcomes = [ImgfsError("the session ended during a read")] * len(units)
            self._land(units, flight, outcomes)

    def _landed(self, units: Sequence[U], flight: _Flight, block: Block | None) -> None:
        """Take the block of the only one of ``units``; None: it is to be decoded in the usual way."""
        if block is None:
            self._nursery.start_soon(self._fly, units, flight)
        else:
            self._land(units, flight, [block])

    def _land(self, units: Sequence[U], flight: _Flight, outcomes: Sequence[Outcome]) -> None:
        """Keep what was decoded and wake who waits."""
        for unit, outcome in zip(units, outcomes, strict=True):
            flight.outcomes[unit.key] = outcome
            del self._flights[unit.key]
            if not isinstance(outcome, Exception):
                self.put(unit, outcome)
            else:
                self._failed += 1
        flight.done.set()
