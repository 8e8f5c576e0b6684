"""Making an index: parts come in order; a worker that crashes, lies or stalls ends it."""

from __future__ import annotations

import pytest
import trio

from imgfs import limits
from imgfs.errors import Malformed, NotSupported, WorkerDied, WorkerError, WorkerLied, WorkerTimeout
from tests.worker.conftest import Stage, children

pytestmark = [pytest.mark.slow, pytest.mark.trio]


async def build(stage: Stage, how: bytes, write=None) -> tuple[bytes, list[int]]:
    layer = await stage.open("badindex", b"BAD!" + how)
    assert layer.index is not None
    out, seen = bytearray(), []

    async def append(data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        out.extend(data)

    try:
        await layer.index.build(write or append, seen.append)
    finally:
        await layer.index.aclose()
    return bytes(out), seen


async def test_parts_come_in_order_whoever_makes_them(stage) -> None:
    out, seen = await build(stage, b"x")
    assert out == b"".join(b"%d.%d " % (part, step) for part in range(4) for step in range(3))
    assert seen == sorted(seen)
    assert seen[-1] == 1000
    assert not stage.supervisor.live


@pytest.mark.parametrize(
    "how,error", [(b"c", WorkerError), (b"b", WorkerLied), (b"f", WorkerLied), (b"l", WorkerLied)]
)
async def test_a_worker_that_fails_ends_it(stage, how, error) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await build(stage, how)
    assert caught.group_contains(error)
    assert not stage.supervisor.live


async def test_what_the_back_end_says_is_passed_on(stage) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await build(stage, b"m")
    assert caught.group_contains(Malformed, match="nothing to see")


async def test_no_progress_ends_it(stage, monkeypatch) -> None:
    monkeypatch.setitem(limits.DEADLINE, "index", 0.3)
    with pytest.raises(BaseExceptionGroup) as caught:
        await build(stage, b"s")
    assert caught.group_contains(WorkerTimeout)


async def test_parts_that_wait_are_bounded_and_so_is_what_is_written(stage) -> None:
    written = 0

    async def full(data: bytes) -> None:
        nonlocal written
        written += len(data)
        await trio.lowlevel.checkpoint()
        if written > 100 * limits.MIB:
            raise NotSupported("full")

    with pytest.raises(BaseExceptionGroup) as caught:
        await build(stage, b"e", full)
    assert caught.group_contains((NotSupported, WorkerLied))
    assert not stage.supervisor.live
    assert children()  # the template lives


async def test_a_worker_that_dies_is_told(stage) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        await build(stage, b"c")
    assert caught.group_contains((WorkerDied, Malformed))
