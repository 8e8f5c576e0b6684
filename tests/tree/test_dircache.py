"""The cache of listings: bounded by bytes, and its estimate of them near what the interpreter takes."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from imgfs.model import Attr, Entry, Inline, Kind, Linear, Page
from imgfs.tree.dircache import DirCache
from imgfs.worker import wire


def page(number: int, count: int, *, layout: bool, inline: int = 0) -> Page:
    entries = []
    for n in range(count):
        inum = number * 100_000 + n
        attr = Attr(
            kind=Kind.REG,
            inum=inum,
            size=inum * 3,
            allocated=8192 + inum,
            m_ns=10**18 + inum,
            a_ns=10**18 + 2 * inum,
            c_ns=10**18 + 3 * inum,
            b_ns=10**18 + 4 * inum,
        )
        held = (Linear.of(inum * 3, [(0, inum * 3 + 1, inum * 4096)]),) if layout else None
        if inline:
            held = (Inline(data=bytes([n % 256]) * inline),)
        entries.append(Entry(b"report_%08d.docx" % inum, attr, layout=held))
    return wire.decode_page(wire.encode(Page(entries=entries)))


def loader(found: Page):
    async def load(_cursor: int) -> Page:
        return found

    return load


@pytest.mark.parametrize(("layout", "inline"), [(False, 0), (True, 0), (True, 700)])
@pytest.mark.trio
async def test_the_estimate_is_near_what_the_interpreter_takes(layout, inline) -> None:
    cache = DirCache()
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(1, 21):
            await cache.get((1, 0, number), loader(page(number, 500, layout=layout, inline=inline))).grow()
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.85 * taken < cache.statistics().used < 1.2 * taken


@pytest.mark.trio
async def test_what_is_over_the_capacity_is_the_oldest_and_goes_with_its_entries() -> None:
    cache = DirCache(capacity=1 << 20)
    for number in range(1, 41):
        listing = cache.get((1, 0, number), loader(page(number, 100, layout=True)))
        await listing.at_least(100)
        assert len(listing.rows) == 100
        assert cache.statistics().used <= 1 << 20
    assert cache.entry(1, 0, 40 * 100_000, 0) is not None
    assert cache.entry(1, 0, 1 * 100_000, 0) is None
    statistics = cache.statistics()
    assert statistics.entries % 100 == 0
    assert 0 < statistics.entries < 40 * 100


@pytest.mark.trio
async def test_one_listing_larger_than_the_capacity_is_served_whole() -> None:
    cache = DirCache(capacity=1000)
    listing = cache.get((1, 0, 1), loader(page(1, 500, layout=False)))
    await listing.at_least(500)
    assert await listing.find(b"report_00100499.docx") is not None
