"""Times planning and fetching: ``python bench/micro/block.py [MIB]``. Prints one figure a line.

E01 figures are compared with the least that can be done: the same table, one pread of a megabyte of
neighbouring chunks at a time, inflated in as many threads as there are processors.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from imgfs.backends import Options
from imgfs.backends.ewf import open_ewf
from imgfs.block.batches import batches, span
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


def each(label: str, job, count: int) -> None:
    best = min(_once(job, count) for _ in range(3))
    print(f"{label}: {best * 1e6:.2f} us")


def _once(job, count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        job()
    return (time.perf_counter() - begin) / count


def plans(folder: Path) -> None:
    path = folder / "sparse"
    with path.open("wb") as out:
        out.truncate(1 << 40)
    file = HostFile.open(path)
    volume = ExtentMap.window(file, 1 << 20, 1 << 39)
    one = build([Linear.of(1 << 30, [(0, 1 << 30, 4096)])], [volume], "one")
    each("plan, one run", lambda: one.plan(1 << 20, (1 << 20) + REQUEST), 20_000)
    rng = random.Random(1)
    rows = [(i * 4096, 4096, rng.randrange(1 << 20) * 8192) for i in range(100_000)]
    claim = Linear.of(100_000 * 4096, rows)
    each("build and compose 100,000 runs", lambda: build([claim], [volume], "many"), 3)
    many = build([claim], [volume], "many")
    each("plan 4 KiB in 100,000 runs", lambda: many.plan(1 << 27, (1 << 27) + 4096), 20_000)
    each(
        "plan 128 KiB in 100,000 runs (33 pieces)",
        lambda: many.plan((1 << 27) + 1, (1 << 27) + REQUEST),
        2000,
    )
    file.close()


async def hits(folder: Path) -> None:
    path = folder / "warm"
    path.write_bytes(os.urandom(4 << 20))
    file = HostFile.open(path)
    volume = ExtentMap.window(file, 4096, 4 << 20)
    async with open_fetcher() as fetcher:
        each("fetch_nowait 4 KiB, stored, warm", lambda: fetcher.fetch_nowait(volume, 8192, 12288), 20_000)
        each(
            "fetch_nowait 128 KiB, stored, warm",
            lambda: fetcher.fetch_nowait(volume, 8192, 8192 + REQUEST),
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


async def ewf(folder: Path, mib: int) -> None:
    path = make_ewf(folder, mib)
    reader = FileReader(path)
    begin = time.perf_counter()
    media = open_ewf(reader, Options())
    print(f"open E01 of {mib} MiB: {(time.perf_counter() - begin) * 1e3:.1f} ms")
    file = HostFile.open(path)
    source = build(media.layouts, [file], "ewf", table=memoryview(reader.table) if reader.table else None)
    each("plan 128 KiB of E01", lambda: source.plan(1 << 20, (1 << 20) + REQUEST), 3000)
    for state in ("cold", "warm"):
        figures: dict[str, list[float]] = {"bare": [], "bare, kept": [], "imgfs": []}
        for _ in range(3):
            for label, measured in figures.items():
                if state == "cold":
                    drop(file)
                if label == "imgfs":
                    async with open_fetcher() as fetcher:
                        measured.append(await sequential(source, fetcher))
                        counted = fetcher.statistics()
                else:
                    measured.append(baseline(source, keep=label != "bare"))
        medians = ", ".join(f"{label} {sorted(measured)[1]:.0f}" for label, measured in figures.items())
        print(f"E01 sequential, {state}, MB/s: {medians}")
    print(counted)
    async with open_fetcher(cache_bytes=0) as fetcher:
        rng = random.Random(2)
        places = [rng.randrange(source.size // 4096) * 4096 for _ in range(2000)]
        begin = time.perf_counter()
        for at in places:
            await fetcher.fetch(source, at, at + 4096)
        rate = len(places) / (time.perf_counter() - begin)
        print(f"E01 random 4 KiB, warm host cache, no block cache: {rate:.0f} IOPS")
    file.close()
    reader.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plans(folder)
        trio.run(hits, folder)
        trio.run(ewf, folder, int(sys.argv[1]) if len(sys.argv) > 1 else 256)


if __name__ == "__main__":
    main()
