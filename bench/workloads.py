"""What is done to a mounted file system, each returning one figure. Units stand in ``WORKLOADS``."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

MIB = 1 << 20
BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Workload:
    """A figure: how it is measured below the root of a file system, and whether more of it is better."""

    name: str
    unit: str
    run: Callable[[Path, float], float]
    warm: bool = False  # measured again over the same mount
    more_is_better: bool = True


def sequential(root: Path, limit: float) -> float:
    """Return MB/s of one reader, 1 MiB at a time; cut after ``limit`` seconds."""
    return _read(root / "big.bin" if root.is_dir() else root, 0, 1 << 62, limit)


def scattered(root: Path, limit: float) -> float:
    """Return MB/s of one reader of a file in extents of 32 KiB."""
    return _read(root / "scattered.bin", 0, 1 << 62, limit)


def parallel(root: Path, limit: float) -> float:
    """Return MB/s of four processes, each reading a quarter."""
    path = root / "big.bin" if root.is_dir() else root
    quarter = path.stat().st_size // 4 // MIB * MIB
    jobs = [(path, number * quarter, quarter, limit) for number in range(4)]
    begin = time.perf_counter()
    with get_context("fork").Pool(4) as pool:
        done = sum(pool.starmap(_count, jobs, chunksize=1))
    return done / (time.perf_counter() - begin) / 1e6


def random_one(root: Path, limit: float) -> float:
    """Return reads a second of 4 KiB at random, one at a time."""
    return _random(root, 1, limit)


def random_eight(root: Path, limit: float) -> float:
    """Return reads a second of 4 KiB at random by eight processes."""
    return _random(root, 8, limit)


def walk(root: Path, limit: float) -> float:
    """Return seconds of find with sizes and times of every file; infinite when cut."""
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            ["find", root / "tree", "-type", "f", "-printf", "%s %T@\n"],
            stdout=subprocess.PIPE,
            check=True,
            timeout=6 * limit,
        )
    except subprocess.TimeoutExpired:
        return float("inf")
    assert done.stdout.count(b"\n") > 0
    return time.perf_counter() - begin


def tar(root: Path, limit: float) -> float:
    """Return files a second of a whole tree read with its contents; counted when cut."""
    with tempfile.NamedTemporaryFile() as names:
        # to a pipe: tar does not read what it writes to /dev/null
        script = 'exec tar cf - -v --index-file="$2" -C "$1" tree'
        begin = time.perf_counter()
        with subprocess.Popen(["sh", "-c", script, "tar", root, names.name], stdout=subprocess.PIPE) as job:
            assert job.stdout is not None
            while job.stdout.read(MIB):
                if time.perf_counter() - begin > 4 * limit:
                    job.kill()
        taken = time.perf_counter() - begin
        count = sum(not line.endswith(b"/\n") for line in names)
    return count / taken


def _read(path: Path, start: int, length: int, limit: float) -> float:
    begin = time.perf_counter()
    done = _count(path, start, length, limit)
    return done / (time.perf_counter() - begin) / 1e6


def _count(path: Path, start: int, length: int, limit: float) -> int:
    until = time.perf_counter() + limit
    buffer = bytearray(MIB)
    done = 0
    fd = os.open(path, os.O_RDONLY)
    try:
        stream = not stat.S_ISREG(os.fstat(fd).st_mode)
        while done < length and time.perf_counter() < until:
            into = [memoryview(buffer)[: min(MIB, length - done)]]
            got = os.readv(fd, into) if stream else os.preadv(fd, into, start + done)
            if not got:
                break
            done += got
    finally:
        os.close(fd)
    return done


def _random(root: Path, jobs: int, limit: float) -> float:
    path = root / "big.bin" if root.is_dir() else root
    seconds = min(3.0, limit)
    if jobs == 1:
        return _random_reads(path, 1, seconds)
    with get_context("fork").Pool(jobs) as pool:
        rates = pool.starmap(_random_reads, [(path, seed, seconds) for seed in range(jobs)], chunksize=1)
    return sum(rates)


def _random_reads(path: Path, seed: int, seconds: float) -> float:
    chance = random.Random(seed)
    blocks = path.stat().st_size // BLOCK
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    buffer = bytearray(BLOCK)
    begin = time.perf_counter()
    count = 0
    try:
        while time.perf_counter() - begin < seconds:
            for _ in range(16):
                os.preadv(fd, [buffer], chance.randrange(blocks) * BLOCK)
            count += 16
    finally:
        os.close(fd)
    return count / (time.perf_counter() - begin)


WORKLOADS = (
    Workload("sequential", "MB/s", sequential, warm=True),
    Workload("4 readers", "MB/s", parallel),
    Workload("scattered", "MB/s", scattered),
    Workload("random 4 KiB, 1 job", "IOPS", random_one),
    Workload("random 4 KiB, 8 jobs", "IOPS", random_eight),
    Workload("find", "s", walk, warm=True, more_is_better=False),
    Workload("tar", "files/s", tar),
)
