"""``./dev bench``: workloads x systems in turns, cold and warm, with the null file system and peers.

Every figure comes from a fresh mount and, as root, dropped caches; systems take turns within a round, so that
a machine that becomes slower does so for all of them. What counts are the ratios: ``bench/README.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import md5
from pathlib import Path
from threading import Thread

from bench import containers, images, report
from bench.systems import ROOT, SYSTEMS, System
from bench.workloads import WORKLOADS, Workload
from imgfs import __version__, runtime


@dataclass(slots=True)
class Row:
    """One workload on one system: every figure measured."""

    image: str
    system: str
    workload: str
    unit: str
    more_is_better: bool
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)


class Table:
    """Rows by what they are about."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], Row] = {}

    def add(self, system: System, name: str, unit: str, value: float, *, more: bool = False) -> Row:
        key = (system.image, system.name, name)
        row = self.rows.setdefault(key, Row(*key, unit, more))
        row.cold.append(value)
        return row


def cold() -> None:
    os.sync()
    if ROOT:
        Path("/proc/sys/vm/drop_caches").write_text("3")


def measure(table: Table, system: System, image: Path, workload: Workload, limit: float) -> None:
    """Mount, measure cold and perhaps warm, unmount."""
    with tempfile.TemporaryDirectory(dir=image.parent) as under:
        cold()
        begin = time.perf_counter()
        with system.up(image, Path(under).resolve()) as root:
            up = time.perf_counter()
            if root.is_dir():
                os.listdir(root)
                table.add(system, "mount", "s", up - begin)
                table.add(system, "first ls", "ms", (time.perf_counter() - up) * 1e3)
            if workload.name == "scattered" and not (root / "scattered.bin").exists():
                return
            row = table.add(
                system, workload.name, workload.unit, workload.run(root, limit), more=workload.more_is_better
            )
            if workload.warm and not system.stream:
                row.warm.append(workload.run(root, limit))
            if system.name.startswith("imgfs"):
                for name, value in memory(root).items():
                    table.add(system, f"{name}, after {workload.name}", "MiB", value)


def memory(root: Path) -> dict[str, float]:
    """Return MiB of the daemon that serves ``root``, now and at most, and without what its caches hold."""
    for _, record in runtime.records():
        if str(root).startswith(record.mountpoint + "/"):
            with suppress(OSError):
                status = Path(f"/proc/{record.pid}/status").read_text()
                now, peak = (int(re.search(rf"{key}:\s+(\d+)", status)[1]) for key in ("VmRSS", "VmHWM"))  # type: ignore[index]
                counted = json.loads((Path(record.mountpoint) / ".imgfs/statistics.json").read_text())
            caches = [
                counted["directories"],
                counted["layouts"],
                *(counted["fetch"][c] for c in ("cache", "strips")),
            ]
            held = sum(cache["used"] for cache in caches) / images.MIB
            return {
                "daemon": now / 1024,
                "daemon at most": peak / 1024,
                "daemon without its caches": now / 1024 - held,
            }
    return {}


def wanted(system: System, workload: Workload, given: argparse.Namespace) -> bool:
    if system.media and workload.name in {"find", "tar", "scattered"}:
        return False
    if (system.stream or system.image.startswith("media.")) and workload.name != "sequential":
        return False
    if system.name.startswith("null") and workload.name in {"scattered", "random 4 KiB, 8 jobs"}:
        return False
    label = f"{system.image} {system.name} {workload.name}"
    return re.search(given.only, label) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small images, one round: does it run?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--big", type=int, default=768, help="MiB of the big file")
    parser.add_argument("--files", type=int, default=100_000, help="small files")
    parser.add_argument("--scattered", type=int, default=64, help="MiB of the file in extents of 32 KiB")
    parser.add_argument("--limit", type=float, default=10.0, help="seconds after which a reader is cut")
    parser.add_argument("--only", default="", help="a pattern on 'IMAGE SYSTEM WORKLOAD'")
    parser.add_argument("--images", type=Path, default=Path("bench/media"))
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    given = parser.parse_args()
    sizes = images.Sizes(given.big, given.files, given.scattered)
    rounds, limit = given.rounds, given.limit
    if given.quick:
        sizes, rounds, limit = images.Sizes(32, 2000, 4), 1, 3.0
    table, left_out = Table(), {}
    here = images.build(given.images, sizes)
    if "media.bde" not in here:
        place = next(iter(here.values())).parent
        containers.build(place, sizes.big // 2, 1 if given.quick else 4)
        containers.bitlocker(place / "media.bde", 64 if given.quick else 1024)
        here = images.build(given.images, sizes)
    print(f"two threads of md5 reach {threads():.2f} x one (below 1.8: the machine is busy)", flush=True)
    for turn in range(rounds):
        for workload in WORKLOADS:
            for system in SYSTEMS:
                if system.image not in here or not wanted(system, workload, given):
                    continue
                label = f"{system.image}, {system.name}"
                if label not in left_out and (why := system.missing()):
                    left_out[label] = why
                if label in left_out:
                    continue
                try:
                    measure(table, system, here[system.image], workload, limit)
                except (
                    RuntimeError,
                    OSError,
                    AssertionError,
                    StopIteration,
                    subprocess.SubprocessError,
                ) as failed:
                    left_out[label] = f"{workload.name}: {failed}"
                    continue
                row = table.rows.get((system.image, system.name, workload.name))
                if row is not None:
                    print(
                        f"round {turn + 1}: {label}, {workload.name}: {row.cold[-1]:.4g} {row.unit}",
                        flush=True,
                    )
    facts = {
        "imgfs": __version__,
        "machine": platform.platform(),
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "root": ROOT,
        "two threads of md5": round(threads(), 2),
        "rounds": rounds,
    }
    report.write(given.out, facts, asdict(sizes), [asdict(row) for row in table.rows.values()], left_out)


def threads() -> float:
    """Return how much faster two threads hash than one: below 1.8 something else is running."""

    def work() -> None:
        md5(bytes(64 << 20), usedforsecurity=False).digest()

    begin = time.perf_counter()
    work()
    work()
    one = time.perf_counter() - begin
    jobs = [Thread(target=work) for _ in range(2)]
    begin = time.perf_counter()
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    return one / (time.perf_counter() - begin)


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    sys.exit(main())
