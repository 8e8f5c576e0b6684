"""Android sparse images: what img2simg writes reads as what was converted; the rest is composed here."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import time
import zlib
from typing import TYPE_CHECKING

import pytest

from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.model import Packed
from imgfs.testing.media import check_media, contents
from tests.backends.diskimages import holes, media, run_count, sparse

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
needs_tools = pytest.mark.skipif(shutil.which("img2simg") is None, reason="img2simg is missing")
RAW, FILL, DONT_CARE, CRC = 0xCAC1, 0xCAC2, 0xCAC3, 0xCAC4
MIB = 1 << 20


def composed(
    chunks: list[tuple[int, int, bytes]],
    blocks: int,
    *,
    block: int = 4096,
    checksum: int = 0,
    header: int = 28,
    chunk: int = 12,
    version: tuple[int, int] = (1, 0),
) -> bytes:
    """Return an image of chunks (kind, blocks, data)."""
    out = struct.pack(
        "<IHHHHIIII", 0xED26FF3A, *version, header, chunk, block, blocks, len(chunks), checksum
    ).ljust(header, b"\0")
    return out + b"".join(
        struct.pack("<HHII", kind, 0, number, chunk + len(data)).ljust(chunk, b"\0") + data
        for kind, number, data in chunks
    )


def patterned(size: int) -> bytes:
    """Return a disk that is partly filled with one word or another."""
    data = bytearray(sparse(size, 3))
    data[MIB : MIB + 40960] = b"\xff" * 40960
    data[2 * MIB : 2 * MIB + 2 * MIB] = b"abcd" * (MIB // 2)
    data[5 * MIB : 5 * MIB + 4096] = b"\xff" * 4096
    return bytes(data)


def by_tool(folder: Path, image: bytes) -> bytes:
    """Return what simg2img makes of an image."""
    source, target = folder / "peer.simg", folder / "peer.raw"
    source.write_bytes(image)
    subprocess.run(["simg2img", source, target], check=True, capture_output=True)
    return target.read_bytes()


@needs_tools
@pytest.mark.parametrize("block", [1024, 4096, 65536])
def test_what_img2simg_writes_reads_as_what_was_converted(block, tmp_path) -> None:
    data = patterned(7 * MIB)
    raw, image = tmp_path / "disk.raw", tmp_path / "disk.simg"
    raw.write_bytes(data)
    subprocess.run(["img2simg", raw, image, str(block)], check=True, capture_output=True)
    claim = media("simg", image)
    assert contents("simg", {image.name: image.read_bytes()}) == data
    assert claim.version == "1.0"
    assert not claim.lost
    assert not claim.notes
    assert holes(claim) > 0
    check_media("simg", {image.name: image.read_bytes()}, data, seeds=200)


@needs_tools
@pytest.mark.parametrize("header, chunk", [(28, 12), (40, 20)])
def test_any_order_of_chunks_reads_as_simg2img_reads_it(header, chunk, tmp_path) -> None:
    rng = random.Random(5)
    chunks, blocks = [], 0
    for number in range(60):
        length = rng.randrange(1, 40)
        kind = rng.choice((RAW, FILL, FILL, DONT_CARE))
        word = rng.choice((b"\xff" * 4, b"abcd", b"\x01\0\0\0", bytes(4)))
        data = {RAW: rng.randbytes(length * 4096), FILL: word, DONT_CARE: b""}[kind]
        chunks.append((kind, length, data))
        if number % 7 == 3:
            chunks.append((CRC, 0, b"any."))
        blocks += length
    image = composed(chunks, blocks, header=header, chunk=chunk)
    truth = by_tool(tmp_path, image).ljust(blocks * 4096, b"\0")
    assert contents("simg", {"a": image}) == truth
    claim = media("simg", image)
    assert any("not written (DONT_CARE)" in note for note in claim.notes)
    packed = claim.layouts[0]
    assert isinstance(packed, Packed)
    assert len(packed.table) == 3 * 16  # a unit for each word, however often it is written
    check_media("simg", {"a": image}, truth, seeds=200)


def test_fills_longer_than_a_unit_repeat_it() -> None:
    image = composed([(FILL, 700, b"wxyz"), (RAW, 1, b"r" * 4096), (FILL, 300, b"wxyz")], 1001)
    truth = b"wxyz" * (700 * 1024) + b"r" * 4096 + b"wxyz" * (300 * 1024)
    assert contents("simg", {"a": image}) == truth
    assert run_count(media("simg", image)) == 3 + 1 + 2
    check_media("simg", {"a": image}, truth, seeds=20)


def test_checksums_are_digests_where_their_meaning_is_sure() -> None:
    data = random.Random(1).randbytes(8192)
    crc = zlib.crc32(data)
    stored = struct.pack("<I", crc)
    plain = media("simg", composed([(RAW, 2, data), (CRC, 0, stored)], 2))
    assert plain.digests == {"crc32": f"{crc:08x}"}
    early = media("simg", composed([(CRC, 0, stored), (RAW, 2, data)], 2))
    assert early.digests == {}
    unsure = media("simg", composed([(RAW, 2, data), (DONT_CARE, 1, b""), (CRC, 0, stored)], 3))
    assert unsure.digests == {}
    assert any(f"{crc:08x}" in note and "not compared" in note for note in unsure.notes)
    header = media("simg", composed([(RAW, 2, data), (DONT_CARE, 1, b"")], 3, checksum=77))
    assert header.digests == {"crc32": "0000004d"}


def test_what_no_chunk_holds_is_lost_and_the_rest_is_read() -> None:
    data = random.Random(2).randbytes(8192)
    whole = [(RAW, 2, data), (FILL, 1, b"abcd"), (RAW, 2, data)]
    fill = b"abcd" * 1024
    short = composed(whole, 9)
    assert contents("simg", {"a": short}, lost=b"?") == data + fill + data + b"?" * 16384
    cut = composed(whole, 5)[:-100]
    assert contents("simg", {"a": cut}, lost=b"?") == data + fill + data[:-100] + b"?" * 100
    assert media("simg", cut).lost
    strange = composed([whole[0], (0xCAC9, 1, b"abcd"), whole[2]], 5)
    assert contents("simg", {"a": strange}, lost=b"?") == data + b"?" * 4096 + data
    for bad in ((RAW, 3, data), (FILL, 1, b"abc"), (DONT_CARE, 1, b"a"), (CRC, 1, b"abcd"), (RAW, 9, data)):
        image = composed([whole[0], bad, whole[2]], 5)
        assert contents("simg", {"a": image}, lost=b"?") == data + b"?" * 12288
    assert any("behind the last chunk" in note for note in media("simg", composed(whole, 5) + b"x").notes)


def test_headers_that_cannot_be_are_refused() -> None:
    image = composed([(FILL, 1, b"abcd")], 1)
    for at, form, value, error in (
        (0, "<I", 1, NotMine),
        (4, "<H", 2, NotSupported),
        (8, "<H", 27, Malformed),
        (10, "<H", 11, Malformed),
        (12, "<I", 0, Malformed),
        (12, "<I", 4097, Malformed),
    ):
        bad = bytearray(image)
        struct.pack_into(form, bad, at, value)
        with pytest.raises(error):
            media("simg", bytes(bad))
    with pytest.raises(Malformed):
        media("simg", composed([], 0xFFFF_FFFF, block=0xFFFF_FFFC))


def test_terabytes_open_at_once() -> None:
    most = 0xFFFF_FFFF
    words = [(FILL, 1, struct.pack("<I", number)) for number in range(1, 300_001)]
    image = composed(words, 300_000)
    begin = time.monotonic()
    nothing = media("simg", composed([(DONT_CARE, most, b"")], most))
    assert (run_count(nothing), holes(nothing)) == (1, most * 4096)
    filled = media("simg", composed([(FILL, most, b"abcd")], most))
    assert not filled.lost
    assert filled.layouts[-1].size == most * 4096
    many = media("simg", image)
    assert many.layouts[-1].size == 300_000 * 4096
    assert time.monotonic() - begin < 5


def test_many_chunks_travel_in_the_memory_file(monkeypatch) -> None:
    monkeypatch.setattr("imgfs.limits.TABLE_INLINE", 10)
    image = composed([(FILL, 1, b"abcd"), (RAW, 1, b"r" * 4096), (FILL, 2, b"wxyz")], 4)
    truth = b"abcd" * 1024 + b"r" * 4096 + b"wxyz" * 2048
    assert contents("simg", {"a": image}) == truth


def test_the_image_of_the_corpus(corpus, tmp_path) -> None:
    packed = corpus / "corpus/fkie-cad_fact_extractor/simg.img.xz"
    image = subprocess.run(["xz", "-dc", packed], check=True, capture_output=True).stdout
    found = contents("simg", {"simg.img": image})
    assert len(found) == media("simg", image).layouts[-1].size
    if shutil.which("simg2img"):
        assert found == by_tool(tmp_path, image)
