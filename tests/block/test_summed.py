"""Laws of sectors with checksums: a byte fits its checksum, wherever it was taken from, or is an error."""

from __future__ import annotations

import os
import random
import struct
import zlib
from array import array
from itertools import accumulate
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgfs.block import lzo, sums
from imgfs.block.build import build
from imgfs.block.codecs import decode
from imgfs.block.fetch import open_fetcher
from imgfs.block.hostfile import HostFile
from imgfs.block.memory import Memory
from imgfs.errors import BadUnit, LostBytes, Malformed, WorkerLied
from imgfs.model import HOLE, LOST, Chunked, Codec, Linear, Summed
from imgfs.testing.media import pieces
from imgfs.worker.checks import check_layouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from imgfs.model import Layout

zstandard = pytest.importorskip("zstandard")
SECTOR = 4096


def made(kind: str, data: bytes, sector: int = SECTOR) -> bytes:
    return sums.SUMS[kind][1](data, sector)


@pytest.mark.parametrize("quick", [True, False])
def test_checksums_are_those_of_their_definitions(quick) -> None:
    if quick and sums._fast is None:
        pytest.skip("no compiler where it was installed")
    crc, xxh = (sums._fast.crc32c, sums._fast.xxh64) if quick else (sums.crc32c, sums.xxh64)
    # RFC 3720, B.4; the sanity checks of the xxHash specification and its reference implementation
    for data, value in (
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ):
        assert int.from_bytes(crc(data, len(data)), "little") == value
    for data, value in (
        (b"a", 0xD24EC4F1A98C6E5B),
        (b"abc", 0x44BC2CF5AD770999),
        (b"The quick brown fox jumps over the lazy dog", 0x0B242D361FDA71BC),
    ):
        assert int.from_bytes(xxh(data, len(data)), "little") == value


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.sampled_from([8, 24, 40, 512]), st.integers(0, 2**32))
def test_both_ways_to_sum_agree(count: int, sector: int, seed: int) -> None:
    if sums._fast is None:
        pytest.skip("no compiler where it was installed")
    data = random.Random(seed).randbytes(count * sector)
    assert sums._fast.crc32c(data, sector) == sums.crc32c(data, sector)
    assert sums._fast.xxh64(data, sector) == sums.xxh64(data, sector)


def test_what_is_no_sectors_is_refused() -> None:
    if sums._fast is None:
        pytest.skip("no compiler where it was installed")
    for length, sector in ((10, 0), (10, 4), (10, -1), (20, 10)):
        with pytest.raises(ValueError, match="sectors"):
            sums._fast.crc32c(bytes(length), sector)


def layouts(kind: str, size: int, also: tuple[int, ...] = (1,)) -> tuple[Layout, ...]:
    """Return sectors of ticket 0, with checksums in ticket 2, and a copy in ticket 1."""
    return (Summed(size=size, sector=SECTOR, kind=kind, which=0, sums=2, also=array("H", also).tobytes()),)


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Callable[..., list[HostFile]]]:
    """Return what makes host files, which are closed at the end."""
    files: list[HostFile] = []

    def make(*contents: bytes) -> list[HostFile]:
        for number, data in enumerate(contents):
            (path := tmp_path / f"source{number}").write_bytes(data)
            files.append(HostFile.open(path))
        return files

    yield make
    for file in files:
        file.close()


def cold(files: list[HostFile]) -> None:
    for file in files:
        os.fsync(file.fd)
        os.posix_fadvise(file.fd, 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("kind", sums.SUMS)
@pytest.mark.trio
async def test_sectors_come_from_where_they_are_right(stored, kind) -> None:
    truth = random.Random(3).randbytes(300 * SECTOR)
    first, second = bytearray(truth), bytearray(truth)
    first[5 * SECTOR + 17] ^= 1  # good in the copy
    first[9 * SECTOR] ^= 1
    second[9 * SECTOR + 1] ^= 1  # good nowhere
    second[200 * SECTOR] ^= 4  # nobody asks
    files = stored(bytes(first), bytes(second), made(kind, truth))
    claim = layouts(kind, len(truth))
    check_layouts(claim, [file.size for file in files])
    source = build(claim, files, "image")
    async with open_fetcher() as fetcher:
        for drop in (True, False, False):
            for start, stop in (
                (0, 9 * SECTOR),
                (5 * SECTOR + 10, 5 * SECTOR + 20),
                (10 * SECTOR, 300 * SECTOR),
            ):
                if drop:
                    cold(files)
                assert bytes(await fetcher.fetch(source, start, stop)) == truth[start:stop]
            with pytest.raises(BadUnit, match="checksum"):
                await fetcher.fetch(source, 9 * SECTOR + 5, 9 * SECTOR + 6)
            with pytest.raises(BadUnit):
                await fetcher.fetch(source, 0, 20 * SECTOR)
        assert bytes(fetcher.fetch_nowait(source, 100, 4000)) == truth[100:4000]
        rng = random.Random(5)
        for _ in range(50):
            start = rng.randrange(10 * SECTOR, len(truth))
            stop = rng.randrange(start, min(start + 40_000, len(truth))) + 1
            assert bytes(await fetcher.fetch(source, start, stop)) == truth[start:stop]
        fetcher.debug_check()


@pytest.mark.trio
async def test_what_is_lost_comes_from_the_copy(stored) -> None:
    truth = random.Random(3).randbytes(4 * SECTOR)
    files = stored(truth, truth, made("crc32c", truth))
    gap = Linear.of(
        len(truth), [(0, SECTOR, 0), (SECTOR, SECTOR, LOST), (2 * SECTOR, 2 * SECTOR, 2 * SECTOR)]
    )
    alone = Summed(size=len(truth), sector=SECTOR, kind="crc32c", which=3, sums=2)
    copied = Summed(
        size=len(truth), sector=SECTOR, kind="crc32c", which=3, sums=2, also=array("H", [1]).tobytes()
    )
    async with open_fetcher() as fetcher:
        source = build((gap, copied), files, "image")
        assert bytes(await fetcher.fetch(source, 0, len(truth))) == truth
        source = build((gap, alone), files, "image")
        assert bytes(await fetcher.fetch(source, 0, SECTOR)) == truth[:SECTOR]
        with pytest.raises(LostBytes):
            await fetcher.fetch(source, 0, len(truth))


@pytest.mark.trio
async def test_holes_and_units_below_are_read_as_they_are(stored) -> None:
    text = random.Random(8).randbytes(SECTOR) * 16
    unit = 32 * 1024
    packed = [zlib.compress(text[at : at + unit]) for at in range(0, len(text), unit)]
    table = array("I", [0x8000_0000, 0x8000_0000 | len(packed[0])]).tobytes()
    ends, zero = array("q", [sum(map(len, packed))]).tobytes(), array("q", [0]).tobytes()
    chunks = Chunked(
        size=len(text), unit=unit, codec=Codec("zlib"), table=table, first=zero, base=zero, ends=ends
    )
    truth = text + bytes(8 * SECTOR) + text
    runs = [(0, len(text), 0), (len(text), 8 * SECTOR, HOLE), (len(text) + 8 * SECTOR, len(text), 0)]
    whole = Linear.of(len(truth), runs, [2, 0, 2])
    files = stored(b"".join(packed), made("crc32c", truth))
    claim = Summed(size=len(truth), sector=SECTOR, kind="crc32c", which=3, sums=1)
    source = build((chunks, whole, claim), files, "image")
    cut = build(
        (chunks, whole, claim, Linear.of(len(truth) - 100, [(0, len(truth) - 100, 0)], [4])), files, ""
    )
    async with open_fetcher() as fetcher:
        for _ in range(2):
            assert bytes(await fetcher.fetch(source, 0, len(truth))) == truth
            assert bytes(await fetcher.fetch(cut, 10, len(truth) - 100)) == truth[10:-100]
        fetcher.prefetch(source, 0, len(truth))


def test_claims_that_contradict_themselves_are_refused() -> None:
    data = bytes(4 * SECTOR)
    sizes = [len(data), len(data), 16]
    good = {"size": len(data), "sector": SECTOR, "kind": "crc32c", "which": 0, "sums": 2}
    check_layouts((Summed(**good),), sizes)
    for wrong in (
        {"kind": "md5"},
        {"sector": 0},
        {"sector": 4095},
        {"sector": 1 << 30},
        {"size": len(data) + SECTOR},
        {"size": -SECTOR},
        {"size": len(data) - 1},
        {"which": 3},
        {"which": -1},
        {"sums": 7},
        {"kind": "sha256"},
        {"also": b"\1"},
        {"also": array("H", [9]).tobytes()},
        {"also": array("H", [2]).tobytes()},
    ):
        with pytest.raises(WorkerLied):
            check_layouts((Summed(**(good | wrong)),), sizes)
        with pytest.raises(Malformed):
            build((Summed(**(good | wrong)),), [Memory(bytes(size)) for size in sizes], "")


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_no_damage_changes_a_byte(seed: int) -> None:
    rng = random.Random(seed)
    truth = rng.randbytes(8 * SECTOR)
    places = [bytearray(truth), bytearray(truth), bytearray(made("crc32c", truth))]
    for _ in range(rng.randrange(6)):
        place = rng.choice(places)
        place[rng.randrange(len(place))] ^= 1 << rng.randrange(8)
    source = build(layouts("crc32c", len(truth)), [Memory(bytes(place)) for place in places], "")
    for at in range(0, len(truth), SECTOR):
        try:
            data = b"".join(pieces(source.plan(at, at + SECTOR)))
        except BadUnit:
            continue
        assert data == truth[at : at + SECTOR]


ENCODED = {"zlib-short": zlib.compress, "zstd-short": zstandard.ZstdCompressor().compress}


@pytest.mark.parametrize("name", ENCODED)
def test_units_that_end_early_go_on_with_zeros(name: str) -> None:
    data = random.Random(1).randbytes(5000) * 3
    codec = Codec(name, {"short": 4096})
    packed = ENCODED[name](data)
    for behind in (b"", bytes(1000)):
        for length in (len(data), len(data) + 1, len(data) + 4095):
            unit = decode(codec, memoryview(packed + behind), True, length)
            assert bytes(unit) == data + bytes(length - len(data))
    for wrong in (len(data) + 4096, len(data) - 1, 1):
        with pytest.raises(BadUnit):
            decode(codec, memoryview(packed), True, wrong)
    for cut in (0, 1, len(packed) // 2, len(packed) - 1):
        with pytest.raises(BadUnit):
            decode(codec, memoryview(packed[:cut]), True, len(data))
    unsaid = zstandard.ZstdCompressor(write_content_size=False).compress(data)
    if name == "zstd-short":
        assert bytes(decode(codec, memoryview(unsaid + bytes(9)), True, len(data) + 5)) == data + bytes(5)
        with pytest.raises(BadUnit):
            decode(codec, memoryview(unsaid), True, len(data) - 1)


def framed(parts: list[bytes], sector: int = 4096) -> bytes:
    """Return segments as btrfs stores them, each of literals alone."""
    out = bytearray(4)
    for part in parts:
        if sector - len(out) % sector < 4:
            out += bytes(sector - len(out) % sector)
        count = len(part) - 3
        code = (
            bytes([count])
            if count < 16
            else bytes([0]) + bytes((count - 16) // 255) + bytes([(count - 16) % 255 + 1])
        )
        one = code + part + b"\x11\0\0"
        out += len(one).to_bytes(4, "little") + one
    out[:4] = len(out).to_bytes(4, "little")
    return bytes(out)


@pytest.mark.parametrize("quick", [True, False])
def test_segments_of_lzo_decode_across_sectors(monkeypatch, quick) -> None:
    if not quick:
        monkeypatch.setattr(lzo, "_quick", None)
    rng = random.Random(2)
    data = rng.randbytes(20 * 4096 + 777)
    parts = [data[at : at + 4096] for at in range(0, len(data), 4096)]
    stored = framed(parts)
    codec = Codec("lzo-short", {"short": 4096})

    def segments(stored: bytes, length: int) -> bytes:
        return bytes(decode(codec, memoryview(stored), True, length))

    assert segments(stored + bytes(100), len(data)) == data
    assert segments(stored, 21 * 4096) == data + bytes(21 * 4096 - len(data))
    for wrong in (stored[:-5], b"", bytes(50), stored[:4] + b"\xff\xff\xff\xff" + stored[8:]):
        with pytest.raises(BadUnit):
            segments(wrong, len(data))
    for sector in (0, 4, b"4096"):
        with pytest.raises(BadUnit):
            decode(Codec("lzo-short", {"short": sector}), memoryview(stored), True, len(data))
    for seed in range(200):
        rng = random.Random(seed)
        damaged = bytearray(stored)
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            assert len(segments(bytes(damaged), len(data))) == len(data)
        except BadUnit:
            continue


@pytest.mark.parametrize("way", ["extension", "library"])
@pytest.mark.parametrize("size", [1, 7, 128, 256, 511])
def test_checksums_of_records_are_those_of_the_bytes_they_stand_for(
    way: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes before, a record's own prefix and the record with its holes are one stream of bytes."""
    if way == "library":
        monkeypatch.setattr(sums, "_fast", None)
    rng = random.Random(size)
    count = 5
    data, heads, before = rng.randbytes(count * size), rng.randbytes(count * 8), rng.randbytes(16)
    holes = [(0, 1)] if size < 8 else [(2, 4), (size - 4, size)]
    begun = sums.records(before, 16, b"", ())[0]
    found = sums.records(data, size, heads, holes, begun)
    for one in range(count):
        record = bytearray(data[one * size : one * size + size])
        for start, stop in holes:
            record[start:stop] = bytes(stop - start)
        whole = before + heads[8 * one : 8 * one + 8] + record
        assert found[one] == int.from_bytes(sums.crc32c(whole, len(whole)), "little")
    assert sums.records(b"123456789", 9, b"", ())[0] == 0xE3069283  # RFC 3720's check value
    if way == "extension":
        for bad in ([(4, 2)], [(0, size + 1)], [(0, 65)]):
            words = b"".join(struct.pack("<HH", *hole) for hole in bad)
            with pytest.raises(ValueError, match="holes"):
                sums._fast.records(bytes(size), size, b"", words, 0)


@pytest.mark.parametrize("length", [0, 4, 8, 4088, 32768, 32772, 100_000, 1 << 20])
def test_both_ways_to_fletcher_agree(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if sums._fast is None:
        pytest.skip("the extension was not built here")
    for data in (random.Random(length).randbytes(length), b"\xff" * length):
        quick = sums.fletcher64(data)
        with monkeypatch.context() as patch:
            patch.setattr(sums, "_fast", None)
            assert sums.fletcher64(data) == quick
        whole = struct.unpack(f"<{length // 4 + 2}I", data + quick)  # sums over data and checksum are none
        first = sum(whole)
        assert first % 0xFFFFFFFF == 0
        assert sum(accumulate(whole)) % 0xFFFFFFFF == 0
    with pytest.raises(ValueError, match="whole words"):
        sums._fast.fletcher64(b"abc")


def test_checksums_of_exfat_are_the_same_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(8)
    for length in (0, 1, 2, 94, 606):
        data = rng.randbytes(length)
        quick = sums.exfat(data)
        with monkeypatch.context() as patch:
            patch.setattr(sums, "_fast", None)
            assert sums.exfat(data) == quick
    assert sums.exfat(b"\x01") == 1
    assert sums.exfat(b"\x01\xff") == 0x80FF  # the bit that is moved out comes in at the top
