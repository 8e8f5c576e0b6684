"""xz: what the tool packs reads as what was packed, block by block; checksums are compared."""

from __future__ import annotations

import lzma
import random
import shutil
import subprocess
import zlib
from typing import TYPE_CHECKING

import pytest

from imgfs.backends._index import NAME as INDEX
from imgfs.errors import Malformed, NotMine
from imgfs.model import Packed
from imgfs.testing.media import check_media, contents, made
from tests.backends.diskimages import sparse
from tests.backends.zippedimages import disk, upto

if TYPE_CHECKING:
    from imgfs.model import Media

from imgfs.backends import Options, discover
from imgfs.testing.fakes import MemoryReader

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("xz") is None, reason="xz is missing")]
MIB = 1 << 20


def packed(data: bytes, *words: str) -> bytes:
    return subprocess.run(["xz", "-c", *words], input=data, check=True, capture_output=True).stdout


def opened(image: bytes, name: str = "disk.raw.xz") -> Media:
    return discover()["xz"].open(MemoryReader(image, name=name), Options())


@pytest.mark.parametrize("check", ["none", "crc32", "crc64", "sha256"])
@pytest.mark.parametrize("blocks", ["--block-size=65536", "--block-size=100000", "-T1"])
def test_what_xz_packs_reads_as_what_was_packed(check, blocks) -> None:
    data = sparse(400_077 if "=" in blocks else 100_077)
    image = packed(data, "-1", f"--check={check}", blocks)
    check_media("xz", {"disk.raw.xz": image}, data, verified=check != "none", seeds=200)
    claim = opened(image)
    assert int(claim.metadata["pieces"]) == (-(-len(data) // int(blocks[13:])) if "=" in blocks else 1)
    assert len(claim.layouts) == 1


@pytest.mark.parametrize(
    "filters", [["--x86", "--lzma2=preset=1"], ["--delta=dist=4", "--lzma2=preset=0"], ["-9e"]]
)
def test_any_filter(filters) -> None:
    data = sparse(MIB)
    assert contents("xz", {"d.xz": packed(data, "--block-size=262144", *filters)}) == data


def test_several_streams_with_padding_are_one_disk() -> None:
    parts = [sparse(200_000, 1), b"", sparse(70_000, 2), sparse(64_000, 3)]
    options = (["--block-size=65536"], [], ["--check=crc32", "--block-size=65536"], ["--check=sha256"])
    image = b"".join(
        packed(part, "-1", *words) + bytes(8 * number)
        for number, (part, words) in enumerate(zip(parts, options, strict=True))
    )
    check_media("xz", {"d.xz": image}, b"".join(parts), verified=True, seeds=200)
    assert len(opened(image).layouts) == 4


def test_a_damaged_block_costs_itself_only() -> None:
    data = random.Random(1).randbytes(8 * 65536)
    image = bytearray(packed(data, "--block-size=65536"))
    image[3 * 65600] ^= 1
    found = contents("xz", {"d.xz": bytes(image)}, lost=b"?")
    bad = [at for at in range(0, len(data), 65536) if found[at : at + 65536] != data[at : at + 65536]]
    assert len(bad) == 1
    assert found[bad[0] : bad[0] + 65536] == b"?" * 65536


@pytest.fixture
def small(monkeypatch) -> None:
    """Let blocks of any size be too large to be units."""
    monkeypatch.setattr("imgfs.backends.xz.LARGEST", 10_000)


def media(image: bytes) -> Media:
    index = MemoryReader(made("xz", image), name=INDEX)
    return discover()["xz"].open(MemoryReader(image, name="d.xz", others=[index]), Options())


@pytest.mark.parametrize(
    "words", [["-T1"], ["--block-size=300000"], ["--check=sha256", "--block-size=100000"]]
)
def test_large_blocks_are_read_by_a_copy(words, small) -> None:
    data = disk(900_077)
    image = packed(data, "-1", *words)
    assert opened(image).indexing.copy
    check_media("xz", {"d.xz": image}, data, verified=True, seeds=200, cut=True)
    parts = image + packed(b"", "-1") + bytes(8) + packed(data[:100_000], "-1")
    assert contents("xz", {"d": parts}) == data + data[:100_000]


def test_a_block_above_the_limit_is_copied() -> None:
    image = packed(bytes(33 * MIB), "-0", "-T1")
    assert "cannot be decoded for each read" in opened(image).indexing.why
    assert len(made("xz", image)) < 10_000
    assert contents("xz", {"d": image}) == bytes(33 * MIB)
    assert opened(packed(bytes(33 * MIB), "-0", "--block-size=16MiB")).layouts[-1].size == 33 * MIB


@pytest.mark.parametrize("part", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("words", [["-T1"], ["--block-size=100000"]])
def test_of_a_file_cut_short_everything_before_is_read(part, words) -> None:
    data = disk(900_000)
    image = packed(data, "-1", *words)
    end = min(int(part * len(image)), len(image) - 1)
    kept = upto(contents("xz", {"d": image[:end]}, lost=b"?"), data)
    assert kept >= len(lzma.LZMADecompressor().decompress(image[:end])) - 100
    assert any("cut short" in note for note in media(image[:end]).notes)


def test_a_damaged_block_of_a_copy_costs_itself_only(small) -> None:
    data = random.Random(1).randbytes(8 * 65536)
    image = bytearray(packed(data, "--block-size=65536"))
    image[3 * 65600] ^= 1
    found = contents("xz", {"d.xz": bytes(image)}, lost=b"?")
    bad = [at for at in range(0, len(data), 65536) if found[at : at + 65536] != data[at : at + 65536]]
    assert len(bad) == 1
    assert found[bad[0] : bad[0] + 65536] == b"?" * 65536


def test_files_that_cannot_be_are_refused() -> None:
    image = packed(sparse(MIB), "-1", "--block-size=65536")
    with pytest.raises(NotMine):
        opened(image, "")
    with pytest.raises(NotMine):
        opened(b"x" + image[1:])
    for at in (-2, -8, -20, -40):  # what says where blocks are is damaged: they are walked along
        bad = bytearray(image)
        bad[at] ^= 1
        assert contents("xz", {"d": bytes(bad)}, lost=b"?")[:MIB] == sparse(MIB)
    with pytest.raises(Malformed):
        contents("xz", {"d": image[:30]})
    with pytest.raises(Malformed):
        opened(packed(b""))


def test_an_index_of_lies_ends(monkeypatch) -> None:
    monkeypatch.setattr("imgfs.limits.TABLE_INLINE", 10)
    data = sparse(MIB)
    image = packed(data, "-1", "--block-size=4096")
    assert contents("xz", {"d.xz": image}) == data
    layout = opened(image).layouts[0]
    assert isinstance(layout, Packed)
    assert not layout.table
    index = b"\0" + b"\xff" * 9
    index += bytes(-len(index) % 4) + zlib.crc32(index + bytes(-len(index) % 4)).to_bytes(4, "little")
    end = (len(index) // 4 - 1).to_bytes(4, "little") + image[6:8]
    with pytest.raises(Malformed):
        contents("xz", {"d": image[:12] + index + zlib.crc32(end).to_bytes(4, "little") + end + b"YZ"})
