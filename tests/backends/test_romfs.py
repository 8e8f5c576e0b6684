from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from imgfs.errors import NotMine
from imgfs.model import Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, open_files
from tests.backends.romimages import kept
from tests.backends.seen import look
from tests.backends.tskimages import many, need, plant, run

if TYPE_CHECKING:
    from pathlib import Path


def make(folder: Path) -> tuple[Path, Path]:
    """Make an image of a tree; returns both."""
    need("genromfs")
    tree, image = folder / "tree", folder / "image"
    tree.mkdir()
    plant(tree)
    many(tree, 60)
    (tree / "link").symlink_to("dir/inner.txt")
    os.mkfifo(tree / "fifo")
    os.link(tree / "small.txt", tree / "dir" / "hard")
    (tree / "program").write_bytes(b"#!/bin/sh\n")
    (tree / "program").chmod(0o755)
    if os.geteuid() == 0:
        os.mknod(tree / "null", 0o020600, os.makedev(1, 3))
        os.mknod(tree / "disk", 0o060600, os.makedev(8, 17))
    run("genromfs", "-d", tree, "-f", image, "-V", "EVIDENCE")
    return tree, image


@pytest.mark.slow
def test_what_was_packed_is_read(tmp_path: Path) -> None:
    tree, image = make(tmp_path)
    found = check_files("romfs", image, kept(tree))
    wanted = look(tree)
    assert set(found) == set(wanted) - {b""}
    reader = FileReader(image)
    files = open_files("romfs", reader)
    assert (files.info.label, files.info.notes) == ("EVIDENCE", ())
    for path, entry in found.items():
        attr, seen = entry.attr, wanted[path]
        assert (attr.kind, attr.rdev, attr.damaged) == (seen.kind, seen.rdev, ""), path
        if attr.kind == Kind.LNK:
            assert files.link(0, attr.inum).decode() == seen.body, path
    assert found[b"small.txt"].attr.inum == found[b"dir/hard"].attr.inum
    assert found[b"program"].attr.mode == 0o755
    assert found[b"small.txt"].attr.mode == 0o644
    reader.close()


@pytest.mark.slow
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    _, image = make(tmp_path)
    assert "walked" in check_hostile("romfs", image, tmp_path, seeds=200)


def test_what_was_changed_says_so(tmp_path: Path) -> None:
    _, image = make(tmp_path)
    data = bytearray(image.read_bytes())
    data[16] ^= 1
    assert open_files("romfs", MemoryReader(bytes(data))).info.notes == (
        "the checksum of the superblock is wrong",
    )
    data = bytearray(image.read_bytes())
    at = data.index(b"large.bin\0") - 16
    data[at + 11] ^= 1  # its size
    files = open_files("romfs", MemoryReader(bytes(data)))
    entries = files.list(0, files.info.trees[0].root, 0, 1000).entries
    damaged = {entry.name: entry.attr.damaged for entry in entries if entry.attr.damaged}
    assert damaged == {b"large.bin": f"the checksum of the header at {at} is wrong"}


def test_other_bytes_are_not_romfs() -> None:
    for data in (b"", bytes(1 << 16)):
        with pytest.raises(NotMine):
            open_files("romfs", MemoryReader(data))
