"""gzip: what bgzip, gzip and pigz pack reads as what was packed."""

from __future__ import annotations

import gzip
import io
import random
import shutil
import struct
import subprocess
import time
import zlib
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options, discover
from imgfs.backends._index import NAME as INDEX
from imgfs.backends._index import Indexer
from imgfs.block.build import build
from imgfs.block.memory import Memory
from imgfs.errors import BadUnit, Malformed, NotMine
from imgfs.model import Ragged
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import check_media, contents, made, pieces
from tests.backends.diskimages import sparse
from tests.backends.zippedimages import disk, tool, upto

if TYPE_CHECKING:
    from imgfs.model import Media

pytestmark = pytest.mark.slow
needs_bgzip = pytest.mark.skipif(shutil.which("bgzip") is None, reason="bgzip is missing")
MIB = 1 << 20


def packed(data: bytes, *words: str) -> bytes:
    return subprocess.run(["bgzip", "-c", *words], input=data, check=True, capture_output=True).stdout


def opened(image: bytes, name: str = "disk.raw.gz") -> Media:
    return discover()["gzip"].open(MemoryReader(image, name=name), Options())


@needs_bgzip
@pytest.mark.parametrize("level", ["-l0", "-l6"])
def test_what_bgzip_packs_reads_as_what_was_packed(level) -> None:
    data = sparse(400_077)
    image = packed(data, level)
    claim = opened(image)
    assert not claim.notes
    assert int(claim.metadata["pieces"]) == -(-len(data) // 65280)
    check_media("gzip", {"disk.raw.gz": image}, data, verified=True, seeds=200)


@pytest.mark.parametrize("level", [1, 9])
def test_a_small_file_of_gzip_is_one_piece(level) -> None:
    data = sparse(100_077)
    check_media("gzip", {"disk.raw.gz": gzip.compress(data, level)}, data, verified=True, seeds=200)


def test_members_one_behind_the_other() -> None:
    parts = [sparse(MIB, 1), b"", sparse(70_000, 2), sparse(70_000, 3)]
    image = b"".join(map(gzip.compress, parts))
    assert contents("gzip", {"d.gz": image}) == b"".join(parts)
    assert contents("gzip", {"d.gz": image + bytes(1000)}) == b"".join(parts)


@needs_bgzip
def test_a_damaged_block_costs_itself_only() -> None:
    data = random.Random(1).randbytes(6 * 65280)
    image = bytearray(packed(data))
    image[3 * 65400] ^= 1
    found = contents("gzip", {"d.gz": bytes(image)}, lost=b"?")
    bad = [at for at in range(0, len(data), 65280) if found[at : at + 65280] != data[at : at + 65280]]
    assert len(bad) == 1
    assert found[bad[0] : bad[0] + 65280] == b"?" * 65280


@needs_bgzip
def test_a_file_cut_short_is_said() -> None:
    data = sparse(MIB)
    image = packed(data)
    assert contents("gzip", {"d.gz": image[:-28]}) == data
    assert any("may be cut short" in note for note in opened(image[:-28]).notes)
    assert any("no whole block" in note for note in opened(image[:-100]).notes)


@pytest.fixture
def small(monkeypatch) -> None:
    """Let files of any size have an index with many points of entry."""
    monkeypatch.setattr("imgfs.backends.gzip.LARGEST", 0)
    monkeypatch.setattr("imgfs.backends._gzip_index._LEAST_SPAN", 30_000)


@pytest.mark.parametrize(
    "words",
    [
        ("gzip", "-1"),
        ("gzip", "-9"),
        ("pigz", "-p2", "-b128"),
        ("pigz", "-11", "-i"),
    ],
)
def test_what_tools_pack_reads_by_an_index(words, small) -> None:
    data = disk(400_077)
    image = tool(data, *words, "-c")
    check_media("gzip", {"d.gz": image}, data, verified=True, seeds=200, cut=True)


def test_stored_blocks_and_fixed_codes(small) -> None:
    data = disk(300_000)
    for image in (gzip.compress(data, 0), fixed(data)):
        check_media("gzip", {"d.gz": image}, data, verified=True, seeds=50, cut=True)


def fixed(data: bytes) -> bytes:
    """Return a member whose blocks have fixed codes, ended now and then."""
    stream = zlib.compressobj(6, zlib.DEFLATED, 31, 8, zlib.Z_FIXED)
    parts = [
        stream.compress(data[at : at + 7000]) + stream.flush(zlib.Z_BLOCK) for at in range(0, len(data), 7000)
    ]
    return b"".join(parts) + stream.flush()


def test_points_of_entry_at_every_bit(small) -> None:
    rng = random.Random(4)
    data = b"".join(bytes([rng.randrange(4)]) * rng.randrange(1, 9) for _ in range(300_000))
    image = fixed(data)
    heads = set()
    layout = indexed(image).layouts[0]
    assert isinstance(layout, Ragged)
    for (word,) in struct.iter_unpack("<16xQ", layout.table):
        heads.add(word >> 40 & 7)
    assert heads == set(range(8))
    assert contents("gzip", {"d.gz": image}) == data


def indexed(image: bytes) -> Media:
    index = MemoryReader(made("gzip", image), name=INDEX)
    return discover()["gzip"].open(MemoryReader(image, name="d.gz", others=[index]), Options())


def test_members_by_an_index(small) -> None:
    parts = [disk(200_000, 1), b"", b"a", disk(70_000, 3)]
    image = b"".join(map(gzip.compress, parts))
    check_media("gzip", {"d.gz": image}, b"".join(parts), verified=True, seeds=100, cut=True)
    named = io.BytesIO()
    with gzip.GzipFile("a name", "wb", fileobj=named) as file:
        file.write(parts[0])
    assert contents("gzip", {"d.gz": named.getvalue() + image}) == parts[0] + b"".join(parts)
    found = indexed(image + b"more")
    assert any("no member" in note for note in found.notes)
    assert any("zeros" in note for note in indexed(image + bytes(512)).notes)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_of_a_file_cut_short_everything_before_is_read(part, small) -> None:
    data = disk(400_077)
    image = gzip.compress(data)
    end = int(part * len(image))
    found = contents("gzip", {"d.gz": image[:end]}, lost=b"?")
    kept = upto(found, data)
    assert kept == len(zlib.decompressobj(31).decompress(image[:end]))
    claim = indexed(image[:end])
    assert claim.lost[0][0] == kept
    assert any("cut short" in note for note in claim.notes)
    without = indexed(image[:-3])
    assert any("last checksum" in note for note in without.notes)
    assert contents("gzip", {"d.gz": image[:-3]}) == data


def test_a_checksum_that_differs_loses_its_member(small) -> None:
    parts = [disk(100_000, 1), disk(70_000, 3)]
    images = list(map(gzip.compress, parts))
    bad = images[0][:-8] + bytes(4) + images[0][-4:] + images[1]
    assert contents("gzip", {"d.gz": bad}, lost=b"?") == b"?" * 100_000 + parts[1]
    assert indexed(bad).lost[0][:2] == (0, 100_000)
    size = images[0][:-4] + bytes(4) + images[1]
    assert contents("gzip", {"d.gz": size}) == b"".join(parts)
    assert any("size behind a member" in note for note in indexed(size).notes)


def test_a_block_without_an_end_is_copied(small, monkeypatch) -> None:
    monkeypatch.setattr("imgfs.backends._gzip_index._ROOM", 100_000)
    data = disk(900_000)
    stream = zlib.compressobj(0, zlib.DEFLATED, 31)
    long = zlib.compressobj(9, zlib.DEFLATED, 31, 9, zlib.Z_FIXED)  # 32,767 symbols a block
    whole = long.compress(data) + long.flush()
    monkeypatch.setattr(
        "imgfs.backends._gzip_index.Pass.__init__.__kwdefaults__", {"span": 0, "room": 100_000}
    )
    claim = indexed(whole)
    assert len(claim.layouts) == 3
    check_media("gzip", {"d.gz": whole}, data, verified=True, seeds=100, cut=True)
    del stream


def test_steps_are_of_a_bearable_size(monkeypatch) -> None:
    monkeypatch.setattr("imgfs.backends._index._STEP_BYTES", 1000)
    pieces_of = [bytes([n]) * n * 700 for n in range(9)]
    indexer = Indexer(100, lambda _: ((piece, 11 * n) for n, piece in enumerate(pieces_of)))
    found, last, step = b"", False, 0
    while not last:
        piece = indexer.index(0, step)
        assert len(piece.data) <= 1000
        found, last, step = found + piece.data, piece.last, step + 1
    assert found == b"".join(pieces_of)
    with pytest.raises(Malformed):
        indexer.index(0, 5)


def test_an_index_that_is_wrong_gives_errors_and_no_other_bytes(small) -> None:
    data = disk(300_000)
    image = gzip.compress(data)
    index = made("gzip", image)
    reader = MemoryReader(image, name="d.gz")
    for at in range(0, len(index), 97):
        bad = bytearray(index)
        bad[at] ^= 4
        reader.others = [MemoryReader(bytes(bad), name=INDEX)]
        again = discover()["gzip"].open(reader, Options())
        assert hasattr(again, "indexing"), at  # it is made again
    changed = bytearray(image)
    changed[len(image) // 2] ^= 1
    source = build(indexed(image).layouts, [Memory(bytes(changed)), Memory(index)], "changed", table=None)
    wrong = 0
    for at in range(0, len(data), 4096):
        try:
            assert b"".join(pieces(source.plan(at, min(at + 4096, len(data))))) == data[at : at + 4096]
        except BadUnit:
            wrong += 1
    assert 0 < wrong < 40


def test_what_is_ten_gigabytes_of_zeros_has_a_small_index(monkeypatch) -> None:
    stream = zlib.compressobj(9, zlib.DEFLATED, 31)
    image = b"".join(stream.compress(bytes(64 * MIB)) for _ in range(16)) + stream.flush()
    other = zlib.compressobj(9, zlib.DEFLATED, 31)
    letters = b"".join(other.compress(b"A" * (16 * MIB)) for _ in range(16)) + other.flush()
    assert len(made("gzip", image)) < 1000
    assert len(made("gzip", letters)) < 120 * 256  # a point of entry each MiB or so


def test_files_that_cannot_be_are_refused() -> None:
    image = gzip.compress(sparse(MIB))
    with pytest.raises(NotMine):
        opened(image, "")
    with pytest.raises(NotMine):
        opened(b"x" + image[1:])
    assert opened(image, "disk.raw").version == "gzip"
    for bad in (image[:12], gzip.compress(b""), b"\x1f\x8b\x08\xff" + image[4:]):
        with pytest.raises(Malformed):
            contents("gzip", {"d": bad})


@needs_bgzip
def test_half_a_million_blocks_open_in_seconds() -> None:
    image = packed(bytes(65280))[:-28] * 500_000
    begin = time.process_time()
    claim = opened(image)
    assert time.process_time() - begin < 5
    assert claim.layouts[-1].size == 500_000 * 65280
