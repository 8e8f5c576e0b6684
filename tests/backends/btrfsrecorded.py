"""python -m tests.backends.btrfsrecorded FOLDER: file systems that only root can make, kept for everybody."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgfs.model import Kind
from tests.backends.btrfsimages import attached, make
from tests.backends.seen import look
from tests.backends.tskimages import run
from tests.guest import recording
from tests.guest.pattern import data

if TYPE_CHECKING:
    from collections.abc import Mapping

SETS: dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]] = {  # devices, of mkfs, of mount
    "raid0": (3, ("-d", "raid0", "-m", "raid1"), ()),
    "raid10": (4, ("-d", "raid10", "-m", "raid1c3"), ("compress=zstd",)),
    "raid5": (3, ("-d", "raid5", "-m", "raid5"), ("compress=zlib",)),
    "raid6": (4, ("-d", "raid6", "-m", "raid6", "--csum", "xxhash"), ()),
    "lzo": (1, ("-m", "single", "--csum", "sha256"), ("compress-force=lzo",)),
}
WIDE = 500_000
NAME = "btrfs-wide"


def _fill(where: Path) -> None:
    (where / "wide").write_bytes(data(NAME, 0, WIDE))
    text = b"".join(b"line %d of a text\n" % number for number in range(9000))
    (where / "text").write_bytes(text)
    (where / "empty").touch()
    (where / "inline").write_bytes(b"short" * 100)
    (where / "link").symlink_to("sub/inner")
    os.link(where / "inline", where / "second name")
    os.mkfifo(where / "fifo")
    os.setxattr(where / "text", b"user.note", b"a value")
    os.chown(where / "text", 1000, 70_000)
    (where / "text").chmod(0o4750)
    os.utime(where / "wide", ns=(-5_123_456_789, 4_300_000_000_000_000_001))
    run("btrfs", "subvolume", "create", where / "sub")
    (where / "sub" / "inner").write_bytes(b"in a subvolume")
    run("btrfs", "subvolume", "snapshot", "-r", where / "sub", where / "snap")
    (where / "sub" / "inner").write_bytes(text[:30_000])
    run("sync", "-f", where)
    run("cp", "--reflink=always", where / "text", where / "clone")
    with (where / "clone").open("r+b") as file:
        file.seek(50_000)
        file.write(b"written over")


def told(where: Path) -> dict[str, list[Any]]:
    """Return what the kernel shows of a tree, as JSON can hold it."""
    return {
        path.decode(): [
            seen.kind << 12 | seen.mode, seen.uid, seen.gid, seen.nlink, seen.size, seen.blocks * 512,
            seen.m_ns, seen.a_ns, seen.c_ns, (seen.body or "") if seen.kind == Kind.REG else "",
            (seen.body or "") if seen.kind == Kind.LNK else "",
            {key.decode(): value.hex() for key, value in seen.xattrs.items()},
        ]
        for path, seen in look(where).items() if path
    }  # fmt: skip


def load(path: Path, folder: Path) -> Mapping[str, tuple[list[Path], dict[str, dict[str, list[Any]]]]]:
    """Return the devices of every file system of a recording, composed in ``folder``, and what is true."""
    disks, truth = recording.load(path, folder)
    return {
        name: ([disks[f"{name}.{number}"] for number in range(SETS[name][0])], trees)
        for name, trees in truth.items()
    }


def main() -> None:
    """Serve the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.backends.btrfsrecorded")
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    for name, (count, made, options) in SETS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            images = make([folder / f"{name}.{number}" for number in range(count)], "-n", "4096", *made)
            with attached(images, folder / "mnt", *options) as where:
                _fill(where)
            with attached(images, folder / "mnt", "ro") as where:
                truth = {tree or "root": told(where / tree) for tree in ("", "sub", "snap")}
            disks = {f"{name}.{number}": image for number, image in enumerate(images)}
            length = recording.save(asked.folder / f"btrfs-{name}.xz", disks, {name: truth}, [(NAME, WIDE)])
            print(name, length, "bytes")


if __name__ == "__main__":
    main()
