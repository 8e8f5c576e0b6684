"""Sparse disks, what qemu-img makes of them, and how a back-end reads that."""

from __future__ import annotations

import random
import shutil
import subprocess
from typing import TYPE_CHECKING, cast

import pytest

from imgfs.backends import Options, discover
from imgfs.block.build import build
from imgfs.block.memory import Memory
from imgfs.block.pieces import Bytes, Lost, Zeros
from imgfs.model import HOLE, Linear, Media
from imgfs.testing.fakes import FileReader, MemoryReader

if TYPE_CHECKING:
    from pathlib import Path

    from imgfs.backends import Reader
    from imgfs.block.pieces import ByteSource, Piece

needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is missing")
MIB = 1 << 20


def sparse(size: int, seed: int = 1) -> bytes:
    """Return a disk of text, noise, stored zeros and long holes, with something in its last sector."""
    rng = random.Random(seed)
    data = bytearray(size)
    for _ in range(12):
        at = rng.randrange(size) // 512 * 512
        length = rng.choice((512, 4096, 70_000, MIB + 512))
        data[at : at + length] = rng.randbytes(length)[: max(min(length, size - at), 0)]
    data[:512] = rng.randbytes(512)
    data[size - 512 :] = rng.randbytes(512)
    return bytes(data)


def qemu(*words: str | Path) -> str:
    """Run qemu-img."""
    return subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True, text=True).stdout


def convert(folder: Path, data: bytes, form: str, *options: str) -> Path:
    """Return the image qemu-img writes of a raw disk."""
    raw, image = folder / "disk.raw", folder / f"disk.{form}"
    raw.write_bytes(data)
    words = [word for option in options for word in ("-o", option)]
    qemu("convert", "-f", "raw", "-O", form, *words, raw, image)
    return image


def media(name: str, image: Path | bytes) -> Media:
    """Open an image with a back-end."""
    reader = MemoryReader(image) if isinstance(image, bytes) else FileReader(image)
    opened = discover()[name].open(cast("Reader", reader), Options())
    assert isinstance(opened, Media)
    return opened


def contents(name: str, image: Path | bytes, *, lost: bytes = b"?") -> bytes:
    """Return what a back-end makes of an image; lost bytes as ``lost``."""
    data = image if isinstance(image, bytes) else image.read_bytes()
    source = build(media(name, image).layouts, [Memory(data)], name)
    return read(source, 0, source.size, lost=lost)


def read(source: ByteSource, start: int, stop: int, *, lost: bytes = b"?") -> bytes:
    """Return bytes of a source over memory; lost ones as ``lost``."""
    return b"".join(_bytes(piece, lost) for piece in source.plan(start, stop))


def _bytes(piece: Piece, lost: bytes) -> bytes:
    match piece:
        case Zeros(length):
            return bytes(length)
        case Bytes(data, offset, length):
            return bytes(data[offset : offset + length])
        case Lost(length, _):
            return lost * length
        case _:
            raise AssertionError(piece)


def holes(claim: Media) -> int:
    """Return how many bytes the layout says are zeros without storing them."""
    layout = claim.layouts[-1]
    assert isinstance(layout, Linear)
    lengths, targets = memoryview(layout.length).cast("q"), memoryview(layout.target).cast("q")
    return sum(length for length, target in zip(lengths, targets, strict=True) if target == HOLE)


def run_count(claim: Media) -> int:
    """Return the number of runs of the layout."""
    layout = claim.layouts[-1]
    assert isinstance(layout, Linear)
    return len(layout.logical) // 8
