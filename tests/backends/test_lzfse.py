"""LZFSE and ADC: what is encoded comes back; no stream gives more than its unit, or bytes of nowhere."""

from __future__ import annotations

import random
import struct
import time
from contextlib import suppress

import pytest

from imgfs.backends import _adc, _lzfse
from imgfs.errors import BadUnit
from tests.backends.dmgimages import adc, lzfse, lzfse_block, lzvn_literals

END = b"bvx$"


def content(length: int, seed: int = 5) -> bytes:
    rng = random.Random(seed)
    words = [rng.randbytes(rng.randrange(1, 30)) for _ in range(40)]
    out = b""
    while len(out) < length:
        out += rng.choice(words) * rng.choice((1, 1, 3, 90)) + rng.randbytes(rng.randrange(40))
    return out[:length]


@pytest.mark.parametrize("length", [0, 1, 63, 320, 1000, 4097, 65536, 262144])
@pytest.mark.parametrize("old", [-1, 0, 1])
def test_every_kind_of_block_comes_back(length, old) -> None:
    data = content(length)
    for behind in (b"", b"junk"):
        assert _lzfse.decompress(lzfse(data, old=old, plain=old + 1) + behind, length) == data


@pytest.mark.parametrize("length", [1, 2, 300, 5000, 100_000])
def test_adc_comes_back(length) -> None:
    data = content(length)
    assert _adc.decompress(adc(data), length) == data
    assert _adc.decompress(adc(data) + b"junk", length) == data


@pytest.mark.parametrize("codec", [(_lzfse.decompress, lzfse), (_adc.decompress, adc)])
def test_other_lengths_and_cuts_are_bad_units(codec) -> None:
    decode, encode = codec
    data = content(3000)
    stored = encode(data)
    for length in (2999, 3001, 0) if encode is lzfse else (3001,):
        with pytest.raises(BadUnit):
            decode(stored, length)
    for end in range(0, len(stored) - 1, 7):
        with pytest.raises(BadUnit):
            decode(stored[:end], 3000)


@pytest.mark.parametrize("codec", [(_lzfse.decompress, lzfse), (_adc.decompress, adc)])
def test_damage_gives_as_many_bytes_or_an_error(codec) -> None:
    decode, encode = codec
    stored = encode(content(3000))
    begin = time.process_time()
    for seed in range(1000):
        rng = random.Random(seed)
        damaged = bytearray(stored)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        with suppress(BadUnit):
            assert len(decode(bytes(damaged), 3000)) == 3000
    assert time.process_time() - begin < 30


def test_a_match_before_the_start_is_refused() -> None:
    with pytest.raises(BadUnit, match="back"):
        _adc.decompress(b"\x80a\x40\x00\x01", 5)
    assert _adc.decompress(b"\x80a\x40\x00\x00", 5) == b"aaaaa"


def test_matches_reach_into_the_block_before() -> None:
    data = content(20_000)
    twice = data + data
    stored = struct.pack("<4sI", b"bvx-", 20_000) + data + lzfse_block(twice, 20_000, 40_000) + END
    assert len(stored) < 22_000
    assert _lzfse.decompress(stored, 40_000) == twice


def test_a_state_no_table_has_is_no_symbol() -> None:
    block = bytearray(lzfse_block(b"ab" * 200, 0, 400, first=True))
    states_at = 4 + 24 + 4
    for state in (1023, 1024, 65535):
        struct.pack_into("<H", block, states_at, state)
        struct.pack_into("<256H", block, 50 + 208, 1000, *(0,) * 255)
        with pytest.raises(BadUnit):
            _lzfse.decompress(bytes(block) + END, 400)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(BadUnit, match="where 512 are expected"):
        _lzfse.decompress(lzfse_block(bytes(200_000), 0, 200_000) + END, 512)
    with pytest.raises(BadUnit):
        _lzfse.decompress(lzvn_literals(bytes(1000)) + END, 512)
    with pytest.raises(BadUnit):
        _lzfse.decompress(struct.pack("<4sI", b"bvx-", 1 << 31) + END, 512)
