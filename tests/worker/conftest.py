from __future__ import annotations

import logging
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from imgfs.backends import Options
from imgfs.block.fetch import Fetcher
from imgfs.block.hostfile import HostFile
from imgfs.worker.client import open_layer
from imgfs.worker.supervisor import open_supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

BODY = bytes(range(256)) * 400


class Stage:
    """A supervisor with misbehaving back-ends, and sources to open with them."""

    def __init__(self, supervisor, directory: Path) -> None:
        self.supervisor = supervisor
        self.directory = directory
        self.files: list[HostFile] = []

    def source(self, head: bytes) -> HostFile:
        path = self.directory / f"{len(self.files)}.img"
        path.write_bytes(head.ljust(16, b"\0") + BODY)
        self.files.append(HostFile.open(path))
        return self.files[-1]

    async def open(self, backend: str = "bad", how: bytes = b"BAD!", *, source=None):
        source = source if source is not None else self.source(how)
        return await open_layer(self.supervisor, backend, [source], ["name.img"], Options(), f"img|{backend}")


@asynccontextmanager
async def staged(directory: Path, **options) -> AsyncIterator[Stage]:
    async with trio.open_nursery() as nursery:
        fetcher = Fetcher(nursery)
        async with open_supervisor(
            fetcher, extra_backends="tests.worker.bad:BACKENDS", **options
        ) as supervisor:
            stage = Stage(supervisor, directory)
            try:
                yield stage
            finally:
                for file in stage.files:
                    file.close()
        nursery.cancel_scope.cancel()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as made:
        yield made


class Events(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def named(self, name: str) -> list[logging.LogRecord]:
        return [r for r in self.records if r.msg == name]


@pytest.fixture
def events() -> Iterator[Events]:
    handler = Events()
    logger = logging.getLogger("imgfs.worker")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> list[int]:
    return [int(n) for n in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
