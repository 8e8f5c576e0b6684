"""Zstandard: frames of a known size read as what was packed, with a table at the end and without."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
import zstandard

from imgfs.backends import Options, discover
from imgfs.errors import Malformed, NotMine
from imgfs.model import Ragged
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import check_media, contents
from tests.backends.diskimages import sparse
from tests.backends.zippedimages import disk, upto

if TYPE_CHECKING:
    from imgfs.model import Media

pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is missing")]
MIB = 1 << 20


def packed(data: bytes, folder, *words: str) -> bytes:
    """Return what zstd makes of a file, whose size it then knows."""
    path = folder / "packed"
    path.write_bytes(data)
    return subprocess.run(["zstd", "-qc", *words, path], check=True, capture_output=True).stdout


def framed(data: bytes, folder, unit: int, *words: str) -> list[bytes]:
    return [packed(data[at : at + unit], folder, *words) for at in range(0, len(data), unit)]


def seekable(frames: list[bytes], sizes: list[int], *, checksums: bool) -> bytes:
    table = b"".join(
        struct.pack("<II", len(frame), size) + (b"xxxx" if checksums else b"")
        for frame, size in zip(frames, sizes, strict=True)
    )
    footer = struct.pack("<IBI", len(frames), 0x80 if checksums else 0, 0x8F92EAB1)
    return b"".join(frames) + struct.pack("<II", 0x184D2A5E, len(table) + 9) + table + footer


def opened(image: bytes, name: str = "disk.raw.zst") -> Media:
    return discover()["zstd"].open(MemoryReader(image, name=name), Options())


@pytest.mark.parametrize("words", [(), ("-19",), ("--check",), ("--no-check",)])
def test_frames_one_behind_the_other(words, tmp_path) -> None:
    data = sparse(400_077)
    frames = framed(data, tmp_path, 65536, *words)
    image = b"".join(frames)
    assert int(opened(image).metadata["pieces"]) == len(frames) == 7
    check_media("zstd", {"disk.raw.zst": image}, data, seeds=200)
    skippable = struct.pack("<II", 0x184D2A53, 5) + b"notes"
    assert contents("zstd", {"d.zst": skippable + skippable.join(frames) + skippable}) == data


@pytest.mark.parametrize("checksums", [True, False])
def test_the_table_of_the_seekable_format(checksums, tmp_path) -> None:
    data = sparse(400_077)
    for words in ((), ("--no-content-size",)):
        frames = framed(data, tmp_path, 65536, *words)
        image = seekable(frames, [65536] * 6 + [len(data) - 6 * 65536], checksums=checksums)
        claim = opened(image)
        assert claim.metadata == {"pieces": "7", "table of frames": "yes"}
        check_media("zstd", {"disk.raw.zst": image}, data, seeds=200)


def test_what_zstd_packs_by_itself_is_one_piece(tmp_path) -> None:
    data = sparse(MIB)
    for words in ((), ("-T2", "-1"), ("--long=24",)):
        assert contents("zstd", {"d.zst": packed(data, tmp_path, *words)}) == data
    large = packed(bytes(33 * MIB), tmp_path)
    assert "cannot be decoded for each read" in opened(large).indexing.why
    assert contents("zstd", {"d": large}) == bytes(33 * MIB)
    unsized = packed(data, tmp_path, "--no-content-size")
    assert "does not say" in opened(unsized).indexing.why
    assert contents("zstd", {"d": unsized + unsized}) == data + data


@pytest.mark.parametrize("words", [(), ("--no-content-size",), ("-19", "--long=24")])
def test_what_is_no_unit_is_read_by_a_copy(words, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("imgfs.backends.zstd.LARGEST", 10_000)
    data = disk(900_077)
    image = packed(data, tmp_path, *words)
    check_media("zstd", {"d.zst": image}, data, verified=True, seeds=200)
    for end in (len(image) // 2, len(image) - 20):
        kept = upto(contents("zstd", {"d": image[:end]}, lost=b"?"), data)
        assert kept >= len(zstandard.ZstdDecompressor().decompressobj().decompress(image[:end])) - 1000


def test_a_checksum_that_differs_loses_its_frame(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("imgfs.backends.zstd.LARGEST", 10_000)
    data = disk(100_000)
    image = packed(data, tmp_path, "--check")
    bad = image[:-1] + bytes([image[-1] ^ 1])
    assert contents("zstd", {"d": bad + image}, lost=b"?") == b"?" * len(data) + data


def test_frames_of_ever_other_sizes(tmp_path) -> None:
    compress = zstandard.ZstdCompressor(level=1).compress
    data = random.Random(1).randbytes(5000)
    parts = [data[at : at + 1 + at % 700] for at in range(4500)]
    image = b"".join(map(compress, parts))
    assert isinstance(opened(image).layouts[0], Ragged)
    assert contents("zstd", {"d": image}) == b"".join(parts)


def test_a_damaged_frame_costs_itself_only(tmp_path) -> None:
    data = sparse(400_077)
    frames = framed(data, tmp_path, 65536, "--check")
    whole = b"".join(frames)
    image = bytearray(whole)
    image[len(b"".join(frames[:4])) - 2] ^= 1  # of the checksum of the fourth
    found = contents("zstd", {"d.zst": bytes(image)}, lost=b"?")
    assert found == data[: 3 * 65536] + b"?" * 65536 + data[4 * 65536 :]


def test_files_that_cannot_be_are_refused(tmp_path) -> None:
    data = sparse(400_077)
    frames = framed(data, tmp_path, 65536)
    image = b"".join(frames)
    with pytest.raises(NotMine):
        opened(image, "")
    with pytest.raises(NotMine):
        opened(b"x" + image[1:])
    table = seekable(frames, [65536] * 7, checksums=False)
    for bad in (
        image[:-1],
        image[:-5],
        image + b"more bytes",
        table[:-9] + struct.pack("<IBI", 9, 0, 0x8F92EAB1),
        table[:-9] + struct.pack("<IBI", 7, 0x40, 0x8F92EAB1),
    ):
        assert upto(contents("zstd", {"d": bad}, lost=b"?"), data) >= 6 * 65536
    for bad in (struct.pack("<II", 0x184D2A53, 500), seekable([], [], checksums=False), image[:20]):
        with pytest.raises(Malformed):
            contents("zstd", {"d": bad})
