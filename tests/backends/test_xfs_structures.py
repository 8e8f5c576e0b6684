"""What is damaged costs what depends on it, and is said; what is unknown is refused by its name."""

from __future__ import annotations

import os
import shutil
import struct
from typing import TYPE_CHECKING, Any

import pytest

from imgfs.backends._crc32c import crc32c
from imgfs.backends.xfs.checksum import all_intact, intact
from imgfs.errors import EvidenceError, LostBytes, Malformed, NotMine, NotSupported
from imgfs.model import LOST, Kind
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import content, open_files, walk
from tests.backends.generated import ACL
from tests.backends.kernel import attached, shown
from tests.backends.tskimages import need, noise, run
from tests.backends.xfsimages import io, make, prototype
from tests.backends.xfsimages import shows as agrees

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from imgfs.backends import Files

SMALL = 32 << 20
NAME = b"file00007-with-a-longer-name"


def planted(tmp_path: Path, *options: str, size: int = SMALL) -> tuple[Path, dict[bytes, bytes | None]]:
    path, truth = prototype(tmp_path / "given")
    return make(tmp_path / "xfs.img", *options, "-p", path, size=size), truth


def change(image: Path, at: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(at)
        file.write(data)


def flip(image: Path, at: int) -> None:
    with image.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def sealed(image: Path, at: int, length: int, checksum: int) -> None:
    """Make the checksum right again."""
    with image.open("r+b") as file:
        file.seek(at)
        data = bytearray(file.read(length))
        data[checksum : checksum + 4] = bytes(4)
        data[checksum : checksum + 4] = crc32c(bytes(data)).to_bytes(4, "little")
        file.seek(at)
        file.write(data)


def opened(image: Path) -> tuple[Files, FileReader]:
    reader = FileReader(image)
    return open_files("xfs", reader), reader


def shows(image: Path, truth: Mapping[bytes, bytes | None], *notes: str) -> None:
    """Assert that all is there, and that exactly these things are said."""
    files, reader = opened(image)
    assert len(files.info.notes) == len(notes), files.info.notes
    for note, wanted in zip(files.info.notes, notes, strict=True):
        assert wanted in note
    tree = walk(files)
    for path, data in truth.items():
        if data is not None:
            assert content(files, reader, 0, tree[path]) == data, path
    reader.close()


def places(image: Path, *magics: bytes, step: int = 512) -> list[int]:
    data = image.read_bytes()
    return [at for at in range(0, len(data), step) if data[at : at + 4] in magics]


@pytest.mark.parametrize("length", [8, 512, 4096, 65_536])
def test_checksums_are_compared(length: int) -> None:
    blocks = []
    for number in range(5):
        block = bytearray(noise(length, number))
        block[4:8] = bytes(4)
        block[4:8] = crc32c(bytes(block)).to_bytes(4, "little")
        blocks.append(bytes(block))
        assert intact(blocks[-1], 4)
        assert not intact(blocks[-1], 0)
    blocks[3] = blocks[3][:-1] + bytes([blocks[3][-1] ^ 1])
    assert all_intact(b"".join(blocks), length, 4) == [True, True, True, False, True]
    assert all_intact(b"", length, 4) == []


@pytest.mark.slow
@pytest.mark.parametrize("version", ["crc=0", "crc=1"])
@pytest.mark.parametrize(
    ("at", "data"),
    [(0, bytes(512)), (4, b"\xff" * 24), (84, bytes(8)), (100, b"\0\0"), (56, b"\0\0\0\0\0\1\2\3")],
)
def test_superblock_of_another_group_is_used(tmp_path: Path, version: str, at: int, data: bytes) -> None:
    image, truth = planted(tmp_path, "-m", version)
    change(image, at, data)
    shows(image, truth, "the superblock is damaged: the one of allocation group")


@pytest.mark.slow
@pytest.mark.parametrize("options", [("-b", "size=1k"), ("-s", "size=4k"), ("-d", "agcount=3")])
def test_groups_are_found_without_the_superblock(tmp_path: Path, options: tuple[str, ...]) -> None:
    image, truth = planted(tmp_path, *options, size=48 << 20)
    change(image, 0, bytes(512))
    shows(image, truth, "the superblock is damaged: the one of allocation group")


@pytest.mark.slow
def test_groups_are_found_where_mkfs_puts_them(tmp_path: Path) -> None:
    image, truth = planted(tmp_path)
    change(image, 0, bytes(2048))  # the superblock, and the headers of free space and of inodes
    shows(image, truth, "the superblock is damaged: the one of allocation group")


@pytest.mark.slow
def test_a_superblock_whose_checksum_differs_is_better_than_none(tmp_path: Path) -> None:
    image, truth = planted(tmp_path)
    for at in places(image, b"XFSB"):
        flip(image, at + 112)  # in the label
    shows(image, truth, "the checksum of the superblock differs")


@pytest.mark.slow
def test_root_is_found_when_no_superblock_states_it(tmp_path: Path) -> None:
    image, truth = planted(tmp_path)
    for at in places(image, b"XFSB"):
        change(image, at + 56, b"\xff" * 8)
        sealed(image, at, 512, 224)
    shows(image, truth)


@pytest.mark.slow
@pytest.mark.parametrize(("bit", "name"), [(0x200, "zoned"), (0x400, "zone_gaps"), (0x10000, "0x10000")])
def test_unknown_features_are_refused_by_name(tmp_path: Path, bit: int, name: str) -> None:
    image = make(tmp_path / "xfs.img", size=SMALL)
    with image.open("rb") as file:
        file.seek(216)
        (incompat,) = struct.unpack(">I", file.read(4))
    change(image, 216, struct.pack(">I", incompat | bit))
    sealed(image, 0, 512, 224)
    with pytest.raises(NotSupported, match=name):
        opened(image)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("at", "bit", "note"),
    [
        (216, 0x10, "in need of repair"),
        (216, 0x40, ""),
        (216, 0x80, ""),
        (216, 0x100, "metadir"),
        (212, 0x100, ""),
    ],
)
def test_known_features_are_read(tmp_path: Path, at: int, bit: int, note: str) -> None:
    image, truth = planted(tmp_path)
    with image.open("rb") as file:
        file.seek(at)
        (flags,) = struct.unpack(">I", file.read(4))
    change(image, at, struct.pack(">I", flags | bit))
    sealed(image, 0, 512, 224)
    shows(image, truth, *filter(None, (note,)))


@pytest.mark.slow
def test_a_damaged_inode_costs_itself(tmp_path: Path) -> None:
    image, truth = planted(tmp_path)
    files, reader = opened(image)
    victim = walk(files)[b"many/" + NAME].attr.inum
    reader.close()
    flip(image, victim * 512 + 40)
    files, reader = opened(image)
    tree = walk(files)
    assert set(tree) >= set(truth)
    damaged = {path: entry.attr.damaged for path, entry in tree.items() if entry.attr.damaged}
    assert damaged == {b"many/" + NAME: f"inode {victim}: the checksum differs"}
    assert tree[b"many/" + NAME].attr.kind == Kind.REG
    with pytest.raises(Malformed, match="checksum"):
        files.stat(0, victim, 0)
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("-b", "size=1k")])
def test_a_damaged_block_of_a_directory_costs_its_names(tmp_path: Path, options: tuple[str, ...]) -> None:
    image, truth = planted(tmp_path, *options)
    blocks = places(image, b"XDD3")
    assert len(blocks) > 1
    flip(image, blocks[1] + 200)
    files, reader = opened(image)
    tree = walk(files)
    missing = {path for path in truth if path not in tree}
    assert 0 < len(missing) < 150
    assert all(path.startswith(b"many/") for path in missing)
    page, cursor = files.list(0, tree[b"many"].attr.inum, 0, 1024), 0
    while page.next > cursor:
        cursor = page.next
        page = files.list(0, tree[b"many"].attr.inum, cursor, 1024)
    assert "checksum" in page.damaged
    reader.close()


@pytest.mark.slow
def test_a_block_of_another_directory_is_not_believed(tmp_path: Path) -> None:
    image, _ = planted(tmp_path)
    blocks = places(image, b"XDD3")
    with image.open("rb") as file:
        file.seek(blocks[0])
        data = file.read(4096)
    change(image, blocks[1], data)
    files, reader = opened(image)
    many = walk(files)[b"many"].attr.inum
    assert "another place" in files.list(0, many, 0, 1 << 20).damaged
    reader.close()


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """Make a file system with trees of extents and of attributes; return it and what lies in many."""
    folder = tmp_path_factory.mktemp("rich")
    image = make(folder / "xfs.img", "-b", "size=1k", size=SMALL)
    with attached("xfs", image, folder / "mnt") as where:
        with (where / "tree.bin").open("wb") as file:
            for number in range(700):
                file.seek(number * 2048)
                file.write(noise(1024, number))
        for one in ("a", "b"):
            (where / one).write_bytes(one.encode())
        for number in range(60):
            for one in ("a", "b"):
                os.setxattr(where / one, f"user.{number}", noise(1500, number))
            os.setxattr(where / "a", f"user.small{number}", noise(50, number))
        (where / "link").symlink_to("l" * 1000)
        shutil.copyfile(where / "tree.bin", where / "copy.bin")
        return image, (where / "tree.bin").read_bytes()


@pytest.mark.slow
@pytest.mark.root
def test_a_damaged_node_of_extents_costs_what_it_would_say(rich: Any, tmp_path: Path) -> None:
    image = tmp_path / "xfs.img"
    shutil.copyfile(rich[0], image)
    files, reader = opened(image)
    tree = walk(files)[b"tree.bin"].attr.inum
    reader.close()
    owned = []
    for at in places(image, b"BMA3"):
        with image.open("rb") as file:
            file.seek(at)
            block = file.read(1024)
        if struct.unpack_from(">Q", block, 56)[0] == tree and not struct.unpack_from(">H", block, 4)[0]:
            owned.append((struct.unpack_from(">Q", block, 72)[0] >> 9 & (1 << 54) - 1, at))
    owned.sort()
    assert len(owned) > 2
    flip(image, owned[1][1] + 100)
    files, reader = opened(image)
    entry = walk(files)[b"tree.bin"]
    (layout,) = files.layout(0, entry.attr.inum, 0)
    rows = list(
        zip(
            *[struct.unpack(f"={len(c) // 8}q", c) for c in (layout.logical, layout.length, layout.target)],
            strict=True,
        )  # type: ignore[union-attr]
    )
    lost = [(at, length) for at, length, target in rows if target == LOST]
    assert lost == [(owned[1][0] * 1024, (owned[2][0] - owned[1][0]) * 1024)]
    whole = rich[1]
    for at, length, target in rows:
        if target >= 0:
            assert reader.read(target, length) == whole[at : at + length]
    with pytest.raises(OSError, match=r"lost|covered"):
        content(files, reader, 0, entry)
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_a_damaged_leaf_of_attributes_costs_its_own(rich: Any, tmp_path: Path) -> None:
    image = tmp_path / "xfs.img"
    shutil.copyfile(rich[0], image)
    files, reader = opened(image)
    number = walk(files)[b"a"].attr.inum
    before = files.xattrs(0, number)
    reader.close()
    data = image.read_bytes()
    leaves = [
        at
        for at in range(0, len(data), 1024)
        if data[at + 8 : at + 10] == b"\x3b\xee" and struct.unpack_from(">Q", data, at + 48)[0] == number
    ]
    assert len(leaves) > 3
    flip(image, leaves[2] + 500)
    files, reader = opened(image)
    after = files.xattrs(0, number)
    assert "checksum" in after.pop(b"user.imgfs.xattrs_damaged").decode()
    assert len(before) // 2 < len(after) < len(before)
    assert after.items() < before.items()
    reader.close()


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize(("magic", "path"), [(b"XARM", b"a"), (b"XSLM", b"link")])
def test_damaged_blocks_of_values_and_links_are_no_values(
    rich: Any, tmp_path: Path, magic: bytes, path: bytes
) -> None:
    image = tmp_path / "xfs.img"
    shutil.copyfile(rich[0], image)
    files, reader = opened(image)
    number = walk(files)[path].attr.inum
    before = files.xattrs(0, number)
    reader.close()
    data = image.read_bytes()
    flip(
        image,
        next(at for at in places(image, magic) if struct.unpack_from(">Q", data, at + 32)[0] == number) + 99,
    )
    files, reader = opened(image)
    if magic == b"XSLM":
        with pytest.raises(EvidenceError, match="checksum"):
            files.link(0, number)
    else:
        after = files.xattrs(0, number)
        assert "checksum" in after.pop(b"user.imgfs.xattrs_damaged").decode()
        assert len(after) == len(before) - 1
        assert after.items() < before.items()
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_an_unreplayed_log_is_said(tmp_path: Path) -> None:
    image = make(tmp_path / "xfs.img", size=SMALL)
    copy = tmp_path / "copy.img"
    for turn in range(3):  # the log goes on each time
        with attached("xfs", image, tmp_path / "mnt") as where:
            for number in range(300):
                (where / f"{turn} {number}").write_bytes(b"content")
            run("xfs_io", "-x", "-c", "syncfs", where)
            shutil.copyfile(image, copy)
        files, reader = opened(copy)
        assert any("unreplayed log" in note for note in files.info.notes)
        for entry in walk(files).values():  # some are not there yet, none is invented
            if not entry.attr.damaged and entry.attr.size:
                assert content(files, reader, 0, entry) == b"content"
        reader.close()
        shows(image, {})


@pytest.mark.slow
@pytest.mark.root
def test_a_log_that_went_round_is_read(tmp_path: Path) -> None:
    image = make(tmp_path / "xfs.img", "-l", "size=6m", size=SMALL)
    with attached("xfs", image, tmp_path / "mnt") as where:
        for turn in range(40):
            for number in range(200):
                path = where / f"{turn} {number}"
                path.write_bytes(b"content")
                os.setxattr(path, "user.long", noise(300, number))
            run("xfs_io", "-x", "-c", "syncfs", where)
            for number in range(200):
                (where / f"{turn} {number}").unlink()
        run("xfs_io", "-x", "-c", "syncfs", where)
        shutil.copyfile(image, tmp_path / "copy.img")
    data = image.read_bytes()
    (block, start) = struct.unpack_from(">I", data, 4)[0], struct.unpack_from(">Q", data, 48)[0]
    bits, blocks = data[124], struct.unpack_from(">I", data, 84)[0]
    log = ((start >> bits) * blocks + (start & (1 << bits) - 1)) * block
    magic, cycle = struct.unpack_from(">II", data, log)
    assert (cycle if magic == 0xFEEDBABE else magic) > 1
    shows(image, {})
    files, reader = opened(tmp_path / "copy.img")
    assert any("unreplayed log" in note for note in files.info.notes)
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_an_external_log_is_said(tmp_path: Path) -> None:
    log = tmp_path / "log.img"
    with log.open("wb") as file:
        file.truncate(SMALL)
    path, truth = prototype(tmp_path / "given")
    image = make(tmp_path / "xfs.img", "-l", f"logdev={log},size=16m", "-p", path, size=SMALL)
    shows(image, truth, "the log is on another device")


@pytest.mark.slow
def test_files_on_a_realtime_device_are_named_and_not_read(tmp_path: Path) -> None:
    image, truth = planted(tmp_path)
    files, reader = opened(image)
    victim = walk(files)[b"large.bin"].attr.inum
    reader.close()
    with image.open("rb") as file:
        file.seek(victim * 512 + 90)
        (flags,) = struct.unpack(">H", file.read(2))
    change(image, victim * 512 + 90, struct.pack(">H", flags | 1))
    sealed(image, victim * 512, 512, 100)
    change(image, 16, struct.pack(">Q", 8192))  # sb_rblocks
    sealed(image, 0, 512, 224)
    files, reader = opened(image)
    assert any("real-time device of 8192 blocks" in note for note in files.info.notes)
    tree = walk(files)
    assert set(tree) >= set(truth)
    entry = tree[b"large.bin"]
    assert (entry.attr.size, entry.layout) == (300_001, None)
    assert "real-time" in entry.attr.damaged
    assert files.stat(0, victim, 0) == entry.attr
    assert files.xattrs(0, victim)[b"user.imgfs.xfs.flags"] == b"realtime"
    with pytest.raises(LostBytes, match="real-time"):
        files.layout(0, victim, 0)
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_shared_blocks_projects_and_flags_are_shown(tmp_path: Path) -> None:
    image = make(tmp_path / "xfs.img", "-m", "reflink=1,rmapbt=1", size=SMALL)
    with attached("xfs", image, tmp_path / "mnt") as where:
        (where / "one").write_bytes(noise(100_000))
        run("cp", "--reflink=always", where / "one", where / "two")
        with (where / "two").open("r+b") as file:
            file.seek(40_000)
            file.write(b"changed")
        with (where / "punched").open("wb") as file:
            file.write(noise(100_000))
        io(where, "punched", "fpunch 8192 16384", "falloc -k 200000 100000", "falloc 0 300000")
        (where / "flags").write_bytes(b"")
        io(where, "flags", "extsize 64k", "cowextsize 128k", "chproj 70000", "chattr +dAsS", "chattr +i")
        os.setxattr(where / "one", "system.posix_acl_access", ACL)
    wanted = shown("xfs", image, tmp_path / "mnt", "norecovery")
    ((_, first), *_) = wanted[b"punched"].data
    agrees(image, wanted)
    files, reader = opened(image)
    tree = walk(files)
    found = files.xattrs(0, tree[b"flags"].attr.inum)
    assert found == {
        b"user.imgfs.xfs.flags": b"immutable sync noatime nodump extsize filestream cowextsize",
        b"user.imgfs.xfs.project": b"70000",
        b"user.imgfs.xfs.extsize": b"16",
        b"user.imgfs.xfs.cowextsize": b"32",
    }
    assert files.xattrs(0, tree[b"two"].attr.inum)[b"user.imgfs.xfs.flags"] == b"reflink"
    (layout,) = files.layout(0, tree[b"punched"].attr.inum, 0)
    targets = struct.unpack(f"={len(layout.target) // 8}q", layout.target)  # type: ignore[union-attr]
    starts = struct.unpack(f"={len(layout.logical) // 8}q", layout.logical)  # type: ignore[union-attr]
    assert next(at for at, target in zip(starts, targets, strict=True) if target < 0) == first
    reader.close()


@pytest.mark.slow
@pytest.mark.root
def test_parent_pointers_are_facts_and_no_attributes(tmp_path: Path) -> None:
    image = make(tmp_path / "xfs.img", size=SMALL)
    with attached("xfs", image, tmp_path / "mnt") as where:
        (where / "file").write_bytes(b"")
        os.setxattr(where / "file", "user.its name", (128).to_bytes(8, "big") + b"\0\0\0\7")
        os.setxattr(where / "file", "user.plain", b"value")
    files, reader = opened(image)
    number = walk(files)[b"file"].attr.inum
    reader.close()
    data = image.read_bytes()[number * 512 : number * 512 + 512]
    at = data.index(b"its name") - 1
    assert data[at] == 0
    change(image, number * 512 + at, b"\x08")  # what the kernel does from 6.10 on, if mkfs knows how to ask
    sealed(image, number * 512, 512, 100)
    files, reader = opened(image)
    assert files.xattrs(0, number) == {b"user.plain": b"value", b"user.imgfs.xfs.parents": b"128 its name"}
    reader.close()


@pytest.mark.slow
def test_a_volume_that_is_cut_off_shows_what_is_left(tmp_path: Path) -> None:
    image, _ = planted(tmp_path)
    os.truncate(image, SMALL // 2)
    files, reader = opened(image)
    assert [note[:8] for note in files.info.notes] == ["the log ", "the volu"]
    names = {entry.name: entry for entry in files.list(0, files.info.trees[0].root, 0, 100).entries}
    assert set(names) >= {b"large.bin", b"many", b"dir", b"small.txt"}
    assert content(files, reader, 0, names[b"small.txt"]) == b"hello world\n"
    lost = [entry for entry in names.values() if entry.attr.damaged]
    assert lost
    for entry in lost:
        with pytest.raises(EvidenceError, match="outside"):
            files.stat(0, entry.attr.inum, 0)
    reader.close()


def test_other_bytes_are_not_xfs() -> None:
    need("mkfs.xfs")
    group = bytes(512) + b"XAGF\0\0\0\1\0\0\0\0\0\0\x10\0" + bytes(1 << 16)
    for data in (b"", b"XFSB", bytes(1 << 16), b"XFSB" + bytes(1 << 16), group):
        with pytest.raises(NotMine):
            open_files("xfs", MemoryReader(data))
