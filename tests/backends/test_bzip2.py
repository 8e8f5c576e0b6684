"""bzip2: what the tools pack reads as what was packed, from any bit on; checksums are compared."""

from __future__ import annotations

import bz2
import random

import pytest

from imgfs.backends import Options, discover
from imgfs.backends._bzip2_index import magics
from imgfs.backends._index import NAME as INDEX
from imgfs.block.restarting import BZIP2_BLOCK
from imgfs.errors import Malformed, NotMine
from imgfs.model import Indexing
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import check_media, contents, made
from tests.backends.zippedimages import KIB, MIB, disk, opened, tool, upto

pytestmark = pytest.mark.slow


@pytest.fixture(params=[8 * MIB, 10_000])
def parts(request, monkeypatch) -> None:
    """Let an index be of one part, or of many that blocks begin in and leave."""
    monkeypatch.setattr("imgfs.backends.bzip2.PART", request.param)
    monkeypatch.setattr("imgfs.backends._bzip2_index.PART", request.param)


def media(image: bytes):
    index = MemoryReader(made("bzip2", image), name=INDEX)
    return discover()["bzip2"].open(MemoryReader(image, name="d.bz2", others=[index]), Options())


@pytest.mark.parametrize("words", [("bzip2", "-1"), ("bzip2", "-9"), ("pbzip2", "-p2", "-b1")])
def test_what_tools_pack_reads_as_what_was_packed(words, parts) -> None:
    data = disk(240_077)
    image = tool(data, *words, "-c")
    check_media("bzip2", {"d.bz2": image}, data, verified=True, seeds=200, cut=True)


def test_blocks_begin_at_every_bit() -> None:
    data = random.Random(1).randbytes(4 * MIB)
    image = bz2.compress(data, 1)
    places = [bit for bit, magic in magics(image, 0) if magic == BZIP2_BLOCK]
    assert {bit % 8 for bit in places} == set(range(8))
    assert contents("bzip2", {"d": image}) == data


def test_streams_one_behind_the_other(parts) -> None:
    pieces = [disk(150_000, 1), b"", b"a", disk(120_000, 2)]
    image = b"".join(map(bz2.compress, pieces))
    check_media("bzip2", {"d.bz2": image}, b"".join(pieces), verified=True, seeds=50, cut=True)
    assert media(image).metadata["streams"] == "4"
    assert any("zeros" in note for note in media(image + bytes(512)).notes)
    assert any("no stream" in note for note in media(image + b"garbage").notes)


def test_long_zeros_are_holes_and_long_blocks_are_cut() -> None:
    data = bytearray(60 * MIB)
    data[0], data[-1] = 1, 2
    data[30 * MIB : 30 * MIB + 5000] = b"x" * 5000
    noise = random.Random(2)
    for at in range(40 * MIB, 41 * MIB, 4 * KIB):
        data[at : at + 2] = noise.randbytes(2)
    image = bz2.compress(bytes(data))
    assert contents("bzip2", {"d": image}) == data
    claim = media(image)
    assert int(claim.metadata["units"]) < 20
    assert len(made("bzip2", image)) < 2000


@pytest.mark.parametrize("part", [0.3, 0.9])
def test_of_a_file_cut_short_the_blocks_before_are_read(part, parts) -> None:
    data = disk(900_000)
    image = bz2.compress(data, 1)
    end = int(part * len(image))
    kept = upto(contents("bzip2", {"d": image[:end]}, lost=b"?"), data)
    assert kept == len(bz2.BZ2Decompressor().decompress(image[:end]))
    claim = media(image[:end])
    assert claim.lost[0][0] == kept
    assert any("cut short" in note for note in claim.notes)


def test_a_damaged_block_ends_what_is_known() -> None:
    data = disk(900_000)
    image = bytearray(bz2.compress(data, 1))
    starts = [bit for bit, magic in magics(bytes(image), 0) if magic == BZIP2_BLOCK]
    image[starts[3] // 8 + 5000] ^= 16
    found = contents("bzip2", {"d": bytes(image)}, lost=b"?")
    assert upto(found, data) == len(bz2.BZ2Decompressor().decompress(bytes(image[: starts[3] // 8 + 9])))
    assert any("damaged" in note for note in media(bytes(image)).notes)


def test_magic_inside_of_data_means_nothing(parts) -> None:
    inner = bz2.compress(disk(150_000, 5), 1)
    data = inner * 3 + BZIP2_BLOCK.to_bytes(6, "big") * 1000
    for level in (1, 9):
        assert contents("bzip2", {"d": bz2.compress(data, level)}) == data
    image = bz2.compress(disk(200_000), 1)
    fakes = image + BZIP2_BLOCK.to_bytes(6, "big") * 20_000
    assert contents("bzip2", {"d": fakes}) == disk(200_000)


def test_files_that_cannot_be_are_refused() -> None:
    image = bz2.compress(disk(10_000))
    for bad, name in (
        (image, ""),
        (b"BZh0" + image[4:], "d.bz2"),
        (b"BZh9 is a text", "d"),
        (image[:8], "d"),
    ):
        with pytest.raises(NotMine):
            opened("bzip2", bad, name)
    claim = opened("bzip2", image)
    assert claim.indexing == Indexing(total=len(image))
    for bad in (bz2.compress(b""), image[:40]):
        with pytest.raises(Malformed):
            contents("bzip2", {"d": bad})
