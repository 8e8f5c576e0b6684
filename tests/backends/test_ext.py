from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from imgfs.errors import NotMine, NotSupported
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends.compared import same
from tests.backends.extimages import make
from tests.backends.kernel import attached, grown, shown
from tests.backends.tskimages import many, need, plant, run

if TYPE_CHECKING:
    from pathlib import Path

FEATURES: dict[str, tuple[str, ...]] = {
    "ext2-1k": ("-t", "ext2", "-b", "1024"),
    "ext2-4k-128": ("-t", "ext2", "-b", "4096", "-I", "128"),
    "ext2-no-types": ("-t", "ext2", "-b", "2048", "-O", "^filetype"),
    "ext3-1k": ("-t", "ext3", "-b", "1024"),
    "ext3-4k": ("-t", "ext3", "-b", "4096", "-O", "^dir_index"),
    "ext4-4k": ("-t", "ext4", "-b", "4096"),
    "ext4-1k": ("-t", "ext4", "-b", "1024"),
    "ext4-128": ("-t", "ext4", "-b", "2048", "-I", "128"),
    "ext4-32bit": ("-t", "ext4", "-O", "^64bit,^metadata_csum,uninit_bg,^flex_bg"),
    "ext4-no-extents": ("-t", "ext4", "-b", "1024", "-O", "^extent,^64bit"),
    "ext4-bigalloc": ("-t", "ext4", "-O", "bigalloc", "-C", "16384"),
    "ext4-bigalloc-1k": ("-t", "ext4", "-b", "1024", "-O", "bigalloc,meta_bg,^resize_inode", "-C", "4096"),
    "ext4-meta-bg": ("-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode"),
    "ext4-sparse2": ("-t", "ext4", "-b", "1024", "-O", "sparse_super2"),
    "ext4-inline": ("-t", "ext4", "-I", "512", "-O", "inline_data"),
    "ext4-ea-inode": ("-t", "ext4", "-O", "ea_inode"),
    "ext4-no-journal": ("-t", "ext4", "-b", "1024", "-O", "^has_journal,^resize_inode"),
}


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("name", FEATURES)
def test_what_the_kernel_shows_is_shown(tmp_path: Path, name: str) -> None:
    image = make(tmp_path / "ext.img", *FEATURES[name], size=512 << 20)
    with attached("ext4", image, tmp_path / "mnt") as where:
        grown(where, "ext4" if "4k" in name or "ea-inode" in name else "ext4-1k")
        if "inline" in name:
            small = where / "inline dir"
            small.mkdir()
            for number in range(12):  # more than i_block holds, less than the inode
                (small / f"entry{number}").write_bytes(b"x" * (number * 15))
        if "ea-inode" in name:
            os.setxattr(where / "sizes" / "noise 1", b"user.large", b"0123456789abcdef" * 3000)
    same("ext", image, shown("ext4", image, tmp_path / "mnt"))
    reader = FileReader(image)
    info = open_files("ext", reader).info
    reader.close()
    told = dict(
        line.split("=", 1)
        for line in run("blkid", "-p", "-o", "export", image).replace("\\", "").splitlines()
        if "=" in line
    )
    assert (info.type, info.label, info.uuid) == (told["TYPE"], told["LABEL"], told["UUID"])
    assert info.block == int(told["BLOCK_SIZE"])
    assert info.notes == ()


@pytest.mark.slow
@pytest.mark.parametrize("block", [8192, 16384, 65536])
def test_blocks_larger_than_a_page_are_read(tmp_path: Path, block: int) -> None:
    need("mke2fs")
    tree, image = tmp_path / "tree", tmp_path / "ext.img"
    tree.mkdir()
    truth = plant(tree) | many(tree, 60)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", block, "-O", "^has_journal", "-d", tree, image, "64m")
    check_files("ext", image, truth)


@pytest.mark.slow
def test_contract_holds_on_a_good_image(tmp_path: Path) -> None:
    need("mke2fs")
    tree, image = tmp_path / "tree", tmp_path / "ext.img"
    tree.mkdir()
    truth = plant(tree) | many(tree, 60)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-d", tree, image, "8m")
    check_files("ext", image, truth)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ext2", "ext4"])
def test_damage_stays_inside_the_contract(tmp_path: Path, kind: str) -> None:
    need("mke2fs")
    tree, image = tmp_path / "tree", tmp_path / "ext.img"
    tree.mkdir()
    plant(tree)
    many(tree, 20)
    options = ("-O", "inline_data,^has_journal") if kind == "ext4" else ()
    run("mke2fs", "-q", "-F", "-t", kind, "-b", "1024", *options, "-d", tree, image, "2m")
    line = check_hostile("ext", image, tmp_path, seeds=120)
    assert "walked" in line


@pytest.mark.slow
@pytest.mark.parametrize("block", [1024, 4096])
def test_copy_of_a_damaged_superblock_is_used(tmp_path: Path, block: int) -> None:
    need("mke2fs")
    tree, image = tmp_path / "tree", tmp_path / "ext.img"
    tree.mkdir()
    truth = plant(tree)
    run(
        "mke2fs", "-q", "-F", "-t", "ext4", "-b", block, "-d", tree, image, "160m" if block == 4096 else "24m"
    )
    with image.open("r+b") as file:
        file.seek(1024 + 24)
        file.write(b"\xff" * 20)  # block size, cluster size, blocks and inodes per group
    reader = FileReader(image)
    files = open_files("ext", reader)
    assert any("copy in group 1" in note for note in files.info.notes)
    tree_seen = walk(files)
    for path, data in truth.items():
        assert path in tree_seen
        if data is not None:
            assert content(files, reader, 0, tree_seen[path]) == data
    reader.close()


@pytest.mark.slow
def test_copy_of_damaged_descriptors_is_used(tmp_path: Path) -> None:
    need("mke2fs")
    tree, image = tmp_path / "tree", tmp_path / "ext.img"
    tree.mkdir()
    plant(tree)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-d", tree, image, "24m")
    with image.open("r+b") as file:
        file.seek(2048)
        file.write(b"\xff" * 1024)
    reader = FileReader(image)
    assert b"dir/inner.txt" in walk(open_files("ext", reader))
    reader.close()


def test_journal_on_its_own_is_named(tmp_path: Path) -> None:
    need("mke2fs")
    run("mke2fs", "-q", "-F", "-O", "journal_dev", "-b", "1024", tmp_path / "jbd.img", "4m")
    reader = FileReader(tmp_path / "jbd.img")
    with pytest.raises(NotSupported, match="journal"):
        open_files("ext", reader)
    reader.close()


def test_other_bytes_are_not_ext() -> None:
    for data in (b"", bytes(1 << 16), bytes(1080) + b"\x53\xef" + bytes(1 << 16)):
        with pytest.raises(NotMine):
            open_files("ext", MemoryReader(data))
