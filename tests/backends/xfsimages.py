"""XFS images: made by mkfs, filled through the kernel or from a prototype file, and what others see."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgfs.model import Kind
from imgfs.testing.fakes import FileReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.extimages import ACL, fill
from tests.backends.tskimages import need, noise, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.model import Entry
    from tests.backends.extimages import Seen

OURS = b"user.imgfs.xfs."
PROTOTYPE = """/
0 0
d--755 0 0
small.txt ---644 1000 1001 {folder}/small.txt
empty ---600 0 0 {folder}/empty
large.bin -u-755 70000 80000 {folder}/large.bin
dir d--750 3 4
inner --g640 5 6 {folder}/small.txt
sub d--700 0 0
$
$
many d--755 0 0
{many}
$
b0 b--644 3 1 8 17
c0 c--666 3 1 1 3
fifo p--644 3 1
short l--777 3 1 small.txt
long l--777 3 1 {long}
$
"""


def make(image: Path, *options: str, size: int = 64 << 20) -> Path:
    """Make an empty file system, or a filled one with ``-p``."""
    need("mkfs.xfs")
    with image.open("wb") as file:
        file.truncate(size)
    # without these names mkfs refuses what nobody would use: file systems below 300 MB, small logs
    small = [f"{name}=1" for name in ("TEST_DIR", "TEST_DEV", "QA_CHECK_FS")]
    run("env", *small, "mkfs.xfs", "-q", "-f", "-L", "EVIDENCE", *options, image)
    return image


def prototype(folder: Path, entries: int = 300, long: int = 300) -> tuple[Path, dict[bytes, bytes | None]]:
    """Write a prototype file and what it names; returns it with the truth.

    ``long`` is the length of a link. mkfs writes one that does not fit into the inode as version 4 has it,
    which no kernel reads in version 5.
    """
    folder.mkdir()
    (folder / "small.txt").write_bytes(b"hello world\n")
    (folder / "empty").write_bytes(b"")
    (folder / "large.bin").write_bytes(noise(300_001, 3))
    names = [f"file{number:05d}-with-a-longer-name" for number in range(entries)]
    many = "\n".join(f"{name} ---644 0 0 {folder}/small.txt" for name in names)
    path = folder / "prototype"
    path.write_text(PROTOTYPE.format(folder=folder, many=many, long="t" * long))
    small = (folder / "small.txt").read_bytes()
    truth: dict[bytes, bytes | None] = {
        b"small.txt": small,
        b"empty": b"",
        b"large.bin": (folder / "large.bin").read_bytes(),
        b"dir": None,
        b"dir/inner": small,
        b"dir/sub": None,
        b"many": None,
    }
    return path, truth | {b"many/" + name.encode(): small for name in names}


@contextmanager
def attached(image: Path, where: Path, *options: str) -> Iterator[Path]:
    """Mount through the kernel, or skip."""
    if os.geteuid():
        pytest.skip("mounting needs root")
    where.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "xfs", "-o", ",".join(("loop", "nouuid", *options)), image, where],
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


def io(where: Path, path: str, *commands: str) -> str:
    """Ask the kernel something that only xfs_io knows how to."""
    need("xfs_io")
    return run("xfs_io", *[word for command in commands for word in ("-c", command)], where / path)


def plant_all(where: Path) -> None:
    """Write one of everything, also what only XFS has."""
    fill(where)
    with (where / "tree.bin").open("wb") as file:  # more extents than an inode's list holds
        for number in range(1200):
            file.seek(number * 8192)
            file.write(noise(4096, number))
    for length in (100, 300, 335, 336, 337, 400, 960, 970, 1023):
        (where / f"link to {length}").symlink_to("".join(chr(97 + n % 26) for n in range(length)))
    names = where / "attributes"
    names.mkdir()
    for count in (1, 12, 60, 1000):
        (names / f"{count}").write_bytes(b"x")
        for number in range(count):
            os.setxattr(names / f"{count}", f"user.attribute number {number:05d}", b"%d" % number * 9)
    for size in (1, 255, 256, 1000, 3000, 4040, 4041, 20_000, 65_536):
        (names / f"value {size}").write_bytes(b"")
        os.setxattr(names / f"value {size}", "user.value", noise(size, size))
        os.setxattr(names / f"value {size}", "trusted.value", noise(size, size + 1))
    for one in ("tree", "other"):  # values in turns, so that each fork has many extents
        (names / one).write_bytes(b"")
    for number in range(100):
        for one in ("tree", "other"):
            os.setxattr(names / one, f"user.{number}", noise(5000, number))
    os.setxattr(names / "1", "security.capability", bytes.fromhex("0000000201040000000000000000000000000000"))
    os.setxattr(names, "system.posix_acl_default", ACL)
    for count in (3, 10, 60, 700, 4000):
        (where / f"names {count}").mkdir()
        for number in range(count):
            (where / f"names {count}" / f"{'n' * (number % 200)} {number}").write_bytes(b"")
    for number in range(0, 700, 3):  # holes between entries, and blocks without any
        (where / "names 700" / f"{'n' * (number % 200)} {number}").unlink()
    for number in range(1500, 3000):
        (where / "names 4000" / f"{'n' * (number % 200)} {number}").unlink()
    (where / b"names 3".decode() / os.fsdecode(b"\xff\xfe not UTF-8")).write_bytes(b"1")
    io(where, "large.bin", "falloc 1m 1m")
    io(where, "small.txt", "chproj 70000", "chattr +d")
    io(where, "empty.txt", "extsize 64k")
    io(where, "dir", "chattr +P", "chproj 7")
    io(where, "block.bin", "chattr +i")


def expected(seen: Seen) -> dict[bytes, bytes]:
    """Return the attributes as we name them: the kernel shows an ACL twice."""
    return {key: value for key, value in seen.xattrs.items() if not key.startswith(b"trusted.SGI_ACL_")}


def compare(image: Path, wanted: dict[bytes, Seen], *, block: int = 4096) -> None:
    """Assert that our reader shows what the kernel shows, file by file."""
    reader = FileReader(image)
    try:
        files = open_files("xfs", reader)
        tree = walk(files)
        assert set(tree) == set(wanted)
        for path, seen in wanted.items():
            entry = tree[path]
            same_attributes(path, entry, seen.stat)
            assert files.stat(0, entry.attr.inum, 0) == entry.attr
            if seen.content is not None:
                assert content(files, reader, 0, entry) == seen.content, path
                if entry.layout is not None:
                    assert content(files, reader, 0, entry, entry.layout) == seen.content, path
            if seen.link is not None:
                assert files.link(0, entry.attr.inum) == seen.link, path
            found = files.xattrs(0, entry.attr.inum)
            shown = {key: value for key, value in found.items() if not key.startswith(OURS)}
            assert shown == expected(seen), path
    finally:
        reader.close()


def same_attributes(path: bytes, entry: Entry, told: os.stat_result) -> None:
    """Compare what stat says."""
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


def asked(image: Path, number: int) -> dict[str, str]:
    """Return the fields of an inode as xfs_db prints them."""
    need("xfs_db")
    lines = run("xfs_db", "-r", "-c", f"inode {number}", "-c", "print", image).splitlines()
    return dict(line.split(" = ", 1) for line in lines if " = " in line)
