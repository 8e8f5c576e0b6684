from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options, discover
from imgfs.errors import Malformed, NotMine
from imgfs.model import VolumeTable
from imgfs.opening.gaps import bounded, gaps
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.volumes import allocated, check_volumes
from tests.backends.tskimages import need, run
from tests.images import MIB, as_sfdisk_sees, as_tsk_sees, boot_sector, disk, gpt

if TYPE_CHECKING:
    from pathlib import Path


def opened(data: bytes) -> VolumeTable:
    table = discover()["gpt"].open(MemoryReader(data), Options())
    assert isinstance(table, VolumeTable)
    return table


@pytest.fixture
def made(tmp_path: Path) -> Path:
    need("sgdisk")
    path = disk(tmp_path / "gpt.img")
    first = ("-n", "1:2048:+8M", "-t", "1:ef00", "-c", "1:EFI")
    run("sgdisk", *first, "-n", "7:0:+16M", "-c", "7:Größe", "-t", "7:0700", "-A", "7:set:60", path)
    return path


@pytest.mark.slow
def test_what_sgdisk_writes_is_read_as_others_read_it(made: Path) -> None:
    truth = as_sfdisk_sees(made)
    table = check_volumes("gpt", made, truth, primary=(512, 17408), verified=True)
    assert set(truth.values()) == as_tsk_sees(made, "gpt")
    assert [(v.label, v.type_name, v.flags) for v in table.volumes] == [
        ("EFI", "EFI System", 0),
        ("Größe", "Microsoft basic data", 1 << 60),
    ]
    assert not table.notes


@pytest.mark.parametrize(("count", "sector"), [(4, 512), (128, 4096), (300, 512)])
def test_tables_of_any_length_in_any_sector_are_read(count: int, sector: int) -> None:
    image, truth = gpt(count, sector=sector, used=min(count, 30))
    table = check_volumes("gpt", image, truth, primary=(sector, sector + 92), verified=True, seeds=60)
    assert table.sector == sector


@pytest.mark.slow
def test_of_ten_thousand_slots_the_first_are_shown_and_the_rest_is_one_remainder() -> None:
    image, truth = gpt(10_000, length=1)
    table = opened(image)
    assert allocated(table) == truth
    shown, remainder, said = bounded(table.volumes, len(image))
    assert len(shown) == 4096
    assert remainder is not None
    assert (remainder.start, remainder.stop) == (truth[4097][0], truth[10_000][1])
    assert said
    assert [(gap.start, gap.stop) for gap in gaps(table.volumes, len(image))] == [
        (0, truth[1][0]),
        (truth[10_000][1], len(image)),
    ]


def test_a_copy_is_found_where_the_header_says_when_the_media_has_grown() -> None:
    image, truth = gpt(128, used=3)
    larger = bytearray(image + bytes(MIB))
    table = opened(bytes(larger))
    assert allocated(table) == truth
    assert any("the media ends" in note for note in table.notes)
    larger[1024 + 5] ^= 1  # the entries
    table = opened(bytes(larger))
    assert allocated(table) == truth
    assert any("entry checksum" in note for note in table.notes)


def test_a_truncated_media_keeps_the_slots_it_had() -> None:
    image, truth = gpt(128, used=3, length=2048)
    table = opened(image[: truth[2][0] + 4096])
    assert allocated(table) == truth
    shown, _, said = bounded(table.volumes, truth[2][0] + 4096)
    assert [volume.slot for volume in shown] == [1, 2]
    assert len(said) == 2


def test_two_damaged_copies_are_malformed_and_the_mbr_is_left() -> None:
    image, _ = gpt(128, used=3)
    damaged = bytearray(image)
    damaged[530] ^= 1
    damaged[-500] ^= 1
    with pytest.raises(Malformed, match="header checksum"):
        opened(bytes(damaged))
    table = discover()["mbr"].open(MemoryReader(bytes(damaged)), Options())
    assert isinstance(table, VolumeTable)
    assert [volume.type_id for volume in table.volumes] == ["ee"]
    assert any("cannot be read" in note for note in table.notes)


def test_copies_that_differ_are_said() -> None:
    image, truth = gpt(128, used=3)
    other, _ = gpt(128, used=3, length=8)
    changed = bytearray(image)
    tail = bytearray(other[-512 * 33 :])
    struct.pack_into("<Q", tail, 48, 1)  # an attribute
    entries = bytes(tail[: 128 * 128])
    struct.pack_into("<I", tail, 128 * 128 + 88, zlib.crc32(entries))
    struct.pack_into("<I", tail, 128 * 128 + 16, 0)
    struct.pack_into("<I", tail, 128 * 128 + 16, zlib.crc32(bytes(tail[128 * 128 : 128 * 128 + 92])))
    changed[-512 * 33 :] = tail
    table = opened(bytes(changed))
    assert allocated(table) == truth
    assert any("differ" in note for note in table.notes)


def test_a_hybrid_mbr_does_not_replace_the_table() -> None:
    image, truth = gpt(128, used=2)
    hybrid = boot_sector((0x80, 0x0B, truth[1][0] // 512, 8), (0, 0xEE, 1, 33)) + image[512:]
    assert allocated(opened(hybrid)) == truth


@pytest.mark.slow
def test_a_remnant_is_refused(tmp_path: Path) -> None:
    image, _ = gpt(128, used=2, length=8192)
    with pytest.raises(NotMine):
        opened(boot_sector((0, 0x83, 2048, 4096)) + image[512:])
    need("mkfs.fat")
    path = tmp_path / "fat.img"
    path.write_bytes(image)
    run("mkfs.fat", path)
    reader = FileReader(path)
    with pytest.raises(NotMine):
        discover()["gpt"].open(reader, Options())
    reader.close()
