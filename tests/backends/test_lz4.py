"""LZ4: what the tool packs reads as what was packed; linked blocks, checksums, legacy frames."""

from __future__ import annotations

import struct

import pytest

from imgfs.backends import Options, discover
from imgfs.backends._index import NAME as INDEX
from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import check_media, contents, made
from tests.backends.zippedimages import disk, opened, tool, upto

pytestmark = pytest.mark.slow

CHECKED = [
    ["-B4"],
    ["-B4", "-BD"],
    ["-B5", "-BX"],
    ["-B7", "-BD", "--content-size"],
    ["-9", "-B4", "-BD", "-BX"],
]


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """Let there be many units."""
    monkeypatch.setattr("imgfs.backends._lz4_index._SPAN", 100_000)
    monkeypatch.setattr("imgfs.backends._lz4_index._LINKED_SPAN", 130_000)


def packed(data: bytes, *words: str) -> bytes:
    return tool(data, "lz4", "-qc", *words)


def media(image: bytes):
    index = MemoryReader(made("lz4", image), name=INDEX)
    return discover()["lz4"].open(MemoryReader(image, name="d.lz4", others=[index]), Options())


@pytest.mark.parametrize("words", CHECKED, ids=" ".join)
def test_what_the_tool_packs_reads_as_what_was_packed(words) -> None:
    data = disk(700_077)
    check_media("lz4", {"d.lz4": packed(data, *words)}, data, verified=True, seeds=200)


@pytest.mark.parametrize("words", [["-B4", "-BD", "--no-frame-crc"], ["-l"]], ids=" ".join)
def test_frames_without_checksums(words) -> None:
    data = disk(700_077)
    image = packed(data, *words)
    check_media("lz4", {"d.lz4": image}, data, seeds=200)


def test_frames_one_behind_the_other() -> None:
    parts = [disk(300_000, 1), b"", b"a", disk(70_000, 3)]
    skippable = struct.pack("<II", 0x184D2A53, 5) + b"notes"
    image = skippable.join(packed(part, "-B4") for part in parts)
    assert contents("lz4", {"d": image + skippable}) == b"".join(parts)
    assert media(image).metadata["frames"] == "4"
    assert any("no frame" in note for note in media(image + b"garbage").notes)
    with pytest.raises(NotSupported, match="different ways"):
        contents("lz4", {"d": image + packed(parts[0], "-B4", "-BD")})
    legacy = packed(parts[0], "-l") + packed(parts[3], "-l")
    assert contents("lz4", {"d": legacy}) == parts[0] + parts[3]


@pytest.mark.parametrize("words", [["-B4"], ["-B4", "-BD"], ["-B4", "-BX"]], ids=" ".join)
def test_of_a_file_cut_short_the_blocks_before_are_read(words) -> None:
    data = disk(900_000)
    image = packed(data, *words)
    found = contents("lz4", {"d": image[: len(image) // 2]}, lost=b"?")
    kept = upto(found, data)
    assert kept % 65536 == 0
    assert kept > 300_000
    assert any("cut short" in note for note in media(image[: len(image) // 2]).notes)


def test_what_says_its_size_is_lost_up_to_there(tmp_path) -> None:
    data = disk(900_000)
    (tmp_path / "d").write_bytes(data)
    image = tool(b"", "lz4", "-qc", "-B4", "--content-size", str(tmp_path / "d"))
    claim = media(image[: len(image) // 2])
    assert claim.layouts[-1].size == len(data)
    bad = bytearray(image)
    bad[-3] ^= 1
    assert contents("lz4", {"d": bytes(bad) + image}, lost=b"?") == b"?" * len(data) + data


def test_a_frame_whose_checksum_differs_is_lost_and_what_follows_has_no_place() -> None:
    data = disk(200_000)
    image = packed(data, "-B4")
    bad = image[:-1] + bytes([image[-1] ^ 1])
    assert contents("lz4", {"d": bad}, lost=b"?") == b"?" * len(data)
    found = contents("lz4", {"d": bad + image}, lost=b"?")
    assert set(found) == set(b"?")


def test_files_that_cannot_be_are_refused() -> None:
    image = packed(disk(100_000))
    with pytest.raises(NotMine):
        opened("lz4", image, "")
    with pytest.raises(NotMine):
        opened("lz4", b"x" + image[1:])
    for bad in (image[:4] + b"\xff" + image[5:], image[:9], packed(b"")):
        with pytest.raises(Malformed):
            contents("lz4", {"d": bad})
