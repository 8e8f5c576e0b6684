from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options, discover
from imgfs.errors import NotMine
from imgfs.model import SlotKind, VolumeTable
from imgfs.opening.gaps import gaps
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.volumes import allocated, check_volumes
from tests.backends.tskimages import need, run
from tests.images import MIB, as_sfdisk_sees, as_tsk_sees, boot_sector, disk, fdisk, sfdisk

if TYPE_CHECKING:
    from pathlib import Path

_SCRIPT = """label: dos
label-id: 0x1234abcd
start=2048, size=10M, type=83, bootable
start=40960, size=40M, type=5
start=126976, type=7
start=43008, size=4M, type=82
start=61440, size=4M, type=83
start=81920, size=4M, type=83
"""


def opened(data: bytes, sector: int = 0) -> VolumeTable:
    table = discover()["mbr"].open(MemoryReader(data), Options(sector=sector))
    assert isinstance(table, VolumeTable)
    return table


@pytest.mark.slow
def test_what_sfdisk_writes_is_read_as_others_read_it(tmp_path: Path) -> None:
    path = sfdisk(disk(tmp_path / "mbr.img"), _SCRIPT)
    listed = as_sfdisk_sees(path)
    table = check_volumes("mbr", path, {slot: r for slot, r in listed.items() if slot != 2})
    assert set(allocated(table).values()) == as_tsk_sees(path, "dos")
    (container,) = [v for v in table.volumes if v.kind is SlotKind.METADATA]
    assert (container.slot, container.start, container.stop) == (2, *listed[2])
    assert table.uuid == "1234abcd"
    assert table.volumes[0].unique_id == "1234abcd-01"
    assert (table.volumes[0].flags, table.volumes[0].type_name) == (0x80, "Linux")
    inside = [
        gap
        for gap in gaps(table.volumes, 64 * MIB)
        if gap.stop > container.start and gap.start < container.stop
    ]
    assert len(inside) == 4, "what lies between the volumes of an extended slot is shown"


@pytest.mark.slow
def test_a_table_in_4096_byte_sectors_is_told_by_its_content(tmp_path: Path) -> None:
    path = fdisk(disk(tmp_path / "4k.img"), "o", "n", "p", "1", "256", "+16M", sector=4096)
    with path.open("r+b") as file:
        file.seek(256 * 4096 + 510)
        file.write(b"\x55\xaa")
    (only,) = as_tsk_sees(path, "dos", sector=4096)
    table = check_volumes("mbr", path, {1: only}, seeds=50)
    assert table.sector == 4096
    forced = opened(path.read_bytes(), sector=512)
    assert forced.volumes[0].start == 256 * 512


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("mkfs.fat", "-F", "12"),
        ("mkfs.fat", "-F", "16"),
        ("mkfs.fat", "-F", "32"),
        ("mkfs.fat", "-F", "16", "--mbr=y"),
        ("mkfs.exfat",),
        ("mkntfs", "-F", "-q", "-Q"),
    ],
    ids=" ".join,
)
def test_the_boot_record_of_a_file_system_is_no_table(tmp_path: Path, command: tuple[str, ...]) -> None:
    need(command[0])
    path = disk(tmp_path / "fs.img", (16 if "12" in command else 40) * MIB)
    run(*command, path)
    reader = FileReader(path)
    try:
        assert reader.read(510, 2) == b"\x55\xaa"
        with pytest.raises(NotMine):
            discover()["mbr"].open(reader, Options())
    finally:
        reader.close()


def test_a_file_system_with_boot_code_is_no_empty_table() -> None:
    image = bytearray(boot_sector() + bytes(MIB))
    assert opened(bytes(image)).notes == ("no slot is used",)
    image[65600:65608] = b"_BHRfS_M"
    with pytest.raises(NotMine):
        opened(bytes(image))


@pytest.mark.slow
def test_noise_before_55aa_is_no_table() -> None:
    taken = 0
    for seed in range(500):
        sector = random.Random(seed).randbytes(510) + b"\x55\xaa"
        try:
            opened(sector + bytes(MIB))
            taken += 1
        except NotMine:
            continue
    assert taken <= 2


def chain(*links: tuple[int, int, int, int]) -> bytes:
    """Return a disk whose extended slot begins at sector 8.

    Links are (at, first, count, next); next 0 ends the chain.
    """
    image = bytearray(boot_sector((0, 5, 8, 16384)) + bytes(9 * MIB))
    for at, first, count, following in links:
        record = boot_sector((0, 0x83, first, count), (0, 5, following, 4) if following else (0, 0, 0, 0))
        image[(8 + at) * 512 : (9 + at) * 512] = record
    return bytes(image)


def test_a_chain_that_returns_ends() -> None:
    table = opened(chain((0, 1, 2, 10), (10, 1, 2, 20), (20, 1, 2, 10)))
    assert list(allocated(table)) == [5, 6, 7]
    assert any("again" in note for note in table.notes)


def test_a_chain_ends_after_4096_records() -> None:
    table = opened(chain(*((at, 1, 1, at + 2) for at in range(0, 10_000, 2))))
    assert len(allocated(table)) == 4096
    assert any("too many" in note for note in table.notes)


def test_a_record_without_its_end_mark_ends_the_chain_and_is_said() -> None:
    table = opened(chain((0, 1, 2, 100)))
    assert list(allocated(table)) == [5]
    assert any("no 55AA" in note for note in table.notes)


def test_slots_behind_the_end_of_a_truncated_media_are_given_as_they_are() -> None:
    table = opened(boot_sector((0x80, 7, 2048, 4096), (0, 0x83, 6144, 1 << 31)) + bytes(MIB))
    assert allocated(table) == {1: (2048 * 512, 6144 * 512), 2: (6144 * 512, (6144 + (1 << 31)) * 512)}


def test_a_cleared_slot_that_still_says_where_it_was_is_noted() -> None:
    table = opened(boot_sector((0, 7, 64, 64), (0, 0, 128, 64)) + bytes(MIB))
    assert list(allocated(table)) == [1]
    assert any("no type" in note for note in table.notes)
