"""``python -m bench.growth``: what a file, a volume and an image cost as there are more of them (P11).

The cost of a file must not depend on how many there are, nor that of a read on the number of extents
(``bench.micro``: "plan 4 KiB in N runs"). ``--most`` bounds the number of files, since making a million takes
minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from bench.images import MIB, quiet
from bench.run import cold, memory
from bench.systems import IMGFS, imgfs

FILES = (10_000, 100_000, 1_000_000)
VOLUMES = (1, 16, 64)
IMAGES = (1, 8, 32)


def files_image(folder: Path, count: int) -> Path:
    """Make an ext4 of ``count`` empty files in directories of a thousand."""
    image = folder / f"{count}.raw"
    image.touch()
    os.truncate(image, (count // 3000 + 64) * MIB)
    with tempfile.TemporaryDirectory(dir=folder) as tree:
        for first in range(0, count, 1000):
            sub = Path(tree) / f"d{first:07d}"
            sub.mkdir()
            for number in range(1000):
                os.close(os.open(sub / f"report_{first + number:07d}.docx", os.O_CREAT | os.O_WRONLY))
        quiet("mkfs.ext4", "-q", "-F", "-m", "0", "-N", count + count // 500 + 1000, "-d", tree, image)
    return image


def volumes_image(folder: Path, count: int) -> Path:
    """Make a GPT disk of ``count`` small ext4 volumes."""
    image = folder / f"{count}-volumes.raw"
    image.touch()
    os.truncate(image, (count * 9 + 2) * MIB)
    quiet("sgdisk", *[f"--new={n + 1}:{(n * 9 + 1) * 2048}:+8M" for n in range(count)], image)
    one = folder / "one"
    one.touch()
    os.truncate(one, 8 * MIB)
    quiet("mkfs.ext4", "-q", "-F", one)
    data = one.read_bytes()
    with image.open("r+b") as out:
        for number in range(count):
            out.seek((number * 9 + 1) * MIB)
            out.write(data)
    return image


def walk(folder: Path) -> float:
    begin = time.perf_counter()
    subprocess.run(["find", folder, "-printf", "%s %T@\n"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def files(folder: Path, count: int) -> dict[str, float]:
    image = files_image(folder, count)
    cold()
    with imgfs(image, folder) as root:
        taken = walk(root)
        row = {"us a file": taken / count * 1e6, **memory(root)}
    image.unlink()
    return row


def volumes(folder: Path, count: int) -> dict[str, float]:
    image = volumes_image(folder, count)
    cold()
    begin = time.perf_counter()
    with imgfs(image, folder) as root:
        up = time.perf_counter() - begin
        taken = walk(root.parents[1])
        row = {"mount, s": up, "walk, ms a volume": taken / count * 1e3, **memory(root)}
    image.unlink()
    return row


def several(folder: Path, count: int) -> dict[str, float]:
    one = volumes_image(folder, 1)
    names = [folder / f"image{number}.raw" for number in range(count)]
    for name in names:
        name.write_bytes(one.read_bytes())
    point = folder / "several"
    point.mkdir(exist_ok=True)
    cold()
    begin = time.perf_counter()
    quiet(*IMGFS, "mount", *names, point)
    try:
        up = time.perf_counter() - begin
        taken = walk(point)
        row = {"mount, s": up, "walk, ms an image": taken / count * 1e3, **memory(point / "x")}
    finally:
        quiet(*IMGFS, "umount", "--force", point)
    for name in (*names, one):
        name.unlink()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    given = parser.parse_args()
    rows: list[dict[str, object]] = []
    media = Path("bench/media").resolve()
    media.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="growth-", dir=media) as scratch:
        folder = Path(scratch)
        for what, counts, measure in (
            ("files", [n for n in FILES if n <= given.most], files),
            ("volumes", VOLUMES, volumes),
            ("images", IMAGES, several),
        ):
            for count in counts:
                rows.append({"what": what, "count": count, **measure(folder, count)})
                print(
                    ", ".join(
                        f"{k}: {v:.4g}" if isinstance(v, float) else str(v) for k, v in rows[-1].items()
                    )
                )
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "growth.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
