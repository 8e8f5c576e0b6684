from __future__ import annotations

import struct
from functools import reduce
from operator import xor
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options, discover
from imgfs.errors import NotMine
from imgfs.model import SlotKind
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.volumes import Ranges, check_volumes
from tests.images import MIB, as_tsk_sees, disk, fdisk, parted, sfdisk

if TYPE_CHECKING:
    from pathlib import Path

SLOT = (2048 * 512, 102_048 * 512)  # of the MBR around the label


def label(order: str, slots: list[tuple[int, int, int]], *, wide: bool = False) -> bytes:
    """Return a label with slots (first sector, sectors, type)."""
    raw = bytearray(struct.pack(order + "IHH", 0x82564557, 4, 0)).ljust(148, b"\0")
    struct.pack_into(order + "I", raw, 40, 512)
    struct.pack_into(order + "I", raw, 132, 0x82564557)
    struct.pack_into(order + "H", raw, 138, len(slots))
    if wide:
        struct.pack_into(order + "H", raw, 114, 1)
    for first, count, kind in slots:
        high = struct.pack(order + "HH", first >> 32, count >> 32) if wide else bytes(4)
        raw += struct.pack(order + "II", count & 0xFFFF_FFFF, first & 0xFFFF_FFFF) + high
        raw += struct.pack(order + "BBH", kind, 0, 0)
    total = reduce(xor, struct.unpack(f"{order}{len(raw) // 2}H", raw))
    struct.pack_into(order + "H", raw, 136, total)
    return bytes(raw)


@pytest.mark.slow
def test_a_label_in_a_slot_of_an_mbr_counts_from_the_start_of_the_disk(tmp_path: Path) -> None:
    path = sfdisk(disk(tmp_path / "bsd.img"), "2048,100000,a5\n")
    fdisk(path, "b", "y", "n", "a", "", "+10M", "n", "b", "22529", "")
    listed = as_tsk_sees(path, "bsd", offset=2048)
    data = path.read_bytes()[SLOT[0] : SLOT[1]]
    truth: Ranges = {1: (0, 20481 * 512), 2: (20481 * 512, 100_000 * 512)}
    table = check_volumes("bsdlabel", data, truth, options=Options(base=SLOT[0]))
    assert {(start + SLOT[0], stop + SLOT[0]) for start, stop in truth.values()} <= listed
    assert [v.label for v in table.volumes if v.kind is SlotKind.ALLOCATED] == ["a", "b"]
    assert [v.slot for v in table.volumes if v.kind is SlotKind.METADATA] == [3]


@pytest.mark.slow
def test_a_label_by_parted_is_read_although_its_checksum_is_wrong(tmp_path: Path) -> None:
    path = parted(disk(tmp_path / "bsd.img"), "mklabel", "bsd", "mkpart", "ext2", "1MiB", "20MiB")
    table = check_volumes("bsdlabel", path, {1: (MIB, 20 * MIB)})
    assert table.notes == ("the checksum of the label differs",)


@pytest.mark.parametrize(("order", "at"), [("<", 512), (">", 0), ("<", 64), (">", 128), ("<", 4096)])
def test_every_machine_keeps_its_label_somewhere_else(order: str, at: int) -> None:
    slots = [(64, 100, 7), (200, 50, 1), (0, 2048, 0), (0, 0, 0), (300, 100, 17)]
    image = bytearray(MIB)
    image[at : at + 148 + 80] = label(order, slots)
    truth = {1: (32768, 83968), 2: (102_400, 128_000), 5: (153_600, 204_800)}
    check_volumes("bsdlabel", bytes(image), truth, seeds=60)


@pytest.mark.parametrize("base", [0, 32256])
def test_offsets_in_a_slot_may_count_from_the_slot_too(base: int) -> None:
    image = bytearray(MIB)
    raw = label("<", [(base // 512 + 16, 100, 7), (0, 0, 0), (base // 512, 2048, 0)])
    image[512 : 512 + len(raw)] = raw
    check_volumes("bsdlabel", bytes(image), {1: (8192, 59392)}, options=Options(base=32256), seeds=20)


def test_openbsd_keeps_high_halves() -> None:
    raw = label("<", [(1 << 33, 1 << 34, 7), (16, 16, 1)], wide=True)
    image = bytes(512) + raw + bytes(MIB)
    truth = {1: (1 << 42, (1 << 42) + (1 << 43)), 2: (8192, 16384)}
    check_volumes("bsdlabel", image, truth, seeds=20)


def test_a_label_that_divides_nothing_of_its_slot_leaves_the_slot_to_others() -> None:
    image = bytearray(MIB)
    raw = label("<", [(0, 0, 0), (0, 0, 0), (0, 2048, 0)])
    image[512 : 512 + len(raw)] = raw
    with pytest.raises(NotMine):
        discover()["bsdlabel"].open(MemoryReader(bytes(image)), Options(base=4096))
