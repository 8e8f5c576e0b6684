"""Zstandard: frames of a known size read as what was packed, with a table at the end and without."""

from __future__ import annotations

import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options, discover
from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import check_media, contents
from tests.backends.diskimages import sparse

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
    with pytest.raises(NotSupported, match="seekable"):
        opened(packed(bytes(33 * MIB), tmp_path))
    with pytest.raises(NotSupported, match="does not say"):
        opened(packed(data, tmp_path, "--no-content-size"))


def test_a_damaged_frame_costs_itself_only(tmp_path) -> None:
    data = sparse(400_077)
    frames = framed(data, tmp_path, 65536, "--check")
    whole = b"".join(frames)
    image = bytearray(whole)
    image[len(b"".join(frames[:4])) - 2] ^= 1  # of the checksum of the fourth
    found = contents("zstd", {"d.zst": bytes(image)}, lost=b"?")
    assert found == data[: 3 * 65536] + b"?" * 65536 + data[4 * 65536 :]


def test_files_that_cannot_be_are_refused(tmp_path) -> None:
    frames = framed(sparse(400_077), tmp_path, 65536)
    image = b"".join(frames)
    with pytest.raises(NotMine):
        opened(image, "disk.raw")
    with pytest.raises(NotMine):
        opened(b"x" + image[1:])
    table = seekable(frames, [65536] * 7, checksums=False)
    for bad in (
        image[:-1],
        image[:-5],
        image + b"more bytes",
        struct.pack("<II", 0x184D2A53, 500),
        table[:40] + table[41:],
        table[:-9] + struct.pack("<IBI", 9, 0, 0x8F92EAB1),
        table[:-9] + struct.pack("<IBI", 7, 0x40, 0x8F92EAB1),
        seekable([], [], checksums=False),
    ):
        with pytest.raises(Malformed):
            opened(bad)
