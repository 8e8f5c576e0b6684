from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from imgfs.model import SlotKind
from imgfs.testing.volumes import check_volumes
from tests.images import MIB, as_tsk_sees, disk, parted

if TYPE_CHECKING:
    from pathlib import Path


def entry(entries: int, first: int, count: int, name: bytes, kind: bytes) -> bytes:
    raw = struct.pack(">2s2x3I32s32s3I", b"PM", entries, first, count, name, kind, 0, count, 0x33)
    return raw.ljust(512, b"\0")


@pytest.mark.slow
def test_what_parted_writes_is_read_as_tsk_reads_it(tmp_path: Path) -> None:
    path = parted(disk(tmp_path / "mac.img"), "mklabel", "mac", "mkpart", "first", "hfs", "1MiB", "20MiB")
    parted(path, "mkpart", "second", "hfs", "30MiB", "40MiB")
    table = check_volumes("apm", path, {2: (MIB, 20 * MIB), 3: (30 * MIB, 40 * MIB)})
    assert {(v.start, v.stop) for v in table.volumes} == as_tsk_sees(path, "mac")
    assert [v.label for v in table.volumes if v.kind is SlotKind.ALLOCATED] == ["first", "second"]
    kinds = {v.type_id: v.kind for v in table.volumes}
    assert kinds["Apple_partition_map"] is SlotKind.METADATA
    assert kinds["Apple_Free"] is SlotKind.UNALLOCATED


def test_of_two_maps_on_a_disc_the_one_in_the_blocks_of_its_descriptor_is_read() -> None:
    image = bytearray(b"ER" + struct.pack(">HI", 2048, 512) + bytes(MIB))
    image[512:1024] = entry(2, 1, 3, b"Apple", b"Apple_partition_map")
    image[1024:1536] = entry(2, 400, 40, b"small blocks", b"Apple_HFS")
    image[2048:2560] = entry(2, 1, 2, b"Apple", b"Apple_partition_map")
    image[4096:4608] = entry(2, 100, 10, b"disc", b"Apple_HFS")
    table = check_volumes("apm", bytes(image), {2: (204_800, 225_280)}, seeds=50)
    assert table.sector == 2048


def test_a_map_without_its_descriptor_is_found_and_that_is_said() -> None:
    image = bytearray(MIB)
    image[512:1024] = entry(2, 1, 3, b"Apple", b"Apple_partition_map")
    image[1024:1536] = entry(2, 400, 40, "Größe".encode("mac_roman"), b"Apple_HFS")
    table = check_volumes("apm", bytes(image), {2: (204_800, 225_280)}, seeds=50)
    assert table.volumes[1].label == "Größe"
    assert table.notes


def test_a_map_that_claims_millions_of_entries_ends() -> None:
    image = bytearray(b"ER\x02\0" + bytes(MIB))
    image[512:1024] = entry(0xFFFF_FFFF, 1, 3, b"Apple", b"Apple_partition_map")
    table = check_volumes("apm", bytes(image), {}, seeds=20)
    assert len(table.notes) == 2
