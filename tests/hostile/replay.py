"""(In a subprocess) damaged images through the contract of FILES back-ends, one after the other.

``python -m tests.hostile.replay JOBS FIRST``: JOBS holds a JSON row an image: back-end, file, patches
[[offset, hex], ...] and the seed of a mutation, -1: none. Each outcome is a line; the parent reads where
this process died. A job that takes too long ends it through SIGALRM.
"""

from __future__ import annotations

import gzip
import json
import lzma
import random
import signal
import sys
from functools import cache
from pathlib import Path

from imgfs.testing.fakes import MemoryReader
from imgfs.testing.files import _attempt

SECONDS = 6
UNPACK = {".xz": lzma.decompress, ".gz": gzip.decompress}
BOUNDS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)


@cache
def image(path: str) -> bytes:
    file = Path(path)
    return UNPACK.get(file.suffix, bytes)(file.read_bytes())


@cache
def busy(path: str) -> tuple[int, ...]:
    """Return the sectors with something in them that looks like numbers and not like content."""
    data = image(path)
    return tuple(at for at in range(0, len(data) - 511, 512) if 16 < data.count(0, at, at + 512) < 511)


def mutated(path: str, patches: list[tuple[int, str]], seed: int) -> bytes:
    """Return an image with its patches, or with boundary values and bit flips in its metadata."""
    data = bytearray(image(path))
    for at, replacement in patches:
        data[at : at + len(replacement) // 2] = bytes.fromhex(replacement)
    if seed >= 0:
        rng = random.Random(seed)
        for _ in range(1 << rng.randrange(4)):
            at = rng.choice(busy(path)) + rng.randrange(504)
            if rng.random() < 0.5:
                width = rng.choice((1, 2, 4, 8))
                value = rng.choice(BOUNDS) & (1 << 8 * width) - 1
                data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
            else:
                data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def main() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number, row in enumerate(Path(sys.argv[1]).read_text().splitlines()):
        if number < int(sys.argv[2]):
            continue
        job = json.loads(row)
        print(number, flush=True)
        reader = MemoryReader(mutated(job["image"], job["patches"], job["seed"]))
        signal.alarm(SECONDS)
        print(number, _attempt(job["backend"], reader), flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    main()
