"""btrfs images made by mkfs and filled through the kernel, and what the kernel shows of them."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options
from imgfs.model import Kind
from imgfs.testing.fakes import FileReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.tskimages import need, noise, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.backends.extimages import Seen

PLACE = 1 << 46  # what numbers of places of other subvolumes have


def make(images: Sequence[Path], *options: str, size: int = 128 << 20) -> Sequence[Path]:
    """Make an empty file system over some images."""
    need("mkfs.btrfs")
    for image in images:
        with image.open("wb") as file:
            file.truncate(size)
    run("mkfs.btrfs", "-q", "-f", "-L", "EVIDENCE", *options, *images)
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
        words = ",".join((*[f"device={loop}" for loop in loops], *options))
        done = _tried("mount", "-t", "btrfs", "-o", words, loops[0], str(where))
        if done.returncode:
            pytest.skip(f"the kernel does not mount this: {done.stderr.strip()[:200]}")
        try:
            yield where
        finally:
            run("umount", where)
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
    (where / "mixed").write_bytes(text[:200_000] + noise(300_000, 3) + text[:100_001])
    run("sync", "-f", where)
    for name, source in (("clone", "text"), ("clone2", "mixed")):
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
    (where / "links").mkdir()
    (where / "links" / "first").write_bytes(b"many names")
    for number in range(400):  # more than fit one item: extended references
        os.link(where / "links" / "first", where / "links" / (f"{number:03d}" + "x" * 60))
    (where / "nocow").mkdir()
    _tried("chattr", "+C", str(where / "nocow"))
    (where / "nocow" / "file").write_bytes(noise(700_000, 9))
    _tried("chattr", "+c", str(where / "text"))
    os.setxattr(where / "mixed", b"btrfs.compression", b"zlib")
    (where / "inline").write_bytes(b"i" * 1500)
    os.truncate(where / "inline", 1600)
    (where / "grown").write_bytes(b"small")
    run("sync", "-f", where)
    os.truncate(where / "grown", 100_000)
    _tried("chattr", "+i", str(where / "inline"))


def unlock(where: Path) -> None:
    """Let the special files be deleted again."""
    _tried("chattr", "-i", str(where / "inline"))


def opened(images: Sequence[Path], *, final: bool = True) -> tuple[object, FileReader]:
    """Open a file system from some of its devices."""
    others = [FileReader(image) for image in images[1:]]
    reader = FileReader(images[0], others=others)
    return open_files("btrfs", reader, Options(final=final)), reader


def compare(images: Sequence[Path], wanted: dict[bytes, Seen], tree: int = 0) -> None:
    """Assert that our reader shows what the kernel shows, file by file."""
    files, reader = opened(images)
    found = walk(files, tree)  # type: ignore[arg-type]  # as open_files has told
    assert set(found) == set(wanted)
    for path, seen in wanted.items():
        entry, told = found[path], seen.stat
        attr = entry.attr
        assert (attr.damaged, attr.deleted) == ("", False), path
        assert attr.kind == Kind(told.st_mode >> 12), path
        if attr.inum & PLACE:
            continue
        ours = (attr.inum, attr.mode, attr.uid, attr.gid, attr.nlink, attr.rdev, attr.size, attr.allocated)
        theirs = (
            told.st_ino,
            told.st_mode & 0o7777,
            told.st_uid,
            told.st_gid,
            told.st_nlink,
            told.st_rdev,
            told.st_size,
            told.st_blocks * 512,
        )
        assert ours == theirs, (path, ours, theirs)
        times = (told.st_mtime_ns, told.st_atime_ns, told.st_ctime_ns)
        assert (attr.m_ns, attr.a_ns, attr.c_ns) == times, path
        assert files.stat(tree, attr.inum, 0) == attr  # type: ignore[attr-defined]
        if seen.content is not None:
            assert content(files, reader, tree, entry) == seen.content, path  # type: ignore[arg-type]
        if seen.link is not None:
            assert files.link(tree, attr.inum) == seen.link, path  # type: ignore[attr-defined]
        said = files.xattrs(tree, attr.inum)  # type: ignore[attr-defined]
        shown = {key: value for key, value in said.items() if not key.startswith(b"user.imgfs.")}
        assert shown == seen.xattrs, path
