"""Workers that crash, hang, lie, flood, eat and fork: every one costs the request in flight, nothing else."""

from __future__ import annotations

import os
import random
import signal

import pytest
import trio
import trio.testing

from imgfs import errors, limits, log
from imgfs.backends import Options
from imgfs.block.fetch import Fetcher
from imgfs.block.memory import Memory
from imgfs.model import FilesInfo, Media
from imgfs.testing.faults import FaultyFetcher
from imgfs.worker.client import open_layer
from imgfs.worker.life import State
from imgfs.worker.supervisor import open_supervisor
from tests.worker import bad
from tests.worker.conftest import BODY, children, descriptors, staged

pytestmark = [pytest.mark.trio, pytest.mark.slow]


def value(inum: int) -> int:
    return (b"BAD!".ljust(16, b"\0") + BODY)[inum % 1000]


async def test_opening_has_the_outcomes_of_the_design_and_no_other(stage) -> None:
    layer = await stage.open()
    assert isinstance(layer.opened, FilesInfo)
    assert layer.files is not None
    assert layer.files.state is State.READY
    with pytest.raises(errors.NotMine):
        await stage.open(how=b"GOOD")
    with pytest.raises(errors.NeedKey) as key:
        await stage.open("badmedia", b"key!")
    assert key.value.kinds == ("passphrase",)
    with pytest.raises(errors.NeedMembers) as members:
        await stage.open("badmedia", b"set!")
    assert (members.value.set_id, members.value.have, members.value.of) == ("id", 1, 2)
    with pytest.raises(errors.Malformed) as broken:
        await stage.open("badmedia", b"brok")
    assert (broken.value.start, broken.value.stop) == (4, 9)
    with pytest.raises(errors.WorkerError, match="no back-end"):
        await stage.open("nothing")


@pytest.mark.parametrize("how", [b"crash", b"abort", b"fork", b"exit"])
async def test_a_parser_that_dies_while_opening_is_one_error_and_two_events(
    stage, events, how: bytes
) -> None:
    with pytest.raises(errors.WorkerDied):
        await stage.open(how=b"BAD!" + how)
    assert len(events.named(log.WORKER_DIED)) == 2
    assert stage.supervisor.statistics().live == 0
    end = events.named(log.WORKER_DIED)[0].end  # type: ignore[attr-defined]
    assert end == {b"crash": "SIGSEGV", b"abort": "SIGABRT", b"fork": "SIGSYS", b"exit": "exit 3"}[how]


async def test_last_words_of_a_worker_are_in_the_event_and_escaped(stage, events) -> None:
    with pytest.raises(errors.WorkerDied):
        await stage.open(how=b"BAD!stderr")
    text = events.named(log.WORKER_DIED)[0].stderr  # type: ignore[attr-defined]
    assert "last words\\x1b[31m" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("how", [b"eat", b"recurse", b"bug", b"open"])
async def test_what_python_can_catch_is_an_error_without_a_death(stage, events, how: bytes) -> None:
    with pytest.raises((errors.WorkerError, errors.Malformed)) as why:
        await stage.open(how=b"BAD!" + how)
    assert not isinstance(why.value, errors.WorkerDied)
    assert not events.records


async def test_a_hang_ends_at_the_deadline(stage, monkeypatch, events) -> None:
    monkeypatch.setitem(limits.DEADLINE, "open", 0.2)
    with pytest.raises(errors.WorkerTimeout):
        await stage.open(how=b"BAD!hang")
    assert len(events.named(log.WORKER_TIMEOUT)) == 1


@pytest.mark.parametrize("inum", [bad.CRASH, bad.ABORT, bad.HANG])
async def test_a_poisonous_position_costs_itself_and_not_its_directory(stage, monkeypatch, inum: int) -> None:
    monkeypatch.setitem(limits.DEADLINE, "list", 0.3)
    files = (await stage.open()).files
    names: list[int] = []
    damaged = []
    cursor = 0
    while cursor != -1:
        page = await files.list(0, inum, cursor, 1024)
        names += [int(entry.name) for entry in page.entries]
        damaged += [page.damaged] if page.damaged else []
        cursor = page.next
    assert names == [n for n in range(bad.COUNT) if n != bad.POISON]
    assert len(damaged) == 1
    assert files.state is not State.QUARANTINED
    starts = stage.supervisor.statistics().starts
    page = await files.list(0, inum, bad.POISON, 1)
    assert page.damaged
    assert stage.supervisor.statistics().starts == starts, "a poisoned request is refused without a process"


async def test_a_directory_that_kills_everywhere_ends(stage) -> None:
    files = (await stage.open()).files
    cursor, pages = 0, 0
    while cursor != -1:
        page = await files.list(0, bad.EVERYWHERE, cursor, 1024)
        assert not page.entries
        assert page.damaged
        cursor, pages = page.next, pages + 1
    assert pages <= 3
    assert len((await files.list(0, 1, 0, 1024)).entries) == bad.COUNT


async def test_lies_about_meaning_are_seen_and_the_process_ends(stage, events) -> None:
    files = (await stage.open()).files
    assert (await files.list(0, bad.LIE_CURSOR, 0, 10)).damaged
    for call in (
        files.layout(0, 66),
        files.xattrs(0, limits.MAX_XATTRS + 1),
        files.read(0, 68, 0, 0, 100),
    ):
        with pytest.raises((errors.WorkerLied, errors.Quarantined)):
            await call
    assert len(events.named(log.WORKER_LIED)) >= 4


async def test_numbers_and_links_that_are_none_cost_themselves(stage, events) -> None:
    files = (await stage.open()).files
    attr = await files.stat(0, 1 << 40)
    assert (attr.size, attr.inum) == (0, 1 << 40)
    assert "size" in attr.damaged
    attr = await files.stat(0, (1 << 40) + 1)
    assert attr.uid == 0
    assert "owner" in attr.damaged
    with pytest.raises(errors.Malformed, match="a link to 4097 bytes"):
        await files.link(0, limits.MAX_LINK + 1)
    assert not events.named(log.WORKER_LIED)


@pytest.mark.parametrize("call", ["stat 9", "stat 10", "link 2"])
async def test_a_worker_that_sends_them_all_the_same_is_ended(stage, events, call: str) -> None:
    files = (await stage.open("rawlie")).files
    verb, number = call.split()
    with pytest.raises(errors.WorkerLied):
        await getattr(files, verb)(0, int(number))
    assert events.named(log.WORKER_LIED)


@pytest.mark.parametrize("lie", range(1, 9))
async def test_malformed_frames_are_errors_and_never_answers(stage, lie: int) -> None:
    files = (await stage.open("rawlie")).files
    with pytest.raises((errors.WorkerLied, errors.WorkerDied)):
        await files.stat(0, lie)
    assert (await files.list(0, 1, 0, 5)).entries


async def test_a_flood_is_cut_off(stage) -> None:
    files = (await stage.open("rawlie")).files
    with pytest.raises(errors.WorkerLied):
        await files.link(0, 1)
    assert (await files.list(0, 1, 0, 5)).entries


@pytest.mark.parametrize("how", [1, 2, 3, 4])
async def test_reads_outside_a_ticket_end_the_worker(stage, how: int) -> None:
    source = Memory(b"BAD!".ljust(16, b"\0") + BODY)  # nothing to donate: reads go through the socket
    files = (await stage.open("rawlie", source=source)).files
    with pytest.raises(errors.WorkerLied):
        await files.xattrs(0, how)


async def test_a_request_that_kills_twice_is_refused_after_that(stage) -> None:
    files = (await stage.open("rawlie")).files
    with pytest.raises((errors.WorkerLied, errors.WorkerDied)):
        await files.stat(0, 1)
    with pytest.raises(errors.Poisoned):
        await files.stat(0, 1)


async def test_five_culprits_in_ten_minutes_quarantine_and_four_do_not(tmp_path, events) -> None:
    async with staged(tmp_path) as stage:
        files = (await stage.open("rawlie")).files
        for lie in (1, 2, 3, 4):
            with pytest.raises(errors.WorkerError):
                await files.stat(0, lie)
        assert files.state is State.DEAD
        assert (await files.list(0, 1, 0, 5)).entries
        with pytest.raises(errors.WorkerError):
            await files.stat(0, 5)
        assert files.state is State.QUARANTINED
        with pytest.raises(errors.Quarantined):
            await files.list(0, 1, 0, 5)
        assert len(events.named(log.WORKER_QUARANTINED)) == 1


async def test_culprits_are_forgotten_after_ten_minutes(stage, mock_clock) -> None:
    files = (await stage.open("rawlie")).files
    for lie in (1, 2, 3, 4):
        with pytest.raises(errors.WorkerError):
            await files.stat(0, lie)
    mock_clock.jump(limits.POISON_WINDOW + 1)
    for lie in (5, 6, 7, 8):
        with pytest.raises(errors.WorkerError):
            await files.stat(0, lie)
    assert files.state is not State.QUARANTINED


async def test_openings_that_die_back_off_by_doubling(stage, mock_clock) -> None:
    data = bytearray(b"BAD!".ljust(16, b"\0") + BODY)
    files = (await stage.open(source=Memory(memoryview(data)))).files
    files._worker._retire()
    data[4:9] = b"abort"
    delay = 0.0
    for attempt in range(10):
        with pytest.raises(errors.WorkerDied):
            await files.stat(0, attempt)
        starts = stage.supervisor.starts
        for _ in range(20):
            with pytest.raises(errors.WorkerDied, match="the next is started"):
                await files.stat(0, attempt)
        assert stage.supervisor.starts == starts, "nothing is started before the time has passed"
        left = files._worker._not_before - trio.current_time()
        assert left > delay - 1e-6
        delay = left
        mock_clock.jump(left + 1e-6)
    assert delay == pytest.approx(limits.BACK_OFF_MAX)
    data[4:9] = bytes(5)
    assert (await files.stat(0, 500)).size == value(500)


async def test_idle_workers_are_retired_and_come_back(stage, mock_clock) -> None:
    files = (await stage.open()).files
    mock_clock.jump(limits.IDLE_WORKER / 2)
    await trio.testing.wait_all_tasks_blocked()
    assert files.state is State.READY
    mock_clock.jump(limits.IDLE_WORKER)
    await trio.testing.wait_all_tasks_blocked()
    assert files.state is State.COLD
    assert stage.supervisor.statistics().live == 0
    assert (await files.stat(0, 500)).size == value(500)


async def test_more_than_the_limit_of_workers_retires_the_oldest(stage, monkeypatch) -> None:
    monkeypatch.setattr(limits, "LIVE_WORKERS", 3)
    source = stage.source(b"BAD!")
    layers = [await stage.open(source=source) for _ in range(6)]
    assert stage.supervisor.statistics().live == 3
    for layer in layers:
        assert (await layer.files.stat(0, 7)).size == value(7)
    assert stage.supervisor.statistics().live == 3


async def test_a_killed_template_is_replaced_and_blames_nobody(stage) -> None:
    files = (await stage.open()).files
    for n in range(3):
        template = await stage.supervisor.template()
        os.kill(template.pid, signal.SIGKILL)
        while not template.dead:  # noqa: ASYNC110  # seen by a task that offers no event
            await trio.sleep(0.001)
        assert (await files.stat(0, n)).size == value(n)
        assert not files.statistics()[0].poisoned
    assert stage.supervisor.statistics().templates == 4


async def test_sources_through_the_block_socket_give_the_same_bytes(stage) -> None:
    data = b"BAD!".ljust(16, b"\0") + BODY
    files = (await stage.open(source=Memory(data))).files
    seeded = random.Random(1)
    for _ in range(50):
        at = seeded.randrange(len(data))
        count = min(seeded.choice((1, 100, 5000, 70_000)), len(data) - at)
        assert await files.read(0, 67, 0, at, count) == data[at : at + count]


async def test_a_unit_table_arrives_sealed_and_a_mapped_one_is_a_lie(stage) -> None:
    layer = await stage.open("badmedia", b"tab!")
    assert isinstance(layer.opened, Media)
    assert layer.table is not None
    assert layer.table.cast("I")[12345] == 12345
    assert len(layer.table) == 4 << 20
    with pytest.raises(errors.WorkerLied, match="mapped"):
        await stage.open("badmedia", b"mapd")
    with pytest.raises(errors.WorkerLied):
        await stage.open("badmedia", b"lay!")


async def test_foreign_media_are_read_through_their_worker(stage) -> None:
    layer = await stage.open("badforeign")
    data = bytes(b ^ 0xFF for b in b"BAD!".ljust(16, b"\0") + BODY)
    assert await layer.foreign(3, 1000) == data[3:1003]
    os.kill(next(iter(stage.supervisor.live))._process.pid, signal.SIGKILL)
    assert await layer.foreign(90_000, 99) == data[90_000:90_099]
    await layer.aclose()


async def test_a_cancelled_call_leaves_no_stale_reply(stage) -> None:
    files = (await stage.open()).files
    with trio.move_on_after(0.05):
        await files.list(0, bad.HANG, bad.POISON, 1)
    assert (await files.stat(0, 9)).size == value(9)


async def test_a_busy_caller_does_not_starve_others(stage) -> None:
    from imgfs.worker.turns import CALLER

    files = (await stage.open()).files
    order: list[int] = []

    async def ask(caller: int) -> None:
        CALLER.set(caller)
        await files.list(0, 1, 0, 100)
        order.append(caller)

    await files._worker._turns.take()
    async with trio.open_nursery() as nursery:
        for caller in (1, 1, 1, 1, 1, 2):
            nursery.start_soon(ask, caller)
            await trio.testing.wait_all_tasks_blocked()
        files._worker._turns.give()
    assert order.index(2) <= 1


async def test_nothing_is_left_behind(tmp_path) -> None:
    async with staged(tmp_path):
        pass
    before, born = descriptors(), children()
    async with staged(tmp_path) as stage:
        files = (await stage.open()).files
        for _ in range(20):
            with pytest.raises(errors.WorkerDied):
                await stage.open(how=b"BAD!abort")
        layer = await stage.open("badmedia", b"tab!")
        assert (await files.stat(0, 1)).size == value(1)
        del layer
    assert descriptors() == before
    assert children() == born


@pytest.mark.timeout(120)
async def test_a_thousand_kills_give_no_wrong_answer(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "BACK_OFF_MAX", 0.001)
    async with staged(tmp_path) as stage:
        source = stage.source(b"BAD!")

        async def opened():
            while True:
                try:
                    return (await stage.open(source=source)).files
                except errors.WorkerError:
                    await trio.lowlevel.checkpoint()

        clients = [await opened() for _ in range(2)]
        seeded = random.Random(7)
        kills = answers = failures = 0

        async def reader(index: int) -> None:
            nonlocal answers, failures
            n = index
            while kills < 1000:
                n = (n + 1) % 300
                try:
                    assert (await clients[index].stat(0, n)).size == value(n)
                    answers += 1
                except errors.WorkerError as why:
                    failures += 1
                    await trio.sleep(0.001)
                    if isinstance(why, errors.Quarantined):  # two kills in one request, five times
                        clients[index] = await opened()

        async with trio.open_nursery() as nursery:
            for index in range(2):
                nursery.start_soon(reader, index)
            while kills < 1000:
                live = [w._process for w in stage.supervisor.live if w._process is not None]
                if live:
                    seeded.choice(live).kill()
                    kills += 1
                await trio.sleep(seeded.random() * 0.016)
        assert answers > 1000
        assert failures < answers
        assert (await (await opened()).stat(0, 3)).size == value(3)


async def test_damage_of_a_source_reaches_the_back_end_and_spares_its_neighbours(nursery) -> None:
    data = b"BAD!".ljust(16, b"\0") + BODY
    faulty = FaultyFetcher(
        Fetcher(nursery), [(70_000, 70_001, errors.LostBytes("gone", start=70_000, stop=70_001))]
    )
    async with open_supervisor(faulty, extra_backends="tests.worker.bad:BACKENDS") as supervisor:
        layer = await open_layer(supervisor, "bad", [Memory(data)], [""], Options(), "img|bad")
        with pytest.raises(errors.LostBytes) as why:
            await layer.files.read(0, 67, 0, 69_000, 2_000)
        assert (why.value.start, why.value.stop) == (70_000, 70_001)
        assert await layer.files.read(0, 67, 0, 69_000, 1_000) == data[69_000:70_000]
        assert await layer.files.read(0, 67, 0, 70_001, 500) == data[70_001:70_501]


async def test_small_reads_through_the_socket_share_trips(nursery) -> None:
    data = b"BAD!".ljust(16, b"\0") + BODY
    counted = FaultyFetcher(Fetcher(nursery))
    async with open_supervisor(counted, extra_backends="tests.worker.bad:BACKENDS") as supervisor:
        layer = await open_layer(supervisor, "bad", [Memory(data)], [""], Options(), "img|bad")
        for at in range(0, 60_000, 600):
            await layer.files.read(0, 67, 0, at, 600)
        assert len(counted.asked) == 2, "one block for opening, one for the second worker"
