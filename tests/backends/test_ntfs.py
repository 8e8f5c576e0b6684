from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest

from imgfs.backends._ntfs_security import owner_and_group
from imgfs.errors import NotMine
from imgfs.model import Foreign
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends.tskimages import many, mounted, need, noise, plant, run, sparse_file

if TYPE_CHECKING:
    from pathlib import Path

COMPRESSIBLE = b"".join(b"line %d of a log\n" % n for n in range(20_000))


def make(folder: Path) -> tuple[Path, dict[bytes, bytes | None]]:
    need("mkfs.ntfs", "ntfs-3g")
    image = folder / "ntfs.img"
    with image.open("wb") as file:
        file.truncate(24 << 20)
    run("mkfs.ntfs", "-F", "-Q", "-q", "-L", "EVIDENCE", image)
    command: list[object] = ["ntfs-3g", "-o", "streams_interface=windows,compression", image]
    with mounted(command, folder / "mnt") as where:
        truth = plant(where) | many(where, 40)
        truth[b"sparse.bin"] = sparse_file(where / "sparse.bin", 5_000_000, noise(9000, 7), 2_000_000)
        truth[b"hole.bin"] = sparse_file(where / "hole.bin", 3_000_000, b"", 0)
        (where / "small.txt:second").write_bytes(b"a stream\n")
        (where / "dir:on a directory").write_bytes(noise(5000, 8))
        truth |= {b"small.txt:second": b"a stream\n", b"dir:on a directory": noise(5000, 8)}
        packed = where / "packed"
        packed.mkdir()
        flags = struct.unpack("<I", os.getxattr(packed, "system.ntfs_attrib"))[0]
        os.setxattr(packed, "system.ntfs_attrib", struct.pack("<I", flags | 0x800))
        (packed / "log.txt").write_bytes(COMPRESSIBLE)
        truth |= {b"packed": None, b"packed/log.txt": COMPRESSIBLE}
        (where / "gone.bin").write_bytes(noise(20_000, 9))
        (where / "gone.bin").unlink()
    return image, truth


@pytest.mark.slow
@pytest.mark.root
def test_what_was_written_is_read(tmp_path: Path) -> None:
    image, truth = make(tmp_path)
    tree = check_files("ntfs", image, truth)
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    assert (files.info.type, files.info.label) == ("ntfs", "EVIDENCE")
    assert len(files.info.uuid) == 16
    assert isinstance(files.layout(0, tree[b"packed/log.txt"].attr.inum, 0)[-1], Foreign)
    assert b"$Secure:$SDS" in tree
    values = files.xattrs(0, tree[b"small.txt"].attr.inum)
    assert b"win32" in values[b"user.imgfs.ntfs.fn_times"] or b"posix" in values[b"user.imgfs.ntfs.fn_times"]
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_deleted_file_keeps_its_bytes_in_the_deleted_tree(tmp_path: Path) -> None:
    image, _ = make(tmp_path)
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    deleted = walk(files, 1)
    found = [
        entry for name, entry in deleted.items() if name.endswith(b"gone.bin") or entry.attr.size == 20_000
    ]
    assert found
    assert content(files, reader, 1, found[0]) == noise(20_000, 9)
    for limit in (1, 7):
        assert walk(files, 1, limit=limit) == deleted
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_bytes_beyond_the_initialised_size_are_a_hole(tmp_path: Path) -> None:
    image, _ = make(tmp_path)
    data = bytearray(image.read_bytes())
    at = data.find(noise(300_001, 3)[:512])
    assert at > 0
    reader = MemoryReader(bytes(data))
    files = open_files("ntfs", reader)
    entry = walk(files)[b"large.bin"]
    sizes = struct.pack("<QQ", 300_001, 300_001)  # real size, initialised size
    record = data.find(sizes)
    assert record > 0
    struct.pack_into("<Q", data, record + 8, 100_000)
    shorter = MemoryReader(bytes(data))
    again = open_files("ntfs", shorter)
    wanted = noise(300_001, 3)[:100_000] + bytes(200_001)
    assert content(again, shorter, 0, entry) == wanted


@pytest.mark.slow
@pytest.mark.root
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    check_hostile("ntfs", make(tmp_path)[0], tmp_path, seeds=16)


def test_security_identifiers_are_bounded() -> None:
    descriptor = (
        bytes(4)
        + struct.pack("<IIII", 20, 0, 0, 0)
        + bytes([1, 2])
        + bytes([0, 0, 0, 0, 0, 5])
        + struct.pack("<II", 32, 544)
    )
    assert owner_and_group(descriptor) == ("S-1-5-32-544", "")
    assert owner_and_group(descriptor[:-1]) == ("", "")


def test_other_bytes_are_not_ntfs() -> None:
    with pytest.raises(NotMine):
        open_files("ntfs", MemoryReader(bytes(1 << 16)))
