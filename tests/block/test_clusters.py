"""Units of LZMA, units of clusters, and units that several streams share."""

from __future__ import annotations

import lzma
import struct
import zlib

import lz4.block
import pytest

from imgfs.block.build import build
from imgfs.block.clusters import CLUSTER, DEFLATE, LZ4, PLAIN
from imgfs.block.codecs import decode
from imgfs.block.memory import Memory
from imgfs.block.pieces import Coded
from imgfs.block.shared import SharedUnits
from imgfs.errors import BadUnit
from imgfs.model import PACKED_CODED, Codec, Linear, Packed

DATA = b"".join(b"%d bytes of text\n" % number for number in range(600))
RAW = [{"id": lzma.FILTER_LZMA1, "lc": 3, "lp": 0, "pb": 2, "dict_size": 1 << 16}]
BARE = lzma.compress(DATA, format=lzma.FORMAT_RAW, filters=RAW)
ALONE = lzma.compress(DATA, format=lzma.FORMAT_ALONE)
SIZED = ALONE[:5] + len(DATA).to_bytes(8, "little") + ALONE[13:]
MICRO = bytes((93 ^ 0xFF,)) + BARE[1:]


@pytest.mark.parametrize(("stored", "form"), [(ALONE, 0), (SIZED, 0), (BARE, 1), (MICRO, 2)])
def test_lzma_decodes_with_and_without_its_header(stored: bytes, form: int) -> None:
    codec = Codec("lzma", {"form": form})
    assert decode(codec, memoryview(stored), True, len(DATA)) == DATA
    for length in (len(DATA) + 1, *((len(DATA) - 1,) if form < 2 else ())):
        with pytest.raises(BadUnit):
            decode(codec, memoryview(stored), True, length)
    for cut in (b"", stored[:1], stored[:12], stored[: len(stored) // 2], b"\xff" + stored[1:]):
        with pytest.raises(BadUnit):
            decode(codec, memoryview(cut), True, len(DATA))


def test_a_dictionary_of_gibibytes_costs_no_memory() -> None:
    stored = ALONE[:1] + b"\xff\xff\xff\xff" + ALONE[5:]
    assert decode(Codec("lzma", {"form": 0}), memoryview(stored), True, len(DATA)) == DATA


def rows(*clusters: tuple[bytes, int, int, int]) -> tuple[bytes, int]:
    front = b"".join(CLUSTER.pack(len(stored), length, kind, turn) for stored, length, kind, turn in clusters)
    return front + b"".join(stored for stored, _, _, _ in clusters), len(front)


def test_clusters_of_every_kind_make_one_unit() -> None:
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    deflated = stream.compress(DATA) + stream.flush()
    packed = bytes(100) + lz4.block.compress(DATA, store_size=False)
    stored, front = rows(
        (packed, len(DATA), LZ4, 0),
        (b"cdefab", 6, PLAIN, 4),
        (b"abc", 2, PLAIN, 0),
        (deflated, len(DATA), DEFLATE, 0),
    )
    codec = Codec("clusters", {"front": front, "skip": 0, "check": 0})
    wanted = DATA + b"abcdef" + b"ab" + DATA
    assert decode(codec, memoryview(stored), True, len(wanted)) == wanted
    for bad, length in (
        (stored, len(wanted) - 1),
        (stored[:-20], len(wanted)),
        (stored[:front], len(wanted)),
    ):
        with pytest.raises(BadUnit):
            decode(codec, memoryview(bad), True, length)


@pytest.mark.parametrize(
    "parameters", [{}, {"algorithm": 9}, {"front": 5}, {"front": 1 << 20}, {"algorithm": LZ4}]
)
def test_what_is_no_cluster_is_refused(parameters: dict[str, int | bytes]) -> None:
    with pytest.raises(BadUnit):
        decode(Codec("clusters", parameters), memoryview(bytes(64)), True, 100)


def test_streams_share_the_unit_they_lie_in() -> None:
    packed = zlib.compress(DATA)
    source = Memory(packed)
    table = struct.pack("<QII", 0, len(packed), PACKED_CODED)
    shared = SharedUnits("image")

    def key(name: str, start: int, codec: str = "zlib") -> object:
        unit = Packed(size=len(DATA), unit=len(DATA), codec=Codec(codec), table=table)
        layouts = unit, Linear.of(10, [(0, 10, start)], [1])
        [piece] = build(layouts, [source], name, shared=shared).plan(0, 10)
        assert isinstance(piece, Coded)
        return piece.unit.key

    assert key("one", 0) == key("another", 500)
    assert key("one", 0) != key("one", 0, "deflate")
