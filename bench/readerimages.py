"""One tree on every file system that this machine's tools can write: many small files, and a big one.

The big file is random bytes, which nothing compresses: it is stored verbatim everywhere. A tool that is
missing, or needs a right that is, leaves its image out, and that is said.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import apfsimage, fatimage
from bench.images import MIB, quiet
from bench.systems import folder, unmounting, wait

FOLDER = 1000  # files of a directory


@dataclass(frozen=True, slots=True)
class Volume:
    """An image, how it is made, and where its files are in the mount of it."""

    name: str
    make: Callable[[Path, Path, int], None]  # (tree, image, bytes that are enough for it)
    needs: tuple[str, ...]
    where: str = "*/root"  # a pattern below the folder of the image
    big: bool = True  # it holds the big file, too
    root: bool = False
    most: int = 1 << 62  # small files


def plant(top: Path, files: int, big: int) -> None:
    """Write ``files`` small files in folders of a thousand, and one of ``big`` MiB."""
    chance = random.Random(6)
    text = chance.randbytes(4096)
    for first in range(0, files, FOLDER):
        sub = top / f"tree/d{first:07d}"
        sub.mkdir(parents=True)
        for number in range(first, min(first + FOLDER, files)):
            path = sub / f"report_{number:07d}.docx"
            path.write_bytes(text[: number % 300])
            os.utime(path, ns=(0, 1_500_000_000_000_000_000 + number * 1_000_000_007))
    with (top / "big.bin").open("wb") as out:
        for _ in range(big):
            out.write(chance.randbytes(MIB))


def build(place: Path, volumes: list[Volume], files: int, big: int) -> dict[str, str]:
    """Make the images that are not there yet; returns why one could not be, by name."""
    place.mkdir(parents=True, exist_ok=True)
    wanting = [volume for volume in volumes if not (place / volume.name).exists()]
    left_out: dict[str, str] = {}
    if not wanting:
        return left_out
    top, small = place / "source", place / "small"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    plant(top, files, big)
    small.mkdir(exist_ok=True)
    for volume in wanting:
        lacking = [name for name in volume.needs if not shutil.which(name)]
        if lacking or (volume.root and os.geteuid()) or files > volume.most:
            left_out[volume.name] = (
                f"not installed: {', '.join(lacking)}"
                if lacking
                else f"made of at most {volume.most} files"
                if files > volume.most
                else "making it needs root"
            )
            continue
        made = place / f"{volume.name}.new"
        made.unlink(missing_ok=True)
        source = top
        if not volume.big:
            source = small
            if not (small / "tree").exists():
                (top / "tree").rename(small / "tree")
        elif (small / "tree").exists():
            (small / "tree").rename(top / "tree")
        try:
            volume.make(source, made, files * 8192 + (big + 512) * MIB)
        except (RuntimeError, OSError, subprocess.SubprocessError) as why:
            left_out[volume.name] = str(why).strip().splitlines()[-1]
            made.unlink(missing_ok=True)
        else:
            made.rename(place / volume.name)
    shutil.rmtree(top)
    shutil.rmtree(small)
    return left_out


def _room(image: Path, size: int) -> None:
    image.touch()
    os.truncate(image, size)


def _tool(*command: str) -> Callable[[Path, Path, int], None]:
    """A tool that writes the image itself: words IMAGE, TREE and SIZE are put in place."""

    def make(tree: Path, image: Path, size: int) -> None:
        words = {"IMAGE": str(image), "TREE": str(tree), "SIZE": str(size)}
        quiet(*(words.get(word, word) for word in command))

    return make


def _formatted(*command: str) -> Callable[[Path, Path, int], None]:
    """As ``_tool``, into a file that is as large as it has to be."""

    def make(tree: Path, image: Path, size: int) -> None:
        _room(image, size)
        _tool(*command)(tree, image, size)

    return make


def _ext4(tree: Path, image: Path, size: int) -> None:
    _room(image, size)
    count = sum(len(files) for _, _, files in os.walk(tree))
    quiet("mkfs.ext4", "-q", "-F", "-m", "0", "-N", count + count // 500 + 1000, "-d", tree, image)


def _mounted(*command: str, format_: tuple[str, ...]) -> Callable[[Path, Path, int], None]:
    """A file system that a program mounts to be written: ``command`` IMAGE POINT."""

    def make(tree: Path, image: Path, size: int) -> None:
        _room(image, size)
        quiet(*format_, image)
        point = folder(image.parent, "point")
        quiet(*command, image, point)
        with unmounting(point):
            wait(lambda: os.path.ismount(point))
            quiet("cp", "-r", "--preserve=timestamps", f"{tree}/.", point)
        point.rmdir()

    return make


def _fat(tree: Path, image: Path, size: int) -> None:  # noqa: ARG001  # as the others
    fatimage.write(tree, image)


def _apfs(tree: Path, image: Path, size: int) -> None:  # noqa: ARG001  # as the others
    apfsimage.write(tree, image)


_MKISOFS = ("xorriso", "-as", "mkisofs", "-quiet", "-R")

VOLUMES = (
    Volume("ext4.raw", _ext4, ("mkfs.ext4",)),
    Volume(
        "xfs.raw", _mounted("mount", "-o", "loop", format_=("mkfs.xfs", "-q", "-f")), ("mkfs.xfs",), root=True
    ),
    Volume("btrfs.raw", _formatted("mkfs.btrfs", "-q", "--rootdir", "TREE", "IMAGE"), ("mkfs.btrfs",)),
    Volume("tree.squashfs", _tool("mksquashfs", "TREE", "IMAGE", "-quiet", "-no-progress"), ("mksquashfs",)),
    Volume("tree.erofs", _tool("mkfs.erofs", "--quiet", "IMAGE", "TREE"), ("mkfs.erofs",)),
    Volume("rock.iso", _tool(*_MKISOFS, "-o", "IMAGE", "TREE"), ("xorriso",)),
    Volume(
        "joliet.iso",
        _tool("xorriso", "-as", "mkisofs", "-quiet", "-J", "-o", "IMAGE", "TREE"),
        ("xorriso",),
        where="*/joliet",
    ),
    Volume(
        "udf.raw",
        _tool("genisoimage", "-quiet", "-udf", "-o", "IMAGE", "TREE"),
        ("genisoimage",),
        where="*udf/root",
    ),
    Volume(
        "hfsplus.raw",
        _tool(*_MKISOFS, "-hfsplus", "-o", "IMAGE", "TREE"),
        ("xorriso",),
        where="*HFSPLUS*/root",
    ),
    Volume("apfs.raw", _apfs, (), where="*/bench", big=False),
    Volume("fat32.raw", _fat, ()),
    Volume(
        "exfat.raw",
        _mounted("mount", "-o", "loop", "-t", "exfat-fuse", format_=("mkfs.exfat", "-c", "4096")),
        ("mkfs.exfat", "mount.exfat-fuse"),
        root=True,
    ),
    Volume(
        "ntfs.raw",
        _mounted("ntfs-3g", "-o", "big_writes", format_=("mkntfs", "-q", "-Q", "-F")),
        ("mkntfs", "ntfs-3g"),
        root=True,
    ),
    Volume("ufs2.raw", _tool("makefs", "-t", "ffs", "-o", "version=2", "IMAGE", "TREE"), ("makefs",)),
    Volume("tree.romfs", _tool("genromfs", "-f", "IMAGE", "-d", "TREE"), ("genromfs",)),
    Volume("tree.cramfs", _tool("mkfs.cramfs", "TREE", "IMAGE"), ("mkfs.cramfs",), big=False),
)
