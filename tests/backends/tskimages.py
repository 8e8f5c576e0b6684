"""Images of TSK's file systems, made by real tools, with what was written to them."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def need(*tools: str) -> None:
    """Skip when a tool that makes the image is missing."""
    missing = [
        tool for tool in tools if shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None
    ]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(*command: object, cwd: Path | None = None) -> str:
    """Run a tool; its failure fails the test."""
    environment = os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, cwd=cwd, env=environment, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.decode(errors="replace")


def noise(size: int, seed: int = 1) -> bytes:
    """Return bytes that do not repeat."""
    return random.Random(seed).randbytes(size)


PLAIN: dict[bytes, bytes | None] = {
    b"empty.txt": b"",
    b"small.txt": b"hello world\n",
    b"block.bin": noise(4096, 2),
    b"large.bin": noise(300_001, 3),
    b"dir": None,
    b"dir/inner.txt": b"inner\n",
    b"dir/sub": None,
    b"dir/sub/deep.bin": noise(70_000, 4),
    "dir/Größe und Länge, ein langer Name.txt".encode(): b"unicode\n",
}


def plant(folder: Path, truth: dict[bytes, bytes | None] | None = None) -> dict[bytes, bytes | None]:
    """Write the files of a truth under a folder."""
    truth = PLAIN if truth is None else truth
    for name, data in truth.items():
        path = folder / os.fsdecode(name)
        if data is None:
            path.mkdir()
        else:
            path.write_bytes(data)
    return truth


@contextmanager
def mounted(command: list[object], where: Path) -> Iterator[Path]:
    """Mount through FUSE as root for the time of writing."""
    if os.geteuid() or not Path("/dev/fuse").exists():
        pytest.skip("writing this file system needs root and /dev/fuse")
    where.mkdir()
    run(*command, where)
    try:
        yield where
    finally:
        run("umount", where)


@contextmanager
def looped(image: Path, *options: str) -> Iterator[str]:
    """Attach an image to a loop device: fuseblk mounts nothing else."""
    if os.geteuid() or not Path("/dev/loop-control").exists():
        pytest.skip("fuseblk needs root and a loop device")
    device = run("losetup", "--find", "--show", *options, image).strip()
    try:
        yield device
    finally:
        run("losetup", "--detach", device)


def many(folder: Path, count: int) -> dict[bytes, bytes | None]:
    """Write a directory of many small files, enough for several pages of 7."""
    truth: dict[bytes, bytes | None] = {b"many": None}
    truth |= {b"many/file%04d.txt" % n: b"%d\n" % n for n in range(count)}
    plant(folder, truth)
    return truth


def sparse_file(path: Path, size: int, data: bytes, at: int) -> bytes:
    """Write one that is a hole but for some bytes; returns the content."""
    with path.open("wb") as file:
        file.seek(at)
        file.write(data)
        file.truncate(size)
    return bytes(at) + data + bytes(size - at - len(data))
