"""``./dev bench``: sequential reading, walking and starting, with the null file system and peers.

Every system is measured in turns, several rounds, cold: a fresh mount and, as root, dropped caches. What
counts are the ratios. ``bench/README.md`` says what each number means.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from imgfs import runtime

MIB = 1 << 20
IMGFS = [sys.executable, "-m", "imgfs"]


def cold() -> None:
    if os.getuid() == 0:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")


def quiet(*command: object) -> None:
    subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


# --- images ------------------------------------------------------------------------------------------
def media(path: Path, size: int) -> None:
    """Write text-like and random bytes in turns: an E01 of it shrinks by a half."""
    chance = random.Random(1)
    words = [b"%d " % chance.randrange(10**6) for _ in range(5000)]
    with path.open("wb") as out:
        while out.tell() < size:
            text = b"".join(chance.choice(words) for _ in range(150_000))[:MIB]
            out.write(text.ljust(MIB, b"\n"))
            out.write(chance.randbytes(MIB // 2))
        out.truncate(size)


def many_files(path: Path, count: int) -> None:
    """Make an ext4 image of ``count`` small files in directories of 100."""
    with tempfile.TemporaryDirectory() as folder:
        chance = random.Random(2)
        for i in range(0, count, 100):
            sub = Path(folder) / f"d{i // 100:05d}"
            sub.mkdir()
            for j in range(100):
                (sub / f"report_{i + j:06d}_summary.docx").write_bytes(
                    chance.randbytes(chance.randrange(1, 2048))
                )
        path.touch()
        os.truncate(path, max(64, count * 6 // 1024 + 64) * MIB)
        quiet("mkfs.ext4", "-q", "-N", count + 5000, "-d", folder, path)


# --- systems ------------------------------------------------------------------------------------------
@contextmanager
def imgfs(image: Path, point: Path) -> Iterator[Path]:
    quiet(*IMGFS, "mount", image, point)
    try:
        yield point / image.name
    finally:
        quiet(*IMGFS, "umount", "--force", point)


@contextmanager
def null(size: int, point: Path, folders: int = 0) -> Iterator[Path]:
    command = [sys.executable, "-m", "bench.baselines.null", str(point), str(size), str(folders), "100"]
    with subprocess.Popen(command) as server:
        while not any(m.mountpoint == str(point) for m in runtime.mounted()):
            time.sleep(0.01)
        try:
            yield point
        finally:
            quiet("fusermount3", "-u", point)
            server.wait()


@contextmanager
def ewfmount(image: Path, point: Path) -> Iterator[Path]:
    quiet("ewfmount", image, point)
    try:
        yield point / "ewf1"
    finally:
        quiet("umount", point)


@contextmanager
def kernel(image: Path, point: Path) -> Iterator[Path]:
    quiet("mount", "-o", "ro,loop,noload", image, point)
    try:
        yield point
    finally:
        quiet("umount", point)


# --- workloads ------------------------------------------------------------------------------------------
def sequential(path: Path) -> float:
    """Return MB/s of one reader, 1 MiB at a time."""
    begin = time.perf_counter()
    done = 0
    fd = os.open(path, os.O_RDONLY)
    buffer = bytearray(MIB)
    try:
        while count := os.readv(fd, [buffer]):
            done += count
    finally:
        os.close(fd)
    return done / (time.perf_counter() - begin) / 1e6


def walk(folder: Path) -> float:
    """Return seconds of find with every attribute printed."""
    begin = time.perf_counter()
    found = subprocess.run(["find", folder, "-printf", "%s %T@ %m\n"], capture_output=True, check=True)
    assert found.stdout
    return time.perf_counter() - begin


def start(image: Path, point: Path) -> float:
    """Return seconds from the command to the first listing of a volume's files."""
    begin = time.perf_counter()
    with imgfs(image, point) as disk:
        os.listdir(next(p for p in disk.iterdir() if p.is_dir()) / "root")
        return time.perf_counter() - begin


def resident(image: Path, point: Path) -> float:
    """Return MiB of the daemon at rest, after a listing."""
    with imgfs(image, point) as disk:
        os.listdir(disk)
        pid = next(r.pid for _, r in runtime.records() if r.mountpoint == str(point))
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


# --- the run ------------------------------------------------------------------------------------------
def cases(folder: Path, size: int, files: int) -> dict[str, tuple[str, Callable[[], float]]]:
    raw, e01, ext = folder / "media.dd", folder / "media.E01", folder / "files.dd"
    point = folder / "mnt"
    point.mkdir()
    root = os.getuid() == 0

    def seq(system: Callable[[], object], inner: str) -> Callable[[], float]:
        def once() -> float:
            cold()
            with system() as where:  # type: ignore[attr-defined]
                return sequential(where / inner if inner else where)

        return once

    def find(system: Callable[[], object], inner: str) -> Callable[[], float]:
        def once() -> float:
            cold()
            with system() as where:  # type: ignore[attr-defined]
                return walk(where / inner if inner else where)

        return once

    def plain() -> float:
        cold()
        return sequential(raw)

    table: dict[str, tuple[str, Callable[[], float]]] = {
        "sequential raw, plain pread": ("MB/s", plain),
        "sequential, null": ("MB/s", seq(lambda: null(size, point), "big")),
        "sequential raw, imgfs": ("MB/s", seq(lambda: imgfs(raw, point), "disk.raw")),
        "sequential E01, imgfs": ("MB/s", seq(lambda: imgfs(e01, point), "disk.raw")),
        "find with stat, null": ("s", find(lambda: null(size, point, files // 100), "")),
        "find with stat, imgfs": ("s", find(lambda: imgfs(ext, point), "00-ext4/root")),
        "mount to first ls, imgfs": ("s", lambda: start(ext, point)),
        "daemon at rest, imgfs": ("MiB", lambda: resident(e01, point)),
    }
    if root:
        table["find with stat, kernel"] = ("s", find(lambda: kernel(ext, point), ""))
    if root and shutil.which("ewfmount"):
        table["sequential E01, ewfmount"] = ("MB/s", seq(lambda: ewfmount(e01, point), ""))
    return table


def ratios(medians: dict[str, float]) -> dict[str, float]:
    """Return the figures that count, each with its bar in bench/README.md."""

    def of(one: str, other: str) -> float | None:
        return medians[one] / medians[other] if one in medians and other in medians else None

    floor = min(medians["sequential raw, plain pread"], medians["sequential, null"])
    rows = {
        "raw / lesser of null and pread": medians["sequential raw, imgfs"] / floor,
        "E01 / ewfmount": of("sequential E01, imgfs", "sequential E01, ewfmount"),
        "find / null": of("find with stat, imgfs", "find with stat, null"),
        "find / kernel": of("find with stat, imgfs", "find with stat, kernel"),
    }
    return {name: round(value, 3) for name, value in rows.items() if value is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images, one round: does it run?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024, help="MiB of the media")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    given = parser.parse_args()
    rounds, size, files = (1, 64, 2000) if given.quick else (given.rounds, given.size, given.files)
    with tempfile.TemporaryDirectory(prefix="imgfs-bench-", dir="/var/tmp") as scratch:
        folder = Path(scratch).resolve()
        media(folder / "media.dd", size * MIB)
        quiet(
            "ewfacquire", "-u", "-q", "-t", folder / "media", "-c", "fast", "-S", "8EiB", folder / "media.dd"
        )
        many_files(folder / "files.dd", files)
        table = cases(folder, size * MIB, files)
        seen: dict[str, list[float]] = {name: [] for name in table}
        for turn in range(rounds):
            for name, (unit, measure) in table.items():
                seen[name].append(measure())
                print(f"round {turn + 1}: {name}: {seen[name][-1]:.3g} {unit}", flush=True)
    report(given.out, {n: u for n, (u, _) in table.items()}, seen, {"MiB": size, "files": files})


def report(out: Path, units: dict[str, str], seen: dict[str, list[float]], images: dict[str, int]) -> None:
    medians = {name: statistics.median(values) for name, values in seen.items()}
    facts = {"machine": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()}
    result = {"facts": facts, "images": images, "units": units, "seen": seen, "ratios": ratios(medians)}
    lines = ["| what | median | range |", "|---|---|---|"]
    for name, values in seen.items():
        lines.append(
            f"| {name} | {medians[name]:.3g} {units[name]} | {min(values):.3g} - {max(values):.3g} |"
        )
    lines += ["", "| ratio | |", "|---|---|", *(f"| {n} | {v} |" for n, v in result["ratios"].items())]
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "result.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
