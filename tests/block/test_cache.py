"""INV-5 and INV-6 under any sequence of gets, prefetches, failures and cancellations."""

from __future__ import annotations

import random
from contextlib import nullcontext

import pytest
import trio
import trio.testing

from imgfs.block.cache import BlockCache
from imgfs.block.memory import Memory
from imgfs.block.pieces import ForeignUnit
from imgfs.errors import BadUnit, ImgfsError

SOURCE = Memory(b"")


class Decoder:
    """Decodes unit i to 10 + i % 50 bytes of i; units divisible by 7 fail."""

    def __init__(self) -> None:
        self.running: set[int] = set()
        self.count = 0

    async def __call__(self, units):
        for unit in units:
            assert unit.index not in self.running, "INV-5"
            self.running.add(unit.index)
        for _ in range(units[0].index % 4):
            await trio.lowlevel.checkpoint()
        self.running -= {unit.index for unit in units}
        self.count += len(units)
        return [content(unit.index) or BadUnit(f"unit {unit.index}") for unit in units]


def content(index: int) -> bytes:
    return b"" if index % 7 == 0 else bytes([index]) * (10 + index % 50)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.trio
async def test_every_get_is_the_block_or_its_failure_and_the_bounds_hold(seed) -> None:
    rng = random.Random(seed)
    decoder = Decoder()
    async with trio.open_nursery() as nursery:
        cache = BlockCache(rng.choice([0, 100, 400, 5000]), decoder, nursery)

        async def reader(seed: int) -> None:
            own = random.Random(seed)
            for _ in range(60):
                index = own.randrange(40)
                unit = ForeignUnit(index, SOURCE, index, 1)
                with trio.CancelScope() as scope:
                    if own.randrange(10) == 0:
                        scope.cancel()
                    match own.randrange(3):
                        case 0:
                            batch = [
                                ForeignUnit(index + i, SOURCE, index + i, 1) for i in range(own.randrange(4))
                            ]
                            cache.prefetch(batch)
                        case 1:
                            assert cache.held(unit.key) in (None, content(index))
                            await trio.lowlevel.checkpoint()
                        case _:
                            failure = pytest.raises(BadUnit, match=f"^unit {index}$")
                            with nullcontext() if content(index) or scope.cancel_called else failure:
                                assert await cache.get(unit) == content(index)
                cache.debug_check()

        async with trio.open_nursery() as readers:
            for number in range(8):
                readers.start_soon(reader, seed * 100 + number)
        cache.debug_check()
    assert cache.statistics().in_flight == 0


@pytest.mark.trio
async def test_a_failure_is_shared_by_its_waiters_and_tried_again_by_later_ones() -> None:
    decoder = Decoder()
    failures = []
    async with trio.open_nursery() as nursery:
        cache = BlockCache(1000, decoder, nursery)

        async def waiter() -> None:
            try:
                await cache.get(ForeignUnit(35, SOURCE, 35, 1))
            except BadUnit as why:
                failures.append(why)

        async with trio.open_nursery() as waiters:
            for _ in range(5):
                waiters.start_soon(waiter)
        assert len(failures) == 5
        assert decoder.count == 1
        await waiter()
        assert decoder.count == 2


@pytest.mark.trio
async def test_a_block_above_an_eighth_of_the_capacity_is_returned_and_not_kept() -> None:
    async with trio.open_nursery() as nursery:
        cache = BlockCache(8 * 20, Decoder(), nursery)
        assert len(await cache.get(ForeignUnit(11, SOURCE, 11, 1))) == 21
        assert cache.statistics().blocks == 0
        await cache.get(ForeignUnit(10, SOURCE, 10, 1))
        assert cache.statistics().used == 20


@pytest.mark.trio
async def test_waiters_are_woken_when_the_session_ends() -> None:
    async def never(_units):
        await trio.sleep_forever()

    woken = trio.Event()
    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            cache = BlockCache(100, never, nursery)

            async def waiter() -> None:
                with pytest.raises(ImgfsError, match="session"):
                    await cache.get(ForeignUnit(1, SOURCE, 1, 1))
                woken.set()

            outer.start_soon(waiter)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await woken.wait()


@pytest.mark.trio
async def test_a_bug_in_a_decoder_reaches_the_waiter_and_not_the_nursery() -> None:
    async def broken(_units):
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    async with trio.open_nursery() as nursery:
        cache = BlockCache(100, broken, nursery)
        with pytest.raises(ZeroDivisionError):
            await cache.get(ForeignUnit(1, SOURCE, 1, 1))
