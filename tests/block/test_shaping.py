"""Units that are only arranged: sectors give their data, words repeat, and nothing gives more or less."""

from __future__ import annotations

import random

import pytest

from imgfs.block.codecs import decode
from imgfs.errors import BadUnit
from imgfs.model import Codec

SHAPES = [(2352, 16), (2352, 24), (2448, 16), (2336, 8), (2048, 0)]


@pytest.mark.parametrize("stride, skip", SHAPES)
@pytest.mark.parametrize("length", [1, 2048, 2049, 32768, 32767])
def test_sectors_give_their_data(stride, skip, length) -> None:
    rng = random.Random(stride)
    data = rng.randbytes(32768)
    frames = [data[at : at + 2048] for at in range(0, length, 2048)]
    stored = b"".join(rng.randbytes(skip) + frame + rng.randbytes(stride - skip - 2048) for frame in frames)
    codec = Codec("sectors", {"stride": stride, "skip": skip, "data": 2048})
    assert decode(codec, memoryview(stored), True, length) == data[:length]
    assert decode(codec, memoryview(stored + b"more"), True, length) == data[:length]
    needed = (len(frames) - 1) * stride + skip + length - (len(frames) - 1) * 2048
    assert decode(codec, memoryview(stored[:needed]), True, length) == data[:length]
    with pytest.raises(BadUnit):
        decode(codec, memoryview(stored[: needed - 1]), True, length)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"stride": 0, "skip": 0, "data": 0},
        {"stride": 2352, "skip": 305, "data": 2048},
        {"stride": 2352, "skip": -1, "data": 2048},
        {"stride": -1, "skip": 0, "data": 2048},
        {"stride": b"2352", "skip": 0, "data": 2048},
    ],
)
def test_sectors_of_impossible_shapes_are_bad_units(parameters) -> None:
    with pytest.raises(BadUnit):
        decode(Codec("sectors", parameters), memoryview(bytes(5000)), True, 2048)


def test_words_repeat() -> None:
    for word in (b"a", b"abc", b"abcd", b"x" * 5000):
        for length in (1, 4, 4096, 4097):
            whole = word * (length // len(word) + 1)
            assert decode(Codec("repeat"), memoryview(word), True, length) == whole[:length]
    with pytest.raises(BadUnit):
        decode(Codec("repeat"), memoryview(b""), True, 4)
