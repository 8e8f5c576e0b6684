"""From arguments to disks: members, order of candidates, what is overruled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from imgfs.backends import Role
from imgfs.block.fetch import open_fetcher
from imgfs.block.memory import Memory
from imgfs.errors import UsageError
from imgfs.opening.members import gather
from imgfs.opening.probe import candidates, look
from tests.backends.tskimages import need, noise, run
from tests.mounts import imgfs
from tests.peers import layers, watched
from tests.recipes import MIB, fat, gpt_bytes, sized
from tests.sample import acquire


def found_in(data: bytes, *roles: Role, name: str = "") -> list[str]:
    """Return the back-ends worth opening, those that always try left out."""

    async def work() -> list[str]:
        async with open_fetcher() as fetcher:
            window = await look(fetcher, Memory(data))
            return [b.name for b in candidates(window, roles or tuple(Role), name=name, trials=False)]

    return trio.run(work)


def test_containers_come_before_tables_and_tables_before_file_systems() -> None:
    data = bytearray(MIB)
    data[:8] = b"EVF\x09\x0d\x0a\xff\x00"
    data[510:512] = b"\x55\xaa"
    data[512:520] = b"EFI PART"
    data[1080:1082] = b"\x53\xef"
    names = found_in(bytes(data))
    assert names.index("ewf") < names.index("gpt") < names.index("mbr") < names.index("ext")


def test_a_signature_that_is_cut_does_not_match() -> None:
    for length in range(8):
        assert "ewf" not in found_in(b"EVF\x09\x0d\x0a\xff\x00"[:length])
    assert "ewf" in found_in(b"EVF\x09\x0d\x0a\xff\x00")


def test_the_backup_table_at_the_end_is_seen() -> None:
    assert "gpt" in found_in(bytes(MIB - 512) + b"EFI PART".ljust(512, b"\0"))


def test_split_raw_images_are_known_by_name_only() -> None:
    assert "raw" in found_in(bytes(4096), Role.MEDIA, name="disk.001")
    assert "raw" not in found_in(bytes(4096), Role.MEDIA, name="disk.dd")
    assert "raw" not in found_in(bytes(4096), Role.MEDIA)


# --- members -------------------------------------------------------------------------------------
def sets(*paths: Path, raw: bool = False) -> list[list[str]]:
    """Return the members of each disk."""

    async def work() -> list[list[str]]:
        async with open_fetcher() as fetcher:
            evidence = await gather(fetcher, list(paths), raw=raw)
            names = [[file.name for file in one.files] for one in evidence]
            for one in evidence:
                one.close()
            return names

    return trio.run(work)


def test_segments_are_one_disk_however_they_are_named(tmp_path: Path) -> None:
    for name in ("a.001", "a.002", "a.003", "b.001", "a.txt", "ab.002"):
        (tmp_path / name).write_bytes(b"x" * 512)
    (tmp_path / "a.004").symlink_to("a.001")  # a link is not followed to become a member
    first = tmp_path / "a.001"
    members = ["a.001", "a.002", "a.003"]
    assert sets(first)[0][:3] == members
    assert "a.004" not in sets(first)[0]
    assert "ab.002" not in sets(first)[0]
    assert "b.001" not in sets(first)[0]
    assert len(sets(first, tmp_path / "a.002", tmp_path / "a.003")) == 1
    assert [len(one) > 1 for one in sets(first, tmp_path / "b.001")] == [True, False]
    assert sets(first, raw=True) == [["a.001"]]


def test_a_file_named_twice_is_refused_and_nothing_stays_open(tmp_path: Path) -> None:
    path = tmp_path / "disk.dd"
    path.write_bytes(b"x" * 512)
    with pytest.raises(UsageError, match="twice"):
        sets(path, path)
    other = tmp_path / "other.dd"
    other.symlink_to(path)
    with pytest.raises(UsageError, match="same file"):
        sets(path, other)
    with pytest.raises(UsageError):
        sets(path, tmp_path / "missing")


# --- through the command -------------------------------------------------------------------------
def info(*arguments: str | Path) -> list[dict[str, Any]]:
    """Return the layers of images."""
    found: list[dict[str, Any]] = json.loads(imgfs("info", "--json", *arguments).stdout)["layers"]
    return found


@pytest.mark.slow
def test_segments_given_all_or_only_the_first_are_the_same_disk(tmp_path: Path) -> None:
    need("ewfacquire")
    folder = tmp_path / "case"
    folder.mkdir()
    raw = tmp_path / "disk.dd"
    raw.write_bytes(noise(3 * MIB))
    acquire(raw, folder / "disk", segment="1MiB", level="none")
    every = sorted(folder.iterdir())
    assert len(every) >= 3
    assert info(every[0]) == info(*every)
    with watched(*every, at=tmp_path / "m") as point:
        assert sorted(p.name for p in point.iterdir()) == [".imgfs", "disk.E01"]
        assert (point / "disk.E01/disk.raw").read_bytes() == raw.read_bytes()


@pytest.mark.slow
def test_a_split_raw_image_joins_and_a_missing_segment_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    data = noise(4 * MIB)
    for number in range(4):
        (folder / f"disk.{number + 1:03d}").write_bytes(data[number * MIB : (number + 1) * MIB])
    first = folder / "disk.001"
    with watched(first, at=tmp_path / "m") as point:
        assert (point / "disk.001/disk.raw").read_bytes() == data
    (folder / "disk.003").unlink()
    with watched(first, at=tmp_path / "m") as point:
        (layer,) = layers(point, backend="raw")
        assert layer["state"] == "incomplete"
        assert [row[:2] for row in layer["lost"]] == [[2 * MIB, 3 * MIB]]
        with (point / "disk.001/disk.raw").open("rb") as file:
            assert file.read(2 * MIB) == data[: 2 * MIB]
            file.seek(3 * MIB)
            assert file.read() == data[3 * MIB :]
            file.seek(2 * MIB)
            with pytest.raises(OSError, match="Input/output"):
                file.read(1)
    with watched(first, at=tmp_path / "m", options=("--raw",)) as point:
        assert (point / "disk.001/disk.raw").read_bytes() == data[:MIB]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a disk without a table whose FAT volume starts at 1 MiB."""
    need("mkfs.vfat", "mcopy")
    folder = tmp_path_factory.mktemp("disk")
    source = folder / "source"
    source.mkdir()
    (source / "file").write_text("found")
    volume = fat(folder / "volume", source, 12, 4 * MIB).read_bytes()
    path = folder / "disk.dd"
    path.write_bytes(bytes(MIB) + volume + bytes(MIB))
    return path


@pytest.mark.slow
def test_an_offset_says_where_the_volume_starts(disk: Path) -> None:
    assert not [layer for layer in info(disk) if layer["kind"] == "files"]
    for offset in ("1M", "1048576", "2048s", "0x100000"):
        done = imgfs("ls", "--offset", offset, disk)
        name = next(word for word in done.stdout.split() if "fat12" in word)
        assert imgfs("cat", "--offset", offset, f"{disk}:{name}/root/file").stdout == "found"
    assert imgfs("info", "--offset", "1G", disk, check=False).returncode in (0, 2)


@pytest.mark.slow
def test_a_type_forces_one_format(disk: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume.dd"
    volume.write_bytes(disk.read_bytes()[MIB:])
    assert [layer["backend"] for layer in info("--type", "fat", volume) if layer["kind"] == "files"] == [
        "fat"
    ]
    said = info("--type", "ntfs", volume)
    assert not [layer for layer in said if layer["kind"] == "files" and layer["state"] == "open"]
    assert any("ntfs" in json.dumps(layer) for layer in said), "that it is no NTFS is said"


@pytest.mark.slow
def test_a_sector_size_overrules_the_tables(tmp_path: Path) -> None:
    path = sized(tmp_path / "disk.dd", 8 * MIB)
    with path.open("r+b") as file:
        file.write(gpt_bytes(8 * MIB, [(2048, 4095)]))
    assert any(layer["kind"] == "table" and layer["sector"] == 512 for layer in info(path))
    said = info("--sector-size", "4096", path)
    assert not any(layer["backend"] == "gpt" and layer["sector"] == 512 for layer in said)


@pytest.mark.slow
def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "disk.dd")
        paths[-1].write_bytes(noise(4096, len(paths)))
    with watched(*paths, at=tmp_path / "m") as point:
        shown = sorted(p.name for p in point.iterdir() if not p.name.startswith("."))
        assert shown == ["disk.dd", "disk.dd~2"]
        for name, path in zip(shown, paths, strict=True):
            assert (point / name / "disk.raw").read_bytes() == path.read_bytes()


def test_tools_agree_that_the_fixture_is_a_gpt(tmp_path: Path) -> None:
    need("sgdisk")
    path = sized(tmp_path / "disk.dd", 8 * MIB)
    with path.open("r+b") as file:
        file.write(gpt_bytes(8 * MIB, [(2048, 4095)]))
    assert "2048" in run("sgdisk", "-p", path)
