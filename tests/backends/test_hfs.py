from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgfs.errors import NotMine, NotSupported
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, open_files
from tests.backends.tskimages import need, noise, plant, run

if TYPE_CHECKING:
    from pathlib import Path

TRUTH: dict[bytes, bytes | None] = {
    b"empty.txt": b"",
    b"small.txt": b"hello world\n",
    b"large.bin": noise(300_001, 3),
    b"dir": None,
    b"dir/inner.txt": b"inner\n",
}


def make(folder: Path) -> Path:
    need("xorriso")
    tree, image = folder / "tree", folder / "disc.hfs"
    tree.mkdir()
    plant(tree, TRUTH)
    run("xorriso", "-as", "mkisofs", "-quiet", "-V", "EVIDENCE", "-hfsplus", "-o", image, tree)
    disc = image.read_bytes()
    header = next(at for at in range(0, len(disc), 512) if disc[at : at + 4] == b"H+\0\4")
    image.write_bytes(disc[header - 1024 :])  # the volume of the hybrid disc
    return image


@pytest.mark.slow
def test_what_was_written_is_read(tmp_path: Path) -> None:
    image = make(tmp_path)
    check_files("hfs", image, TRUTH)
    reader = FileReader(image)
    info = open_files("hfs", reader).info
    assert info.type in {"hfs+", "hfsx"}
    assert info.label == "EVIDENCE"
    reader.close()


@pytest.mark.slow
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    check_hostile("hfs", make(tmp_path), tmp_path, seeds=200)


def test_old_hfs_is_named() -> None:
    with pytest.raises(NotSupported):
        open_files("hfs", MemoryReader(bytes(1024) + b"BD" + bytes(1 << 16)))


def test_other_bytes_are_not_hfs() -> None:
    with pytest.raises(NotMine):
        open_files("hfs", MemoryReader(bytes(1 << 16)))
