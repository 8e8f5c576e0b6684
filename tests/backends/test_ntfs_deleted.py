"""The deleted tree of NTFS: names, places and bytes against fls and icat; bounds of time."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from imgfs.backends.ntfs.deleted import FORMER, ORPHANS, RECORD
from imgfs.errors import EvidenceError, NotSupported
from imgfs.limits import DEADLINE
from imgfs.model import Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_hostile, content, open_files, walk
from tests.backends.tskimages import mounted, need, noise, run, sparse_file

if TYPE_CHECKING:
    from pathlib import Path

    from imgfs.backends import Files
    from imgfs.model import Entry

pytestmark = pytest.mark.slow


def made(folder: Path, megabytes: int = 6) -> Path:
    need("mkfs.ntfs", "ntfs-3g")
    image = folder / "ntfs.img"
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    run("mkfs.ntfs", "-F", "-Q", "-q", image)
    return image


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image with all sorts of what was deleted, renamed and written over."""
    folder = tmp_path_factory.mktemp("deleted")
    path = made(folder)
    command: list[object] = ["ntfs-3g", "-o", "streams_interface=windows", path]
    with mounted(command, folder / "one") as where:
        for name in ("keep", "gone", "gone/inner", "moved"):
            (where / name).mkdir()
        for number in range(200):
            (where / "keep" / f"kept and deleted {number:03d}").write_bytes(noise(3000, number))
        for number in range(40):
            (where / "gone/inner" / f"file {number}").write_bytes(noise(2000 + number, number))
        (where / "keep/with streams").write_bytes(noise(9000, 1))
        (where / "keep/with streams:first").write_bytes(b"one\n")
        (where / "keep/with streams:second").write_bytes(noise(7000, 2))
        (where / "keep/before").write_bytes(b"renamed\n")
        (where / "keep/linked").write_bytes(b"two names\n")
        (where / "moved/second").hardlink_to(where / "keep/linked")
        sparse_file(where / "keep/overlay.dll", 90_000, b"", 0)
        (where / "keep/overlay.dll:WofCompressedData").write_bytes(noise(5000, 4))
        tag = struct.pack("<IHH4I", 0x80000017, 16, 0, 1, 2, 1, 0)
        os.setxattr(where / "keep/overlay.dll", "system.ntfs_reparse_data", tag)
        sparse_file(where / "keep/chunks.bin", 80_000, b"", 0)
        tag = struct.pack("<IHH", 0x80000013, 16, 0) + bytes(16)
        os.setxattr(where / "keep/chunks.bin", "system.ntfs_reparse_data", tag)
    with mounted(command, folder / "two") as where:
        for number in range(0, 200, 2):
            (where / "keep" / f"kept and deleted {number:03d}").unlink()
        for name in ("with streams", "overlay.dll", "chunks.bin"):
            (where / "keep" / name).unlink()
        (where / "keep/before").rename(where / "keep/after")
        (where / "keep/linked").unlink()
        shutil.rmtree(where / "gone")
    return path


def by_fls(image: Path) -> list[tuple[str, int, bool]]:
    """Return path, MFT record, and whether another file has it, of deleted files (no streams, no orphans)."""
    need("fls", "icat")
    rows = re.findall(r"^\S+ \* (\d+)-128-\d+(\(realloc\))?:\t(.+)$", run("fls", "-rdp", image), re.MULTILINE)
    return [(name, int(number), bool(again)) for number, again, name in rows if "$OrphanFiles" not in name]


def icat(image: Path, number: int) -> bytes:
    return subprocess.run(["icat", image, str(number)], capture_output=True, check=True).stdout


@pytest.mark.root
def test_names_places_and_bytes_are_those_of_fls_and_icat(image: Path) -> None:
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    shown = walk(files, 1)
    peer = [row for row in by_fls(image) if ":" not in row[0] and not row[2]]
    assert len(peer) > 130
    compared = 0
    for name, number, _ in peer:
        entry = shown[name.encode()]
        assert int(files.xattrs(1, entry.attr.inum)[b"user.imgfs.ntfs.record"]) == number, name
        if entry.attr.kind == Kind.REG and not entry.attr.damaged and name != "keep/overlay.dll":
            assert content(files, reader, 1, entry) == icat(image, number), name
            compared += 1
    assert compared > 130
    theirs = {name.encode() for name, _, _ in by_fls(image)}
    ours = {
        name
        for name, entry in shown.items()
        if entry.attr.deleted and not entry.stream and entry.attr.kind == Kind.REG and b"$Orphans" not in name
    }
    assert {name for name in ours if not shown[name].attr.damaged} <= theirs
    reader.close()


@pytest.mark.root
def test_streams_of_deleted_files_are_read(image: Path) -> None:
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    shown = walk(files, 1)
    assert content(files, reader, 1, shown[b"keep/with streams"]) == noise(9000, 1)
    assert content(files, reader, 1, shown[b"keep/with streams:first"]) == b"one\n"
    assert content(files, reader, 1, shown[b"keep/with streams:second"]) == noise(7000, 2)
    for path, entry in shown.items():
        assert files.stat(1, entry.attr.inum, entry.stream) == entry.attr, path
    for limit in (1, 7):
        assert walk(open_files("ntfs", reader), 1, limit=limit) == shown
    reader.close()


@pytest.mark.root
def test_content_kept_elsewhere_is_refused_in_the_deleted_tree_too(image: Path) -> None:
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    shown = walk(files, 1)
    entry = shown[b"keep/chunks.bin"]
    assert (entry.attr.deleted, entry.attr.size, entry.layout) == (True, 80_000, None)
    with pytest.raises(NotSupported):
        files.layout(1, entry.attr.inum, 0)
    entry = shown[b"keep/overlay.dll"]  # its chunks are noise
    assert (entry.attr.deleted, entry.attr.size) == (True, 90_000)
    with pytest.raises(EvidenceError):
        content(files, reader, 1, entry)
    stream = shown[b"keep/overlay.dll:WofCompressedData"]
    assert content(files, reader, 1, stream) == noise(5000, 4)
    reader.close()


@pytest.mark.root
def test_former_names_of_files_in_use_have_no_content(image: Path) -> None:
    """An entry that no longer counts, of a file that lives: its name, its times, nothing else."""
    data = bytearray(image.read_bytes())
    files = open_files("ntfs", MemoryReader(bytes(data)))
    live = walk(files)
    keep = live[b"keep"].attr
    target = live[b"keep/after"].attr
    key = struct.pack("<5Q", keep.inum | keep.generation << 48, *[133_000_000_000_000_000] * 4)
    key += bytes(24) + bytes([3, 1]) + "old".encode("utf-16-le")
    entry = struct.pack("<QHHI", target.inum | target.generation << 48, 88, len(key), 0) + key
    place, slack = data.find(b"INDX"), 0
    while place >= 0 and not slack:
        header = place + 24
        end = int.from_bytes(data[header + 4 : header + 8], "little")
        if end and parent_is(data, place, keep.inum) and header + end + 200 < place + 4096:
            slack = header + end + 7 & -8
            plant(data, place, slack, entry)
        place = data.find(b"INDX", place + 1)
    assert slack
    files = open_files("ntfs", MemoryReader(bytes(data)))
    found = walk(files, 1)[b"keep/old"]
    assert found.attr.inum >= FORMER
    assert (found.attr.size, found.attr.damaged) == (0, "the file was given another name")
    assert found.attr.m_ns == (133_000_000_000_000_000 - 116_444_736_000_000_000) * 100
    assert files.stat(1, found.attr.inum, 0) == found.attr
    assert content(files, MemoryReader(b""), 1, found) == b""
    assert b"keep/old" not in walk(files)


def parent_is(data: bytearray, place: int, number: int) -> bool:
    """Say whether the first entry of an index block names a directory as its parent."""
    first = place + 24 + int.from_bytes(data[place + 24 : place + 28], "little")
    return int.from_bytes(data[first + 16 : first + 22], "little") == number


def plant(data: bytearray, place: int, at: int, entry: bytes) -> None:
    """Write into an index block as a driver would: the last two bytes of sectors are kept elsewhere."""
    array = place + int.from_bytes(data[place + 4 : place + 6], "little")
    for offset, byte in enumerate(entry):
        where = at + offset
        sector, inside = divmod(where - place, 512)
        if inside >= 510:
            where = array + 2 * (sector + 1) + inside - 510
        data[where] = byte


@pytest.mark.root
def test_without_its_root_all_files_are_orphans(image: Path) -> None:
    data = bytearray(image.read_bytes())
    before = open_files("ntfs", FileReader(image))
    wanted = {entry.attr.inum for name, entry in walk(before).items() if entry.attr.inum >= 64}
    place = int.from_bytes(data[48:56], "little") * data[13] * 512 + 5 * 1024
    data[place : place + 1024] = bytes(1024)
    reader = MemoryReader(bytes(data))
    files = open_files("ntfs", reader)
    shown = walk(files, 1)
    assert files.list(1, files.info.trees[1].root, 0, 10).damaged
    assert wanted <= {entry.attr.inum - RECORD for entry in shown.values() if entry.attr.inum >= RECORD}
    entry = next(e for n, e in shown.items() if n.endswith(b"/kept and deleted 001"))
    assert content(files, reader, 1, entry) == noise(3000, 1)


@pytest.mark.root
def test_hostile_copies_stay_inside_the_contract(image: Path, tmp_path: Path) -> None:
    check_hostile("ntfs", image, tmp_path, seeds=200, seconds=280)


RECORDS = 220_000


def synthetic(records: int) -> bytes:
    """Return a volume that is hardly more than a table of files: a root, and released files below it.

    Source: NTFS documentation of the Linux-NTFS project.
    """
    cluster = 4096
    first = 4  # cluster of the table
    count = -(-records * 1024 // cluster)
    boot = bytearray(first * cluster)
    boot[3:11] = b"NTFS    "
    struct.pack_into("<HB", boot, 11, 512, 8)
    struct.pack_into("<3Q", boot, 40, (first + count) * 8, first, first)
    boot[64], boot[68] = 256 - 10, 1

    def attribute(kind: int, content: bytes, name: str = "") -> bytes:
        text = name.encode("utf-16-le")
        start = 24 + len(text) + 7 & -8
        length = start + len(content) + 7 & -8
        head = struct.pack("<IIBBHHHIHH", kind, length, 0, len(name), 24, 0, kind, len(content), start, 0)
        return ((head + text).ljust(start, b"\0") + content).ljust(length, b"\0")

    def record(sequence: int, flags: int, *attributes: bytes) -> bytes:
        body = b"".join(attributes) + b"\xff\xff\xff\xff\0\0\0\0"
        head = struct.pack(
            "<4sHHQHHHHIIQHHI", b"FILE", 48, 3, 0, sequence, 1, 56, flags, 56 + len(body), 1024, 0, 9, 0, 0
        )
        raw = bytearray((head + bytes(8) + body).ljust(1024, b"\0"))
        raw[48:50] = raw[510:512] = raw[1022:1024] = b"\1\0"
        return bytes(raw)

    standard = attribute(0x10, struct.pack("<4Q", *[133_000_000_000_000_000] * 4) + bytes(16))

    def name_of(number: int) -> bytes:
        text = f"file {number:07d}"
        key = struct.pack("<Q", 5 | 5 << 48) + bytes(56) + bytes([len(text), 1]) + text.encode("utf-16-le")
        return attribute(0x30, key)

    size = records * 1024
    runs = b"\x14" + count.to_bytes(4, "little") + bytes([first]) + b"\0\0"
    data = struct.pack(
        "<IIBBHHHQQHHIQQQ", 0x80, 64 + len(runs), 1, 0, 64, 0, 1, 0, count - 1, 64, 0, 0, size, size, size
    )
    root = struct.pack("<IIIB3x", 0x30, 1, cluster, 1) + struct.pack("<IIII", 16, 32, 32, 0)
    root += struct.pack("<QHHHH", 0, 16, 0, 2, 0)
    table = [record(1, 1, standard, data + runs)] + [record(n, 1, standard) for n in range(1, 24)]
    table[5] = record(5, 3, standard, attribute(0x90, root, "$I30"))
    table += [
        record(3, 0, standard, name_of(number), attribute(0x80, b"%d" % number))
        for number in range(24, records)
    ]
    return bytes(boot) + b"".join(table)


def timed(files: Files, inum: int) -> tuple[list[Entry], float]:
    """Return the entries of a directory of the deleted tree, and the longest call."""
    found: list[Entry] = []
    cursor, longest = 0, 0.0
    while cursor >= 0:
        start = time.monotonic()
        page = files.list(1, inum, cursor, 1024)
        longest = max(longest, time.monotonic() - start)
        assert page.next == -1 or page.next > cursor
        found += page.entries
        cursor = page.next
    return found, longest


def test_a_table_of_many_records_is_scanned_in_calls_that_end_in_time() -> None:
    reader = MemoryReader(synthetic(RECORDS))
    files = open_files("ntfs", reader)
    found, longest = timed(files, files.info.trees[1].root)
    assert longest < DEADLINE["list"]
    assert len(found) == RECORDS - 24 + 1
    assert {entry.attr.inum for entry in found} == {RECORD | n for n in range(24, RECORDS)} | {ORPHANS}
    assert content(files, reader, 1, found[7]) == b"%d" % (found[7].attr.inum - RECORD)
    orphans, longest = timed(files, ORPHANS)
    assert longest < DEADLINE["list"]
    assert not orphans
