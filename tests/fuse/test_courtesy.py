"""Laws of sharing one event loop: who had little never waits for long, and nobody waits for nothing."""

from __future__ import annotations

import pytest
import trio
import trio.lowlevel

from imgfs import limits
from imgfs.daemon.courtesy import Courtesy

SCANNER, PERSON, OTHER = 100, 200, 300


@pytest.fixture
def courtesy() -> Courtesy:
    return Courtesy()


def scan(courtesy: Courtesy, pid: int = SCANNER) -> None:
    for _ in range(32):
        courtesy.asked(pid, limits.MIB)


@pytest.mark.trio
async def test_who_reads_alone_is_never_held(courtesy: Courtesy, autojump_clock) -> None:
    for pause in (0.0, 0.001, 0.3, 2.0):
        for _ in range(100):
            courtesy.asked(SCANNER, limits.MIB)
            assert not courtesy.greedy(SCANNER)
            await trio.sleep(pause)


@pytest.mark.trio
async def test_a_scanner_gives_way_to_a_person(courtesy: Courtesy, autojump_clock) -> None:
    scan(courtesy)
    courtesy.asked(PERSON)
    assert courtesy.greedy(SCANNER)
    assert not courtesy.greedy(PERSON)
    begin = trio.current_time()
    async with courtesy.way():
        pass
    assert 0 < trio.current_time() - begin < 0.02


@pytest.mark.trio
async def test_two_scanners_do_not_wait_for_each_other(courtesy: Courtesy, autojump_clock) -> None:
    scan(courtesy)
    scan(courtesy, OTHER)
    for _ in range(8):  # since either had little, a second passes
        await trio.sleep(0.15)
        scan(courtesy)
        scan(courtesy, OTHER)
    assert not courtesy.greedy(SCANNER)
    assert not courtesy.greedy(OTHER)


@pytest.mark.trio
async def test_a_person_who_never_pauses_does_not_stop_a_scanner(courtesy: Courtesy, autojump_clock) -> None:
    scan(courtesy)

    async def ask_for_ever() -> None:
        while True:
            courtesy.asked(PERSON)
            await trio.sleep(0.001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask_for_ever)
        await trio.sleep(0.0005)
        begin = trio.current_time()
        async with courtesy.way():
            pass
        assert trio.current_time() - begin < 0.05
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_what_was_held_goes_on_one_by_one(courtesy: Courtesy, autojump_clock) -> None:
    scan(courtesy)
    courtesy.asked(PERSON)
    done: list[float] = []

    async def read() -> None:
        async with courtesy.way():
            done.append(trio.current_time())
        courtesy.asked(PERSON)  # comes while the first is answered

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read)
    assert len(done) == 3
    assert done[0] < done[1]  # the second saw the new request
    assert done[-1] - done[0] < 0.1


@pytest.mark.trio
async def test_a_scanner_waits_while_a_person_waits_for_the_disk(courtesy: Courtesy, autojump_clock) -> None:
    scan(courtesy)
    courtesy.asked(PERSON)
    ended = 0.0

    async def person() -> None:
        nonlocal ended
        with courtesy.waiting(PERSON):
            await trio.sleep(0.015)
        ended = trio.current_time()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(person)
        await trio.lowlevel.checkpoint()
        async with courtesy.way():
            assert 0 < ended <= trio.current_time()
    with courtesy.waiting(SCANNER):  # its own waiting keeps nobody
        begin = trio.current_time()
        await trio.sleep(0.005)
        async with courtesy.way():
            assert trio.current_time() - begin < 0.01
