"""Decoders give exactly the bytes of a unit, or say why not; no stream makes them give more."""

from __future__ import annotations

import bz2
import lzma
import random
import zlib
from contextlib import suppress

import cramjam
import lz4.block
import pytest

from imgfs.block import inflating
from imgfs.block.codecs import decode
from imgfs.errors import BadUnit
from imgfs.model import Codec

zstandard = pytest.importorskip("zstandard")
UNIT = 65536


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-12)
    return stream.compress(data) + stream.flush()


def content(length: int = UNIT) -> bytes:
    rng = random.Random(4)
    return (rng.randbytes(length // 3) * 2 + bytes(length))[:length]


def frames(data: bytes) -> bytes:
    half = len(data) // 2
    return zstandard.ZstdCompressor().compress(data[:half]) + zstandard.ZstdCompressor().compress(data[half:])


ENCODERS = [
    ("deflate", deflated),
    ("zstd", zstandard.ZstdCompressor().compress),
    ("zstd", zstandard.ZstdCompressor(write_content_size=False).compress),
    ("zstd", frames),
    ("zlib", zlib.compress),
    ("bzip2", bz2.compress),
    ("xz", lzma.compress),
]


@pytest.fixture(params=[True, False])
def libdeflate(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(inflating, "deflate_decompress", None)


@pytest.mark.parametrize("name, encode", ENCODERS)
@pytest.mark.parametrize("length", [1, 512, UNIT, 2 << 20])
def test_a_unit_decodes_with_whatever_follows_it(name, encode, length, libdeflate) -> None:
    stored = encode(content(length))
    for behind in (b"", bytes(600), b"\xff" * 600, stored):
        assert decode(Codec(name), memoryview(stored + behind), True, length) == content(length)


@pytest.mark.parametrize("name, encode", ENCODERS)
def test_other_lengths_and_damage_are_bad_units(name, encode, libdeflate) -> None:
    stored = encode(content())
    bad = [stored[: len(stored) // 2], b"", b"\xff" * 100, encode(content(UNIT - 1))]
    if encode is not ENCODERS[2][1] and name == "zstd":
        bad.append(stored[:3] + bytes(20))
    for data in bad:
        with pytest.raises(BadUnit):
            decode(Codec(name), memoryview(data), True, UNIT)


@pytest.mark.parametrize("name, encode", [row for row in ENCODERS if row[1] is not frames])
def test_a_bomb_gives_no_more_than_its_unit(name, encode, libdeflate) -> None:
    bomb = encode(bytes(64 << 20))
    with suppress(BadUnit):
        assert decode(Codec(name), memoryview(bomb), True, 512) == bytes(512)


@pytest.mark.parametrize("name, encode", ENCODERS[4:])
def test_checksums_of_streams_are_compared(name, encode, libdeflate) -> None:
    rng = random.Random(7)
    stored = encode(content())
    wrong = 0
    for _ in range(300):
        damaged = bytearray(stored)
        damaged[rng.randrange(len(stored))] ^= 1 << rng.randrange(8)
        with suppress(BadUnit):
            wrong += decode(Codec(name), memoryview(damaged), True, UNIT) != content()
    assert not wrong


def test_a_dictionary_of_a_gibibyte_is_refused() -> None:
    head = bytearray(lzma.compress(bytes(512), filters=[{"id": lzma.FILTER_LZMA2}]))
    block = head.index(b"\x21\x01")  # the filter, the size of its properties, the properties
    head[block + 2] = 36  # 2^(36 / 2 + 12) bytes
    end = 12 + 4 * (head[12] + 1)
    head[end - 4 : end] = zlib.crc32(head[12 : end - 4]).to_bytes(4, "little")
    with pytest.raises(BadUnit, match="emory"):
        decode(Codec("xz"), memoryview(head), True, 512)


def snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


def lz4_block(data: bytes) -> bytes:
    return lz4.block.compress(data, store_size=False)


WHOLE = [("snappy", snappy), ("lz4", lz4_block), ("zlib", zlib.compress), ("deflate", deflated)]


@pytest.mark.parametrize("name, encode", WHOLE)
@pytest.mark.parametrize("length", [1, 512, UNIT - 1, UNIT])
def test_a_last_unit_may_be_filled_up(name, encode, length) -> None:
    codec = Codec(name, {"unit": UNIT})
    assert decode(codec, memoryview(encode(content(length))), True, length) == content(length)
    filled = content(length) + bytes(UNIT - length)
    assert decode(codec, memoryview(encode(filled)), True, length) == content(length)


@pytest.mark.parametrize("name, encode", WHOLE)
def test_blocks_of_other_lengths_and_damage_are_bad_units(name, encode) -> None:
    stored = encode(content())
    bad = [stored[: len(stored) // 2], b"", b"\xff" * 100, encode(content(UNIT - 1)), encode(bytes(64 << 20))]
    for data in bad:
        for length in (UNIT, 512):
            with pytest.raises(BadUnit):
                decode(Codec(name, {"unit": UNIT} if length == UNIT else {}), memoryview(data), True, length)
    rng = random.Random(1)
    for _ in range(500):
        damaged = bytearray(stored)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        with suppress(BadUnit):
            assert len(decode(Codec(name), memoryview(damaged), True, UNIT)) == UNIT


@pytest.mark.parametrize("name", ["zlib", "zstd", "lz4", "lzo", "xz", "lzma"])
def test_units_stored_verbatim_are_what_they_are(name) -> None:
    data = random.Random(6).randbytes(UNIT)
    assert decode(Codec(name), memoryview(data + b"behind"), False, UNIT) == data
    with pytest.raises(BadUnit):
        decode(Codec(name), memoryview(data[:-1]), False, UNIT)


def test_snappy_that_may_be_verbatim() -> None:
    data = random.Random(2).randbytes(UNIT)
    codec = Codec("snappy", {"unit": UNIT, "plain": 1})
    assert decode(codec, memoryview(data), True, UNIT) == data
    assert decode(codec, memoryview(snappy(data)), True, UNIT) == data
    with pytest.raises(BadUnit):
        decode(Codec("snappy", {"unit": UNIT}), memoryview(data), True, UNIT)
