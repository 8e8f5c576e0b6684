"""gzip: what bgzip packs reads as what was packed, and so do small files of gzip itself."""

from __future__ import annotations

import gzip
import random
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options, discover
from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import check_media, contents
from tests.backends.diskimages import sparse

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


def test_a_large_file_without_blocks_is_said() -> None:
    for image in (gzip.compress(bytes(33 * MIB)), gzip.compress(random.Random(1).randbytes(33 * MIB), 0)):
        with pytest.raises(NotSupported, match="bgzip"):
            opened(image)


def test_files_that_cannot_be_are_refused() -> None:
    image = gzip.compress(sparse(MIB))
    with pytest.raises(NotMine):
        opened(image, "disk.raw")
    with pytest.raises(NotMine):
        opened(b"x" + image[1:])
    for bad in (image[:-5], image[:100], image[:20] + bytes(500) + image[520:], gzip.compress(b"")):
        with pytest.raises(Malformed):
            opened(bad)


@needs_bgzip
def test_half_a_million_blocks_open_in_seconds() -> None:
    image = packed(bytes(65280))[:-28] * 500_000
    begin = time.monotonic()
    claim = opened(image)
    assert time.monotonic() - begin < 5
    assert claim.layouts[-1].size == 500_000 * 65280
