"""ext images made by mkfs and filled through the kernel, and what the kernel shows of them."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from imgfs.model import Kind
from imgfs.testing.fakes import FileReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.tskimages import need, noise, plant, run, sparse_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.model import Entry

ACL = b"\x02\0\0\0" + b"".join(
    tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little")
    for tag, perm, who in (
        (1, 6, 0xFFFFFFFF),
        (2, 7, 70_001),
        (4, 4, 0xFFFFFFFF),
        (0x10, 7, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)


class Seen(NamedTuple):
    """What the kernel shows of one path."""

    stat: os.stat_result
    content: bytes | None
    link: bytes | None
    xattrs: dict[bytes, bytes]


def make(image: Path, *options: str, size: int = 24 << 20) -> Path:
    """Make an empty file system."""
    need("mke2fs")
    with image.open("wb") as file:
        file.truncate(size)
    run("mke2fs", "-q", "-F", "-L", "EVIDENCE", *options, image)
    return image


@contextmanager
def attached(image: Path, where: Path, *options: str) -> Iterator[Path]:
    """Mount through the kernel, or skip."""
    if os.geteuid():
        pytest.skip("mounting needs root")
    where.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "ext4", "-o", ",".join(("loop", *options)), image, where],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"the kernel does not mount this: {done.stderr.strip()[:200]}")
    try:
        yield where
    finally:
        run("umount", where)


def fill(where: Path) -> None:
    """Write one of everything a file system may hold."""
    plant(where)
    plant(
        where,
        {b"many": None}
        | {b"many/file %04d with a longer name" % n: b"%d\n" % n * (n % 7) for n in range(300)},
    )
    sparse_file(where / "sparse.bin", 9_000_000, noise(9000, 7), 5_000_001)
    sparse_file(where / "hole.bin", 3_000_000, b"", 0)
    with (where / "pieces.bin").open("wb") as file:  # more extents than an inode holds
        for number in range(400):
            file.seek(number * 12_288)
            file.write(noise(4096, number))
    with (where / "reserved.bin").open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, 200_000)
        except OSError:
            file.truncate(200_000)
        file.write(b"begin")
    for length in (1, 59, 60, 200, 1000):
        (where / f"link{length}").symlink_to("t" * length)
    (where / ("n" * 255)).write_bytes(b"longest name")
    os.link(where / "small.txt", where / "hard")
    os.mkfifo(where / "fifo")
    for name, device in (("null", (1, 3)), ("disk", (8, 17)), ("wide", (300, 70_000))):
        os.mknod(
            where / name, (stat.S_IFBLK if name == "disk" else stat.S_IFCHR) | 0o640, os.makedev(*device)
        )
    bound = socket.socket(socket.AF_UNIX)
    os.chdir(where)
    try:
        bound.bind("socket")
    finally:
        os.chdir("/")
        bound.close()
    os.chown(where / "block.bin", 70_000, 80_000)
    (where / "block.bin").chmod(0o6711)
    for seconds, name in ((-5, "empty.txt"), (4_200_000_000, "large.bin"), (2**31 - 1, "hole.bin")):
        os.utime(where / name, ns=(seconds * 10**9 + 987_654_321, seconds * 10**9 + 123_456_789))
    attributes: list[tuple[str, bytes, bytes]] = [
        ("small.txt", b"user.note", b"a value"),
        ("small.txt", b"user.empty", b""),
        ("small.txt", b"user.longer", noise(700, 11)),
        ("small.txt", b"trusted.t", b"trusted value"),
        ("small.txt", b"security.selinux", b"system_u:object_r:etc_t:s0\0"),
        ("small.txt", b"system.posix_acl_access", ACL),
        ("dir", b"system.posix_acl_default", ACL),
        ("dir", b"user.of a directory", b"\0\1\2"),
        ("link60", b"trusted.on a link", b"value"),
        ("fifo", b"trusted.on a pipe", b"value"),
    ]
    for name, key, value in attributes:
        os.setxattr(where / name, key, value, follow_symlinks=False)


def look(where: Path) -> dict[bytes, Seen]:
    """Return what is there."""
    seen = {}
    for folder, folders, names in os.walk(os.fsencode(where)):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            told = os.lstat(path)
            keys = [os.fsencode(key) for key in os.listxattr(path, follow_symlinks=False)]
            seen[os.path.relpath(path, os.fsencode(where))] = Seen(
                told,
                Path(os.fsdecode(path)).read_bytes() if stat.S_ISREG(told.st_mode) else None,
                os.readlink(path) if stat.S_ISLNK(told.st_mode) else None,
                {key: os.getxattr(path, key, follow_symlinks=False) for key in keys},
            )
    return seen


def compare(image: Path, wanted: dict[bytes, Seen]) -> None:
    """Assert that our reader shows what the kernel shows, file by file."""
    reader = FileReader(image)
    try:
        files = open_files("ext", reader)
        tree = walk(files)
        assert set(tree) == set(wanted)
        for path, seen in wanted.items():
            entry = tree[path]
            _same_attributes(path, entry, seen.stat)
            assert files.stat(0, entry.attr.inum, 0) == entry.attr
            if seen.content is not None:
                assert content(files, reader, 0, entry) == seen.content, path
                if entry.layout is not None:
                    assert content(files, reader, 0, entry, entry.layout) == seen.content, path
            if seen.link is not None:
                assert files.link(0, entry.attr.inum) == seen.link, path
            assert files.xattrs(0, entry.attr.inum) == seen.xattrs, path
    finally:
        reader.close()


def _same_attributes(path: bytes, entry: Entry, told: os.stat_result) -> None:
    attr = entry.attr
    assert (attr.damaged, attr.deleted) == ("", False), path
    assert attr.kind == Kind(told.st_mode >> 12), path
    ours = (attr.inum, attr.mode, attr.uid, attr.gid, attr.nlink, attr.rdev)
    assert ours == (
        told.st_ino,
        told.st_mode & 0o7777,
        told.st_uid,
        told.st_gid,
        told.st_nlink,
        told.st_rdev,
    ), path
    assert (attr.size, attr.allocated) == (told.st_size, told.st_blocks * 512), path
    assert (attr.m_ns, attr.a_ns, attr.c_ns) == (told.st_mtime_ns, told.st_atime_ns, told.st_ctime_ns), path
