"""Disks as compressors meet them, and what the real tools make of them."""

from __future__ import annotations

import random
import shutil
import subprocess
from typing import TYPE_CHECKING, cast

import pytest

from imgfs.backends import Options, discover
from imgfs.testing.fakes import MemoryReader

if TYPE_CHECKING:
    from imgfs.backends import Index, Reader
    from imgfs.model import Media

KIB, MIB = 1 << 10, 1 << 20


def disk(size: int, seed: int = 1) -> bytes:
    """Return a disk of words, zeros, noise and words again, with something in its last sector."""
    rng = random.Random(seed)
    words = [rng.randbytes(rng.randrange(3, 9)) for _ in range(300)]
    text = b"".join(rng.choice(words) for _ in range(size // 12))
    parts = [text[: size // 4], bytes(size // 4), rng.randbytes(size // 8), text]
    data = bytearray(b"".join(parts)[:size].ljust(size, b"\0"))
    data[-8:] = b"the end."
    return bytes(data)


def tool(data: bytes, *words: str) -> bytes:
    """Return what a program makes of its input."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is missing")
    return subprocess.run(words, input=data, check=True, capture_output=True).stdout


def opened(name: str, image: bytes, called: str = "disk.raw.z") -> Media | Index:
    """Return what a back-end says of an image that has no index."""
    return cast(
        "Media | Index", discover()[name].open(cast("Reader", MemoryReader(image, name=called)), Options())
    )


def upto(found: bytes, truth: bytes, lost: bytes = b"?") -> int:
    """Return how many bytes at the start are the truth; behind them there must be none but lost ones."""
    kept = len(found.rstrip(lost))
    assert found[:kept] == truth[:kept]
    return kept
