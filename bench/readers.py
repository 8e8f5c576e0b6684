"""``python -m bench.readers``: each file system's own reader against bars that are the same for all.

``find`` over all small files through a fresh mount, as a ratio to the same ext4 image through TSK through the
same daemon (``bench.tskext``), which takes turns with it: at most 2. One big file that is stored verbatim,
read to its end, as a ratio to ``disk.raw`` of the same mount, as many bytes from where the file begins: at
least 0.9. The image is brought into the page cache before each figure, for the kernel drops some of what was
read once when it makes room for large pages; each figure of a round is from a mount of its own, where neither
file's pages are in the kernel yet, and the two take turns in being first.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.images import MIB, quiet
from bench.readerimages import VOLUMES, Volume, build
from bench.systems import IMGFS, folder
from bench.tskext import offered

TSK = "ext4 through TSK, find, s"
FOUND = "find, s"
FIND, READ = 2.0, 0.9  # the bars


@contextmanager
def mounted(image: Path, under: Path, *, tsk: bool = False) -> Iterator[Path]:
    """Mount an image; returns the folder of its volumes."""
    point = folder(under, "imgfs")
    environment = dict(os.environ)
    if tsk:
        here = str(Path(__file__).resolve().parents[1])
        environment["PYTHONPATH"] = f"{offered(under / 'package')}{os.pathsep}{here}"
    subprocess.run([*IMGFS, "mount", image, point], check=True, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield point / image.name
    finally:
        quiet(*IMGFS, "umount", "--force", point)


def top(volume: Volume, where: Path) -> Path:
    """Return the root of the wanted file system."""
    return next(path for path in sorted(where.glob(volume.where)) if (path / "tree").exists())


def walk(root: Path) -> float:
    """Return seconds of find with size and time of every small file."""
    begin = time.perf_counter()
    command = ["find", str(root / "tree"), "-type", "f", "-printf", "%s %T@\n"]
    done = subprocess.run(command, check=True, capture_output=True)
    taken = time.perf_counter() - begin
    assert done.stdout.count(b"\n") > 0
    return taken


def rate(path: Path, at: int, length: int) -> float:
    """Return MB/s of one reader, 1 MiB at a time."""
    buffer, stop = bytearray(MIB), at + length
    fd = os.open(path, os.O_RDONLY)
    try:
        begin = time.perf_counter()
        while at < stop and (got := os.preadv(fd, [memoryview(buffer)[: stop - at]], at)):
            at += got
        taken = time.perf_counter() - begin
    finally:
        os.close(fd)
    assert at == stop, path
    return length / taken / 1e6


def place_of(image: Path, head: bytes) -> int:
    """Return where an image holds some bytes."""
    with image.open("rb") as source, mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(head)


def brought(image: Path) -> None:
    """Have all of an image in the page cache."""
    with image.open("rb", buffering=0) as source:
        while source.read(16 * MIB):
            pass


def measure(volume: Volume, image: Path, rounds: int, big: int, peer: Path) -> dict[str, list[float]]:
    """Return seconds of find, and MB/s of the big file and of the media, of every round."""
    row: dict[str, list[float]] = {FOUND: []}
    at = 0
    if peer.exists():
        row[TSK] = []
    for turn in range(rounds):
        if peer.exists():
            row[TSK].append(through_tsk(peer))
        with tempfile.TemporaryDirectory(dir=image.parent) as name:
            with mounted(image, Path(name).resolve()) as where:
                root = top(volume, where)
                brought(image)
                row[FOUND].append(walk(root))
                if not volume.big or not big:
                    continue
                if not turn:
                    with (root / "big.bin").open("rb") as source:
                        begin = place_of(image, source.read(4096))
                    at = max(min(begin, image.stat().st_size - big * MIB), 0)  # it may lie in pieces
                    row |= {"file, MB/s": [], "disk.raw, MB/s": []}
            with mounted(image, Path(name).resolve()) as where:
                both = {
                    "file, MB/s": (top(volume, where) / "big.bin", 0),
                    "disk.raw, MB/s": (where / "disk.raw", at),
                }
                for key in sorted(both, reverse=bool(turn % 2)):
                    brought(image)
                    row[key].append(rate(*both[key], big * MIB))
    return row


def through_tsk(image: Path) -> float:
    """Return seconds of find through TSK."""
    with (
        tempfile.TemporaryDirectory(dir=image.parent) as name,
        mounted(image, Path(name).resolve(), tsk=True) as where,
    ):
        root = next(where.glob("*/root"))
        brought(image)
        taken = walk(root)
        assert "tskext" in (where.parent / ".imgfs/layers.json").read_text()
    return taken


def ratios(row: dict[str, list[float]]) -> dict[str, float]:
    """Return the two ratios of a reader: medians of those of each round, whose mounts follow each other."""
    pairs = {"find / TSK": (FOUND, TSK), "file / disk.raw": ("file, MB/s", "disk.raw, MB/s")}
    return {
        name: statistics.median(a / b for a, b in zip(row[one], row[other], strict=True))
        for name, (one, other) in pairs.items()
        if row.get(one) and row.get(other)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--big", type=int, default=512, help="MiB; 0: only find")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="a pattern on names of images")
    parser.add_argument("--images", type=Path, default=Path("bench/media"))
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    given = parser.parse_args()
    place = (given.images / f"readers-{given.files}-{given.big}").resolve()
    wanted = [volume for volume in VOLUMES if re.search(given.only, volume.name)]
    left_out = build(place, wanted, given.files, given.big)
    found: dict[str, dict[str, list[float]]] = {}
    for volume in wanted:
        if volume.name in left_out:
            print(volume.name, "left out:", left_out[volume.name], flush=True)
            continue
        found[volume.name] = measure(volume, place / volume.name, given.rounds, given.big, place / "ext4.raw")
        said = {key: round(statistics.median(v), 3) for key, v in found[volume.name].items()}
        bar = {key: round(value, 2) for key, value in ratios(found[volume.name]).items()}
        print(volume.name, said, bar, flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    result = {
        "measured": found,
        "ratios": {n: ratios(row) for n, row in found.items()},
        "left out": left_out,
        "bars": [FIND, READ],
    }
    (given.out / "readers.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
