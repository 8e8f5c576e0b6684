"""Files of several MFT records, large directories and compressed streams, against ntfs-3g and TSK."""

from __future__ import annotations

import errno
import os
import random
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from imgfs.backends.ntfs.lznt1 import decompress
from imgfs.backends.ntfs.record import ATTRIBUTE_LIST, DATA, FILE_NAME, parse, unfixed
from imgfs.errors import BadUnit, EvidenceError
from imgfs.model import Linear
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_hostile, content, open_files, walk
from tests.backends.tskimages import mounted, need, noise, run
from tests.peers import by_ntfs3g

if TYPE_CHECKING:
    from pathlib import Path

    from imgfs.backends import Files, Reader
    from imgfs.model import Entry

pytestmark = [pytest.mark.slow, pytest.mark.root]

CLUSTER = 4096
BIG = noise(2500 * CLUSTER + 77, 1)
MEDIUM = (100, 150, 200, 250, 300, 400)
LOG = b"".join(b"%d: a line of a log\n" % (n * n) for n in range(300_000))


def made(folder: Path, megabytes: int) -> Path:
    need("mkfs.ntfs", "ntfs-3g")
    image = folder / "ntfs.img"
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    run("mkfs.ntfs", "-F", "-Q", "-q", "-c", CLUSTER, image)
    return image


def scatter(where: Path) -> None:
    """Fill the volume with files of one cluster and delete every other one: single clusters are free."""
    fill = where / "fill"
    fill.mkdir()
    names = []
    try:
        while True:
            names.append(fill / f"{len(names):05d}")
            names[-1].write_bytes(b"\xaa" * CLUSTER)
    except OSError as why:
        assert why.errno == errno.ENOSPC
    for name in names[::2]:
        name.unlink()


def agree(image: Path, truth: dict[bytes, bytes | None]) -> dict[bytes, Entry]:
    """Compare what was written with what is read, as listed and as asked for; returns the tree."""
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    tree = walk(files)
    for path, wanted in truth.items():
        entry = tree[path]
        assert files.stat(0, entry.attr.inum, entry.stream) == entry.attr, path
        assert not entry.attr.damaged
        assert content(files, reader, 0, entry) == wanted, path
        if entry.layout is not None:
            assert content(files, reader, 0, entry, entry.layout) == wanted, path
    reader.close()
    return tree


@pytest.fixture(scope="module")
def fragmented(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, bytes | None]]:
    """Return an image with files in thousands of runs, many streams, a compressed file in pieces."""
    folder = tmp_path_factory.mktemp("lists")
    image = made(folder, 64)
    command: list[object] = ["ntfs-3g", "-o", "streams_interface=windows,compression", image]
    truth: dict[bytes, bytes | None] = {}
    with mounted(command, folder / "mnt") as where:
        (where / "streams").write_bytes(b"main\n")
        for number in range(300):
            data = noise(number, number)
            (where / f"streams:stream {number:03d}").write_bytes(data)
            truth[b"streams:stream %03d" % number] = data
        (where / "linked").write_bytes(b"many names\n")
        for number in range(3):  # names stay in records, and the list of attributes is short
            name = f"{number} " + "long" * 57
            (where / name).hardlink_to(where / "linked")
            truth[name.encode()] = b"many names\n"
        packed = where / "packed"
        packed.mkdir()
        flags = struct.unpack("<I", os.getxattr(packed, "system.ntfs_attrib"))[0]
        os.setxattr(packed, "system.ntfs_attrib", struct.pack("<I", flags | 0x800))
        (packed / "log").write_bytes(LOG)  # a stored part and a hole per unit: runs enough for a list
        scatter(where)
        (where / "big").write_bytes(BIG)
        (where / "big:side").write_bytes(BIG[:2_000_000])
        for count in MEDIUM:
            (where / f"medium{count}").write_bytes(BIG[: count * CLUSTER])
            truth[b"medium%d" % count] = BIG[: count * CLUSTER]
        (where / "gone").mkdir()
        (where / "gone/large").write_bytes(BIG[:3_000_000])
        (where / "gone/large:side").write_bytes(BIG[-1_000_000:])
    with mounted(command, folder / "again") as where:
        (where / "gone/large").unlink()
    truth |= {
        b"packed/log": LOG,
        b"linked": b"many names\n",
        b"big": BIG,
        b"big:side": BIG[:2_000_000],
        b"streams": b"main\n",
    }
    return image, truth


def table(data: bytes) -> int:
    """Return where the first record of the MFT lies."""
    return int.from_bytes(data[48:56], "little") * data[13] * 512


def listed(files: Files, number: int) -> bool | None:
    """Say whether the attribute list of a record is resident, None: it has none."""
    record = files._volume.mft.record(number)  # type: ignore[attr-defined]
    return next((a.resident for a in parse(record) if a.type == ATTRIBUTE_LIST), None)


def test_files_of_several_records_are_read_whole(
    fragmented: tuple[Path, dict[bytes, bytes | None]],
) -> None:
    image, truth = fragmented
    tree = agree(image, truth)
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    for name in (b"big", b"streams", b"linked", b"medium300", b"packed/log"):
        assert listed(files, tree[name].attr.inum) is False, name  # ntfs-3g keeps every list outside
    layout = files.layout(0, tree[b"big"].attr.inum, 0)[-1]
    assert isinstance(layout, Linear)
    assert len(layout.logical) // 8 > 600
    assert tree[b"big"].attr.allocated == 2501 * CLUSTER
    reader.close()


def with_resident_list(data: bytearray, number: int, content: bytes) -> None:
    """Put the attribute list of a file into its record, as Windows keeps it while there is room.

    A name of the record makes room, and leaves the list.
    """
    at = table(data) + 1024 * number
    record = bytearray(unfixed(bytes(data[at : at + 1024]), b"FILE", "record", number))
    place = int.from_bytes(record[20:22], "little")
    largest = max((a for a in parse(bytes(record)) if a.type == FILE_NAME), key=lambda a: len(a.content))
    offset = bytes(record).find(largest.content) - 24
    length = int.from_bytes(record[offset + 4 : offset + 8], "little")
    del record[offset : offset + length]
    record += bytes(length)
    struct.pack_into("<I", record, 24, int.from_bytes(record[24:28], "little") - length)
    entry = next(
        at
        for at in range(0, len(content), 32)
        if content[at] == FILE_NAME
        and content[at + 16 : at + 22] == number.to_bytes(6, "little")
        and content[at + 24] == largest.id
    )
    content = content[:entry] + content[entry + 32 :]
    while int.from_bytes(record[place : place + 4], "little") != ATTRIBUTE_LIST:
        place += int.from_bytes(record[place + 4 : place + 8], "little")
    had = int.from_bytes(record[place + 4 : place + 8], "little")
    value = content + bytes(-len(content) % 8)
    head = struct.pack("<IIBBHHHIHH", ATTRIBUTE_LIST, 24 + len(value), 0, 0, 24, 0, 9, len(content), 24, 0)
    changed = record[:place] + head + value + record[place + had :]
    used = int.from_bytes(record[24:28], "little") - had + len(head) + len(value)
    assert used <= 1024 - 8, "no room for the list"
    struct.pack_into("<I", changed, 24, used)
    changed = changed[:1024]
    array = int.from_bytes(changed[4:6], "little")
    for sector in (1, 2):
        end = 512 * sector
        changed[array + 2 * sector : array + 2 * sector + 2] = changed[end - 2 : end]
        changed[end - 2 : end] = changed[array : array + 2]
    data[at : at + 1024] = changed


def test_list_in_the_record_itself_is_read(
    fragmented: tuple[Path, dict[bytes, bytes | None]], tmp_path: Path
) -> None:
    image, truth = fragmented
    data = bytearray(image.read_bytes())
    files = open_files("ntfs", FileReader(image))
    entry = walk(files)[b"linked"]
    file = files._volume.file(entry.attr.inum)  # type: ignore[attr-defined]
    with_resident_list(data, entry.attr.inum, files._volume.value(file.attributes[:1], 4096))  # type: ignore[attr-defined]
    assert listed(open_files("ntfs", MemoryReader(bytes(data))), entry.attr.inum) is True
    patched = tmp_path / "patched.img"
    patched.write_bytes(data)
    tree = agree(patched, {b"linked": truth[b"linked"]})
    assert tree[b"linked"].attr == entry.attr
    names = open_files("ntfs", FileReader(patched)).xattrs(0, entry.attr.inum)[b"user.imgfs.ntfs.fn_times"]
    assert names.count(b"\n") == 2, "three names from several records"
    said = run("istat", patched, entry.attr.inum)
    assert said.count("Type: $FILE_NAME") == 3
    assert "$ATTRIBUTE_LIST (32-9)   Name: N/A   Resident" in said


def test_deleted_file_of_several_records_keeps_its_bytes_and_streams(
    fragmented: tuple[Path, dict[bytes, bytes | None]],
) -> None:
    image, _ = fragmented
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    tree = walk(files, 1)
    # ntfs-3g takes the name out of the record: TSK calls it an orphan, too
    path, found = next((n, e) for n, e in tree.items() if e.attr.size == 3_000_000 and not e.stream)
    assert found.attr.deleted
    assert "holds no attribute 0x30" in found.attr.damaged  # which its list still names
    assert content(files, reader, 1, found) == BIG[:3_000_000]
    assert content(files, reader, 1, tree[path + b":side"]) == BIG[-1_000_000:]
    number = files.xattrs(1, found.attr.inum)[b"user.imgfs.ntfs.record"].decode()
    done = subprocess.run(["icat", image, number], capture_output=True, check=True)
    assert done.stdout == BIG[:3_000_000]
    reader.close()


def extension_of(files: Files, number: int, kind: int) -> int:
    """Return where a record lies that extends a file with an attribute of a type and no name."""
    mft = files._volume.mft  # type: ignore[attr-defined]
    for other in range(24, mft.count):
        try:
            record = mft.record(other)
        except EvidenceError:
            continue
        base = int.from_bytes(record[32:38], "little")
        if base == number and any(a.type == kind and not a.name for a in parse(record)):
            ((_, place),) = mft._extents.pieces(1024 * other, 1024)
            return int(place)
    raise AssertionError("no extension record")


def everything(files: Files, reader: Reader, entry: Entry) -> bytes | None:
    try:
        return content(files, reader, 0, entry)
    except (EvidenceError, OSError):
        return None


@pytest.mark.parametrize("damage", ["base", "sequence", "magic", "free"])
def test_what_a_lost_record_held_is_an_error_and_not_zeros(
    fragmented: tuple[Path, dict[bytes, bytes | None]], damage: str
) -> None:
    image, truth = fragmented
    data = bytearray(image.read_bytes())
    number = walk(open_files("ntfs", FileReader(image)))[b"big"].attr.inum
    at = extension_of(open_files("ntfs", FileReader(image)), number, DATA)
    place = {"base": 32, "sequence": 16, "magic": 0, "free": 22}[damage]
    data[at + place] ^= 1
    reader = MemoryReader(bytes(data))
    files = open_files("ntfs", reader)
    tree = walk(files)
    assert everything(files, reader, tree[b"big"]) is None
    assert tree[b"big"].attr.damaged
    wanted = truth[b"streams"]
    assert everything(files, reader, tree[b"streams"]) == wanted
    layout = files.layout(0, number, 0)[-1] if tree[b"big"].attr.size else None
    if isinstance(layout, Linear):  # what is still known is right
        columns = zip(
            *(memoryview(c).cast("q") for c in (layout.logical, layout.length, layout.target)), strict=True
        )
        known = [(a, n, t) for a, n, t in columns if t >= 0]
        assert known
        for logical, length, target in known:
            assert data[target : target + length] == BIG[logical : logical + length]


def test_lists_that_lead_back_to_their_file_end(fragmented: tuple[Path, dict[bytes, bytes | None]]) -> None:
    image, _ = fragmented
    data = bytearray(image.read_bytes())
    files = open_files("ntfs", FileReader(image))
    volume = files._volume  # type: ignore[attr-defined]
    numbers = {name: walk(files)[name].attr.inum for name in (b"streams", b"big")}
    for name, other in ((b"streams", b"streams"), (b"big", b"streams")):  # itself, and another file
        file = volume.file(numbers[name])
        ((_, length, place),) = volume.rows(file.attributes[:1])
        at, stop = place, place + min(length, file.attributes[0].size)
        while at < stop:
            data[at + 16 : at + 22] = numbers[other].to_bytes(6, "little")
            at += int.from_bytes(data[at + 4 : at + 6], "little")
    again = open_files("ntfs", MemoryReader(bytes(data)))
    tree = walk(again)
    assert tree[b"big"].attr.damaged
    assert tree[b"streams"].attr.damaged
    assert everything(again, MemoryReader(bytes(data)), tree[b"big"]) is None


def test_a_fragmented_table_of_files_is_read_to_its_end(tmp_path: Path) -> None:
    """The MFT grows into free space of single clusters: its own record gets an attribute list."""
    image = made(tmp_path, 40)
    with mounted(["ntfs-3g", image], tmp_path / "mnt") as where:
        scatter(where)
        (where / "late").mkdir()
        names = [f"late file {number:05d} with a name that is not short" for number in range(6000)]
        for name in names:
            (where / "late" / name).write_bytes(name.encode())
    data = image.read_bytes()
    tree = agree(image, {b"late/" + name.encode(): name.encode() for name in names})
    record = data[table(data) :][:1024]
    assert any(a.type == ATTRIBUTE_LIST for a in parse(record)), "the table has no list"
    assert max(entry.attr.inum for entry in tree.values()) > 6000


def test_a_directory_of_twenty_thousand_names(tmp_path: Path) -> None:
    image = made(tmp_path, 128)
    rng = random.Random(7)
    names = [f"{rng.randrange(1 << 60):015x} {number}" for number in range(20_000)]
    with by_ntfs3g(image, tmp_path / "peer") as root:
        (root / "many").mkdir()
        for name in names:
            (root / "many" / name).touch()
    reader = FileReader(image)
    files = open_files("ntfs", reader)
    tree = walk(files)
    assert {n for n in tree if n.startswith(b"many/")} == {b"many/" + n.encode() for n in names}
    deleted = names[::3]
    with by_ntfs3g(image, tmp_path / "peer") as root:
        for name in deleted:
            (root / "many" / name).unlink()
    again = open_files("ntfs", FileReader(image))
    wanted = {b"many/" + name.encode() for name in names} - {b"many/" + name.encode() for name in deleted}
    assert {n for n in walk(again) if n.startswith(b"many/")} == wanted
    shown = walk(again, 1)
    found = {n for n, entry in shown.items() if n.startswith(b"many/") and not entry.attr.damaged}
    assert found == {b"many/" + name.encode() for name in deleted}


def test_hostile_copies_of_lists_stay_inside_the_contract(
    fragmented: tuple[Path, dict[bytes, bytes | None]], tmp_path: Path
) -> None:
    check_hostile("ntfs", fragmented[0], tmp_path, seeds=12, seconds=280)


def test_lznt1_of_the_specification() -> None:
    packed = bytes.fromhex(  # [MS-XCA] 3.3
        "38b088462320002047204100 10a24701a0452044 00084501507900c0 4520052413880 5b4024a44ef"
        "0358028c0916014845 00be009e0004011890 00".replace(" ", "")
    )
    text = (
        b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G "
        b"F# E D E A F# F# G A A G F# E D D E F# E D D\0"
    )
    assert decompress(packed, 4096) == text
    with pytest.raises(BadUnit):
        decompress(b"\x03\xb0\x01\x00\x00\x00", 4096)  # refers to what is before the start
    with pytest.raises(BadUnit):
        decompress(b"\xff\xbf\x00", 4096)
