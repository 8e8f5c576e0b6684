"""Times of the worker boundary: start, round trip, page, recovery; and what becomes of an attribute."""

from __future__ import annotations

import tempfile
import time

import trio

from bench.micro.record import Record
from imgfs.backends import Options
from imgfs.block.fetch import Fetcher
from imgfs.block.hostfile import HostFile
from imgfs.daemon.attributes import Owner, entry
from imgfs.model import Attr, Ino, Kind
from imgfs.worker.client import open_layer
from imgfs.worker.supervisor import open_supervisor


async def main(record: Record) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"BAD!".ljust(16, b"\0") + bytes(100_000))
        file.flush()
        source = HostFile.open(file.name)
        async with trio.open_nursery() as nursery:
            async with open_supervisor(
                Fetcher(nursery), extra_backends="tests.worker.bad:BACKENDS"
            ) as supervisor:
                await measure(record, supervisor, source)
            nursery.cancel_scope.cancel()
        source.close()


async def measure(record: Record, supervisor, source) -> None:
    async def opened():
        return await open_layer(supervisor, "bad", [source], ["x"], Options(), "x|bad")

    start = time.perf_counter()
    await supervisor.template()
    record.add("template ready", (time.perf_counter() - start) * 1e3, "ms")
    for _ in range(30):
        start = time.perf_counter()
        layer = await opened()
        record.add("open a file system in a new worker", (time.perf_counter() - start) * 1e3, "ms")
        await layer.aclose()
    files = (await opened()).files
    for _ in range(5000):
        start = time.perf_counter()
        await files.link(0, 5)
        record.add("round trip to a worker", (time.perf_counter() - start) * 1e6, "us")
    for _ in range(100):
        start = time.perf_counter()
        await files.list(0, 1, 0, 1024)
        record.add("listed page of 200 through the wire", (time.perf_counter() - start) * 1e6, "us")
    for _ in range(50):
        files._worker._process.kill()
        start = time.perf_counter()
        await files.link(0, 5)
        record.add("first answer after a kill", (time.perf_counter() - start) * 1e3, "ms")


def attributes(record: Record) -> None:
    attr = Attr(kind=Kind.REG, inum=77, size=12345, mode=0o644, m_ns=1, a_ns=2, c_ns=3, b_ns=4)
    owner = Owner(0, 0)
    record.each(
        "attributes to what the kernel takes", lambda: entry(Ino(77), attr, forever=True, owner=owner), 20_000
    )
