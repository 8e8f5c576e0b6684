from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgfs.errors import NotMine
from imgfs.model import Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, open_files
from tests.backends.tskimages import many, need, plant, run

if TYPE_CHECKING:
    from pathlib import Path


def make(folder: Path, *options: str) -> tuple[Path, dict[bytes, bytes | None]]:
    need("xorriso")
    tree, image = folder / "tree", folder / "disc.iso"
    tree.mkdir()
    truth = plant(tree) | many(tree, 60)
    (tree / "link").symlink_to("dir/sub/../inner.txt")
    run("xorriso", "-as", "mkisofs", "-quiet", "-V", "EVIDENCE", *options, "-o", image, tree)
    return image, truth


@pytest.mark.slow
def test_rock_ridge_shows_names_modes_and_links(tmp_path: Path) -> None:
    image, truth = make(tmp_path, "-R", "-J")
    tree = check_files("iso9660", image, truth)
    reader = FileReader(image)
    files = open_files("iso9660", reader)
    assert (files.info.type, files.info.label, files.info.version) == ("iso9660", "EVIDENCE", "rock ridge")
    assert tree[b"link"].attr.kind == Kind.LNK
    assert files.link(0, tree[b"link"].attr.inum) == b"dir/sub/../inner.txt"
    there = tmp_path / "tree" / "small.txt"
    assert (tree[b"small.txt"].attr.m_ns or 0) // 10**9 == int(there.stat().st_mtime)
    assert tree[b"small.txt"].attr.mode == there.stat().st_mode & 0o7777
    reader.close()


@pytest.mark.slow
def test_joliet_shows_long_names(tmp_path: Path) -> None:
    image, truth = make(tmp_path, "-J", "--norock")
    check_files("iso9660", image, truth)


@pytest.mark.slow
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    check_hostile("iso9660", make(tmp_path, "-R")[0], tmp_path, seeds=200)


def test_other_bytes_are_not_iso() -> None:
    with pytest.raises(NotMine):
        open_files("iso9660", MemoryReader(bytes(1 << 16)))
