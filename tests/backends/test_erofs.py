from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from imgfs.errors import NotMine, NotSupported
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends.compared import SOURCE, same
from tests.backends.kernel import shown
from tests.backends.romimages import KERNEL, kept, packer
from tests.backends.tskimages import many, need, plant, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.backends.romimages import Trees

WAYS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "lz4": ("-zlz4",),
    "lz4hc-big": ("-zlz4hc", "-C65536"),
    "lz4hc-largest": ("-zlz4hc", "-C1048576", "-Eztailpacking"),
    "tails": ("-zlz4", "-Eztailpacking"),
    "legacy": ("-zlz4", "-Elegacy-compress"),
    "chunks": ("--chunksize=16384",),
    "chunk-array": ("--chunksize=4096", "-Eforce-inode-blockmap"),
    "chunk-indexes": ("--chunksize=4096", "-Eforce-inode-chunk-indexes"),
    "compact-inodes": ("-Eforce-inode-compact", "-T1600000000", "--all-root"),
    "extended-inodes": ("-Eforce-inode-extended", "-zlz4", "-Enoinline_data"),
    "shared-xattrs": ("-x1", "-zlz4"),
}


def make(folder: Path, image: Path, *options: str) -> Path:
    need("mkfs.erofs")
    run("mkfs.erofs", "--quiet", *options, image, folder)
    return image


LARGE = ("plain", "lz4", "lz4hc-big", "tails", "chunks")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    return packer("erofs", tmp_path_factory)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("name", WAYS)
def test_what_the_kernel_shows_is_shown(trees: Trees, tmp_path: Path, name: str) -> None:
    folder, packed = trees(10_000 if name in LARGE else 2000)
    image = make(folder, tmp_path / "image", *WAYS[name])
    wanted = shown("erofs", image, tmp_path / "mnt")
    assert set(wanted) == set(packed)
    same("erofs", image, wanted, KERNEL)
    reader = FileReader(image)
    info = open_files("erofs", reader).info
    reader.close()
    told = run("blkid", "-p", "-s", "UUID", "-o", "value", image).strip()
    assert (info.type, info.uuid) == ("erofs", told)


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_what_was_packed_is_read(trees: Trees, tmp_path: Path, name: str) -> None:
    folder, truth = trees(10_000 if name == "lz4" else 2000)
    image = make(folder, tmp_path / "image", *WAYS[name])
    bare = replace(SOURCE, times="", owners=False) if name == "compact-inodes" else SOURCE
    same("erofs", image, truth, bare)
    need("fsck.erofs")
    run("fsck.erofs", image)


@pytest.mark.slow
def test_contract_holds_on_a_good_image(trees: Trees, tmp_path: Path) -> None:
    folder, _ = trees(2000)
    check_files("erofs", make(folder, tmp_path / "image", "-zlz4"), kept(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "lz4", "tails", "legacy", "chunk-indexes"])
def test_damage_stays_inside_the_contract(tmp_path: Path, name: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    plant(tree)
    many(tree, 60)
    (tree / "text").write_bytes(b"".join(b"%d lines of text\n" % n for n in range(9000)))
    if os.geteuid() == 0:
        os.setxattr(tree / "small.txt", b"user.note", b"a value")
    line = check_hostile("erofs", make(tree, tmp_path / "image", *WAYS[name]), tmp_path, seeds=200)
    assert "walked" in line


@pytest.mark.slow
def test_a_superblock_that_was_changed_says_so(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    data = bytearray(make(tree, tmp_path / "image").read_bytes())
    assert open_files("erofs", MemoryReader(bytes(data))).info.notes == ()
    data[1024 + 64 : 1024 + 69] = b"LABEL"
    info = open_files("erofs", MemoryReader(bytes(data))).info
    assert info.label == "LABEL"
    assert info.notes == ("the checksum of the superblock is wrong",)


@pytest.mark.slow
def test_what_lies_on_a_further_device_is_lost_and_said(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    truth = plant(tree)
    blob = tmp_path / "blob"
    image = make(tree, tmp_path / "image", "--chunksize=4096", f"--blobdev={blob}")
    reader = FileReader(image)
    files = open_files("erofs", reader)
    assert "further devices" in " ".join(files.info.notes)
    tree_seen = walk(files)
    assert set(truth) == set(tree_seen)
    with pytest.raises(OSError, match="lost"):
        content(files, reader, 0, tree_seen[b"large.bin"])
    reader.close()


def test_unknown_features_are_named() -> None:
    data = bytearray(1 << 16)
    data[1024:1028], data[1036] = b"\xe2\xe1\xf5\xe0", 12
    for bit, name in ((0x80, "48-bit"), (0x100, "metabox"), (0x10000, "0x10000")):
        data[1024 + 80 : 1024 + 84] = bit.to_bytes(4, "little")
        with pytest.raises(NotSupported, match=name):
            open_files("erofs", MemoryReader(bytes(data)))


def test_other_bytes_are_not_erofs() -> None:
    for data in (b"", bytes(1 << 16)):
        with pytest.raises(NotMine):
            open_files("erofs", MemoryReader(data))
