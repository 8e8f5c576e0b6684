from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from imgfs.errors import NotMine
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files
from tests.backends.tskimages import PLAIN, looped, many, mounted, need, plant, run

if TYPE_CHECKING:
    from pathlib import Path


def make(folder: Path) -> tuple[Path, dict[bytes, bytes | None]]:
    need("mkfs.exfat", "mount.exfat-fuse")
    image = folder / "exfat.img"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    run("mkfs.exfat", "-L", "EVIDENCE", image)
    with looped(image) as device, mounted(["mount.exfat-fuse", device], folder / "mnt") as where:
        truth = plant(where) | many(where, 40)
    return image, truth


@pytest.mark.slow
@pytest.mark.root
def test_what_was_written_is_read(tmp_path: Path) -> None:
    image, truth = make(tmp_path)
    tree = check_files("exfat", image, truth)
    boot = image.read_bytes()
    at, length = (512 * field for field in struct.unpack_from("<II", boot, 80))
    reader = FileReader(image)
    assert content(open_files("exfat", reader), reader, 0, tree[b"$FAT1"]) == boot[at : at + length]
    reader.close()
    assert not any(name.endswith(b"(Volume Label Entry)") for name in tree)
    reader = FileReader(image)
    info = open_files("exfat", reader).info
    assert (info.type, info.label) == ("exfat", "EVIDENCE")
    reader.close()
    assert len(PLAIN) < len(tree)


@pytest.mark.slow
@pytest.mark.root
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    check_hostile("exfat", make(tmp_path)[0], tmp_path, seeds=24)


@pytest.mark.parametrize(("where", "wanted"), [(5, "Новый том"), (3, "")])
def test_label_behind_the_first_cluster_of_the_root_is_found(where: int, wanted: str) -> None:
    boot = bytearray(512)
    boot[3:11] = b"EXFAT   "
    struct.pack_into("<Q", boot, 72, 6)
    struct.pack_into("<5I", boot, 80, 1, 1, 2, 4, 2)  # FAT in sector 1, heap in 2, root in cluster 2
    boot[108:111] = bytes([9, 0, 1])
    fat = struct.pack("<6I", 0, 0, 5, 0, 0, 2)  # 2 -> 5 -> 2: a chain that never ends
    label = "Новый том"
    entry = bytes([0x83, len(label)]) + label.encode("utf-16-le").ljust(30, b"\0")
    heap = bytearray((bytes([0x03]) + bytes(31)) * 64)  # deleted entries
    heap[512 * (where - 2) : 512 * (where - 2) + 32] = entry
    reader = MemoryReader(bytes(boot) + fat.ljust(512, b"\0") + bytes(heap))
    assert open_files("exfat", reader).info.label == wanted


def test_other_bytes_are_not_exfat() -> None:
    with pytest.raises(NotMine):
        open_files("exfat", MemoryReader(bytes(1 << 16)))
