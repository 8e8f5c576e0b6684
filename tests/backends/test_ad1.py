"""AD1: composed images read as a second, sequential reader reads them; damage costs its range only."""

from __future__ import annotations

import hashlib
import random
import re
import struct
import time
import zlib
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options, adlogical, discover
from imgfs.backends._ad1 import moment
from imgfs.backends.ad1 import open_ad1, siblings
from imgfs.backends.adlogical import open_adlogical
from imgfs.block.build import build
from imgfs.block.memory import Memory
from imgfs.errors import EvidenceError, ImgfsError, NotMine, NotSupported
from imgfs.model import Foreign, Kind, Packed
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.files import check_attr, walk
from imgfs.testing.media import _contents, check_media
from tests.conftest import shared
from tests.peers import watched

if TYPE_CHECKING:
    from pathlib import Path

    from imgfs.model import Entry, Media

pytestmark = pytest.mark.slow
UNIT = 4096
STRIDE = 65536 - 512
TIMES = {7: "20180502T094747", 8: "20180501T010203.5", 9: "20170102T030405"}


@dataclass
class Node:
    """A file or folder to be written."""

    name: bytes
    data: bytes | None = None
    below: list[Node] = field(default_factory=list)
    kind: int | None = None


def record(following: int, category: int, key: int, value: bytes) -> bytes:
    return struct.pack("<QIII", following, category, key, len(value)) + value


def compose(roots: list[Node], *, version: int = 4, unit: int = UNIT) -> bytes:
    """Return the stream of an image: items, their chunks and their metadata, in the order of the tree."""
    source = b"C:\\Users\\me"
    start = (92 if version == 4 else 48) + len(source)
    out = bytearray(struct.pack("<16sI4xIQQI", b"ADLOGICALIMAGE\0", version, unit, 0, start, len(source)))
    out += bytes(start - len(source) - len(out)) + source

    def write(nodes: list[Node], parent: int) -> int:
        last = 0
        first = 0
        for node in nodes:
            at = len(out)
            first = first or at
            if last:
                struct.pack_into("<Q", out, last, at)
            last = at
            kind = node.kind if node.kind is not None else 5 if node.data is None else 0
            data = node.data or b""
            out.extend(struct.pack("<QQQQQII", 0, 0, 0, 0, len(data), kind, len(node.name)) + node.name)
            out.extend(struct.pack("<Q", parent))
            if data:
                struct.pack_into("<Q", out, at + 24, len(out))
                chunks = [zlib.compress(data[n : n + unit]) for n in range(0, len(data), unit)]
                here = len(out) + 8 * (len(chunks) + 2)
                ends = [here + sum(map(len, chunks[:n])) for n in range(len(chunks) + 1)]
                out.extend(struct.pack(f"<{len(ends) + 1}Q", len(chunks), *ends) + b"".join(chunks))
            struct.pack_into("<Q", out, at + 16, len(out))
            values = [(5, key, value.encode()) for key, value in TIMES.items()] + [
                (2, 2, b"1"),
                (4, 0x1E, b"true"),
            ]
            if node.data is not None:
                values += [(1, 0x5001, hashlib.md5(data).hexdigest().encode())]  # noqa: S324
                values += [(1, 0x5002, hashlib.sha1(data).hexdigest().encode())]  # noqa: S324
            for number, (category, key, value) in enumerate(values, 1):
                following = len(out) + 20 + len(value) if number < len(values) else 0
                out.extend(record(following, category, key, value))
            if node.below:
                struct.pack_into("<Q", out, at + 8, write(node.below, at))
        return first

    write(roots, 0)
    return bytes(out)


def segments(stream: bytes) -> list[bytes]:
    """Return segment files of 64 KiB."""
    parts = [stream[at : at + STRIDE] for at in range(0, len(stream), STRIDE)]
    return [
        struct.pack("<16sIIIIHIHI", b"ADSEGMENTEDFILE\0", 1, 2, n, len(parts), 0, 1, 0, 512).ljust(512, b"\0")
        + part
        for n, part in enumerate(parts, 1)
    ]


def sequential(files: list[bytes]) -> dict[bytes, bytes | None]:
    """Read item after item as they lie, by the addresses of their parents only."""
    stream = b"".join(file[512:] for file in files)
    version, unit, _, at, length = struct.unpack_from("<I4xIQQI", stream, 16)
    paths: dict[int, bytes] = {}
    found: dict[bytes, bytes | None] = {}
    assert at == (92 if version == 4 else 48) + length
    while at < len(stream):
        size, kind, length = struct.unpack_from("<QII", stream, at + 32)
        name = stream[at + 48 : at + 48 + length]
        (parent,) = struct.unpack_from("<Q", stream, at + 48 + length)
        path = paths[at] = paths[parent] + b"/" + name if parent else name
        at += 56 + length
        data = b""
        if size:
            (count,) = struct.unpack_from("<Q", stream, at)
            ends = struct.unpack_from(f"<{count + 1}Q", stream, at + 8)
            at += 8 * (count + 2)
            for a, b in pairwise(ends):
                data += zlib.decompress(stream[at : at + b - a])
                assert len(data) % unit == 0 or b == ends[-1]
                at += b - a
        found[path] = None if kind == 5 else data
        following = 1
        while following:
            following, _, _, length = struct.unpack_from("<QIII", stream, at)
            at += 20 + length
    return found


def evidence() -> list[Node]:
    rng = random.Random(3)
    names = [b"text", "ümläut".encode(), b"a/b\\c", b"\xff\xfe raw", b"x" * 300]
    files = [Node(name, rng.randbytes(100 + n)) for n, name in enumerate(names)]
    big = Node(b"big", b"".join(rng.randbytes(UNIT) for _ in range(40)) + b"end")
    zeros = Node(b"zeros", bytes(5 * UNIT))
    deep = Node(b"deep", below=[big, Node(b"empty folder"), zeros, Node(b"empty", b"")])
    return [Node(b"C:", below=[*files, deep]), Node(b"D:", below=[Node(b"last", b"last")])]


def opened(files: list[bytes]) -> tuple[Media, adlogical.AdFiles, MemoryReader]:
    readers = [MemoryReader(data, name=f"image.ad{n}") for n, data in enumerate(files, 1)]
    readers[0].others = readers[1:]
    media = open_ad1(readers[0], Options())
    source = build(media.layouts, [Memory(data) for data in files], "ad1")
    stream = b"".join(step if step is not None else b"?" * (32 << 10) for _, step in _contents(source))
    reader = MemoryReader(stream[: source.size])
    return media, open_adlogical(reader, Options()), reader


def content(files: adlogical.AdFiles, reader: MemoryReader, entry: Entry) -> bytes:
    layouts = files.layout(0, entry.attr.inum, 0)
    if isinstance(layouts[-1], Foreign):
        return files.read(0, entry.attr.inum, 0, 0, entry.attr.size)
    source = build(layouts, [Memory(reader.read(0, reader.size))], "file")
    assert source.size == entry.attr.size
    parts = [step for _, step in _contents(source)]
    if any(part is None for part in parts):
        raise OSError("lost")
    return b"".join(part or b"" for part in parts)


def ours(files: adlogical.AdFiles, reader: MemoryReader) -> dict[bytes, bytes | None]:
    return {
        path: None if entry.attr.kind == Kind.DIR else content(files, reader, entry)
        for path, entry in walk(files).items()
    }


@pytest.mark.parametrize("version", [3, 4])
def test_composed_images_read_as_a_sequential_reader_reads_them(version) -> None:
    files = segments(compose(evidence(), version=version))
    assert len(files) > 2
    media, tree, reader = opened(files)
    assert not media.lost
    assert not media.notes
    assert tree.info.version == str(version)
    assert tree.info.label == "C:\\Users\\me"
    assert ours(tree, reader) == sequential(files)


def test_pages_and_attributes_agree_and_numbers_are_not_invented() -> None:
    _, tree, _ = opened(segments(compose(evidence())))
    whole = walk(tree)
    for limit in (1, 3):
        assert walk(tree, limit=limit) == whole
    for entry in whole.values():
        assert tree.stat(0, entry.attr.inum, 0) == entry.attr
    for number in (-1, 0, 2, 1 << 40, (1 << 63) - 1, (1 << 61) + 500):
        with pytest.raises(ImgfsError):
            tree.stat(0, number, 0)


def test_times_digests_and_records_are_told() -> None:
    _, tree, _ = opened(segments(compose(evidence())))
    entry = walk(tree)[b"C:/text"]
    assert entry.attr.a_ns == 1525254467 * 10**9
    assert entry.attr.b_ns is entry.attr.m_ns is entry.attr.c_ns is None  # see _ad1.TIMES
    told = tree.xattrs(0, entry.attr.inum)
    data = evidence()[0].below[0].data or b""
    assert told[b"user.imgfs.md5"].decode() == hashlib.md5(data).hexdigest()  # noqa: S324
    assert told[b"user.imgfs.sha1"].decode() == hashlib.sha1(data).hexdigest()  # noqa: S324
    assert b"5/0x7: 20180502T094747" in told[b"user.imgfs.records"]
    assert b"4/0x1e: true" in told[b"user.imgfs.records"]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"20180231T000000",
        b"20181301T000000",
        b"20180101T250000",
        b"00000101T000000",
        b"2018",
        b"99991231T000000",
    ],
)
def test_times_that_cannot_be_are_not_recorded(value) -> None:
    assert moment(value) is None
    assert moment(b"19691231T235959.25") == -750_000_000


def test_a_file_of_very_many_chunks_is_read_by_the_worker(monkeypatch) -> None:
    files = segments(compose(evidence()))
    monkeypatch.setattr(adlogical, "_MOST_ROWS", 10)
    _, tree, reader = opened(files)
    big = walk(tree)[b"C:/deep/big"]
    assert isinstance(tree.layout(0, big.attr.inum, 0)[0], Foreign)
    data = content(tree, reader, big)
    assert data == sequential(files)[b"C:/deep/big"]
    assert tree.read(0, big.attr.inum, 0, UNIT - 5, 10) == data[UNIT - 5 : UNIT + 5]
    with pytest.raises(ImgfsError):
        tree.read(0, big.attr.inum, 0, big.attr.size, 1)


def test_a_chunk_that_was_changed_is_an_error_and_its_neighbours_are_read() -> None:
    stream = bytearray(compose(evidence()))
    whole = sequential(segments(bytes(stream)))[b"C:/deep/big"] or b""
    stream[stream.index(zlib.compress(whole[UNIT : 2 * UNIT])) + 100] ^= 1
    _, tree, reader = opened(segments(bytes(stream)))
    big = walk(tree)[b"C:/deep/big"]
    (layout,) = tree.layout(0, big.attr.inum, 0)
    assert isinstance(layout, Packed)
    source = build((layout,), [Memory(reader.read(0, reader.size))], "file")
    assert [index for index, (_, step) in enumerate(_contents(source)) if step is None] == [0]
    with pytest.raises(OSError, match="lost"):
        content(tree, reader, big)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_segment_loses_only_its_range(missing) -> None:
    files = segments(compose(evidence()))
    kept = [file for number, file in enumerate(files) if number != missing]
    media, _, _ = opened(kept)
    stop = min((missing + 1) * STRIDE, media.layouts[-1].size)
    assert [(a, b) for a, b, _ in media.lost] == [(missing * STRIDE, stop)]
    source = build(media.layouts, [Memory(data) for data in kept], "ad1")
    stream = compose(evidence())
    for at, step in _contents(source):
        assert step is None or step == stream[at : at + (32 << 10)]


def test_segments_come_in_any_order_and_strangers_are_left_out() -> None:
    files = segments(compose(evidence()))
    alien = segments(compose(evidence()[1:]))[0]
    media, tree, reader = opened([files[1], files[0], b"no image", alien, *files[2:]])
    assert ours(tree, reader) == sequential(files)
    assert any("no AD1 segment" in note for note in media.notes)
    assert any("one of 1 segments" in note for note in media.notes)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("piece", [0, 1])
def test_segments_hold_what_they_hold_whatever_their_header_says(count, piece) -> None:
    stream = compose(evidence())
    step = -(-len(stream) // count)
    parts = [stream[at : at + step] for at in range(0, len(stream), step)]
    header = b"ADSEGMENTEDFILE\0", 1, 2
    files = [
        struct.pack("<16sIIIIHI", *header, n, count, 0, piece).ljust(512, b"\0") + part
        for n, part in enumerate(parts, 1)
    ]
    media, tree, reader = opened(files)
    assert ours(tree, reader) == sequential(files)
    assert bool(media.notes) == (count > 1)


@pytest.mark.parametrize("write", [lambda s: [segments(s)[0]], segments])
def test_the_contract_of_media(write) -> None:
    stream = compose(evidence())[: STRIDE - 7] if write is not segments else compose(evidence())
    files = {f"image.ad{n}": file for n, file in enumerate(write(stream), 1)}
    check_media("ad1", files, stream, seeds=200 if len(files) == 1 else 50)


def test_damaged_images_end_in_errors_and_in_time() -> None:
    stream = compose(
        [Node(b"C:", below=[Node(b"a", b"a" * 9000), Node(b"d", below=[Node(b"b", b"b")])]), Node(b"e", b"e")]
    )
    begin = time.monotonic()
    for seed in range(600):
        changed, rng = bytearray(stream), random.Random(seed)
        for _ in range(1 << rng.randrange(4)):
            changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x41, 0xFF, rng.randrange(256)))
        if seed % 8 == 7:
            del changed[rng.randrange(len(changed)) :]
        reader = MemoryReader(bytes(changed))
        try:
            tree = open_adlogical(reader, Options())
            found = walk(tree)
        except (ImgfsError, NotMine):
            continue
        for entry in found.values():
            check_attr(entry.attr)
            try:
                if entry.attr.kind == Kind.REG and entry.attr.size < 1 << 20:
                    content(tree, reader, entry)
                tree.xattrs(0, entry.attr.inum)
            except (EvidenceError, OSError):
                continue
    assert time.monotonic() - begin < 60


def test_items_that_lead_back_end_their_listing() -> None:
    stream = bytearray(compose([Node(b"a", b"a"), Node(b"b", b"b"), Node(b"c", b"c")]))
    _, tree, _ = opened(segments(bytes(stream)))
    first, _, last = (entry.attr.inum for entry in tree.list(0, 1, 0, 10).entries)
    struct.pack_into("<Q", stream, last, first)
    _, tree, _ = opened(segments(bytes(stream)))
    page = tree.list(0, 1, 0, 10)
    assert [entry.name for entry in page.entries] == [b"a", b"b", b"c"]
    assert "successor" in page.damaged


def test_what_stands_below_a_file_and_dot_names_are_shown() -> None:
    parent = Node(b"archive", b"data", below=[Node(b"..", b"inside")])
    _, tree, reader = opened(segments(compose([parent])))
    file, folder = tree.list(0, 1, 0, 10).entries
    assert (file.attr.kind, folder.attr.kind) == (Kind.REG, Kind.DIR)
    (inside,) = tree.list(0, folder.attr.inum, 0, 10).entries
    assert inside.name == b"%2E%2E"
    assert content(tree, reader, inside) == b"inside"


def test_other_versions_and_encrypted_images_are_named() -> None:
    with pytest.raises(NotSupported, match="version 2"):
        opened(segments(compose(evidence(), version=2)))
    with pytest.raises(NotSupported, match="Encrypted AccessData"):
        discover()["adcrypt"].open(MemoryReader(b"ADCRYPT\0" + bytes(1000)), Options())
    with pytest.raises(NotMine):
        open_ad1(MemoryReader(b"ADSEGMENT" + bytes(1000)), Options())
    with pytest.raises(NotMine):
        open_adlogical(MemoryReader(bytes(1000)), Options())


def test_segment_names_are_siblings() -> None:
    pattern = siblings("a.b.ad1")
    assert all(re.fullmatch(pattern, name) for name in ("a.b.ad2", "a.b.AD10", "a.b.ad123"))
    assert not any(re.fullmatch(pattern, name) for name in ("a.ad2", "a.b.ad", "a.b.ad1.txt", "axb.ad2"))
    assert not siblings("image.txt")


@pytest.mark.parametrize("version", [3, 4])
def test_a_mount_shows_the_files(version, tmp_path: Path) -> None:
    files = segments(compose(evidence(), version=version))
    for number, segment in enumerate(files, 1):
        (tmp_path / f"case.ad{number}").write_bytes(segment)
    truth = sequential(files)
    with watched(tmp_path / "case.ad1", at=tmp_path / "m") as point:
        disk = point / "case.ad1"
        assert (disk / "disk.raw").read_bytes() == b"".join(file[512:] for file in files)
        root = disk / "00-ad1" / "root"
        for name in (b"C:/deep/big", b"C:/deep/zeros", b"C:/text", b"D:/last"):
            assert (root / name.decode()).read_bytes() == truth[name]
        assert (root / "C:/text").stat().st_atime == 1525254467


def test_the_image_of_the_corpus_holds_what_its_digest_says() -> None:
    folder = shared()
    if folder is None:
        pytest.skip("the corpus is not beside the project")
    file = (folder / "corpus" / "SecurityRonin_4n6mount" / "ad1.ad1").read_bytes()
    media, tree, reader = opened([file])
    assert not media.lost
    entry = walk(tree)[b"root/hello.txt"]
    data = content(tree, reader, entry)
    assert data == b"hello from ad1\n"
    assert tree.xattrs(0, entry.attr.inum)[b"user.imgfs.md5"].decode() == hashlib.md5(data).hexdigest()  # noqa: S324
