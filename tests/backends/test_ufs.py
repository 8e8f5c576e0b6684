from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgfs.errors import NotMine
from imgfs.model import HOLE, Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, open_files
from tests.backends.tskimages import many, need, plant, run, sparse_file

if TYPE_CHECKING:
    from pathlib import Path


def make(folder: Path, version: int, order: str) -> tuple[Path, dict[bytes, bytes | None]]:
    need("makefs")
    tree, image = folder / "tree", folder / "ufs.img"
    tree.mkdir()
    truth = plant(tree) | many(tree, 60)
    truth[b"sparse.bin"] = sparse_file(tree / "sparse.bin", 30_000_000, b"end", 29_000_000)
    (tree / "link").symlink_to("dir/inner.txt")
    run("makefs", "-t", "ffs", "-B", order, "-s", "48m", "-o", f"version={version}", image, tree)
    return image, truth


@pytest.mark.slow
@pytest.mark.parametrize(("version", "order"), [(1, "le"), (1, "be"), (2, "le"), (2, "be")])
def test_what_was_written_is_read(tmp_path: Path, version: int, order: str) -> None:
    image, truth = make(tmp_path, version, order)
    tree = check_files("ufs", image, truth)
    reader = FileReader(image)
    files = open_files("ufs", reader)
    assert files.info.type == f"ufs{version}"
    assert tree[b"link"].attr.kind == Kind.LNK
    assert files.link(0, tree[b"link"].attr.inum) == b"dir/inner.txt"
    there = tmp_path / "tree" / "small.txt"
    assert (tree[b"small.txt"].attr.m_ns or 0) // 10**9 == int(there.stat().st_mtime)
    assert HOLE < 0
    reader.close()


@pytest.mark.slow
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    need("makefs")
    tree = tmp_path / "tree"
    tree.mkdir()
    plant(tree)
    run("makefs", "-t", "ffs", "-s", "4m", "-o", "version=1", tmp_path / "ufs.img", tree)
    check_hostile("ufs", tmp_path / "ufs.img", tmp_path, seeds=200)


def test_other_bytes_are_not_ufs() -> None:
    with pytest.raises(NotMine):
        open_files("ufs", MemoryReader(bytes(1 << 17)))
