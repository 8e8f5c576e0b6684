"""``python -m bench.fairness``: what an interactive reader feels while a scanner runs (R14).

The reader lists a directory and reads 4 KiB of a new file, every 20 ms. Its p50 and p99 are
measured alone, and again while ``grep -r`` reads everything through the same mount: with the image in the
page cache, which shows what imgfs decides, and without, where the disk's own queue is felt too. As root the
kernel's loop mount is measured beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from bench import images
from bench.run import cold
from bench.systems import imgfs, kernel

_EVERY = 0.02
SYSTEMS = {"imgfs": imgfs, "kernel": kernel}


def interact(folders: list[Path], chance: random.Random, seconds: float) -> list[float]:
    """Return the milliseconds of each step, open to close."""
    taken = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        folder = chance.choice(folders)
        begin = time.perf_counter()
        with os.scandir(folder) as entries:
            names = [entry.path for entry in entries if entry.is_file()]
        fd = os.open(chance.choice(names), os.O_RDONLY)
        os.read(fd, 4096)
        os.close(fd)
        taken.append((time.perf_counter() - begin) * 1e3)
        time.sleep(max(0.0, _EVERY - taken[-1] / 1e3))
    return taken


def quantiles(taken: list[float]) -> dict[str, float]:
    ordered = sorted(taken)
    return {
        "steps": len(ordered),
        "p50, ms": statistics.median(ordered),
        "p99, ms": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
    }


def measure(image: Path, seconds: float, system: str, state: str) -> dict[str, object]:
    with tempfile.TemporaryDirectory(dir=image.parent) as under:
        if state == "cold":
            cold()
        else:
            for path in sorted(image.parent.glob(f"{image.stem}.[rE]*")):
                path.read_bytes()
        with SYSTEMS[system](image, Path(under).resolve()) as root:
            chance = random.Random(3)
            folders = sorted(path for path in (root / "tree").iterdir() if path.is_dir())
            for folder in folders:
                os.listdir(folder)  # what is compared is waiting behind the scanner, not a cold directory
            half = len(folders) // 2
            alone = quantiles(interact(folders[:half], chance, seconds))
            with subprocess.Popen(
                ["grep", "-rc", "no such words", str(root)], stdout=subprocess.DEVNULL
            ) as scanner:
                beside = quantiles(interact(folders[half:], chance, seconds))
                ended = scanner.poll() is not None
                scanner.terminate()
    return {
        "system": system,
        "image": image.name,
        "page cache": state,
        "alone": alone,
        "beside grep -r": beside,
        "p99 ratio": beside["p99, ms"] / alone["p99, ms"],
        "the scanner ended early": ended,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--big", type=int, default=768)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--scattered", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    given = parser.parse_args()
    here = images.build(Path("bench/media"), images.Sizes(given.big, given.files, given.scattered))
    rows = []
    for state in ("warm", "cold"):
        for name in ("ext4.raw", "ext4.E01"):
            for system in SYSTEMS:
                if name in here and (system == "imgfs" or (name == "ext4.raw" and os.geteuid() == 0)):
                    rows.append(measure(here[name], given.seconds, system, state))
                    print(json.dumps(rows[-1]), flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "fairness.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
