from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options
from imgfs.errors import NotMine
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends.tskimages import PLAIN, need, noise, plant, run

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {12: 2 << 20, 16: 16 << 20, 32: 40 << 20}


def make(folder: Path, bits: int) -> Path:
    need("mkfs.vfat", "mcopy", "mdel", "mdeltree")
    image, tree = folder / f"fat{bits}.img", folder / "tree"
    with image.open("wb") as file:
        file.truncate(SIZES[bits])
    run("mkfs.vfat", "-F", bits, "-n", "EVIDENCE", "-i", "1234ABCD", image)
    tree.mkdir()
    plant(tree)
    run("mcopy", "-s", "-i", image, *sorted(tree.iterdir()), "::")
    return image


@pytest.mark.slow
@pytest.mark.parametrize("bits", sorted(SIZES))
def test_what_was_written_is_read(tmp_path: Path, bits: int) -> None:
    image = make(tmp_path, bits)
    check_files("fat", image, PLAIN)
    reader = FileReader(image)
    info = open_files("fat", reader).info
    assert (info.type, info.label, info.uuid) == (f"fat{bits}", "EVIDENCE", "1234-ABCD")
    assert b"$OrphanFiles" not in walk(open_files("fat", reader))
    reader.close()


@pytest.mark.slow
def test_deleted_file_keeps_its_bytes_in_the_deleted_tree(tmp_path: Path) -> None:
    image = make(tmp_path, 16)
    run("mdel", "-i", image, "::large.bin")
    run("mdeltree", "-i", image, "::dir/sub")
    reader = FileReader(image)
    files = open_files("fat", reader)
    assert b"large.bin" not in walk(files)
    deleted = walk(files, 1)
    entry = deleted[b"_arge.bin"] if b"_arge.bin" in deleted else deleted[b"large.bin"]
    assert entry.attr.deleted
    assert content(files, reader, 1, entry) == noise(300_001, 3)
    assert any(name.endswith(b"eep.bin") for name in deleted)
    for limit in (1, 7):
        assert walk(files, 1, limit=limit) == deleted
    for path, found in deleted.items():
        if not found.attr.damaged:
            assert files.stat(1, found.attr.inum, found.stream) == found.attr, path
    reader.close()


@pytest.mark.slow
def test_long_names_are_whole_across_the_clusters_of_a_scattered_directory(tmp_path: Path) -> None:
    need("mkfs.vfat", "mcopy", "mmd")
    image, tree = tmp_path / "fat.img", tmp_path / "tree"
    image.write_bytes(bytes(1 << 20))
    run("mkfs.vfat", "-F", 12, "-s", 2, "-S", 512, image)
    tree.mkdir()
    run("mmd", "-i", image, "::sub")
    letters = {b"sub/" + b"%03d" % n + bytes([97 + n % 26]) * (n - 3): b"%d" % n for n in range(180, 256, 5)}
    for name, data in letters.items():  # the content of each takes a cluster before the directory grows
        path = tree / name[4:].decode()
        path.write_bytes(data)
        run("mcopy", "-i", image, path, "::sub")
    reader = FileReader(image)
    files = open_files("fat", reader)
    for limit in (1, 1024):
        said = walk(files, limit=limit)
        found = {path: content(files, reader, 0, said[path]) for path in said if path.startswith(b"sub/")}
        assert found == letters
    reader.close()


@pytest.mark.slow
def test_local_times_move_with_the_zone(tmp_path: Path) -> None:
    reader = FileReader(make(tmp_path, 12))
    utc = walk(open_files("fat", reader))[b"small.txt"].attr
    berlin = walk(open_files("fat", reader, Options(tz="Europe/Berlin")))[b"small.txt"].attr
    assert utc.m_ns is not None
    assert berlin.m_ns is not None
    assert (utc.m_ns - berlin.m_ns) // 10**9 in {3600, 7200}
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("bits", [12, 16])
def test_damage_stays_inside_the_contract(tmp_path: Path, bits: int) -> None:
    check_hostile("fat", make(tmp_path, bits), tmp_path, seeds=200 if bits == 12 else 40, seconds=150)


def test_other_bytes_are_not_fat() -> None:
    for data in (bytes(1 << 16), noise(1 << 16), bytes(510) + b"\x55\xaa" + bytes(1 << 16)):
        with pytest.raises(NotMine):
            open_files("fat", MemoryReader(data))
