"""Read-only file systems made from a folder, and what the kernel and extractors show of them."""

from __future__ import annotations

import os
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgfs.model import Kind
from imgfs.testing.fakes import FileReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.extimages import Seen, fill, look
from tests.backends.tskimages import noise, plant, run, sparse_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.model import Entry


def rich(folder: Path) -> Path:
    """Fill a folder with one of everything its file system lets us make; returns it."""
    folder.mkdir()
    if os.geteuid() == 0:
        fill(folder)
        for number, size in enumerate((70, 1500, 3500)):  # the same large value twice lies outside
            for name in (f"value {number} a", f"value {number} b"):
                (folder / name).write_bytes(b"")
                os.setxattr(folder / name, b"user.large", noise(size, number))
    else:
        plant(folder)
        sparse_file(folder / "sparse.bin", 9_000_000, noise(9000, 7), 5_000_001)
        sparse_file(folder / "hole.bin", 3_000_000, b"", 0)
        for length in (1, 59, 60, 200, 1000):
            (folder / f"link{length}").symlink_to("t" * length)
        (folder / ("n" * 255)).write_bytes(b"longest name")
        os.link(folder / "small.txt", folder / "hard")
        os.mkfifo(folder / "fifo")
    edges(folder / "edges")
    names = folder / "names"
    names.mkdir()
    for number in range(1200):  # several blocks of names, with an index
        (names / f"a name of a certain length, number {number:05}").write_bytes(b"%d\n" % number)
    for name in (b"\xff\xfe", b"new\nline", b"back\\slash", "日本語".encode(), b"-", b" "):
        (Path(os.fsdecode(os.path.join(os.fsencode(names), name)))).write_bytes(name)
    return folder


def edges(folder: Path) -> None:
    """Write files around every boundary, of text that compresses and of noise that does not."""
    folder.mkdir()
    text = b"".join(b"line %d of a text that compresses well\n" % n for n in range(40_000))
    for size in (1, 4095, 4096, 4097, 65537, 131_071, 131_072, 131_073, 262_144, 1_000_000):
        (folder / f"text{size}").write_bytes(text[:size])
        (folder / f"noise{size}").write_bytes(noise(size, size))
        (folder / f"zeros{size}").write_bytes(bytes(size))
        (folder / f"mixed{size}").write_bytes((text[: size // 3] + noise(size // 3, 5) + bytes(size))[:size])


@contextmanager
def attached(kind: str, image: Path, where: Path) -> Iterator[Path]:
    """Mount through the kernel, or skip."""
    if os.geteuid():
        pytest.skip("mounting needs root")
    where.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", kind, "-o", "loop,ro", image, where], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"the kernel does not mount this: {done.stderr.strip()[:200]}")
    try:
        yield where
    finally:
        run("umount", where)


def compare(backend: str, image: Path, wanted: dict[bytes, Seen], *, extracted: bool = False) -> None:
    """Assert that our reader shows what the kernel shows, file by file.

    ``extracted``: the truth are files a tool wrote, whose numbers and hard links are the host's.
    """
    reader = FileReader(image)
    try:
        files = open_files(backend, reader)
        assert files.info.notes == ()
        tree = walk(files)
        assert set(tree) == set(wanted)
        numbers: dict[int, int] = {}
        for path, seen in wanted.items():
            entry = tree[path]
            same_attributes(path, entry, seen.stat, extracted=extracted)
            assert numbers.setdefault(entry.attr.inum, seen.stat.st_ino) == seen.stat.st_ino, path
            assert files.stat(0, entry.attr.inum, 0) == entry.attr
            if seen.content is not None:
                assert content(files, reader, 0, entry) == seen.content, path
                if entry.layout is not None:
                    assert content(files, reader, 0, entry, entry.layout) == seen.content, path
            if seen.link is not None:
                assert files.link(0, entry.attr.inum) == seen.link, path
            shown = files.xattrs(0, entry.attr.inum)
            inode = int(shown.pop(b"user.imgfs.inode", b"%d" % entry.attr.inum))
            if not extracted:
                assert shown == seen.xattrs, path
                assert inode == seen.stat.st_ino, path
        assert len(numbers) == len(set(numbers.values()))
    finally:
        reader.close()


def same_attributes(path: bytes, entry: Entry, told: os.stat_result, *, extracted: bool) -> None:
    """Assert that an entry has the attributes that were told."""
    attr = entry.attr
    assert (attr.damaged, attr.deleted) == ("", False), path
    assert attr.kind == Kind(told.st_mode >> 12), path
    ours = (attr.mode, attr.uid, attr.gid, attr.rdev)
    assert ours == (told.st_mode & 0o7777, told.st_uid, told.st_gid, told.st_rdev), path
    if attr.kind is not Kind.DIR or not extracted:
        assert (attr.nlink, attr.size) == (told.st_nlink, told.st_size), path
    assert attr.m_ns is not None
    assert attr.m_ns // 10**9 == told.st_mtime_ns // 10**9, path
    if not extracted:
        assert attr.m_ns == told.st_mtime_ns, path


def kept(folder: Path) -> dict[bytes, bytes | None]:
    """Return what is in a folder as the truth of ``check_files``: regular files and directories."""
    return {
        path: seen.content if seen.content is not None else None
        for path, seen in look(folder).items()
        if stat.S_ISREG(seen.stat.st_mode) or stat.S_ISDIR(seen.stat.st_mode)
    }
