"""Laws of fetching: exactly the planned bytes or an error, whatever is cached, coded or nested."""

from __future__ import annotations

import os
import random
import zlib
from array import array
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from imgfs import limits
from imgfs.block.build import build
from imgfs.block.extents import ExtentMap
from imgfs.block.fetch import open_fetcher
from imgfs.block.foreign import ForeignSource
from imgfs.block.hostfile import HostFile
from imgfs.block.memory import Memory
from imgfs.block.readahead import Readahead
from imgfs.errors import BadUnit, LostBytes, MediaChanged, Truncated
from imgfs.model import CODED, Chunked, Codec, Linear, Packed
from tests.block.stacks import UNKNOWN, stack

if TYPE_CHECKING:
    from collections.abc import Callable


def image(folder, data: bytes, name: str = "image") -> HostFile:
    path = folder / name
    path.write_bytes(data)
    return HostFile.open(path)


def drop(file: HostFile) -> None:
    os.fsync(file.fd)
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)


def packed(
    contents: list[bytes],
    unit: int,
    name: str = "ewf",
    encode: Callable[[bytes], bytes] = zlib.compress,
) -> tuple[bytes, Chunked]:
    stored, table = b"", array("I")
    for content in contents:
        table.append(CODED | len(stored))
        stored += encode(content)
    zero, end = array("q", [0]).tobytes(), array("q", [len(stored)]).tobytes()
    size = sum(map(len, contents))
    codec = Codec(name)
    return stored, Chunked(
        size=size, unit=unit, codec=codec, table=table.tobytes(), first=zero, base=zero, ends=end
    )


def placed(contents: list[bytes], unit: int, order: list[int], gap: int) -> tuple[bytes, Packed]:
    """Store units in an order of their own, with gaps; lengths are rounded up, so that they overlap."""
    stored = bytearray()
    rows = array("Q", bytes(16 * len(contents)))
    for index in order:
        stream = zlib.compressobj(wbits=-12)
        data = stream.compress(contents[index]) + stream.flush()
        rows[2 * index] = len(stored)
        rows[2 * index + 1] = len(data) + 511 | 1 << 32
        stored += data + bytes(gap)
    stored += bytes(512)
    codec = Codec("deflate")
    return bytes(stored), Packed(size=sum(map(len, contents)), unit=unit, codec=codec, table=rows.tobytes())


def units(count: int = 100, unit: int = 32768) -> list[bytes]:
    rng = random.Random(3)
    return [rng.randbytes(unit // 4) * 4 for _ in range(count)]


async def fetched(fetcher, source, start: int, stop: int) -> bytes:
    try:
        return bytes(fetcher.fetch_nowait(source, start, stop))
    except trio.WouldBlock:
        return bytes(await fetcher.fetch(source, start, stop))


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.trio
async def test_any_stack_is_fetched_as_the_model_or_lost(seed) -> None:
    rng = random.Random(seed)
    async with open_fetcher(cache_bytes=4000) as fetcher:
        for content in stack(rng):
            size = len(content.model)
            for _ in range(5):
                start, stop = sorted((rng.randint(0, size), rng.randint(0, size)))
                expected = content.model[start:stop]
                if UNKNOWN in expected:
                    with pytest.raises(LostBytes):
                        await fetched(fetcher, content.source, start, stop)
                else:
                    assert await fetched(fetcher, content.source, start, stop) == bytes(expected)
                fetcher.debug_check()


@pytest.mark.trio
async def test_lost_ranges_are_zeros_and_counted_when_asked(tmp_path) -> None:
    source = build([Linear.of(30, [(10, 10, 0)])], [Memory(b"0123456789")], "test")
    async with open_fetcher(lost_zero=True) as fetcher:
        assert bytes(fetcher.fetch_nowait(source, 0, 30)) == bytes(10) + b"0123456789" + bytes(10)
        assert fetcher.statistics().lost_bytes == 20


@pytest.mark.trio
async def test_lost_bytes_of_a_coded_unit_are_an_error_even_then() -> None:
    stored, claim = packed([b"abcd" * 100], 400)
    cut = build([Linear.of(len(stored), [(0, len(stored) - 1, 0)])], [Memory(stored)], "cut")
    source = build([claim], [cut], "test")
    async with open_fetcher(lost_zero=True) as fetcher:
        with pytest.raises(LostBytes):
            await fetcher.fetch(source, 0, 1)


@pytest.mark.trio
async def test_stored_bytes_cold_and_warm_are_those_of_the_file(tmp_path) -> None:
    data = random.Random(1).randbytes(3 << 20)
    file = image(tmp_path, data)
    source = ExtentMap.window(file, 100, len(data) - 100)
    async with open_fetcher() as fetcher:
        drop(file)
        for start in range(0, source.size, 300_000):
            stop = min(start + 300_000, source.size)
            assert await fetched(fetcher, source, start, stop) == data[100 + start : 100 + stop]
        assert bytes(fetcher.fetch_nowait(source, 5, 4101)) == data[105:4201]
        assert fetcher.statistics().cache.blocks == 0, "INV-7"
    file.close()


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.trio
async def test_neighbouring_units_share_trips_to_the_pool(tmp_path, cold) -> None:
    contents = units()
    stored, claim = packed(contents, 32768)
    file = image(tmp_path, stored)
    source = build([claim], [file], "test")
    async with open_fetcher() as fetcher:
        if cold:
            drop(file)
        assert bytes(await fetcher.fetch(source, 1, source.size)) == b"".join(contents)[1:]
        counted = fetcher.statistics()
        assert counted.decoded_units == 100
        assert counted.pool_trips <= 3 * 5
        assert bytes(fetcher.fetch_nowait(source, 40_000, 200_000)) == b"".join(contents)[40_000:200_000]
    file.close()


@pytest.mark.trio
async def test_reading_on_decodes_every_unit_once_and_in_strips(tmp_path) -> None:
    contents = units(200)
    stored, claim = packed(contents, 32768)
    file = image(tmp_path, stored)
    source = build([claim], [file], "test")
    ahead = Readahead()
    async with open_fetcher() as fetcher:
        out = bytearray()
        for start in range(0, source.size, 131072):
            stop = min(start + 131072, source.size)
            if more := ahead.observe(start, stop):
                fetcher.prefetch(source, *more)
            out += await fetched(fetcher, source, start, stop)
        assert out == b"".join(contents)
        counted = fetcher.statistics()
        assert counted.decoded_units <= len(contents) + 32, "what was read before the strip that holds it"
        assert counted.strips.misses == 7
        assert counted.strips.blocks == 0, "the kernel keeps what was read whole"
    file.close()


@pytest.mark.trio
async def test_a_strip_is_kept_until_each_of_its_pages_was_given(tmp_path) -> None:
    contents = units(64)
    stored, claim = packed(contents, 32768)
    file = image(tmp_path, stored)
    source = build([claim], [file], "test")
    async with open_fetcher() as fetcher:
        for _ in range(5):  # the same bytes again and again, more than there are
            await fetched(fetcher, source, 1000, 900_000)
        assert fetcher.statistics().strips.blocks == 1
        await fetched(fetcher, source, 900_000, 1_000_000)
        await fetched(fetcher, source, 983_040, 1 << 20)
        assert fetcher.statistics().strips.blocks == 1, "the first page was not given whole"
        await fetched(fetcher, source, 0, 5000)
        assert fetcher.statistics().strips.blocks == 1, "nor that in which two reads met"
        await fetched(fetcher, source, 895_000, 905_000)
        assert fetcher.statistics().strips.blocks == 0
        assert fetcher.statistics().strips.misses == 1
    file.close()


@pytest.mark.parametrize("gap", [0, 3000, 60_000])
@pytest.mark.trio
async def test_units_in_any_order_are_read_in_strips_where_they_are_near(gap, tmp_path) -> None:
    contents = units(200)
    order = [start + step for start in range(0, 200, 4) for step in (2, 0, 3, 1)]
    stored, claim = placed(contents, 32768, order, gap)
    file = image(tmp_path, stored)
    source = build([claim], [file], "test")
    strips = 193 if gap == 60_000 else 7  # the last strip is short, and so is what lies between its units
    assert len(source.plan(0, source.size)) == strips
    async with open_fetcher() as fetcher:
        for start in range(0, source.size, 1 << 20):
            stop = min(start + (1 << 20), source.size)
            assert await fetched(fetcher, source, start, stop) == b"".join(contents)[start:stop]
        assert fetcher.statistics().decoded_units == 200
        fetcher.debug_check()
    damaged = bytearray(stored)
    row = array("Q", claim.table)[2 * 40]
    damaged[row + 100 : row + 2000] = bytes(1900)
    bad = image(tmp_path, bytes(damaged))
    source = build([claim], [bad], "test")
    async with open_fetcher() as fetcher:
        with pytest.raises(BadUnit) as failed:
            await fetcher.fetch(source, 0, source.size)
        assert (failed.value.start, failed.value.stop) == (40 * 32768, 41 * 32768)
        assert bytes(await fetcher.fetch(source, 0, 40 * 32768)) == b"".join(contents[:40])
    file.close()
    bad.close()


@pytest.mark.trio
async def test_jumping_decodes_single_units_and_leaves_strips_alone(tmp_path) -> None:
    contents = units(128)
    stored, claim = packed(contents, 32768)
    file = image(tmp_path, stored)
    source = build([claim], [file], "test")
    async with open_fetcher() as fetcher:
        for number in range(0, 128, 5):
            start = number * 32768 + 4096
            assert await fetched(fetcher, source, start, start + 4096) == contents[number][4096:8192]
        counted = fetcher.statistics()
        assert (counted.decoded_units, counted.strips.misses) == (26, 0)
        await fetcher.fetch(source, 0, source.size)  # strips decode what the units of them already were
        start = 5 * 32768
        assert bytes(fetcher.fetch_nowait(source, start, start + 10)) == contents[5][:10]
        fetcher.debug_check()
    file.close()


@pytest.mark.trio
async def test_a_bad_unit_costs_its_strip_nothing_else(tmp_path) -> None:
    contents = units(64)
    stored, claim = packed(contents, 32768)
    table = array("I")
    table.frombytes(claim.table)
    damaged = bytearray(stored)
    damaged[(table[40] - CODED) + 100] ^= 255
    file = image(tmp_path, bytes(damaged))
    source = build([claim], [file], "test")
    async with open_fetcher() as fetcher:
        with pytest.raises(BadUnit) as failed:
            await fetcher.fetch(source, 0, source.size)
        assert (failed.value.start, failed.value.stop) == (40 * 32768, 41 * 32768)
        assert bytes(await fetcher.fetch(source, 0, 40 * 32768)) == b"".join(contents[:40])
        assert bytes(await fetcher.fetch(source, 41 * 32768, source.size)) == b"".join(contents[41:])
    file.close()


@pytest.mark.trio
async def test_one_small_unit_at_hand_is_decoded_without_a_hop(tmp_path) -> None:
    contents = units(3)
    stored, claim = packed(contents, 32768)
    file = image(tmp_path, stored)
    source = build([claim], [file], "test")
    async with open_fetcher() as fetcher:
        assert bytes(await fetcher.fetch(source, 32770, 32780)) == contents[1][2:12]
        assert fetcher.statistics().pool_trips == 0
        assert fetcher.statistics().inline_units == 1
    file.close()


@pytest.mark.trio
async def test_prefetch_brings_units_and_never_raises(tmp_path) -> None:
    contents = units(20)
    stored, claim = packed(contents, 32768)
    damaged = bytearray(stored)
    damaged[len(stored) // 2] ^= 255
    file = image(tmp_path, bytes(damaged))
    source = build([claim], [file], "test")
    async with open_fetcher() as fetcher:
        fetcher.prefetch(source, -5, source.size * 2)
        fetcher.prefetch(source, source.size, source.size + 1)
        good = bad = 0
        for number, content in enumerate(contents):
            start = number * 32768
            try:
                assert await fetched(fetcher, source, start, start + 32768) == content
                good += 1
            except BadUnit:
                bad += 1
        assert (good, bad) == (19, 1)
        fetcher.debug_check()
    file.close()


@pytest.mark.trio
async def test_foreign_bytes_come_from_their_reader_once() -> None:
    data = random.Random(2).randbytes(1000)
    calls = []

    async def read(offset: int, length: int) -> bytes:
        calls.append(offset)
        await trio.lowlevel.checkpoint()
        return data[offset : offset + length]

    source = ForeignSource(1000, read, unit=300)
    async with open_fetcher() as fetcher, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(fetched, fetcher, source, 250, 350)
        await trio.testing.wait_all_tasks_blocked()
        assert await fetched(fetcher, source, 0, 1000) == data
        assert sorted(calls) == [0, 300, 600, 900]


@pytest.mark.trio
async def test_a_worker_that_sends_too_little_is_an_error() -> None:
    async def read(_offset: int, _length: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return b"short"

    async with open_fetcher() as fetcher:
        with pytest.raises(BadUnit, match="5 bytes"):
            await fetcher.fetch(ForeignSource(100, read), 0, 10)


@pytest.mark.trio
async def test_a_host_file_that_shrinks_is_an_error_and_not_zeros(tmp_path) -> None:
    file = image(tmp_path, bytes(100_000))
    async with open_fetcher() as fetcher:
        os.truncate(tmp_path / "image", 50_000)
        with pytest.raises(Truncated):
            await fetched(fetcher, file, 40_000, 60_000)
        with pytest.raises(MediaChanged):
            file.check(now=True)
        with pytest.raises(MediaChanged):
            await fetched(fetcher, file, 0, 10)
    file.close()


@pytest.mark.trio
async def test_a_cancelled_reader_leaves_the_unit_to_the_others(tmp_path) -> None:
    started, release = trio.Event(), trio.Event()

    async def read(_offset: int, length: int) -> bytes:
        started.set()
        await release.wait()
        return bytes(length)

    source = ForeignSource(10, read)
    got = []
    async with open_fetcher() as fetcher, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await fetcher.fetch(source, 0, 10)

        async def other() -> None:
            got.append(bytes(await fetcher.fetch(source, 0, 10)))

        nursery.start_soon(cancelled)
        await started.wait()
        nursery.start_soon(other)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        release.set()
    assert got == [bytes(10)]


def test_a_unit_larger_than_a_batch_is_one_batch_of_its_own(tmp_path) -> None:
    from imgfs.block.batches import batches, span

    big = limits.BATCH_BYTES + 1000
    contents = [random.Random(4).randbytes(big) for _ in range(2)]
    stored, claim = packed(contents, big)
    file = image(tmp_path, stored)
    source = build([claim], [file], "test")
    groups = list(batches(piece.unit for piece in source.plan(0, source.size)))
    assert [len(group) for group in groups] == [1, 1]
    assert span(groups[0]).stop == span(groups[1]).start
    file.close()
