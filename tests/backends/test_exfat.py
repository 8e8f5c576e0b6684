from __future__ import annotations

import re
import shutil
import struct
import subprocess
from array import array
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options
from imgfs.errors import NotMine
from imgfs.model import Kind, Linear
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends.tskimages import PLAIN, looped, many, mounted, need, noise, plant, run

if TYPE_CHECKING:
    from collections.abc import Callable
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
    check_hostile("exfat", make(tmp_path)[0], tmp_path, seeds=200, seconds=150)


def changed(image: Path, patch: Callable[[bytearray, int], None], name: str = "one.bin") -> MemoryReader:
    """Return a copy of an image, patched at the entry set of a file."""
    data = bytearray(image.read_bytes())
    at = data.find(name.encode("utf-16-le")) - 66
    assert data[at] & 0x7F == 0x05
    patch(data, at)
    return MemoryReader(bytes(data))


def resum(data: bytearray, at: int) -> None:
    """Write the checksum of an entry set."""
    total = 0
    for offset in range((data[at + 1] + 1) * 32):
        if offset not in {2, 3}:
            total = ((total << 15 | total >> 1) + data[at + offset]) & 0xFFFF
    struct.pack_into("<H", data, at + 2, total)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return an image with a few files and a deleted folder."""
    need("mkfs.exfat", "mount.exfat-fuse")
    image = tmp_path / "exfat.img"
    image.write_bytes(bytes(8 << 20))
    run("mkfs.exfat", "-L", "EVIDENCE", image)
    truth = {b"one.bin": noise(20_000, 1), b"two.bin": noise(9000, 2), b"gone": None}
    truth |= {b"gone/in.bin": noise(5000, 3), b"gone/deep": None, b"gone/deep/end.bin": noise(6000, 4)}
    truth[("long \U0001f600 " + "n" * 200).encode()] = b"long\n"
    with looped(image) as device, mounted(["mount.exfat-fuse", device], tmp_path / "mnt") as where:
        plant(where, truth)
        shutil.rmtree(where / "gone")
    return image


@pytest.mark.slow
@pytest.mark.root
def test_numbers_and_names_are_those_of_fls_and_bytes_those_of_icat(small: Path) -> None:
    need("fls", "icat")
    listed = run("fls", "-r", small)
    rows = re.findall(r"^[+ ]*\S/(\w) (\* )?(\d+)(?:\(realloc\))?:\t(.+)$", listed, re.MULTILINE)
    wanted = {
        (int(number), name, bool(star))
        for kind, star, number, name in rows
        if kind != "V" and "(Volume Label Entry)" not in name
    }
    reader = FileReader(small)
    files = open_files("exfat", reader)
    said = set()
    for tree in (0, 1):
        for path, entry in walk(files, tree).items():
            assert files.stat(tree, entry.attr.inum, 0) == entry.attr
            if (tree and not entry.attr.deleted) or path == b"$Orphans":
                continue
            said.add((entry.attr.inum, path.rpartition(b"/")[2].decode(), bool(tree)))
            if entry.attr.kind == Kind.REG and not path.startswith(b"$"):
                peer = subprocess.run(["icat", small, str(entry.attr.inum)], capture_output=True, check=True)
                assert content(files, reader, tree, entry) == peer.stdout, path
    assert said == wanted
    assert len([row for row in said if row[2]]) == 4
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_what_a_set_states_is_what_is_shown(small: Path) -> None:
    def wrong_sum(data: bytearray, at: int) -> None:
        data[at + 4] ^= 0x20

    def half_valid(data: bytearray, at: int) -> None:
        struct.pack_into("<Q", data, at + 40, 10_000)
        resum(data, at)

    def offset(data: bytearray, at: int) -> None:
        data[at + 22 : at + 25] = bytes([0x80 | 4, 0x80 | 0x7C, 0])  # an hour east, an hour west, local
        resum(data, at)

    def outside(data: bytearray, at: int) -> None:
        struct.pack_into("<I", data, at + 52, 1 << 30)
        resum(data, at)

    def endless(data: bytearray, at: int) -> None:
        struct.pack_into("<Q", data, at + 56, (1 << 63) - 5)
        resum(data, at)

    reader = changed(small, endless)
    files = open_files("exfat", reader)
    entry = walk(files)[b"one.bin"]
    assert entry.attr.damaged
    assert entry.attr.allocated <= 8 << 20
    (layout,) = files.layout(0, entry.attr.inum, 0)
    assert isinstance(layout, Linear)
    assert sum(array("q", layout.length)) <= 8 << 20  # the rest is lost, not a hole
    plain = walk(open_files("exfat", MemoryReader(small.read_bytes())))[b"one.bin"].attr
    assert not plain.damaged
    reader = changed(small, wrong_sum)
    assert "checksum" in walk(open_files("exfat", reader))[b"one.bin"].attr.damaged
    reader = changed(small, half_valid)
    files = open_files("exfat", reader)
    found = content(files, reader, 0, walk(files)[b"one.bin"])
    assert found == noise(20_000, 1)[:10_000] + bytes(10_000)
    attr = walk(open_files("exfat", changed(small, offset), Options(tz="Asia/Tokyo")))[b"one.bin"].attr
    data = small.read_bytes()
    at = data.find("one.bin".encode("utf-16-le")) - 66
    for said, place, hours in ((attr.b_ns, 8, 1), (attr.m_ns, 12, -1), (attr.a_ns, 16, 9)):
        clock, date = struct.unpack_from("<HH", data, at + place)
        wall = datetime(1980 + (date >> 9), date >> 5 & 15, date & 31, tzinfo=UTC)
        wall += timedelta(hours=(clock >> 11) - hours, minutes=clock >> 5 & 63, seconds=(clock & 31) * 2)
        assert said is not None
        assert said // 10**9 - int(wall.timestamp()) in {0, 1}  # hundredths are counted beside
    reader = changed(small, outside)
    files = open_files("exfat", reader)
    entry = walk(files)[b"one.bin"]
    assert entry.attr.damaged
    with pytest.raises(OSError, match=r"lost|covered"):
        content(files, reader, 0, entry)


@pytest.mark.slow
@pytest.mark.root
def test_orphans_are_sets_nothing_leads_to(small: Path) -> None:
    def overwrite(data: bytearray, at: int) -> None:
        data[at : at + 96] = (bytes([0x41]) + bytes(31)) * 3

    whole = walk(open_files("exfat", MemoryReader(small.read_bytes())), 1)
    assert not [path for path in whole if path.startswith(b"$Orphans/")]
    reader = changed(small, overwrite, "gone")
    files = open_files("exfat", reader)
    said = {path.partition(b"-")[2]: entry for path, entry in walk(files, 1).items() if b"$Orphans/" in path}
    assert set(said) == {b"in.bin", b"deep", b"deep/end.bin"}
    assert content(files, reader, 1, said[b"deep/end.bin"]) == noise(6000, 4)
    for limit in (1, 7):
        assert walk(open_files("exfat", reader), 1, limit=limit) == walk(files, 1)


@pytest.mark.slow
@pytest.mark.root
def test_slots_behind_the_end_of_a_directory_end_too(small: Path) -> None:
    def garbage(data: bytearray, at: int) -> None:
        free = data.find(bytes(256), at)
        data[free + 40 : free + 60] = b"\xff" * 20  # begins with zero and is not empty

    assert b"one.bin" in walk(open_files("exfat", changed(small, garbage)))
    assert b"$Orphans" in walk(open_files("exfat", changed(small, garbage)), 1)


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
