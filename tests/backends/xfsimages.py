"""XFS images: made by mkfs, filled through the kernel or from a prototype file, and what others see."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.backends.compared import Rules, same
from tests.backends.tskimages import need, noise, run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.backends.seen import Seen

OURS = b"user.imgfs.xfs."
RULES = Rules(hidden=(b"trusted.SGI_ACL_",))  # the kernel shows an ACL twice
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


def io(where: Path, path: str, *commands: str) -> str:
    """Ask the kernel something that only xfs_io knows how to."""
    need("xfs_io")
    return run("xfs_io", *[word for command in commands for word in ("-c", command)], where / path)


def plant_special(where: Path) -> None:
    """Write what only XFS has: forks and directories in trees of extents, flags, projects."""
    with (where / "tree.bin").open("wb") as file:  # more extents than an inode's list holds
        for number in range(1200):
            file.seek(number * 8192)
            file.write(noise(4096, number))
    names = where / "attributes"
    names.mkdir()
    for one in ("tree", "other"):  # values in turns, so that each fork has many extents
        (names / one).write_bytes(b"")
    for number in range(100):
        for one in ("tree", "other"):
            os.setxattr(names / one, f"user.{number}", noise(5000, number))
    (where / "names").mkdir(exist_ok=True)
    gone = where / "names" / "gone"
    gone.mkdir()
    for number in range(4000):
        (gone / f"{'n' * (number % 200)} {number}").write_bytes(b"")
    for number in range(1500, 3000):  # blocks without any entry
        (gone / f"{'n' * (number % 200)} {number}").unlink()
    for name in ("small", "large", "step"):
        (where / name).write_bytes(noise(len(name) * 50_000))
    (where / "projects").mkdir()
    io(where, "large", "falloc 1m 1m")
    io(where, "small", "chproj 70000", "chattr +d")
    (where / "empty").write_bytes(b"")
    io(where, "empty", "extsize 64k")
    io(where, "projects", "chattr +P", "chproj 7")
    io(where, "step", "chattr +i")


def shows(image: Path, wanted: Mapping[bytes, Seen]) -> None:
    """Assert that our reader shows what the kernel shows of an image."""
    same("xfs", image, wanted, RULES)


def asked(image: Path, number: int) -> dict[str, str]:
    """Return the fields of an inode as xfs_db prints them."""
    need("xfs_db")
    lines = run("xfs_db", "-r", "-c", f"inode {number}", "-c", "print", image).splitlines()
    return dict(line.split(" = ", 1) for line in lines if " = " in line)
