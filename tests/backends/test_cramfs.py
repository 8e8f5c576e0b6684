from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from imgfs.errors import NotMine, NotSupported
from imgfs.model import Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends.romimages import kept
from tests.backends.seen import look
from tests.backends.tskimages import many, need, noise, plant, run, sparse_file

if TYPE_CHECKING:
    from pathlib import Path


def make(folder: Path, order: str = "little", *options: str) -> tuple[Path, Path]:
    """Make an image of a tree; returns both."""
    need("mkfs.cramfs")
    tree, image = folder / "tree", folder / "image"
    tree.mkdir()
    plant(tree)
    many(tree, 60)
    sparse_file(tree / "sparse.bin", 600_000, noise(9000, 7), 500_001)
    (tree / "text").write_bytes(b"".join(b"%d lines of text\n" % n for n in range(9000)))
    (tree / "link").symlink_to("dir/inner.txt")
    (tree / "long link").symlink_to("t" * 1000)
    os.mkfifo(tree / "fifo", 0o640)
    (tree / "small.txt").chmod(0o4751)
    if os.geteuid() == 0:
        os.mknod(tree / "null", 0o020666, os.makedev(1, 3))
        os.mknod(tree / "disk", 0o060640, os.makedev(8, 17))
        os.chown(tree / "block.bin", 1000, 100)
    run("mkfs.cramfs", "-N", order, "-n", "EVIDENCE", *options, tree, image)
    return tree, image


@pytest.mark.slow
@pytest.mark.parametrize("options", [("little",), ("big",), ("little", "-z"), ("little", "-p")])
def test_what_was_packed_is_read(tmp_path: Path, options: tuple[str, ...]) -> None:
    tree, image = make(tmp_path, *options)
    data = image.read_bytes()
    if "-p" in options:
        assert data[512:516] in {b"\x45\x3d\xcd\x28", b"\x28\xcd\x3d\x45"}
    found = check_files("cramfs", image, kept(tree))
    wanted = look(tree)
    assert set(found) == set(wanted) - {b""}
    reader = FileReader(image)
    files = open_files("cramfs", reader)
    assert (files.info.label, files.info.notes) == ("EVIDENCE", ())
    for path, entry in found.items():
        attr, seen = entry.attr, wanted[path]
        assert (attr.kind, attr.mode) == (seen.kind, seen.mode), path
        assert (attr.uid, attr.gid, attr.rdev) == (seen.uid & 0xFFFF, seen.gid & 0xFF, seen.rdev), path
        if attr.kind == Kind.LNK:
            assert files.link(0, attr.inum).decode() == seen.body, path
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["little", "big"])
def test_it_is_what_7z_reads(tmp_path: Path, order: str) -> None:
    need("7z")
    _, image = make(tmp_path, order)
    subprocess.run(["7z", "x", "-y", f"-o{tmp_path / 'out'}", image], capture_output=True, check=False)
    reader = FileReader(image)
    files = open_files("cramfs", reader)
    for path, entry in walk(files).items():
        if entry.attr.kind is Kind.REG:
            where = tmp_path / "out" / os.fsdecode(path)
            assert content(files, reader, 0, entry) == where.read_bytes(), path
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["little", "big"])
def test_damage_stays_inside_the_contract(tmp_path: Path, order: str) -> None:
    _, image = make(tmp_path, order)
    assert "walked" in check_hostile("cramfs", image, tmp_path, seeds=200)


def test_a_changed_image_says_so(tmp_path: Path) -> None:
    _, image = make(tmp_path)
    data = bytearray(image.read_bytes())
    data[48] ^= 1
    info = open_files("cramfs", MemoryReader(bytes(data))).info
    assert info.notes == ("the checksum of the file system is wrong",)
    data[8:12] = (1 << 20).to_bytes(4, "little")
    with pytest.raises(NotSupported, match="0x100000"):
        open_files("cramfs", MemoryReader(bytes(data)))


def test_other_bytes_are_not_cramfs() -> None:
    for data in (b"", bytes(1 << 16)):
        with pytest.raises(NotMine):
            open_files("cramfs", MemoryReader(data))
