from __future__ import annotations

import os
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from imgfs.backends.ntfs.deleted import ORPHANS
from imgfs.backends.ntfs.record import DATA, FILE_NAME, parse
from imgfs.backends.ntfs.runs import clipped, pairs
from imgfs.backends.ntfs.security import owner_and_group
from imgfs.errors import Malformed, NotMine
from imgfs.model import HOLE, LOST, Foreign, Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends.tskimages import many, mounted, need, noise, plant, run, sparse_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from imgfs.model import Entry

COMPRESSIBLE = b"".join(b"line %d of a log\n" % n for n in range(20_000))


def make(folder: Path) -> tuple[Path, dict[bytes, bytes | None]]:
    need("mkfs.ntfs", "ntfs-3g")
    image = folder / "ntfs.img"
    with image.open("wb") as file:
        file.truncate(24 << 20)
    run("mkfs.ntfs", "-F", "-Q", "-q", "-L", "EVIDENCE", image)
    command: list[object] = ["ntfs-3g", "-o", "streams_interface=windows,compression", image]
    with mounted(command, folder / "mnt") as where:
        truth = plant(where) | many(where, 40)
        truth[b"sparse.bin"] = sparse_file(where / "sparse.bin", 5_000_000, noise(9000, 7), 2_000_000)
        truth[b"hole.bin"] = sparse_file(where / "hole.bin", 3_000_000, b"", 0)
        (where / "small.txt:second").write_bytes(b"a stream\n")
        (where / "dir:on a directory").write_bytes(noise(5000, 8))
        truth |= {b"small.txt:second": b"a stream\n", b"dir:on a directory": noise(5000, 8)}
        packed = where / "packed"
        packed.mkdir()
        flags = struct.unpack("<I", os.getxattr(packed, "system.ntfs_attrib"))[0]
        os.setxattr(packed, "system.ntfs_attrib", struct.pack("<I", flags | 0x800))
        (packed / "log.txt").write_bytes(COMPRESSIBLE)
        truth |= {b"packed": None, b"packed/log.txt": COMPRESSIBLE}
        (where / "gone.bin").write_bytes(noise(20_000, 9))
        (where / "gone.bin").unlink()
    return image, truth


@pytest.mark.slow
@pytest.mark.root
def test_what_was_written_is_read(tmp_path: Path) -> None:
    image, truth = make(tmp_path)
    tree = check_files("ntfs", image, truth)
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    assert (files.info.type, files.info.label) == ("ntfs", "EVIDENCE")
    assert len(files.info.uuid) == 16
    assert isinstance(files.layout(0, tree[b"packed/log.txt"].attr.inum, 0)[-1], Foreign)
    assert b"$Secure:$SDS" in tree
    values = files.xattrs(0, tree[b"small.txt"].attr.inum)
    assert b"win32" in values[b"user.imgfs.ntfs.fn_times"] or b"posix" in values[b"user.imgfs.ntfs.fn_times"]
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_deleted_file_keeps_its_bytes_in_the_deleted_tree(tmp_path: Path) -> None:
    image, _ = make(tmp_path)
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    deleted = walk(files, 1)
    found = [
        entry for name, entry in deleted.items() if name.endswith(b"gone.bin") or entry.attr.size == 20_000
    ]
    assert found
    assert content(files, reader, 1, found[0]) == noise(20_000, 9)
    for limit in (1, 7):
        assert walk(files, 1, limit=limit) == deleted
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_bytes_beyond_the_initialised_size_are_a_hole(tmp_path: Path) -> None:
    image, _ = make(tmp_path)
    data = bytearray(image.read_bytes())
    at = data.find(noise(300_001, 3)[:512])
    assert at > 0
    reader = MemoryReader(bytes(data))
    files = open_files("ntfs", reader)
    entry = walk(files)[b"large.bin"]
    sizes = struct.pack("<QQ", 300_001, 300_001)  # real size, initialised size
    record = data.find(sizes)
    assert record > 0
    struct.pack_into("<Q", data, record + 8, 100_000)
    shorter = MemoryReader(bytes(data))
    again = open_files("ntfs", shorter)
    wanted = noise(300_001, 3)[:100_000] + bytes(200_001)
    assert content(again, shorter, 0, entry) == wanted


@pytest.mark.slow
@pytest.mark.root
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    check_hostile("ntfs", make(tmp_path)[0], tmp_path, seeds=16)


def table(data: bytes | bytearray) -> int:
    """Return where the first record of the MFT lies."""
    return int.from_bytes(data[48:56], "little") * data[13] * 512


def by_tsk(image: Path) -> Callable[[int, bytes], tuple[Any, bytes]]:
    """Return what reads metadata and a stream, by its name, of an MFT record through TSK."""
    import pytsk3

    fs = pytsk3.FS_Info(pytsk3.Img_Info(str(image)))

    def read(number: int, name: bytes) -> tuple[Any, bytes]:
        file = fs.open_meta(number)
        for attribute in file:
            if int(attribute.info.type) == DATA and (attribute.info.name or b"") == name:
                size, parts = int(attribute.info.size), []
                for at in range(0, size, 1 << 20):
                    take = min(1 << 20, size - at)
                    parts.append(file.read_random(at, take, attribute.info.type, attribute.info.id))
                return file.info.meta, b"".join(parts)
        return file.info.meta, b""

    return read


def numbered(files: Any, tree: int, entry: Entry) -> int:
    """Return the MFT record an entry of the deleted tree stands for."""
    return int(files._number(tree, entry.attr.inum))


@pytest.mark.slow
@pytest.mark.root
def test_every_record_out_of_use_is_somewhere_in_the_deleted_tree(tmp_path: Path) -> None:
    need("mkfs.ntfs", "ntfs-3g")
    image = tmp_path / "ntfs.img"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    run("mkfs.ntfs", "-F", "-Q", "-q", image)
    with mounted(["ntfs-3g", image], tmp_path / "mnt") as where:
        (where / "a/b/c").mkdir(parents=True)
        (where / "keep").mkdir()
        for number in range(8):
            for folder in ("a", "a/b/c", "keep"):
                (where / folder / f"file {number}").write_bytes(b"%d" % number)
        shutil.rmtree(where / "a")
        (where / "keep/file 3").unlink()
        (where / "new").mkdir()  # takes the record of a: its files are orphans now
    data = image.read_bytes()
    reader = MemoryReader(data)
    files = open_files("ntfs", reader)
    deleted, live = walk(files, 1), walk(files)
    shown = {numbered(files, 1, entry) for entry in deleted.values() if entry.attr.inum != ORPHANS}
    wanted = set()
    for number in range(24, 128):
        record = data[table(data) + 1024 * number :][:1024]
        if record[:4] == b"FILE" and not record[22] & 1 and any(a.type == FILE_NAME for a in parse(record)):
            wanted.add(number)
    assert len(wanted) > 16
    assert wanted <= shown
    assert not {entry.attr.inum for entry in live.values()} & wanted
    orphans = [name for name in deleted if name.startswith(b"$Orphans/") and name.count(b"/") == 1]
    assert any(name.endswith(b"-file 5") for name in orphans)
    assert all(int(name.split(b"/")[1].split(b"-")[0]) >= 24 for name in orphans)
    for limit in (1, 7):
        assert walk(files, 1, limit=limit) == deleted
    for path, entry in deleted.items():
        assert files.stat(1, entry.attr.inum, entry.stream) == entry.attr, path


@pytest.mark.slow
@pytest.mark.root
def test_file_in_use_that_no_directory_names_is_an_orphan(tmp_path: Path) -> None:
    image, _ = make(tmp_path)
    data = bytearray(image.read_bytes())
    files = open_files("ntfs", MemoryReader(bytes(data)))
    number = walk(files)[b"dir/inner.txt"].attr.inum
    parent = walk(files)[b"dir"].attr.inum
    record = table(data) + 1024 * parent
    at = data.find(struct.pack("<Q", number | files.stat(0, number, 0).generation << 48), record)
    assert record < at < record + 1024
    data[at + 6] ^= 0x40  # the sequence of the file, in the index of its directory
    damaged = MemoryReader(bytes(data))
    again = open_files("ntfs", damaged)
    assert "earlier file" in walk(again)[b"dir/inner.txt"].attr.damaged
    found = walk(again, 1)[b"$Orphans/%d-inner.txt" % number]
    assert not found.attr.deleted
    assert content(again, damaged, 1, found) == b"inner\n"
    assert again.stat(1, found.attr.inum, 0) == found.attr


@pytest.mark.slow
@pytest.mark.root
def test_records_read_here_and_by_tsk_agree(tmp_path: Path) -> None:
    image, _ = make(tmp_path)
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    tsk = by_tsk(image)
    compared = 0
    for path, entry in walk(files).items():
        if entry.attr.kind == Kind.DIR:
            continue
        stream = path.rpartition(b":")[2] if entry.stream else b""
        meta, theirs = tsk(entry.attr.inum, stream)
        attr = entry.attr
        if path == b"$BadClus:$Bad":
            continue  # TSK reads none of it
        assert (attr.size, attr.generation, attr.nlink) == (len(theirs), meta.seq, meta.nlink), path
        assert (attr.m_ns or 0) // 10**9 == meta.mtime, path
        assert content(files, reader, 0, entry) == theirs, path
        compared += 1
    assert compared > 40
    reader.close()


@pytest.mark.slow
def test_image_written_without_a_mount_is_read_as_its_tools_read_it(tmp_path: Path) -> None:
    need("mkfs.ntfs", "ntfscp", "ntfscat", "icat")
    image = tmp_path / "ntfs.img"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    run("mkfs.ntfs", "-F", "-Q", "-q", image)
    truth: dict[bytes, bytes | None] = {}
    for number, size in enumerate((0, 600, 5000, 700_000)):
        (tmp_path / "source").write_bytes(noise(size, number))
        run("ntfscp", "-f", "-q", image, tmp_path / "source", f"/file{number}")
        run("ntfscp", "-f", "-q", "-N", "side", image, tmp_path / "source", f"/file{number}")
        truth[b"file%d" % number] = noise(size, number)
        truth[b"file%d:side" % number] = noise(size, number)
    tree = check_files("ntfs", image, truth)
    for number in range(4):
        inum = tree[b"file%d" % number].attr.inum
        done = subprocess.run(["icat", image, str(inum)], capture_output=True, check=True)
        assert done.stdout == truth[b"file%d" % number]


@pytest.mark.slow
def test_a_torn_first_record_is_made_good_by_the_mirror(tmp_path: Path) -> None:
    need("mkfs.ntfs", "ntfscp")
    image = tmp_path / "ntfs.img"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    run("mkfs.ntfs", "-F", "-Q", "-q", image)
    (tmp_path / "source").write_bytes(noise(5000))
    run("ntfscp", "-f", "-q", image, tmp_path / "source", "/file")
    data = bytearray(image.read_bytes())
    data[table(data) + 510] ^= 0xFF
    reader = MemoryReader(bytes(data))
    files = open_files("ntfs", reader)
    tree = walk(files)
    assert content(files, reader, 0, tree[b"file"]) == noise(5000)
    assert tree[b"$MFT"].attr.damaged


def test_runs_that_contradict_themselves_are_refused() -> None:
    rows, allocated = pairs(bytes([0x11, 4, 10, 0x01, 2, 0x11, 1, 0xF7, 0]), 0, 9, 512)
    assert rows == [(0, 2048, 5120), (2048, 1024, HOLE), (3072, 512, 512)]
    assert allocated == 2560
    assert clipped(rows, 3500, 2500, 5632) == [
        (0, 512, 5120),
        (512, 1536, LOST),
        (2048, 452, HOLE),
        (2500, 1000, HOLE),
    ]
    for bad in (b"\x10\x01\x00", b"\x11\x00\x01\x00", b"\x19\x01", b"\x08" + b"\xff" * 8, b"\x11\x01"):
        with pytest.raises(Malformed):
            pairs(bad, 0, len(bad), 4096)


def test_security_identifiers_are_bounded() -> None:
    descriptor = (
        bytes(4)
        + struct.pack("<IIII", 20, 0, 0, 0)
        + bytes([1, 2])
        + bytes([0, 0, 0, 0, 0, 5])
        + struct.pack("<II", 32, 544)
    )
    assert owner_and_group(descriptor) == ("S-1-5-32-544", "")
    assert owner_and_group(descriptor[:-1]) == ("", "")


def test_other_bytes_are_not_ntfs() -> None:
    with pytest.raises(NotMine):
        open_files("ntfs", MemoryReader(bytes(1 << 16)))
