"""Times of the worker boundary: start, round trip, page, recovery. Run from the root of the repository."""

from __future__ import annotations

import statistics
import tempfile
import time

import trio

from imgfs.backends import Options
from imgfs.block.fetch import Fetcher
from imgfs.block.hostfile import HostFile
from imgfs.worker.client import open_layer
from imgfs.worker.supervisor import open_supervisor


async def main() -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"BAD!".ljust(16, b"\0") + bytes(100_000))
        file.flush()
        source = HostFile.open(file.name)
        async with trio.open_nursery() as nursery:
            async with open_supervisor(
                Fetcher(nursery), extra_backends="tests.worker.bad:BACKENDS"
            ) as supervisor:
                await measure(supervisor, source)
            nursery.cancel_scope.cancel()
        source.close()


async def measure(supervisor, source) -> None:
    async def opened():
        return await open_layer(supervisor, "bad", [source], ["x"], Options(), "x|bad")

    start = time.perf_counter()
    await supervisor.template()
    print(f"template ready: {(time.perf_counter() - start) * 1e3:.0f} ms")
    times: dict[str, list[float]] = {
        "open": [],
        "stat": [],
        "page of 200": [],
        "first answer after a kill": [],
    }
    for _ in range(30):
        start = time.perf_counter()
        layer = await opened()
        times["open"].append(time.perf_counter() - start)
        await layer.aclose()
    files = (await opened()).files
    for _ in range(5000):
        start = time.perf_counter()
        await files.link(0, 5)
        times["stat"].append(time.perf_counter() - start)
    for _ in range(100):
        start = time.perf_counter()
        await files.list(0, 1, 0, 1024)
        times["page of 200"].append(time.perf_counter() - start)
    for _ in range(50):
        files._worker._process.kill()
        start = time.perf_counter()
        await files.link(0, 5)
        times["first answer after a kill"].append(time.perf_counter() - start)
    for name, row in times.items():
        print(f"{name}: median {statistics.median(row) * 1e6:.0f} us, least {min(row) * 1e6:.0f} us")


if __name__ == "__main__":
    trio.run(main)
