"""Laws of stripes: a byte is that of its member, or the sum of its terms, or lost; never anything else."""

from __future__ import annotations

import random
import time
from array import array
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgfs.block import galois
from imgfs.block.build import build
from imgfs.block.codecs import decode
from imgfs.block.extents import ExtentMap
from imgfs.block.fetch import open_fetcher
from imgfs.block.galois import product
from imgfs.block.hostfile import HostFile
from imgfs.block.memory import Memory
from imgfs.block.pieces import Coded, Lost, Stored, Zeros
from imgfs.errors import BadUnit, LostBytes, Malformed, WorkerLied
from imgfs.model import LOST, Codec, Linear, Striped
from imgfs.worker.checks import check_layouts
from tests.block.stacks import UNKNOWN, added, resolve, striped, times
from tests.block.test_maps import check

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1024


def claim(size: int, chunk: int, stride: int, chunks: list[list[tuple[int, int, int]]]) -> Striped:
    """Return a layout of chunks of terms (source, base, factor)."""
    ends, terms = [], []
    for chunk_terms in chunks:
        terms += chunk_terms
        ends.append(len(terms))
    return Striped(
        size=size,
        chunk=chunk,
        stride=stride,
        ends=array("I", ends).tobytes(),
        which=array("H", [term[0] for term in terms]).tobytes(),
        base=array("q", [term[1] for term in terms]).tobytes(),
        factor=bytes(term[2] for term in terms),
    )


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_pattern_reads_as_the_model(seed: int) -> None:
    rng = random.Random(seed)
    data = rng.randbytes(90)
    content = striped(rng, [part(rng, data), part(rng, data)])
    check(content, rng)


def part(rng: random.Random, data: bytes):
    """Return bytes of which some may be lost."""
    from tests.block.stacks import Content

    cut = rng.randrange(len(data))
    rows = [(0, cut, 0)] if cut else []
    rows.append((cut, len(data) - cut, rng.choice([LOST, cut, cut, cut])))
    model = list(data[:cut]) + ([UNKNOWN] * (len(data) - cut) if rows[-1][2] == LOST else list(data[cut:]))
    return Content(ExtentMap.checked(Linear.of(len(data), rows), [Memory(data)], "test"), model)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_hostile_columns_are_refused_alike_by_both_checks_or_plan_inside_their_sources(data) -> None:
    number = st.integers(-2, 3) | st.sampled_from([512, 1024, 4096, 2**31, 2**62, 2**63 - 1, -(2**63)])
    some = Striped(
        size=data.draw(number),
        chunk=data.draw(number | st.just(512)),
        stride=data.draw(number),
        ends=array("I", data.draw(st.lists(st.integers(0, 4), max_size=4))).tobytes(),
        which=array("H", data.draw(st.lists(st.integers(0, 2), max_size=4))).tobytes(),
        base=array("q", data.draw(st.lists(number, max_size=4))).tobytes(),
        factor=bytes(data.draw(st.lists(st.integers(0, 3), max_size=4))),
    )
    lowers = [Memory(bytes(4096)), Memory(bytes(700))]
    try:
        source = build([some], lowers, "test")
    except Malformed:
        with pytest.raises(WorkerLied):
            check_layouts([some], [4096, 700])
        return
    check_layouts([some], [4096, 700])
    shown = min(source.size, 100_000)
    pieces = source.plan(source.size - shown, source.size) + source.plan(0, shown)
    assert sum(piece.length for piece in pieces) == 2 * shown
    resolve(pieces)


@pytest.mark.parametrize(
    "wrong",
    [
        claim(1024, 512, 512, [[(0, 0, 1)], [(2, 0, 1)]]),
        claim(1024, 512, 512, [[(0, 0, 1)], [(0, 3585, 1)]]),
        claim(1024, 512, 512, [[(0, 0, 0)]]),
        claim(4097, 512, 512, [[(0, 0, 1)]]),
        claim(1024, 500, 512, [[(0, 0, 1)]]),
        claim(1024, 512, 512, []),
        claim(512, 512, 512, [[(0, 0, 1)] * 2049]),
        claim(2**62, 512, 0, [[]]),
    ],
)
def test_what_leaves_its_source_or_means_nothing_is_malformed(wrong: Striped) -> None:
    with pytest.raises(Malformed):
        build([wrong], [Memory(bytes(4096)), Memory(bytes(700))], "test")
    with pytest.raises(WorkerLied):
        check_layouts([wrong], [4096, 700])


def test_the_last_chunk_may_be_shorter_and_the_round_before_reach_further() -> None:
    layout = claim(512 * 3 + 100, 512, 512, [[(0, 0, 1)], [(0, 1024, 1)]])
    data = random.Random(1).randbytes(2048)
    source = build([layout], [Memory(data)], "test")
    expected = data[:512] + data[1024:1536] + data[512:1024] + data[1536:1636]
    assert bytes(resolve(source.plan(0, source.size))) == expected
    with pytest.raises(Malformed):
        build([layout], [Memory(data[:1635])], "test")


def test_neighbouring_chunks_of_a_member_are_one_piece(tmp_path: Path) -> None:
    file = member(tmp_path / "member", bytes(64 * KIB))
    window = ExtentMap.window(file, 4 * KIB, 64 * KIB, "slot")
    source = build([claim(16 * KIB, 4 * KIB, 4 * KIB, [[(0, 4 * KIB, 1)]])], [window], "test")
    assert source.plan(100, 16 * KIB) == [Stored(file, 8 * KIB + 100, 16 * KIB - 100)]
    file.close()


def test_a_sum_is_lost_in_blocks_where_a_term_is() -> None:
    data = random.Random(2).randbytes(64 * KIB)
    damaged = Linear.of(64 * KIB, [(0, 10_000, 0), (10_000, 300, LOST), (10_300, 64 * KIB - 10_300, 10_300)])
    layouts = [damaged, claim(64 * KIB, 64 * KIB, 64 * KIB, [[(0, 0, 1), (1, 0, 7)]])]
    source = build(layouts, [Memory(data)], "test")
    pieces = source.plan(0, 64 * KIB)
    lost = [piece for piece in pieces if isinstance(piece, Lost)]
    assert [piece.length for piece in lost] == [4096]
    assert resolve(source.plan(0, 8192)) == added(data[:8192] * 2, b"\1\7", 8192)


def test_units_of_one_source_differ_by_their_keys() -> None:
    layout = claim(1 << 20, 200 * KIB, 200 * KIB, [[(0, 0, 1), (0, 0, 2)], [(0, 0, 3)]])
    source = build([layout], [Memory(bytes(1 << 20))], "test")
    pieces = source.plan(0, 1 << 20)
    assert all(isinstance(piece, Coded) for piece in pieces)
    assert len({piece.unit.key for piece in pieces}) == len(pieces)
    again = source.plan(70 * KIB, 71 * KIB)
    assert [piece.unit for piece in again] == [pieces[1].unit]


def member(path: Path, data: bytes) -> HostFile:
    path.write_bytes(data)
    return HostFile.open(path)


@pytest.mark.trio
async def test_a_set_with_a_member_missing_is_fetched_from_the_others(tmp_path: Path) -> None:
    rng = random.Random(3)
    chunk, rounds = 64 * KIB, 5
    data = rng.randbytes(2 * chunk * rounds)
    parts = [data[at : at + chunk] for at in range(0, len(data), chunk)]
    first = b"".join(parts[::2])
    parity = b"".join(
        bytes(added(a + b, b"\1\1", chunk)) for a, b in zip(parts[::2], parts[1::2], strict=True)
    )
    files = [member(tmp_path / "a", first), member(tmp_path / "p", parity)]
    layout = claim(len(data), chunk, chunk, [[(0, 0, 1)], [(0, 0, 1), (1, 0, 1)]])
    source = build([layout], files, "test")
    async with open_fetcher() as fetcher:
        assert bytes(await fetcher.fetch(source, 0, len(data))) == data
        for _ in range(50):
            start, stop = sorted(rng.choices(range(len(data) + 1), k=2))
            assert bytes(await fetcher.fetch(source, start, stop)) == data[start:stop]
        gone = Linear.of(len(first), [(0, 100, 0), (700, len(first) - 700, 700)])
        damaged = build(
            [gone, claim(len(data), chunk, chunk, [[(2, 0, 1)], [(2, 0, 1), (1, 0, 1)]])], files, "t"
        )
        with pytest.raises(LostBytes):
            await fetcher.fetch(damaged, chunk, chunk + 1)
        assert bytes(await fetcher.fetch(damaged, chunk + 4096, 2 * chunk)) == data[chunk + 4096 : 2 * chunk]
    for file in files:
        file.close()


def test_the_codec_adds_and_multiplies() -> None:
    rng = random.Random(4)
    for length in (0, 1, 7, 4095, 4096, 4097, 20_000):
        for factors in (b"\1", b"\2", b"\1\1\1", b"\1\x8e\xff", bytes(rng.choices(range(1, 256), k=30))):
            stored = rng.randbytes(len(factors) * length)
            codec = Codec("galois", {"factors": factors})
            block = decode(codec, memoryview(stored), True, length)
            assert list(block) == added(stored, factors, length)
            assert galois.added(memoryview(stored), factors, length) == block
    assert all(product(a, b) == times(a, b) for a in range(256) for b in range(256))


@pytest.mark.parametrize("factors", [b"", 3, None, b"\1", b"\1\1\1"])
def test_terms_that_are_none_are_a_bad_unit(factors) -> None:
    codec = Codec("galois", {} if factors is None else {"factors": factors})
    with pytest.raises(BadUnit):
        decode(codec, memoryview(bytes(20)), True, 10)


def test_holes_are_terms_of_zeros() -> None:
    data = bytes(range(256)) * 2
    layouts = [Linear.of(512, [(0, 512, -1)]), claim(512, 512, 0, [[(0, 0, 1), (1, 0, 1)]])]
    source = build(layouts, [Memory(data)], "test")
    assert bytes(resolve(source.plan(0, 512))) == data
    assert any(isinstance(piece, Zeros) for piece in source.plan(0, 512)[0].unit.pieces)


def test_sums_of_sums_and_maps_on_maps_are_bounded() -> None:
    twice = [claim(512, 512, 0, [[(number, 0, 1), (number, 0, 2)]]) for number in range(40)]
    with pytest.raises(Malformed, match="4096 terms"):
        build(twice, [Memory(bytes(512))], "test")
    assert build(twice[:8], [Memory(bytes(512))], "test").plan(0, 512)
    through = []
    for number in range(0, 80, 2):
        through.append(claim(512, 512, 0, [[(number, 0, 1), (number, 0, 2)]]))
        through.append(Linear.of(512, [(0, 256, 256), (256, 256, 0)], [number + 1, number + 1]))
    with pytest.raises(Malformed, match="4096 terms"):
        build(through, [Memory(bytes(512))], "test")
    deep = [claim(512, 512, 0, [[(number, 0, 1)]]) for number in range(200)]
    with pytest.raises(Malformed, match="layers"):
        build(deep, [Memory(bytes(512))], "test")


def test_many_layouts_are_checked_in_time_that_grows_as_they_do() -> None:
    """Processor time of ten times as many: what grows with the square would take a hundred times as long."""
    spent = []
    for count in (1_000, 10_000):
        many = [claim(512, 512, 0, [[(0, 0, 1)]]) for _ in range(count)]
        runs = [(512 * n, 512, 0) for n in range(count)]
        many.append(Linear.of(512 * count, runs, range(1, count + 1)))
        begin = time.process_time()
        source = build(many, [Memory(bytes(512))], "test")
        check_layouts(many, [512])
        spent.append(time.process_time() - begin)
        assert sum(piece.length for piece in source.plan(0, source.size)) == source.size
    assert spent[1] < 40 * spent[0] + 0.1
