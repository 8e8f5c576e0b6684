"""QCOW images that qemu-img writes, and parts of them changed by hand."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is missing")
SECTOR = 512


def qemu(*words: object, cwd: Path | None = None) -> str:
    done = subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True, text=True, cwd=cwd)
    return done.stdout


def io(image: Path, *commands: str) -> None:
    """Let qemu-io write into an image; what it refuses (packing a cluster again) is left out."""
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", *words, str(image)], check=False, capture_output=True, cwd=image.parent)


def convert(raw: Path, image: Path, *, kind: str = "qcow2", options: str = "", packed: bool = False) -> Path:
    words = ["-c"] if packed else []
    words += ["-O", kind, *(["-o", options] if options else []), "-f", "raw", str(raw), str(image)]
    # qemu-img 7.2 ends with 1 after writing a whole, compressed image of the first version: compared below.
    done = subprocess.run(["qemu-img", "convert", *words], check=False, capture_output=True)
    assert not done.returncode or qemu("compare", "-f", "raw", "-F", kind, raw, image), done.stderr
    return image


def media_bytes(size: int, seed: int = 7) -> bytes:
    """Return text, noise and zeros in pieces of all lengths: clusters of every kind."""
    rng = random.Random(seed)
    parts: list[bytes] = []
    length = 0
    while length < size:
        count = rng.choice((700, 5000, 40_000, 200_000))
        kind = rng.randrange(4)
        if kind == 0:
            part = rng.randbytes(count)
        elif kind == 1:
            part = bytes(count)
        else:
            part = b"".join(b"line %d of a log\n" % rng.randrange(10**4) for _ in range(count // 20))
        parts.append(part)
        length += len(part)
    return b"".join(parts)[:size]


def raw_bytes(image: Path, folder: Path) -> bytes:
    """Return what qemu-img reads of an image: the truth."""
    out = folder / "truth.raw"
    qemu("convert", "-O", "raw", image, out, cwd=image.parent)  # where it looks for data files
    data = out.read_bytes()
    out.unlink()
    return data


def patch(image: Path, at: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(at)
        file.write(data)


def number(image: Path, at: int, form: str) -> int:
    with image.open("rb") as file:
        file.seek(at)
        return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def rename_backing(image: Path, name: bytes) -> None:
    """Put another name of a backing file into a header, without looking at it as qemu-img would."""
    at = number(image, 8, ">Q") or 0x8000
    patch(image, at, name)
    patch(image, 8, struct.pack(">QI", at, len(name)))
