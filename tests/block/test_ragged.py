"""Units of any sizes: bytes of the model or an error, whatever their tables hold."""

from __future__ import annotations

import bz2
import random
import struct
import zlib
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgfs.block.build import build
from imgfs.block.codecs import DECODERS
from imgfs.block.memory import Memory
from imgfs.block.pieces import Bytes, Coded, Lost, StoredUnit
from imgfs.errors import BadUnit, Malformed, WorkerLied
from imgfs.model import PACKED_CODED, PACKED_HOLE, PACKED_LOST, Codec, Inline, Ragged
from imgfs.testing.media import pieces
from imgfs.worker.checks import check_layouts

FRONT = struct.Struct("<QIII4x")
ROW = struct.Struct("<QQII")


def made(rng: random.Random, *, front: bool) -> tuple[Ragged, bytes, list[int | None]]:
    """Return a claim, what it is stored in, and the bytes of the model: None where they are lost."""
    stored = bytearray(rng.randbytes(3))
    model: list[int | None] = []
    rows, ahead = b"", b""
    for _ in range(rng.randrange(1, 8)):
        length = rng.randrange(1, 60)
        content = rng.randbytes(length // 2) + bytes(length - length // 2)
        kind = rng.randrange(4)
        skip = rng.randrange(9) if front else 0
        place, extra = len(stored), FRONT.pack(0, 0, skip, zlib.crc32(content))
        if kind == 0:
            rows += ROW.pack(len(model), rng.getrandbits(63), 7, PACKED_HOLE)
            content = bytes(length)
        elif kind == 1:
            rows += ROW.pack(len(model), rng.getrandbits(63), 7, PACKED_LOST)
        elif kind == 2:
            stored += content
            rows += ROW.pack(len(model), place, length, 0)
        else:
            stream = zlib.compressobj(wbits=-15)
            data = stream.compress(bytes(skip) + content) + stream.flush(zlib.Z_FULL_FLUSH)
            stored += data
            rows += ROW.pack(len(model), place, len(data), PACKED_CODED)
        ahead += extra
        model += [None] * length if kind == 1 else list(content)
    codec = Codec("deflate-window")
    facts = {"size": len(model), "codec": codec, "rows": len(rows) // 24, "table": rows}
    return Ragged(**facts, ahead=ahead if front else b"", front=1 if front else -1), bytes(stored), model


def read(source, start: int, stop: int) -> list[int | None]:
    found: list[int | None] = []
    for piece in source.plan(start, stop):
        found += [None] * piece.length if isinstance(piece, Lost) else list(b"".join(pieces([piece])))
    return found


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), front=st.booleans(), inline=st.booleans())
def test_any_units_read_as_the_model(*, seed: int, front: bool, inline: bool) -> None:
    rng = random.Random(seed)
    claim, stored, model = made(rng, front=front)
    lowers = [Memory(stored), Memory(b"")]
    table = None
    if not inline:
        rows = claim.table + claim.ahead
        check_layouts([claim], [len(stored), 0])
        claim = Ragged(
            size=claim.size, codec=claim.codec, rows=claim.rows, which=claim.which, front=claim.front
        )
        check_layouts([claim], [len(stored), 0], table=len(rows))
        table = memoryview(rows)
    source = build([claim], lowers, "test", table=table)
    for _ in range(10):
        start, stop = sorted((rng.randrange(len(model) + 1), rng.randrange(len(model) + 1)))
        assert read(source, start, stop) == model[start:stop]


@pytest.mark.slow
@settings(deadline=None)
@given(
    size=st.integers(-1, 200),
    rows=st.integers(-1, 5),
    which=st.integers(-1, 3),
    front=st.integers(-2, 3),
    words=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 90) | st.just(9 | 1 << 32), max_size=36),
)
def test_hostile_tables_are_malformed_or_plan_inside_their_source(size, rows, which, front, words) -> None:
    table = array("Q", words).tobytes()
    claim = Ragged(
        size=size,
        codec=Codec("deflate-window"),
        rows=rows,
        table=table[: max(24 * rows, 0)],
        ahead=table[max(24 * rows, 0) :],
        which=which,
        front=front,
    )
    try:
        source = build([claim], [Memory(bytes(64)), Memory(bytes(50))], "test")
    except Malformed:
        return
    for start in range(0, size, 7):
        planned = source.plan(start, size)
        assert sum(piece.length for piece in planned) == size - start
        for piece in planned:
            stored = piece.unit.pieces if isinstance(piece, Coded) else [piece]
            assert all(p.offset >= 0 and p.offset + p.length <= 64 for p in stored if isinstance(p, Bytes))


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 3},
        {"rows": -1},
        {"size": 0},
        {"size": -1},
        {"which": 2},
        {"which": -1},
        {"front": 2},
        {"ahead": b""},
    ],
)
def test_claims_that_contradict_themselves_are_lies(changes) -> None:
    facts = {"size": 100, "codec": Codec("x"), "rows": 2, "table": bytes(48), "ahead": bytes(48), "front": 1}
    check_layouts([Inline(b""), Ragged(**facts)], [100])
    with pytest.raises(WorkerLied):
        check_layouts([Ragged(**facts | changes)], [100, 100])
    with pytest.raises(WorkerLied):
        check_layouts([Ragged(**facts)], [100, 100], table=96)


def test_a_unit_says_where_it_is() -> None:
    rows = ROW.pack(0, 0, 10, PACKED_HOLE) + ROW.pack(100, 0, 10, PACKED_CODED)
    source = build(
        [Ragged(size=150, codec=Codec("deflate-window"), rows=2, table=rows)], [Memory(bytes(10))], "x"
    )
    piece = source.plan(120, 130)[0]
    assert isinstance(piece, Coded)
    assert isinstance(piece.unit, StoredUnit)
    assert (piece.unit.source.start_of(piece.unit.index), piece.unit.length, piece.skip) == (100, 50, 20)


# --- codecs ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["deflate-window", "bzip2-block", "lz4-blocks"])
@settings(max_examples=200, deadline=None)
@given(
    stored=st.binary(max_size=80),
    length=st.integers(0, 200),
    head=st.integers(0, 7),
    tail=st.integers(0, 7),
    front=st.integers(0, 90),
    skip=st.integers(0, 100),
)
def test_garbage_is_a_bad_unit(name, stored, length, head, tail, front, skip) -> None:
    parameters = {"head": head, "tail": tail, "front": front, "skip": skip, "check": 1, "linked": 1}
    try:
        data = DECODERS[name](memoryview(stored), True, length, parameters)
    except BadUnit:
        return
    assert len(data) == length


def test_the_checksum_of_a_unit_is_compared() -> None:
    data = random.Random(1).randbytes(5000)
    image = bz2.compress(data)
    for tail in range(8):
        for cut in (9, 10, 11):
            stored = memoryview(image[4:-cut])
            try:
                found = DECODERS["bzip2-block"](stored, True, 5000, {"tail": tail, "check": zlib.crc32(data)})
            except BadUnit:
                continue
            assert found == data
            with pytest.raises(BadUnit, match="checksum"):
                DECODERS["bzip2-block"](stored, True, 5000, {"tail": tail, "check": 1})
            return
    raise AssertionError("the block was not found")
