from __future__ import annotations

import hashlib
import re
import struct
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from imgfs.errors import NotMine
from imgfs.model import HOLE, LOST, Inline, Kind, Linear
from imgfs.testing.fakes import FileReader, MemoryReader
from imgfs.testing.files import check_files, check_hostile, content, open_files, walk
from tests.backends import udfimages
from tests.backends.tskimages import many, need, noise, plant, run
from tests.guest import trees

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from imgfs.backends import Files, Reader

ODD = b"Non-Allocatable Space"  # a hidden file of sparable volumes, which the kernel leaves out
BLOCKS = {"rev102": 512, "rev201": 2048, "long250": 1024, "spar": 2048, "big4k": 4096}


def same(files: Files, reader: Reader, told: Mapping[bytes, trees.Told], *, numbers: bool = True) -> None:
    """Assert that every attribute and every byte is what the kernel says."""
    tree = walk(files)
    assert set(tree) - {ODD} == set(told)
    shifts, links = set(), {}
    for path, want in told.items():
        entry = tree[path]
        attr, kind = entry.attr, Kind(want.kind)
        got: tuple[object, ...] = (attr.kind, attr.mode, attr.uid, attr.gid, attr.nlink)
        assert got == (kind, want.mode, want.uid, want.gid, want.nlink), path
        assert (attr.m_ns, attr.a_ns, attr.c_ns) == (want.m_ns, want.a_ns, want.c_ns), path
        assert (attr.rdev, attr.allocated, attr.damaged) == (want.rdev, want.blocks * 512, ""), path
        shifts.add(want.inum - attr.inum)
        assert links.setdefault(want.inum, attr.inum) == attr.inum
        if kind == Kind.REG:
            assert attr.size == want.size
            for layouts in {None, entry.layout}:
                assert hashlib.sha256(content(files, reader, 0, entry, layouts)).hexdigest() == want.body, (
                    path
                )
        elif kind == Kind.LNK:
            assert want.body is not None
            target = want.body.encode("latin-1")
            assert (files.link(0, attr.inum), attr.size) == (target, want.size), path
    assert len(set(links.values())) == len(links)
    assert not numbers or len(shifts) == 1, "numbers are not those of the blocks"


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Path], dict[str, dict[bytes, trees.Told]]]:
    return trees.load("udf", tmp_path_factory.mktemp("udf"))


Recorded = tuple[dict[str, "Path"], dict[str, dict[bytes, trees.Told]]]


@pytest.mark.parametrize("name", list(BLOCKS))
def test_the_tree_is_what_the_kernel_reads(recorded: Recorded, name: str) -> None:
    disks, told = recorded
    check_files("udf", disks[name], {})
    reader = FileReader(disks[name])
    files = open_files("udf", reader)
    assert (files.info.type, files.info.label, files.info.block) == ("udf", f"{name} é", BLOCKS[name])
    assert not files.info.notes
    same(files, reader, told[name])
    reader.close()


def test_what_was_not_recorded_is_a_hole(recorded: Recorded) -> None:
    reader = FileReader(recorded[0]["rev201"])
    files = open_files("udf", reader)
    for path, most in ((b"sparse", 3 * 2048), (b"hole", 0)):
        attr = walk(files)[path].attr
        layout = files.layout(0, attr.inum, 0)[-1]
        assert isinstance(layout, Linear)
        targets, lengths = memoryview(layout.target).cast("q"), memoryview(layout.length).cast("q")
        assert sum(n for n, t in zip(lengths, targets, strict=True) if t != HOLE) == most
    reader.close()


@pytest.mark.parametrize(("missing", "target"), [(0, HOLE), (1, LOST)])
def test_an_end_without_extents_is_a_hole_unless_blocks_are_missing(
    recorded: Recorded, missing: int, target: int
) -> None:
    disc = udfimages.Disc(recorded[0]["rev201"].read_bytes(), 2048)
    inum = walk(open_files("udf", MemoryReader(bytes(disc.data))))[b"size300001"].attr.inum
    raw = bytearray(disc.block(inum))
    places = (56, 64, 72) if raw[:2] == struct.pack("<H", udfimages.EFE) else (56, 64)
    for at in places[:-1]:
        struct.pack_into("<Q", raw, at, 320_000)
    (blocks,) = struct.unpack_from("<Q", raw, places[-1])
    struct.pack_into("<Q", raw, places[-1], blocks + missing)
    disc.put(inum, udfimages.tagged(bytes(raw)))
    layout = open_files("udf", MemoryReader(bytes(disc.data))).layout(0, inum, 0)[-1]
    assert isinstance(layout, Linear)
    assert [memoryview(layout.target).cast("q")[-1], memoryview(layout.length).cast("q")[-1]] == [
        target,
        320_000 - 300_001,
    ]


@pytest.mark.parametrize("form", ["both", "file", "mirror", "table", "old table"])
def test_virtual_and_metadata_partitions_show_the_same_tree(recorded: Recorded, form: str) -> None:
    disks, told = recorded
    data = disks["long250"].read_bytes()
    if "table" in form:
        data = udfimages.through_table(data, 1024, old="old" in form)
    else:
        data = udfimages.through_metadata(data, 1024, lose=form)
    reader = MemoryReader(data)
    files = open_files("udf", reader)
    assert [note.partition(":")[0] for note in files.info.notes] == {
        "file": ["metadata file"]
    }.get(form, [])  # fmt: skip
    same(files, reader, told["long250"], numbers=False)


def test_a_spared_packet_is_read_from_where_it_was_moved(recorded: Recorded) -> None:
    disks, told = recorded
    reader = MemoryReader(udfimages.with_moved_packet(disks["spar"].read_bytes(), 2048))
    same(open_files("udf", reader), reader, told["spar"])


@pytest.mark.parametrize("lost", ["main", "anchor", "logical", "anchors"])
def test_copies_of_descriptors_take_over(recorded: Recorded, lost: str) -> None:
    disks, told = recorded
    data = bytearray(disks["rev201"].read_bytes())
    disc = udfimages.Disc(bytes(data), 2048)
    first = disc.logical[0]
    places = {
        "main": range(first - 3 * 2048, first + 3 * 2048, 2048),
        "anchor": [256 * 2048],
        "logical": [first],
        "anchors": [256 * 2048, len(data) - 257 * 2048],
    }[lost]
    for place in places:
        data[place + 100 : place + 200] = b"\xff" * 100
        data[place + 12] ^= 1
    reader = MemoryReader(bytes(data))
    files = open_files("udf", reader)
    same(files, reader, told["rev201"])
    assert files.info.notes


def test_a_bad_checksum_costs_one_file(recorded: Recorded) -> None:
    disks, told = recorded
    data = bytearray(disks["rev201"].read_bytes())
    disc = udfimages.Disc(bytes(data), 2048)
    reader = MemoryReader(bytes(data))
    tree = walk(open_files("udf", reader))
    victim = tree[b"size100"].attr.inum
    data[(disc.start + victim) * 2048 + 40] ^= 1
    hurt = walk(open_files("udf", MemoryReader(bytes(data))))
    assert {path for path in hurt if hurt[path] != tree[path]} == {b"size100", b"dir/linked", b"dir/again"}
    assert "checksum" in hurt[b"size100"].attr.damaged
    assert set(hurt) == set(told["rev201"])


def test_rewritten_entries_and_named_streams(recorded: Recorded) -> None:
    disc = udfimages.Disc(recorded[0]["rev201"].read_bytes(), 2048)
    old = walk(open_files("udf", MemoryReader(bytes(disc.data))))[b"size100"].attr.inum
    end, entry, name = disc.length - 40, udfimages.entry, udfimages.name
    streams = [(b"", old), (b"one", end + 7), (b"two", end + 8)]
    folder = b"".join(name(text, block, 0, end + 6, 2048) for text, block in streams)
    written = {
        end: entry(5, end, b"oldest", strategy=4096),
        end + 1: udfimages.descriptor(
            259, end + 1, bytes(20) + struct.pack("<IIHHI", 2048, end + 4, 0, 0, 0)
        ),
        end + 4: entry(5, end + 4, b"newest", strategy=4096),
        end + 6: entry(13, end + 6, folder),
        end + 7: entry(5, end + 7, b"first stream"),
        end + 8: entry(5, end + 8, b"second"),
        old: entry(5, old, b"main", stream_length=2048, streams=end + 6),
    }
    for block, raw in written.items():
        disc.put(block, raw.ljust(2048, b"\0"))
    reader = MemoryReader(bytes(disc.data))
    files = open_files("udf", reader)
    tree = walk(files)
    wanted = {b"size100": b"main", b"size100:one": b"first stream", b"dir/again:two": b"second"}
    for path, data in wanted.items():
        found = tree[path]
        assert content(files, reader, 0, found) == data
        assert files.stat(0, found.attr.inum, found.stream) == found.attr
    moved = files.stat(0, end, 0)
    assert (moved.inum, files.layout(0, end, 0)) == (end, (Inline(b"newest"),))


MEDIA = [
    (media, revision, block)
    for media, revisions, blocks in (
        ("hd", "1.01 1.02 1.50 2.00 2.01", (512, 1024, 2048, 4096, 8192, 32768)),
        ("hd --strategy=4096", "1.02 2.01", (512, 2048)),
        ("hd --ad=long --space=freedtable", "1.02 2.01", (2048,)),
        ("hd --ad=short", "1.02 2.01", (2048,)),
        ("dvd", "1.02 2.01", (2048,)),
        ("cd", "1.02 2.01", (2048,)),
        ("dvdram", "1.02 2.01", (2048,)),
        ("dvdrw", "1.50 2.01", (2048,)),
        ("dvdr", "1.50 2.01", (2048,)),
        ("cdrw", "1.50 2.01", (2048,)),
        ("cdr", "1.50 2.01", (2048,)),
        ("cdr --closed", "1.50 2.01", (2048,)),
        ("bdr", "2.50 2.60", (2048,)),
    )
    for revision in revisions.split()
    for block in blocks
]


@pytest.mark.parametrize(("media", "revision", "block"), MEDIA)
def test_empty_volumes_of_all_media(tmp_path: Path, media: str, revision: str, block: int) -> None:
    need("mkudffs")
    image = tmp_path / "disc.udf"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    said = run(
        "mkudffs", "--utf8", "--label=Größe жэ", *f"--media-type={media}".split(), f"--udfrev={revision}",
        f"--blocksize={block}", "--mode=0751", "--uid=7", "--gid=8", image,
    )  # fmt: skip
    told = dict(re.findall(r"^(\w+)=(.*)$", said, re.MULTILINE))
    reader = FileReader(image)
    files = open_files("udf", reader)
    info = files.info
    assert (info.label, info.uuid, info.version) == ("Größe жэ", told["uuid"], revision)
    assert info.block == block == int(told["blocksize"])
    root = files.stat(0, info.trees[0].root, 0)
    assert (root.kind, root.mode, root.uid, root.gid) == (Kind.DIR, 0o751, 7, 8)
    assert set(walk(files)) <= {b"lost+found", ODD}
    assert not [note for note in info.notes if "did not close" not in note]
    reader.close()


def bridge(folder: Path) -> tuple[Path, dict[bytes, bytes | None]]:
    need("genisoimage")
    tree, image = folder / "tree", folder / "disc.iso"
    tree.mkdir()
    truth = plant(tree) | many(tree, 60)
    big = {b"big.bin": noise(3_000_000, 9)}
    truth |= plant(tree, big)
    run("genisoimage", "-quiet", "-V", "EVIDENCE", "-R", "-J", "-udf", "-o", image, tree)
    return image, truth


@pytest.mark.slow
def test_bridge_discs(tmp_path: Path) -> None:
    image, truth = bridge(tmp_path)
    tree = check_files("udf", image, truth)
    assert set(tree) == set(truth)
    assert check_files("iso9660", image, truth).keys() == tree.keys()


@pytest.mark.slow
def test_seven_zip_reads_the_same(tmp_path: Path) -> None:
    need("7z")
    image, _ = bridge(tmp_path)
    reader = FileReader(image)
    tree = walk(open_files("udf", reader))
    listed = run("7z", "l", "-slt", "-tudf", image).partition("----------\n")[2]
    rows = [dict(re.findall(r"^(\w+) = (.*)$", block, re.MULTILINE)) for block in listed.split("\n\n")]
    told = {row["Path"].encode(): row for row in rows if "Path" in row}
    assert set(told) == set(tree)
    for path, row in told.items():
        attr = tree[path].attr
        assert (row["Folder"] == "+") == (attr.kind == Kind.DIR)
        assert attr.kind == Kind.DIR or int(row["Size"]) == attr.size
        moment = datetime.fromisoformat(row["Modified"]).replace(tzinfo=UTC)
        assert int(moment.timestamp()) == (attr.m_ns or 0) // 10**9, path
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rev201", "spar", "metadata", "table"])
def test_damage_stays_inside_the_contract(tmp_path: Path, recorded: Recorded, name: str) -> None:
    image = tmp_path / "disc.udf"
    data = recorded[0]["long250" if name in {"metadata", "table"} else name].read_bytes()
    through = {"metadata": udfimages.through_metadata, "table": udfimages.through_table}.get(name)
    image.write_bytes(through(data, 1024) if through else data)
    check_hostile("udf", image, tmp_path, seeds=50, seconds=120)


def test_other_bytes_are_not_udf() -> None:
    with pytest.raises(NotMine):
        open_files("udf", MemoryReader(bytes(1 << 20)))
