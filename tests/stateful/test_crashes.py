"""Workers killed again and again under load: no wrong byte, and everything comes back."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.mounts import wait_until
from tests.peers import statistics, watched
from tests.stateful.conftest import Disk, drop_caches, workers

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

KILLS = 200


class Walker(threading.Thread):
    """Reads everything over and over; remembers what was wrong and counts what was refused."""

    def __init__(self, disk: Disk, below: str) -> None:
        super().__init__()
        self.disk = disk
        self.below = below
        self.wrong: list[str] = []
        self.right = 0
        self.refused = 0
        self.stop = False

    def run(self) -> None:
        while not self.stop:
            for name, data in self.disk.files.items():
                if name.startswith(self.below):
                    self._read(name, data)
            for name, names in self.disk.folders.items():
                if name.startswith(self.below):
                    self._list(name, names)

    def _read(self, name: str, data: bytes) -> None:
        try:
            got = (self.disk.root / name).read_bytes()
            if "/probe" not in name:
                os.listxattr(self.disk.root / name)
        except OSError:
            self.refused += 1
        else:
            self.right += 1
            if got != data:
                self.wrong.append(name)

    def _list(self, name: str, names: frozenset[str]) -> None:
        try:
            got = set(os.listdir(self.disk.root / name))
        except OSError:
            self.refused += 1
        else:
            if got != names:
                self.wrong.append(name)


def test_200_kills_under_load_cost_no_byte(
    disk: Disk, pair: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    image, truth = pair
    (tmp_path / "other").mkdir()
    neighbour = tmp_path / "other" / "disk.dd"
    neighbour.symlink_to(image)
    walkers = [Walker(disk, below) for below in ("01-", "01-", "02-", "")]
    with watched(neighbour, at=tmp_path / "n") as other:
        for walker in walkers:
            walker.start()
        try:
            answers = storm(disk)
        finally:
            for walker in walkers:
                walker.stop = True
            for walker in walkers:
                walker.join()
        assert statistics(other)["supervisor"]["deaths"] == 0
        for name, data in truth.items():
            assert (other / "disk.dd" / name).read_bytes() == data
    assert not [wrong for walker in walkers for wrong in walker.wrong]
    assert all(walker.right > KILLS for walker in walkers)
    assert len(answers) == KILLS
    assert statistics_of(answers) < 1.0, answers
    said = statistics(disk.point)
    # a worker that dies of the signal while ending on its own is counted once
    assert KILLS // 2 <= said["supervisor"]["deaths"] <= 2 * KILLS
    assert all(worker["state"] != "quarantined" for fs in said["file_systems"] for worker in fs["workers"])
    drop_caches(disk.root, sorted(disk.files))
    for name, data in disk.files.items():
        assert (disk.root / name).read_bytes() == data


def statistics_of(answers: list[float]) -> float:
    """Return the median of the seconds between a kill and the next answer."""
    return sorted(answers)[len(answers) // 2]


def storm(disk: Disk) -> list[float]:
    """Kill the workers, ask something only a worker can answer, and again; returns the seconds it took.

    The answers in between, one of each file system, keep a request from meeting two kills: that would
    poison it. Requests of one worker are answered in turn.
    """
    answers: list[float] = []
    probes = [
        itertools.cycle(sorted(name for name in disk.files if name.startswith(below) and "/probe" in name))
        for below in ("01-", "02-")
    ]
    while len(answers) < KILLS:
        for pid in workers(disk.point):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if len(answers) % 2 else signal.SIGSEGV)
        started = time.monotonic()
        for names in probes:
            os.listxattr(disk.root / next(names))
        answers.append(time.monotonic() - started)
        if not len(answers) % 10:
            drop_caches(disk.root, [])
    return answers


def test_a_stopped_worker_costs_a_deadline_and_comes_back(disk: Disk) -> None:
    before = statistics(disk.point)["supervisor"]["deaths"]
    for pid in workers(disk.point):
        os.kill(pid, signal.SIGSTOP)
    for name in disk.files:
        if name.startswith("02-"):
            os.listxattr(disk.root / name)  # asks the worker; asked again of a fresh one after the deadline
    assert statistics(disk.point)["supervisor"]["deaths"] > before
    wait_until(lambda: workers(disk.point))
