"""btrfs images made by mkfs and filled through the kernel, and what the kernel shows of them."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options
from imgfs.block.sums import crc32c
from imgfs.errors import ImgfsError
from imgfs.model import Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import _attempt, content, open_files, walk
from tests.backends import compared, kernel
from tests.backends.tskimages import many, need, noise, plant, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgfs.backends import Files
    from tests.backends.seen import Seen

PLACE = 1 << 46  # what numbers of places of other subvolumes have
RULES = compared.Rules(beyond=PLACE)


def mkfs(*options: object) -> None:
    """Run the tool, which first looks at every btrfs that is mounted here; skip when it may not."""
    with suppress(AssertionError) if _blind() else nullcontext():
        run("mkfs.btrfs", "-q", "-f", *options)
        return
    pytest.skip("a btrfs is mounted here whose device an ordinary user may not read: mkfs.btrfs refuses")


def _blind() -> bool:
    rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return any(row[2] == "btrfs" and not os.access(row[0], os.R_OK) for row in rows)


def make(images: Sequence[Path], *options: str, size: int = 128 << 20) -> Sequence[Path]:
    """Make an empty file system over some images."""
    need("mkfs.btrfs")
    for image in images:
        with image.open("wb") as file:
            file.truncate(size)
    mkfs("-L", "EVIDENCE", *options, *images)
    return images


@contextmanager
def attached(images: Sequence[Path], where: Path, *options: str) -> Iterator[Path]:
    """Mount through the kernel, or skip."""
    if os.geteuid():
        pytest.skip("mounting needs root")
    where.mkdir(exist_ok=True)
    loops: list[str] = []
    try:
        for image in images:
            done = _tried("losetup", "--show", "-f", str(image))
            if done.returncode:
                pytest.skip(f"no loop device: {done.stderr.strip()[:200]}")
            loops.append(done.stdout.strip())
        _tried("btrfs", "device", "scan", *loops)
        devices = [f"device={loop}" for loop in loops]
        with kernel.attached("btrfs", loops[0], where, *devices, *options):
            yield where
    finally:
        for loop in loops:
            _tried("losetup", "-d", loop)
        if loops:
            _tried("btrfs", "device", "scan", "--forget")


def _tried(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def fill_special(where: Path) -> None:
    """Write what only btrfs has: shared extents, parts of them, many links, properties."""
    text = b"".join(b"line %d of a text that compresses\n" % n for n in range(40_000))
    (where / "text").write_bytes(text)
    (where / "mixed.bin").write_bytes(text[:200_000] + noise(300_000, 3) + text[:100_001])
    run("sync", "-f", where)
    for name, source in (("clone", "text"), ("clone2", "mixed.bin")):
        run("cp", "--reflink=always", where / source, where / name)
    with (where / "clone").open("r+b") as file:
        for at in (8192, 100_000, 300_007):
            file.seek(at)
            file.write(noise(5000, at))
    with (where / "text").open("r+b") as file:
        os.posix_fallocate(file.fileno(), len(text) + 50_000, 300_000)
    with (where / "punched").open("wb") as file:
        file.write(noise(400_000, 5))
    run("sync", "-f", where)
    run("fallocate", "-p", "-o", "40960", "-l", "81920", where / "punched")
    (where / "many links").mkdir()
    (where / "many links" / "first").write_bytes(b"many names")
    for number in range(400):  # more than fit one item: extended references
        os.link(where / "many links" / "first", where / "many links" / (f"{number:03d}" + "x" * 60))
    (where / "nocow").mkdir()
    _tried("chattr", "+C", str(where / "nocow"))
    (where / "nocow" / "file").write_bytes(noise(700_000, 9))
    _tried("chattr", "+c", str(where / "text"))
    with suppress(OSError):  # without checksums there is no compression
        os.setxattr(where / "mixed.bin", b"btrfs.compression", b"zlib")
    (where / "inline").write_bytes(b"i" * 1500)
    os.truncate(where / "inline", 1600)
    (where / "grown").write_bytes(b"small")
    run("sync", "-f", where)
    os.truncate(where / "grown", 100_000)
    _tried("chattr", "+i", str(where / "inline"))


def unlock(where: Path) -> None:
    """Let the special files be deleted again."""
    _tried("chattr", "-i", str(where / "inline"))


def opened(images: Sequence[Path], *, final: bool = True) -> tuple[Files, FileReader]:
    """Open a file system from some of its devices."""
    others = [FileReader(image) for image in images[1:]]
    reader = FileReader(images[0], others=others)
    return open_files("btrfs", reader, Options(final=final)), reader


def compare(images: Sequence[Path], wanted: dict[bytes, Seen], tree: int = 0) -> None:
    """Assert that our reader shows what the kernel shows, file by file."""
    files, reader = opened(images)
    compared.compare(files, reader, wanted, tree=tree, rules=RULES)


def rooted(folder: Path, *options: str, size: int = 130 << 20) -> tuple[Path, dict[bytes, bytes | None]]:
    """Make a file system of a folder, as anybody may; return it and what is in it."""
    need("mkfs.btrfs")
    tree, image = folder / "tree", folder / "btrfs.img"
    tree.mkdir()
    truth = plant(tree) | many(tree, 60)
    with image.open("wb") as file:
        file.truncate(size)
    mkfs(*options, "-r", tree, image)
    return image, truth


def walked(files: Files, reader: FileReader | MemoryReader, tree: int = 0) -> dict[bytes, bytes | None]:
    """Return the contents of all regular files, None: not all of it can be read."""
    found: dict[bytes, bytes | None] = {}
    try:
        entries = walk(files, tree)
    except ImgfsError:  # a directory that cannot be listed
        return found
    for path, entry in entries.items():
        if entry.attr.kind is Kind.REG:
            try:
                found[path] = content(files, reader, tree, entry)
            except (OSError, ImgfsError):
                found[path] = None
    return found


def changed(data: bytes, *, root: int = 0, incompat: int = 0, log: int = 0, node: int = 0) -> bytes:
    """Return a copy with another superblock, its checksum right, and no mirrors."""
    block = bytearray(data[0x10000:0x11000])
    if root:
        struct.pack_into("<Q", block, 0x50, root)
    if log:
        struct.pack_into("<Q", block, 0x60, log)
    if node:
        struct.pack_into("<I", block, 0x94, node)
    block[0xBC:0xC4] = (int.from_bytes(block[0xBC:0xC4], "little") | incompat).to_bytes(8, "little")
    block[:4] = crc32c(block[32:], len(block) - 32)
    copy = bytearray(data)
    copy[0x10000:0x11000] = block
    copy[0x4000000:0x4001000] = bytes(len(copy[0x4000000:0x4001000]))
    return bytes(copy)


def resummed(data: bytes, seeds: Sequence[int] | range, node: int = 4096) -> dict[str, int]:
    """Walk copies whose nodes were changed and have right checksums again; return the outcomes."""
    fsid = data[0x10020:0x10030]
    nodes = [
        at
        for at in range(0, len(data) - node, 4096)
        if data[at + 32 : at + 48] == fsid
        and int.from_bytes(data[at + 48 : at + 56], "little")
        and at != 0x10000
    ]
    outcomes: dict[str, int] = {}
    for seed in seeds:
        rng = random.Random(seed)
        copy = bytearray(data)
        for _ in range(rng.choice((1, 1, 3, 20))):
            at = rng.choice(nodes)
            used = 101 + 25 * min(int.from_bytes(copy[at + 96 : at + 100], "little"), 100)
            for _ in range(rng.choice((1, 2, 8))):
                place = at + rng.choice((rng.randrange(48, min(used + 1, node)), rng.randrange(48, node)))
                if rng.randrange(3):
                    copy[place] ^= 1 << rng.randrange(8)
                else:
                    copy[place] = rng.choice((0, 0xFF, 0x7F, 0x80))
            copy[at : at + 4] = crc32c(copy[at + 32 : at + node], node - 32)
        if seed % 5 == 0:
            block = copy[0x10000:0x11000]
            block[rng.randrange(0x40, 0xE00)] ^= 1 << rng.randrange(8)
            block[:4] = crc32c(block[32:], len(block) - 32)
            copy[0x10000:0x11000] = block
        outcome = _attempt("btrfs", MemoryReader(bytes(copy)))
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes
