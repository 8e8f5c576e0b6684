from __future__ import annotations

import struct
from functools import reduce
from operator import xor
from typing import TYPE_CHECKING

import pytest

from imgfs.model import SlotKind
from imgfs.testing.volumes import allocated, check_volumes
from tests.images import MIB, as_sfdisk_sees, as_tsk_sees, disk, parted, sfdisk

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_what_parted_writes_is_read_as_others_read_it(tmp_path: Path) -> None:
    path = parted(
        disk(tmp_path / "sun.img"), "mklabel", "sun", "mkpart", "1MiB", "20MiB", "mkpart", "20MiB", "50MiB"
    )
    listed = as_sfdisk_sees(path)
    table = check_volumes("sunlabel", path, {slot: r for slot, r in listed.items() if slot != 3})
    assert len(allocated(table)) == 2
    assert set(allocated(table).values()) <= as_tsk_sees(path, "sun")
    assert [v.slot for v in table.volumes if v.kind is SlotKind.METADATA] == [3]


def test_a_vtoc_counts_from_the_start_of_its_solaris_slot() -> None:
    raw = bytearray(512)
    struct.pack_into("<II8sHH", raw, 12, 0x600DDEEE, 1, b"volume", 512, 16)
    for index, row in enumerate([(2, 0, 100, 500), (3, 1, 600, 100), (5, 1, 0, 2048)]):
        struct.pack_into("<HHII", raw, 72 + 12 * index, *row)
    struct.pack_into("<H", raw, 508, 0xDABE)
    struct.pack_into("<H", raw, 510, reduce(xor, struct.unpack("<255H", raw[:510])))
    image = bytes(512) + bytes(raw) + bytes(MIB)
    table = check_volumes("sunlabel", image, {1: (51200, 307_200), 2: (307_200, 358_400)})
    assert [v.type_name for v in table.volumes] == ["Solaris root", "Solaris swap", "Whole disk"]
    assert table.label == "volume"


@pytest.mark.slow
def test_what_sfdisk_writes_for_sgi_is_read_as_sfdisk_reads_it(tmp_path: Path) -> None:
    path = sfdisk(disk(tmp_path / "sgi.img"), "label: sgi\nstart=16065, size=16065, type=83\n")
    listed = as_sfdisk_sees(path)
    table = check_volumes("sgilabel", path, {1: listed[1]})
    assert table.volumes[0].type_name == "Linux"
