"""Times planning, fetching and inflating.

E01 figures are compared with the least that can be done: the same table, one pread of a megabyte of
neighbouring chunks at a time, inflated in as many threads as there are processors.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from bench.micro.record import Record
from imgfs.backends import Options
from imgfs.backends.ewf import open_ewf
from imgfs.block.batches import batches, decode_strip, span
from imgfs.block.build import build
from imgfs.block.chunks import ChunkMap
from imgfs.block.extents import ExtentMap
from imgfs.block.fetch import Fetcher, open_fetcher
from imgfs.block.hostfile import HostFile
from imgfs.block.readahead import Readahead
from imgfs.model import Linear
from imgfs.testing.fakes import FileReader

if TYPE_CHECKING:
    from imgfs.block.pieces import ByteSource

REQUEST = 128 << 10


def plans(record: Record, folder: Path) -> None:
    path = folder / "sparse"
    with path.open("wb") as out:
        out.truncate(1 << 40)
    file = HostFile.open(path)
    volume = ExtentMap.window(file, 1 << 20, 1 << 39)
    one = build([Linear.of(1 << 30, [(0, 1 << 30, 4096)])], [volume], "one")
    record.each("plan, one run", lambda: one.plan(1 << 20, (1 << 20) + REQUEST), 20_000)
    rng = random.Random(1)
    for count in (10, 1000, 100_000):
        rows = [(i * 4096, 4096, rng.randrange(1 << 20) * 8192) for i in range(count)]
        claim = Linear.of(count * 4096, rows)
        record.each(f"build and compose {count} runs", lambda c=claim: build([c], [volume], "many"), 3)
        many = build([claim], [volume], "many")
        half = count // 2 * 4096
        record.each(f"plan 4 KiB in {count} runs", lambda m=many, h=half: m.plan(h, h + 4096), 20_000)
    record.each(
        "plan 128 KiB in 100,000 runs (33 pieces)",
        lambda: many.plan((1 << 27) + 1, (1 << 27) + REQUEST),
        2000,
    )
    file.close()


async def hits(record: Record, folder: Path) -> None:
    path = folder / "warm"
    path.write_bytes(os.urandom(4 << 20))
    file = HostFile.open(path)
    volume = ExtentMap.window(file, 4096, 4 << 20)
    async with open_fetcher() as fetcher:
        for size in (4096, REQUEST, 1 << 20):
            record.each(
                f"fetch hit, verbatim, {size >> 10} KiB",
                lambda n=size: fetcher.fetch_nowait(volume, 8192, 8192 + n),
                5000,
            )
    file.close()


def make_ewf(folder: Path, mib: int) -> Path:
    rng = random.Random(1)
    raw = folder / "media.raw"
    with raw.open("wb") as out:
        for _ in range(mib):
            text = b"".join(
                b"%08d some line of a log, level=info\n" % rng.randrange(10**7) for _ in range(15_000)
            )
            out.write((text[: 650 << 10] + rng.randbytes(1 << 20))[: 1 << 20])
    command = [
        "ewfacquire",
        "-u",
        "-q",
        "-f",
        "encase6",
        "-c",
        "fast",
        "-t",
        str(folder / "image"),
        "-S",
        "8 GiB",
    ]
    subprocess.run([*command, str(raw)], check=True, capture_output=True)
    raw.unlink()
    return folder / "image.E01"


def drop(file: HostFile) -> None:
    os.fsync(file.fd)
    os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)


def baseline(source: ChunkMap, *, keep: bool) -> float:
    """Inflate everything with as many threads as processors, and nothing else.

    ``keep``: hold the results, as a cache must: fresh memory costs about as much as inflating.
    """
    kept = []
    begin = time.perf_counter()

    def job(start: int) -> int:
        pieces = source.units(start, min(start + (1 << 20), source.size))
        total = 0
        for batch in batches(piece.unit for piece in pieces):
            place = span(batch)
            blocks = place.decode(memoryview(place.file.read(place.start, place.stop - place.start)))
            total += sum(map(len, blocks))
            if keep:
                kept.append(blocks)
        return total

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        done = sum(pool.map(job, range(0, source.size, 1 << 20)))
    return done / (time.perf_counter() - begin) / 1e6


async def sequential(source: ByteSource, fetcher: Fetcher) -> float:
    """Read as a kernel reads: 128 KiB at a time, one after the other, with read-ahead."""
    ahead = Readahead()
    done = 0
    begin = time.perf_counter()
    for start in range(0, source.size, REQUEST):
        stop = min(start + REQUEST, source.size)
        if more := ahead.observe(start, stop):
            fetcher.prefetch(source, *more)
        try:
            data = fetcher.fetch_nowait(source, start, stop)
            await trio.lowlevel.checkpoint()  # as a FUSE loop does between requests
        except trio.WouldBlock:
            data = await fetcher.fetch(source, start, stop)
        done += len(data)
    return done / (time.perf_counter() - begin) / 1e6


async def ewf(record: Record, folder: Path, mib: int) -> None:
    path = make_ewf(folder, mib)
    reader = FileReader(path)
    begin = time.perf_counter()
    media = open_ewf(reader, Options())
    record.add(f"open E01 of {mib} MiB", (time.perf_counter() - begin) * 1e3, "ms")
    file = HostFile.open(path)
    source = build(media.layouts, [file], "ewf", table=memoryview(reader.table) if reader.table else None)
    assert isinstance(source, ChunkMap)
    record.each("plan 128 KiB of E01", lambda: source.plan(1 << 20, (1 << 20) + REQUEST), 3000)
    record.each("plan 128 KiB of E01, unit by unit", lambda: source.units(1 << 20, (1 << 20) + REQUEST), 3000)
    strip = next(piece.unit for piece in source.plan(8 << 20, 9 << 20))
    data = memoryview(file.read(strip.stored.offset, strip.stored.length))
    record.each("inflate a batch of 1 MiB, one thread", lambda: decode_strip(strip, data), 100)
    async with open_fetcher() as fetcher:
        await fetcher.fetch(source, 8 << 20, 9 << 20)
        start = 8 << 20
        for size in (4096, REQUEST, 1 << 20):
            record.each(
                f"cache hit, E01, {size >> 10} KiB",
                lambda n=size: fetcher.fetch_nowait(source, start, start + n),
                3000,
            )
    for state in ("cold", "warm"):
        for _ in range(3):
            for label in ("bare loop", "bare loop, results kept", "fetcher"):
                if state == "cold":
                    drop(file)
                if label == "fetcher":
                    async with open_fetcher() as fetcher:
                        rate = await sequential(source, fetcher)
                else:
                    rate = baseline(source, keep=label != "bare loop")
                record.add(f"E01 sequential, {state}, {label}", rate, "MB/s")
    rng = random.Random(2)
    places = [rng.randrange(source.size // 4096) * 4096 for _ in range(2000)]
    for _ in range(3):
        async with open_fetcher(cache_bytes=0) as fetcher:
            begin = time.perf_counter()
            for at in places:
                await fetcher.fetch(source, at, at + 4096)
        rate = len(places) / (time.perf_counter() - begin)
        record.add("E01 random 4 KiB, warm host cache, no block cache", rate, "IOPS")
    file.close()
    reader.close()
