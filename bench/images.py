"""The images that are measured: one tree on ext4 and on NTFS, raw, as E01 and as compressed qcow2.

Deterministic: a big file of log-like text and random bytes in turns (62 to 38), small files of 0 to 16 KiB
in directories of a hundred, a file in thousands of extents. NTFS and the fragmented file need root, because
only mounted file systems write them; what cannot be made is left out and said.
"""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
_WORDS = [
    "report",
    "invoice",
    "session",
    "kernel",
    "module",
    "update",
    "backup",
    "archive",
    "index",
    "photo",
    "scan",
    "draft",
    "contract",
]
_PUNCH = 3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE of <linux/falloc.h>


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is in the tree. Units: ``big`` and ``scattered`` MiB."""

    big: int
    files: int
    scattered: int

    @property
    def image(self) -> int:
        """Return the bytes of an image that holds it."""
        return (self.big + self.scattered * 5 + self.files * 12 // 1024 + 256) * MIB


def quiet(*command: object) -> None:
    """Run a command; its output is shown when it fails."""
    done = subprocess.run([str(c) for c in command], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")


def build(folder: Path, sizes: Sizes) -> dict[str, Path]:
    """Return the images by name ("ext4.raw", "ext4.E01", "ext4.qcow2", ...); made once per size."""
    place = folder / f"{sizes.big}-{sizes.files}-{sizes.scattered}"
    done = place / "complete"
    if not done.exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        _build(place, sizes)
        done.touch()
    kinds = {".raw", ".E01", ".qcow2", ".vmdk", ".dmg", ".aff4", ".bde", ".squashfs", ".erofs"}
    found = {path.name: path for path in sorted(place.iterdir()) if path.suffix in kinds}
    for wanted in ("ext4.raw", "ntfs.raw"):
        if wanted not in found:
            print(f"no {wanted}: making it needs root and mkntfs", file=sys.stderr)
    return found


def _build(place: Path, sizes: Sizes) -> None:
    source = place / "source"
    _tree(source, sizes)
    _ext4(source, place / "ext4.raw", sizes)
    if os.getuid() == 0 and shutil.which("mkntfs"):
        _ntfs(source, place / "ntfs.raw", sizes)
    if shutil.which("mksquashfs"):
        quiet("mksquashfs", source, place / "tree.squashfs", "-quiet", "-no-progress")
        for name in ("lzo", "xz"):
            image = place / f"{name}.squashfs"
            quiet("mksquashfs", source, image, "-quiet", "-no-progress", "-comp", name)
    if shutil.which("mkfs.erofs"):
        quiet("mkfs.erofs", "--quiet", "-zlz4", "-C65536", place / "tree.erofs", source)
    shutil.rmtree(source)
    for raw in sorted(place.glob("*.raw")):
        acquire = ("ewfacquire", "-u", "-q", "-c", "fast", "-b", "64", "-S", "8EiB", "-f", "encase6")
        quiet(*acquire, "-t", raw.with_suffix(""), raw)
        if shutil.which("qemu-img"):
            quiet("qemu-img", "convert", "-c", "-O", "qcow2", raw, raw.with_suffix(".qcow2"))


def _tree(folder: Path, sizes: Sizes) -> None:
    chance = random.Random(1)
    text = b"".join(_line(chance) for _ in range(100_000))
    folder.mkdir()
    with (folder / "big.bin").open("wb") as out:
        for _ in range(sizes.big):
            out.write(_mix(chance, text, MIB))
    for first in range(0, sizes.files, 100):
        sub = folder / "tree" / f"{chance.choice(_WORDS)} {first // 100:05d}"
        sub.mkdir(parents=True)
        for number in range(first, min(first + 100, sizes.files)):
            length = min(16384, int(chance.expovariate(1 / 5000))) if chance.random() > 0.03 else 0
            path = sub / f"{chance.choice(_WORDS)}_{number:06d}.{chance.choice(['docx', 'log', 'jpg'])}"
            at = chance.randrange(len(text) - length)
            path.write_bytes(text[at : at + length] if chance.random() < 0.65 else chance.randbytes(length))


def _line(chance: random.Random) -> bytes:
    words = " ".join(chance.choice(_WORDS) for _ in range(chance.randrange(4, 16)))
    return f"2026-{chance.randrange(1, 13):02d} host{chance.randrange(40)} {words}\n".encode()


def _mix(chance: random.Random, text: bytes, length: int) -> bytes:
    parts, done = [], 0
    while done < length:
        part = min(length - done, chance.randrange(4096, 65536))
        at = chance.randrange(len(text) - part)
        parts.append(text[at : at + part] if chance.random() < 0.62 else chance.randbytes(part))
        done += part
    return b"".join(parts)


def mixed(mib: int) -> bytes:
    """Return ``mib`` MiB as the big file has them."""
    chance = random.Random(2)
    text = b"".join(_line(chance) for _ in range(60_000))
    return b"".join(_mix(chance, text, MIB) for _ in range(mib))


def _ext4(source: Path, image: Path, sizes: Sizes) -> None:
    image.touch()
    os.truncate(image, sizes.image)
    quiet("mkfs.ext4", "-q", "-F", "-m", "0", "-N", sizes.files + 8192, "-d", source, image)
    if os.getuid() == 0:
        with _mounted(image, "mount", "-o", "loop") as point:
            _scatter(point, sizes.scattered)


def _ntfs(source: Path, image: Path, sizes: Sizes) -> None:
    image.touch()
    os.truncate(image, sizes.image)
    quiet("mkntfs", "-q", "-Q", "-F", image)
    with _mounted(image, "ntfs-3g", "-o", "big_writes") as point:
        quiet("cp", "-r", f"{source}/.", point)


@contextmanager
def _mounted(image: Path, *command: str) -> Iterator[Path]:
    point = image.with_suffix(".point")
    point.mkdir()
    quiet(*command, image, point)
    try:
        yield point
    finally:
        quiet("umount", point)
        point.rmdir()


def _scatter(point: Path, mib: int) -> None:
    """Write a file in extents of 32 KiB: free a comb of holes in a full file system, and write into it."""
    step = 32 << 10
    comb, fill = point / ".comb", point / ".fill"
    with comb.open("wb") as holes, fill.open("wb") as rest:
        os.posix_fallocate(holes.fileno(), 0, (mib + 8) * 2 * MIB)
        _fill(rest.fileno())
        punch = ctypes.CDLL(None, use_errno=True).fallocate
        punch.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        for at in range(0, (mib + 8) * 2 * MIB, 2 * step):
            if punch(holes.fileno(), _PUNCH, at, step):
                raise OSError(ctypes.get_errno(), "fallocate")
        os.sync()
        chance = random.Random(7)
        with (point / "scattered.bin").open("wb") as out:
            for _ in range(mib):
                out.write(b"".join(chance.randbytes(8192) + bytes(8192) for _ in range(64)))
    comb.unlink()
    fill.unlink()


def _fill(fd: int) -> None:
    at, step = 0, 64 * MIB
    while step >= 64 << 10:
        try:
            os.posix_fallocate(fd, at, step)
            at += step
        except OSError:
            step //= 2
