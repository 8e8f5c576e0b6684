from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgfs.errors import NotMine
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, open_files
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


def test_other_bytes_are_not_exfat() -> None:
    with pytest.raises(NotMine):
        open_files("exfat", MemoryReader(bytes(1 << 16)))
