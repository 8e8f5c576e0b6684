"""Logical evidence: the tree reads as libewf reads it, and every file as it was put in."""

from __future__ import annotations

import hashlib
import io
import os
import random
import struct
import time
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options, discover
from imgfs.backends.logical import open_logical
from imgfs.block.build import build
from imgfs.block.memory import Memory
from imgfs.errors import EvidenceError, ImgfsError, NotMine
from imgfs.model import Foreign, Kind
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.files import check_attr, check_layout, content, walk
from imgfs.testing.media import _contents, check_media
from tests.backends.ewf2images import Writer
from tests.backends.ewf2images import info as device
from tests.backends.logicalimages import UNIT, Node, l01, lx01, tree
from tests.peers import watched

if TYPE_CHECKING:
    from pathlib import Path

    from imgfs.backends import Files
    from imgfs.model import Media

pyewf = pytest.importorskip("pyewf")
pytestmark = pytest.mark.slow
FORMS = [("l01", l01, 5), ("l01", l01, 7), ("lx01", lx01, 7)]
SPARSE, DELETED = 0x0400_0000, 0x80


def node(name: str, length: int, **told: str) -> Node:
    return Node(name, random.Random(name.encode("utf-8", "surrogatepass")).randbytes(length), told=told)


def evidence() -> Node:
    """Return folders three deep, empty files, files over several chunks, and names as they come."""
    deep = Node("deep", below=[node("one", 1), Node("empty folder"), node("three", 3 * UNIT + 7)])
    names = [
        "plain.txt",
        "mit Leerzeichen",
        "ümläut",
        "日本",
        "a/b\\c",
        "..",
        "file\u00b7stream",
        "\ud800half",
        "x" * 300,
    ]
    files = [node(name, 100 + n) for n, name in enumerate(names)]
    timed = node(
        "times", 50, cr="1142163845", ac="1142163846", wr="1142163847", mo="1142163848", pm="0", src="1"
    )
    gone = Node("gone", b"deleted", flags=DELETED, told={"dl": "1142163849"})
    twin = [node("twin", 10), Node("twin", b"another")]
    drive = Node("C", below=[Node("", b"no name", told={"n": "NoName"}), deep, *files, timed, gone, *twin])
    return Node("LogicalEntries", below=[drive, Node("D", below=[Node("zero", b"")])])


def opened(name: str, files: list[bytes]) -> tuple[Media, Files, MemoryReader]:
    readers = [MemoryReader(data, name=f"image.{n}") for n, data in enumerate(files, 1)]
    readers[0].others = readers[1:]
    claim = discover()[name].open(readers[0], Options())
    source = build(claim.layouts, [Memory(data) for data in files], name)
    data = b"".join(step or b"" for _, step in _contents(source))
    reader = MemoryReader(data.ljust(source.size, b"\0"), others=readers)
    assert claim.files == "logical"
    return claim, open_logical(reader, Options()), reader


def listed(root: Node) -> list[tuple[str, bytes | None]]:
    """Return paths and contents in the order of the tree."""
    found: list[tuple[str, bytes | None]] = []

    def go(at: Node, path: str) -> None:
        for child in at.below:
            here = f"{path}/{'%2E%2E' if child.name == '..' else child.name or 'NoName'}"
            found.append((here, child.data))
            go(child, here)

    go(root, "")
    return found


def ours(files: Files, reader: MemoryReader) -> list[tuple[str, bytes | None]]:
    found: list[tuple[str, bytes | None]] = []

    def go(inum: int, path: str) -> None:
        for entry in files.list(0, inum, 0, 1024).entries:
            assert entry.attr == files.stat(0, entry.attr.inum, 0)
            here = f"{path}/{entry.name.decode('utf-8', 'surrogatepass')}"
            folder = entry.attr.kind == Kind.DIR
            found.append((here, None if folder else content(files, reader, 0, entry)))
            if folder:
                go(entry.attr.inum, here)

    go(1, "")
    return found


@pytest.mark.parametrize("form, write, version", FORMS)
@pytest.mark.parametrize("per_segment", [1000, 2])
def test_a_tree_reads_as_it_was_composed(form, write, version, per_segment) -> None:
    root = evidence()
    text, data = tree(root, version)
    claim, files, reader = opened(form, write(text, data, per_segment=per_segment))
    assert claim.layouts[-1].size == len(data)
    assert not claim.lost
    assert not claim.notes
    assert not files.info.notes
    assert ours(files, reader) == listed(root)


def peer(files: list[bytes]) -> list[tuple[str, bytes | None, str | None, int]]:
    """Return what libewf makes of it: paths, contents, MD5 and modification time of files."""
    handle = pyewf.handle()
    handle.open_file_objects([io.BytesIO(data) for data in files])
    found: list[tuple[str, bytes | None, str | None, int]] = []

    def go(entry, path: str) -> None:
        for number in range(entry.get_number_of_sub_file_entries()):
            child = entry.get_sub_file_entry(number)
            name = "%2E%2E" if child.get_name() == ".." else child.get_name()
            here, size = f"{path}/{name}", child.get_size()
            try:
                md5 = child.get_hash_value_md5()
            except OSError:
                md5 = None
            data = b""
            while len(data) < size and (part := child.read_buffer(size - len(data))):
                data += part
            found.append((here, data, md5, child.get_modification_time_as_integer()))
            go(child, here)

    go(handle.get_root_file_entry(), "")
    return found


@pytest.mark.parametrize("form, write, version", FORMS)
@pytest.mark.parametrize("per_segment", [1000, 3])
def test_a_tree_reads_as_libewf_reads_it(form, write, version, per_segment) -> None:
    root = evidence()
    root.below[0].below = [
        n for n in root.below[0].below if "\ud800" not in n.name
    ]  # libewf gives no such name
    text, data = tree(root, version)
    segments = write(text, data, per_segment=per_segment)
    _, files, reader = opened(form, segments)
    found = []

    def go(inum: int, path: str) -> None:
        for entry in files.list(0, inum, 0, 1024).entries:
            folder = entry.attr.kind == Kind.DIR
            here = f"{path}/{entry.name.decode()}"
            md5 = files.xattrs(0, entry.attr.inum).get(b"user.imgfs.md5", b"").decode() or None
            data = b"" if folder else content(files, reader, 0, entry)
            found.append((here, data, md5, (entry.attr.m_ns or 0) // 10**9))
            if folder:
                go(entry.attr.inum, here)

    go(1, "")
    assert found == peer(segments)


@pytest.mark.parametrize("form, write, version", FORMS)
def test_what_is_recorded_of_a_file_is_told(form, write, version) -> None:
    text, data = tree(evidence(), version)
    _, files, _ = opened(form, write(text, data))
    found = walk(files)
    timed = found[b"C/times"].attr
    assert (timed.b_ns, timed.a_ns, timed.m_ns, timed.c_ns) == tuple(
        n * 10**9 for n in range(1142163845, 1142163849)
    )
    assert (timed.uid, timed.gid) == (1000, 99)
    told = files.xattrs(0, timed.inum)
    assert told[b"user.imgfs.md5"].decode() == hashlib.md5(node("times", 50).data or b"").hexdigest()  # noqa: S324
    assert (b"user.imgfs.sha1" in told) == (version == 7)
    assert told[b"user.imgfs.source"] == b"name: disk one; evidence: E-17; guid: " + b"ab" * 16
    lines = told[b"user.imgfs.permissions"].split(b"; ")
    assert lines == [b"owner 1000: root 3", b"group 99: wheel 1", b"allow S-1-1-0 Every\tone 1179817"]
    gone = found[b"C/gone"].attr
    assert gone.deleted
    assert files.xattrs(0, gone.inum)[b"user.imgfs.flags"] == b"0x80 deleted"
    assert files.xattrs(0, gone.inum)[b"user.imgfs.deleted-at"] == b"1142163849"
    assert found[b"C/plain.txt"].attr.m_ns is None


def test_short_names_and_extended_attributes_are_told() -> None:
    def attribute(branch: int, name: str, value: str) -> bytes:
        texts = [(word + "\0").encode("utf-16-le") for word in (name, value)]
        return struct.pack("<IBII", 0, branch, len(name) + 1, len(value) + 1) + b"".join(texts)

    blob = attribute(1, "Attributes", "") + attribute(0, "Colour", "blue") + attribute(0, "cut", "off")[:-3]
    root = Node("", below=[Node("a long name", b"x", told={"snh": "9 ALONGN~1", "ea": blob.hex()})])
    _, files, _ = opened("l01", l01(*tree(root)))
    told = files.xattrs(0, 2)
    assert told[b"user.imgfs.short-name"] == b"ALONGN~1"
    assert told[b"user.imgfs.attribute.Colour"] == b"blue"
    assert b"user.imgfs.attribute.cut" not in told


def test_sparse_files_repeat_their_byte_or_lie_where_another_does() -> None:
    zeros = Node("zeros", b"\0", flags=SPARSE, told={"ls": "5000"})
    filled = Node("filled", b"A", flags=SPARSE, told={"ls": "3000000"})
    twin = Node("twin", b"\0", flags=SPARSE, told={"ls": "10", "du": "2"})
    root = Node("", below=[zeros, filled, node("data", 90), twin])
    text, data = tree(root)
    _, files, reader = opened("l01", l01(text, data))
    found = walk(files)
    assert content(files, reader, 0, found[b"zeros"]) == bytes(5000)
    assert content(files, reader, 0, found[b"filled"]) == b"A" * 3_000_000
    assert isinstance(files.layout(0, found[b"filled"].attr.inum, 0)[0], Foreign)
    assert content(files, reader, 0, found[b"twin"]) == data[2:12]


def test_a_file_in_several_extents_is_joined() -> None:
    spread = Node("spread", b"", told={"ls": "40", "be": "2 10 14 200 14"})
    text, data = tree(Node("", below=[spread, node("data", 900)]))
    _, files, reader = opened("l01", l01(text, data))
    assert content(files, reader, 0, walk(files)[b"spread"]) == data[0x10:0x24] + data[0x200:0x214]


def test_what_stands_below_a_file_is_in_a_folder_of_its_name() -> None:
    parent = node("archive.zip", 30)
    parent.below = [node("inside", 20)]
    _, files, reader = opened("l01", l01(*tree(Node("", below=[parent]))))
    file, folder = files.list(0, 1, 0, 10).entries
    assert (file.name, file.attr.kind, folder.name, folder.attr.kind) == (
        b"archive.zip",
        8,
        b"archive.zip",
        4,
    )
    assert content(files, reader, 0, file) == parent.data
    (inside,) = files.list(0, folder.attr.inum, 0, 10).entries
    assert content(files, reader, 0, inside) == node("inside", 20).data
    with pytest.raises(ImgfsError):
        files.stat(0, inside.attr.inum + (1 << 32), 0)


@pytest.mark.parametrize(
    "told",
    [
        {"be": "1 ffffff 20"},
        {"be": "1 0"},
        {"be": "2 0 20"},
        {"be": "nonsense"},
        {"be": ""},
        {"be": "1 -5 20"},
        {"ls": "99999"},
    ],
)
def test_places_that_cannot_be_are_lost(told) -> None:
    _, files, reader = opened("l01", l01(*tree(Node("", below=[node("file", 40, **told), node("good", 10)]))))
    found = walk(files)
    with pytest.raises(OSError, match="lost"):
        content(files, reader, 0, found[b"file"])
    assert content(files, reader, 0, found[b"good"]) == node("good", 10).data


@pytest.mark.parametrize("told", [{"ls": "-3"}, {"ls": "9" * 30}, {"ls": "x"}])
def test_sizes_that_cannot_be_are_said(told) -> None:
    _, files, _ = opened("l01", l01(*tree(Node("", below=[node("file", 40, **told)]))))
    assert "ls is" in walk(files)[b"file"].attr.damaged


@pytest.mark.parametrize("value", ["", "0", "99999999999", "1" * 30, "x", "-", "\u0661"])
def test_times_that_cannot_be_are_not_recorded(value) -> None:
    _, files, _ = opened("l01", l01(*tree(Node("", below=[node("file", 1, wr=value, cr="-5")]))))
    attr = walk(files)[b"file"].attr
    assert (attr.m_ns, attr.b_ns) == (None, -5 * 10**9)


@pytest.mark.parametrize("write, name", [(l01, "l01"), (lx01, "lx01")])
def test_a_tree_that_was_changed_is_said(write, name) -> None:
    text, data = tree(evidence())
    files = write(text, data)
    at = files[0].index("plain.txt".encode("utf-16-le"))
    changed = files[0][:at] + b"P" + files[0][at + 1 :]
    _, opened_files, _ = opened(name, [changed])
    assert any("MD5 of the tree differs" in note for note in opened_files.info.notes)
    assert b"C/Plain.txt" in walk(opened_files)


@pytest.mark.parametrize("write, name", [(l01, "l01"), (lx01, "lx01")])
def test_without_the_last_segment_there_is_data_and_no_tree(write, name) -> None:
    text, data = tree(evidence())
    files = write(text, data, per_segment=2)
    readers = [MemoryReader(part) for part in files[:-1]]
    readers[0].others = readers[1:]
    claim = discover()[name].open(readers[0], Options())
    source = build(claim.layouts, [Memory(part) for part in files[:-1]], name)
    held = b"".join(step or b"" for _, step in _contents(source))
    assert held[: UNIT * 2 * (len(files) - 1)] in data or data.startswith(held[: UNIT * 2])
    with pytest.raises(EvidenceError, match="holds the tree"):
        open_logical(MemoryReader(held, others=readers), Options())


@pytest.mark.parametrize("write, name", [(l01, "l01"), (lx01, "lx01")])
def test_a_missing_segment_loses_its_range_and_the_tree_stays(write, name) -> None:
    root = evidence()
    text, data = tree(root)
    files = write(text, data, per_segment=1)
    del files[1]
    claim, logical, _ = opened(name, files)
    assert [(a, b) for a, b, _ in claim.lost] == [(UNIT, 2 * UNIT)]
    assert [path for path, _ in listed(root)] == [
        "/" + path.decode("utf-8", "surrogatepass") for path in _in_order(logical)
    ]


def _in_order(files: Files, inum: int = 1, path: bytes = b"") -> list[bytes]:
    found = []
    for entry in files.list(0, inum, 0, 1024).entries:
        found.append(path + entry.name)
        if entry.attr.kind == Kind.DIR:
            found += _in_order(files, entry.attr.inum, found[-1] + b"/")
    return found


@pytest.mark.parametrize("form, write, version", FORMS)
def test_the_contract_of_media(form, write, version) -> None:
    text, data = tree(Node("", below=[node("a", 3 * UNIT), node("b", 2000)]), version)
    (image,) = write(text, data)
    check_media(form, {f"image.{form}": image}, data, seeds=200)


@pytest.mark.parametrize("form, write, version", FORMS)
def test_damaged_trees_end_in_errors_and_in_time(form, write, version) -> None:
    text, data = tree(evidence(), version)
    (image,) = write(text, data)
    where = image.index("entry\n".encode("utf-16-le"))
    begin = time.process_time()
    for seed in range(200):
        changed, rng = bytearray(image), random.Random(seed)
        for _ in range(1 << rng.randrange(5)):
            changed[rng.randrange(seed % 2 and where, len(image))] = rng.randrange(256)
        if seed % 8 == 6:
            del changed[rng.randrange(where // 2, len(image)) :]
        reader = MemoryReader(data, others=[MemoryReader(bytes(changed))])
        try:
            files = open_logical(reader, Options())
            found = walk(files)
        except (ImgfsError, NotMine):
            continue
        for entry in found.values():
            check_attr(entry.attr)
            if entry.attr.kind == Kind.REG:
                layout = files.layout(0, entry.attr.inum, 0)[-1]
                assert layout.size == entry.attr.size
                check_layout(layout, reader.size)
            files.xattrs(0, entry.attr.inum)
    assert time.process_time() - begin < 60


def test_counts_that_lie_end_the_tree_and_are_said() -> None:
    text, data = tree(evidence())
    for old, new in (
        ("26\t0", "26\t9"),
        ("26\t2", "26\t1"),
        ("26\t0", "nonsense"),
        ("26\t2\n", "26\t99999999\n"),
    ):
        _, files, _ = opened(
            "l01", l01(text.replace(old, new, 1) if old != "26\t2\n" else text.replace(old, new), data)
        )
        assert files.info.notes
        walk(files)


def test_a_hundred_thousand_files_are_opened_and_listed_in_seconds() -> None:
    below = [Node(f"file {n}", b"", hashed=False) for n in range(100_000)]
    text, data = tree(Node("", below=below))
    (image,) = l01(text, data[:UNIT])
    begin = time.process_time()
    reader = MemoryReader(bytes(UNIT), others=[MemoryReader(image)])
    files = open_logical(reader, Options())
    assert len(walk(files)) == 100_000
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("form, write, version", FORMS)
def test_a_mount_shows_the_files(form, write, version, tmp_path: Path) -> None:
    text, data = tree(evidence(), version)
    paths = []
    for number, segment in enumerate(write(text, data, per_segment=3), 1):
        paths.append(tmp_path / f"case.{'Lx' if form == 'lx01' else 'L'}{number:02d}")
        paths[-1].write_bytes(segment)
    with watched(paths[0], at=tmp_path / "m") as point:
        disk = point / paths[0].name
        assert (disk / "disk.raw").read_bytes() == data
        root = disk / "00-logical" / "root"
        assert (root / "C/deep/three").read_bytes() == node("three", 3 * UNIT + 7).data
        assert (root / "C/times").stat().st_mtime == 1142163847
        md5 = hashlib.md5(node("times", 50).data or b"").hexdigest()  # noqa: S324
        assert os.getxattr(root / "C/times", "user.imgfs.md5").decode() == md5
        assert len(list((root / "C").glob("twin*"))) == 2


@pytest.mark.parametrize("form, write, version", FORMS)
def test_evidence_without_data_is_folders(form, write, version, tmp_path: Path) -> None:
    (file,) = write(*tree(Node("", below=[Node("C", below=[Node("empty")])]), version))
    claim, _, _ = opened(form, [file])
    assert not claim.notes
    (tmp_path / f"case.{form}").write_bytes(file)
    with watched(tmp_path / f"case.{form}", at=tmp_path / "m") as point:
        disk = point / f"case.{form}"
        assert (disk / "disk.raw").read_bytes() == b""
        assert [path.name for path in (disk / "00-logical" / "root").rglob("*")] == ["C", "empty"]


def test_an_empty_lx01_is_no_error() -> None:
    writer = Writer(1, logical=True)
    device(writer, UNIT, UNIT)
    writer.section(0xF, b"")
    readers = MemoryReader(bytes(writer.out))
    claim = discover()["lx01"].open(readers, Options())
    assert claim.lost
