"""Laws of the ring: what it says is whole is what the file holds; else it says nothing."""

from __future__ import annotations

import os
import random

import pytest
import trio

from imgfs.block import uring
from imgfs.block.fetch import open_fetcher
from imgfs.block.hostfile import HostFile
from imgfs.block.uring import Ring
from imgfs.errors import Truncated

SIZE = 8 << 20


@pytest.fixture
def ring():
    found = Ring.open()
    if found is None:
        pytest.skip("this kernel gives no ring")
    return found


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    file = HostFile.open(path)
    os.fsync(file.fd)
    yield file
    file.close()


def drop(file: HostFile) -> None:
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.trio
async def test_what_is_whole_is_what_the_file_holds(ring, file, seed) -> None:
    rng = random.Random(seed)
    truth = file.read(0, SIZE)
    drop(file)
    whole: list[bool] = []

    async def reader(count: int) -> None:
        for _ in range(20):
            wanted = []
            for _ in range(count):
                length = rng.randint(1, 70_000)
                wanted.append((file, rng.randint(0, SIZE - length), memoryview(bytearray(length))))
            whole.append(await ring.read(wanted))
            if whole[-1]:
                for _, offset, buffer in wanted:
                    assert buffer == truth[offset : offset + len(buffer)]

    async with trio.open_nursery() as listening:
        listening.start_soon(ring.listen)
        async with trio.open_nursery() as nursery:
            for count in (1, 1, 1, 2, 5, 30):
                nursery.start_soon(reader, count)
        assert all(whole)
        listening.cancel_scope.cancel()


@pytest.mark.trio
async def test_what_is_not_whole_is_read_again_by_the_pool_which_knows_why(file) -> None:
    os.truncate(file.path, SIZE // 2)
    async with open_fetcher() as fetcher:
        with pytest.raises(Truncated):
            await fetcher.fetch(file, SIZE // 2 - 100, SIZE // 2 + 100)
        assert fetcher.statistics().pool_trips


@pytest.mark.trio
async def test_more_than_the_ring_holds_goes_elsewhere(ring, file) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ring.listen)
        wanted = [(file, n, memoryview(bytearray(1))) for n in range(uring._ENTRIES + 1)]
        assert not await ring.read(wanted)
        assert await ring.read(wanted[:-1])
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_reader_that_gives_up_harms_nobody(ring, file) -> None:
    truth = file.read(0, SIZE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ring.listen)
        for turn in range(50):
            drop(file)
            with trio.CancelScope() as scope:
                scope.cancel()
                await ring.read([(file, turn * 5000, memoryview(bytearray(5000)))])
            buffer = memoryview(bytearray(5000))
            assert await ring.read([(file, turn * 9000, buffer)])
            assert buffer == truth[turn * 9000 : turn * 9000 + 5000]
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_without_a_ring_the_pool_reads(file, monkeypatch) -> None:
    truth = file.read(1 << 20, 4096)
    drop(file)
    monkeypatch.setattr(Ring, "open", classmethod(lambda _cls: None))
    async with open_fetcher() as fetcher:
        assert await fetcher.fetch(file, 1 << 20, (1 << 20) + 4096) == truth
        assert fetcher.statistics().pool_trips == 1
