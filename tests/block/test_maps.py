"""Laws of planning: whatever is stacked on whatever, the bytes are those of the model."""

from __future__ import annotations

import random
import time
import zlib
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgfs import limits
from imgfs.block.build import build
from imgfs.block.extents import ExtentMap, donation
from imgfs.block.hostfile import HostFile
from imgfs.block.memory import Memory
from imgfs.block.pieces import Bytes, Coded, Stored
from imgfs.errors import Malformed
from imgfs.model import HOLE, LOST, PACKED_ROW, Chunked, Codec, Foreign, Inline, Linear, Packed
from tests.block.stacks import Content, resolve, stack


def check(content: Content, rng: random.Random) -> None:
    size = len(content.model)
    assert content.source.size == size
    ranges = [(0, size), (0, 0), (size, size)]
    ranges += [tuple(sorted((rng.randint(0, size), rng.randint(0, size)))) for _ in range(6)]
    for start, stop in ranges:
        pieces = content.source.plan(start, stop)
        assert sum(piece.length for piece in pieces) == stop - start, "INV-1"
        assert resolve(pieces) == content.model[start:stop]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_stack_of_maps_reads_as_the_model_and_so_does_its_composition(seed: int) -> None:
    rng = random.Random(seed)
    for content in stack(rng):
        check(content, rng)
        if isinstance(content.source, ExtentMap):
            flat = content.source.compose()
            check(Content(flat, content.model), rng)
            assert not any(isinstance(lower, ExtentMap) for _, _, lower, _ in flat.runs())


@pytest.mark.slow
@settings(deadline=None)
@given(data=st.data())
def test_random_columns_are_a_correct_map_or_malformed(data: st.DataObject) -> None:
    number = st.integers(-3, 40) | st.sampled_from([2**62, 2**63 - 1, -(2**63)])
    columns = [array("q", data.draw(st.lists(number, max_size=4))).tobytes() for _ in range(3)]
    which = array("H", data.draw(st.lists(st.integers(0, 3), max_size=4))).tobytes()
    size = data.draw(number)
    claim = Linear(size=size, logical=columns[0], length=columns[1], target=columns[2], which=which)
    lowers = [Memory(bytes(range(20))), Memory(bytes(range(100, 130)))]
    try:
        source = build([claim], lowers, "test")
    except Malformed:
        return
    assert source.size == size
    if size < 1000:
        assert len(resolve(source.plan(0, size))) == size


@pytest.mark.slow
@settings(deadline=None)
@given(
    size=st.integers(-1, 200),
    unit=st.integers(-1, 60),
    table=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 70), max_size=6),
    groups=st.lists(st.tuples(st.integers(-1, 5), st.integers(-1, 70), st.integers(-1, 70)), max_size=3),
)
def test_a_hostile_unit_table_is_malformed_or_plans_inside_its_source(size, unit, table, groups) -> None:
    columns = [array("q", column).tobytes() for column in zip(*groups, strict=True)] or [b"", b"", b""]
    claim = Chunked(
        size=size,
        unit=unit,
        codec=Codec("ewf"),
        table=array("I", table).tobytes(),
        first=columns[0],
        base=columns[1],
        ends=columns[2],
    )
    try:
        source = build([claim], [Memory(bytes(64))], "test")
    except Malformed:
        return
    pieces = source.plan(0, size)
    assert sum(piece.length for piece in pieces) == size
    for piece in pieces:
        if isinstance(piece, Coded):
            stored = piece.unit.pieces
            assert all(p.offset >= 0 and p.offset + p.length <= 64 for p in stored if isinstance(p, Bytes))


@pytest.mark.slow
@settings(deadline=None)
@given(
    size=st.integers(-1, 200),
    unit=st.integers(-1, 60),
    which=st.integers(-1, 2),
    table=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 70) | st.just(9 | 1 << 32), max_size=12),
)
def test_hostile_rows_are_malformed_or_plan_inside_their_source(size, unit, which, table) -> None:
    rows = array("Q", table).tobytes()
    claim = Packed(size=size, unit=unit, codec=Codec("deflate"), table=rows, which=which)
    try:
        source = build([claim], [Memory(bytes(64))], "test")
    except Malformed:
        return
    assert len(rows) == PACKED_ROW * -(-size // unit)
    pieces = source.plan(0, size)
    assert sum(piece.length for piece in pieces) == size
    for piece in pieces:
        stored = piece.unit.pieces if isinstance(piece, Coded) else [piece]
        assert all(p.offset >= 0 and p.offset + p.length <= 64 for p in stored if isinstance(p, Bytes))


def test_layouts_name_tickets_first_and_earlier_layouts_after_them() -> None:
    layouts = [Inline(b"inline"), Linear.of(10, [(0, 4, 1), (4, 6, 0)], [0, 1])]
    source = build(layouts, [Memory(b"ticket")], "test")
    assert bytes(resolve(source.plan(0, 10))) == b"ickeinline"


@pytest.mark.parametrize("layouts", [[], [Foreign(size=5)], [Inline(bytes(limits.INLINE_MAX + 1))]])
def test_a_reply_without_meaning_is_malformed(layouts) -> None:
    with pytest.raises(Malformed):
        build(layouts, [], "test")


def test_an_unknown_codec_is_malformed() -> None:
    one = array("q", [0]).tobytes()
    claim = Chunked(size=1, unit=1, codec=Codec("exec"), table=bytes(4), first=one, base=one, ends=one)
    with pytest.raises(Malformed, match="exec"):
        build([claim], [Memory(b"x")], "test")


def test_rows_of_several_chunked_layouts_follow_each_other_in_the_memory_file() -> None:
    packed = b"".join(c + zlib.adler32(c).to_bytes(4, "little") for c in (b"aaaa", b"bbbb"))
    zero, end = array("q", [0]).tobytes(), array("q", [16]).tobytes()
    claims = [
        Chunked(size=4, unit=4, codec=Codec("ewf"), table=b"", first=zero, base=zero, ends=end)
        for _ in range(2)
    ]
    table = memoryview(array("I", [0, 8]).tobytes())
    source = build(claims, [Memory(packed)], "test", table=table)
    assert bytes(resolve(source.plan(0, 4))) == b"bbbb"
    with pytest.raises(Malformed):
        build([*claims, claims[0]], [Memory(packed)], "test", table=table)


def test_rows_of_both_kinds_of_units_share_the_memory_file() -> None:
    stream = zlib.compressobj(wbits=-12)
    packed = b"aaaa" + zlib.adler32(b"aaaa").to_bytes(4, "little")
    packed += stream.compress(b"zzzz") + stream.flush()
    zero, end = array("q", [0]).tobytes(), array("q", [8]).tobytes()
    claims = [
        Chunked(size=4, unit=4, codec=Codec("ewf"), table=b"", first=zero, base=zero, ends=end),
        Packed(size=4, unit=4, codec=Codec("deflate"), table=b""),
        Linear.of(8, [(0, 4, 0), (4, 4, 0)], [1, 2]),
    ]
    table = memoryview(bytes(4) + array("Q", [8, len(packed) - 8 | 1 << 32]).tobytes())
    source = build(claims, [Memory(packed)], "test", table=table)
    assert bytes(resolve(source.plan(0, 8))) == b"aaaazzzz"


def test_neighbours_in_a_host_file_are_one_piece(tmp_path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(100))
    file = HostFile.open(path)
    claim = Linear.of(40, [(0, 10, 5), (10, 10, 15), (20, 20, 50)])
    source = build([claim], [file], "test")
    assert source.plan(0, 40) == [Stored(file, 5, 20), Stored(file, 50, 20)]
    file.close()


def test_donation_covers_the_source_and_is_refused_for_anything_not_stored(tmp_path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(100))
    file = HostFile.open(path)
    volume = ExtentMap.window(file, 10, 90, "volume")
    stream = build([Linear.of(50, [(0, 10, 5), (10, 20, HOLE), (40, 10, 0)])], [volume], "file")
    assert donation(file) == [(file, 0, 100, 0)]
    assert donation(volume) == [(file, 0, 80, 10)]
    expected = [(file, 0, 10, 15), (file, 10, 20, HOLE), (file, 30, 10, LOST), (file, 40, 10, 10)]
    assert donation(stream) == expected
    assert donation(ExtentMap.concat([volume, Memory(b"x")])) is None
    assert donation(Memory(b"x")) is None
    file.close()


@pytest.mark.slow
def test_a_hundred_thousand_runs_build_quickly_and_plan_in_log_n(tmp_path) -> None:
    path = tmp_path / "image"
    with path.open("wb") as out:
        out.truncate(1 << 40)
    file = HostFile.open(path)
    volume = ExtentMap.window(file, 1 << 20, 1 << 39)
    count = 100_000
    rng = random.Random(1)
    claim = Linear.of(count * 4096, [(i * 4096, 4096, rng.randrange(1 << 20) * 8192) for i in range(count)])
    begin = time.process_time()
    source = build([claim], [volume], "file")
    assert time.process_time() - begin < 0.5
    begin = time.process_time()
    for _ in range(1000):
        source.plan(count * 2048 + 100, count * 2048 + 200)
    assert (time.process_time() - begin) / 1000 < 200e-6
    file.close()


def test_composing_gives_up_before_it_grows_out_of_bounds(monkeypatch) -> None:
    monkeypatch.setattr(limits, "MAX_RUNS", 50)
    below = Memory(bytes(range(200)))
    stripes = ExtentMap.checked(Linear.of(80, [(i * 2, 2, i * 4) for i in range(40)]), [below], "low")
    claim = Linear.of(400, [(i * 80, 80, 0) for i in range(5)])
    stacked = ExtentMap.checked(claim, [stripes], "high")
    assert stacked.compose() is stacked
    assert resolve(stacked.plan(0, 400)) == resolve(stripes.plan(0, 80)) * 5
