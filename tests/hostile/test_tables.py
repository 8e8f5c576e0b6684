"""Disks whose tables lie: sizes, counts, loops, overlaps, truncation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.tskimages import need, noise, run
from tests.hostile.survive import survive
from tests.peers import watched
from tests.recipes import MIB, fat, gpt_bytes, mbr_bytes, sized

pytestmark = pytest.mark.slow

SIZE = 8 * MIB
SECTORS = SIZE // 512


def write(path: Path, head: bytes, size: int = SIZE) -> Path:
    """Write a disk that starts with ``head``."""
    sized(path, size)
    with path.open("r+b") as file:
        file.write(head)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a sound GPT disk with a FAT volume."""
    need("sgdisk", "mkfs.vfat", "mcopy")
    folder = tmp_path_factory.mktemp("whole")
    disk = sized(folder / "disk.dd", SIZE)
    run("sgdisk", "-o", "-n", "1:2048:10239", disk)
    source = folder / "source"
    source.mkdir()
    (source / "file.bin").write_bytes(noise(100_000))
    volume = fat(folder / "volume", source, 12, 4 * MIB)
    with disk.open("r+b") as file:
        file.seek(MIB)
        file.write(volume.read_bytes())
    return disk


def test_a_truncated_disk_shows_what_is_left(whole: Path, tmp_path: Path) -> None:
    data = whole.read_bytes()
    sizes = (1, 511, 512, 513, 1023, 4096, 16384, 17408, MIB, MIB + 700, 5 * MIB, SIZE - 1)
    disks = [tmp_path / f"{size}.dd" for size in sizes]
    for disk, size in zip(disks, sizes, strict=True):
        disk.write_bytes(data[:size])
    seen = survive(*disks, at=tmp_path)
    opened = {layer["path"].split("/")[0] for layer in seen.layers if layer["backend"] == "fat"}
    assert opened >= {f"{5 * MIB}.dd", f"{SIZE - 1}.dd"}


def test_overlapping_slots_are_all_shown(tmp_path: Path) -> None:
    entries = [(2048, 4095), (2048, 4095), (3000, 9000), (40, 16_000)]
    disk = write(tmp_path / "disk.dd", gpt_bytes(SIZE, entries))

    def also(point: Path) -> None:
        assert len(list((point / "disk.dd").glob("0*-*/volume.raw"))) == 4

    survive(disk, at=tmp_path, also=also)


def test_slots_of_impossible_size_are_said_and_harm_nothing(tmp_path: Path) -> None:
    far = 1 << 63
    slots = [(2048, far - 1), (far, far + 9), (2048, 2 * far - 1), (0, 0), (9, 3), (1 << 55, 1 << 56)]
    disks = [
        write(tmp_path / f"{number}.dd", gpt_bytes(SIZE, [(2048, 4095), slot]))
        for number, slot in enumerate(slots)
    ]
    volumes = [layer for layer in survive(*disks, at=tmp_path).layers if layer["kind"] == "volume"]
    assert sum(layer["start"] == MIB and layer["size"] == MIB for layer in volumes) == len(disks)
    assert all(0 <= layer["start"] < layer["start"] + layer["size"] <= SIZE for layer in volumes)


def test_ten_thousand_slots_are_bounded(tmp_path: Path) -> None:
    size = 24 * MIB
    entries = [(4096 + 4 * number, 4096 + 4 * number + 3) for number in range(10_000)]
    disk = write(tmp_path / "disk.dd", gpt_bytes(size, entries), size)
    with watched(disk, at=tmp_path / "m") as point:
        names = [path.name for path in (point / "disk.dd").iterdir()]
        assert 4096 <= len([name for name in names if name[0].isdigit()]) <= 4097
        assert any(name.startswith("remainder-") for name in names)


def test_tables_of_impossible_size_are_not_read(tmp_path: Path) -> None:
    claims = [(1 << 31, 128), (4, 0), (4, 1 << 30), (0xFFFF_FFFF, 0xFFFF_FF80)]
    disks = []
    for number, (count, step) in enumerate(claims):
        data = bytearray(gpt_bytes(SIZE, [(2048, 4095)]))
        data[512 + 80 : 512 + 88] = count.to_bytes(4, "little") + step.to_bytes(4, "little")
        disks.append(write(tmp_path / f"{number}.dd", bytes(data)))
    survive(*disks, at=tmp_path)


def test_extended_chains_that_loop_end(tmp_path: Path) -> None:
    head = mbr_bytes([(0x83, 64, 64), (5, 128, 10_000)])
    disk = write(tmp_path / "disk.dd", head)
    with disk.open("r+b") as file:
        for at, following in ((128, 128), (256, 0)):  # 128 -> 256 -> 128 ...
            file.seek(at * 512)
            file.write(mbr_bytes([(0x83, 16, 16), (5, following, 1000)]))
    seen = survive(disk, at=tmp_path)
    assert len([layer for layer in seen.layers if layer["kind"] == "volume"]) < 100


def test_a_table_in_its_own_slot_ends(tmp_path: Path) -> None:
    head = mbr_bytes([(0x83, 0, SECTORS), (5, 0, SECTORS), (5, 1, 5)])
    survive(write(tmp_path / "disk.dd", head), at=tmp_path)


def test_tables_in_tables_end_at_a_depth(tmp_path: Path) -> None:
    disk = sized(tmp_path / "disk.dd", SIZE)
    with disk.open("r+b") as file:
        for level in range(100):  # each slot starts a sector further in, and holds a table again
            file.seek(level * 512)
            file.write(mbr_bytes([(0xA5, 1, SECTORS - 200)]))
    seen = survive(disk, at=tmp_path)
    assert len(seen.layers) < 200
