"""Laws of LVM2 that no tool's image shows: texts, rings, damage, cycles, sizes that mean nothing."""

from __future__ import annotations

import contextlib
import random
import time
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgfs.backends import Options
from imgfs.backends._crc32c import crc32c, crc32c_all
from imgfs.backends._lvm2_text import parse
from imgfs.backends.lvm2 import open_lvm2
from imgfs.block.build import build_all
from imgfs.block.memory import Memory
from imgfs.errors import Malformed, NeedMembers
from imgfs.layouts import HOLE, LOST, Linear
from imgfs.model import SlotKind
from imgfs.testing.fakes import MemoryReader
from imgfs.worker import wire
from imgfs.worker.checks import check_opened
from tests.backends import lvmcompose as compose
from tests.backends.lvmcompose import EXTENT, FIRST, linear, member, reader, text

FINAL = Options(final=True)


def opened(*readers: MemoryReader):
    """Open a set within the time a worker has; the daemon would accept the answer."""
    first = readers[0]
    first.others = readers[1:]
    begin = time.monotonic()
    table = open_lvm2(first, FINAL)
    assert time.monotonic() - begin < 10
    check_opened(wire.OpenReply(opened=table, table=len(first.table)), [each.size for each in readers])
    return table


def runs(table, name: str, memory: bytes = b"") -> list[tuple[int, int, int]]:
    """Return the runs of a volume that is linear."""
    volume = next(volume for volume in table.volumes if volume.label == name)
    layout = table.layouts[volume.layout]
    assert isinstance(layout, Linear)
    columns = [array("q", column) for column in (layout.logical, layout.length, layout.target)]
    return list(zip(*columns, strict=True))


def labels(table) -> list[str]:
    return [volume.label for volume in table.volumes if volume.kind is SlotKind.ALLOCATED]


def test_texts_are_parsed_as_their_grammar_says() -> None:
    found = parse(
        b'# comment { } "\na = 1\nb="x \\"y\\" \\\\"# more\n'
        b'c { d = [ "e", 2,3 ] f = [] g { } h=-4 i = 0.5 }\n\0\0'
    )
    assert found == {"a": 1, "b": 'x "y" \\', "c": {"d": ["e", 2, 3], "f": [], "g": {}, "h": -4, "i": "0.5"}}


@pytest.mark.parametrize(
    "bad",
    [
        *(b"a", b"a =", b"a = {", b"{", b"}", b"a {", b"a = [1", b"a = 1 2", b'"a" = 1', b"a = b", b'a = "'),
        *(b"a = [[1]]", b"a {" * 20, b"a = 1 \xff", b"a = " + b"9" * 40),
    ],
)
def test_texts_that_are_none_are_refused(bad: bytes) -> None:
    with pytest.raises(Malformed):
        parse(bad)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"a", b"=", b"{", b"}", b"[", b"]", b'"', b"\\", b"#", b"\n", b" ", b"1", b","])
    )
)
def test_any_text_is_parsed_or_refused(words: list[bytes]) -> None:
    try:
        parse(b"".join(words))
    except Malformed as why:
        assert why.message


@pytest.mark.parametrize(
    "hostile", [b"#" * 2_000_000, b"# " * 900_000, b'"\\' * 900_000, b"a{" * 900_000, b"[," * 99]
)
def test_hostile_texts_cost_no_time(hostile: bytes) -> None:
    begin = time.monotonic()
    for end in (b"", b"\n\xff", b'"'):
        with contextlib.suppress(Malformed):
            parse(b"a = 1 " + hostile + end)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("sector", range(4))
@pytest.mark.parametrize("at", [512, 8192, FIRST - compose.AREA - 100])
def test_labels_lie_in_four_sectors_and_texts_anywhere_in_their_ring(sector: int, at: int) -> None:
    written = text({"one": [linear(0, 3, "pv0", 7), linear(3, 2, "pv0", 1)]})
    table = opened(reader(written, sector=sector, at=at))
    assert runs(table, "one") == [
        (0, 3 * EXTENT, FIRST + 7 * EXTENT),
        (3 * EXTENT, 2 * EXTENT, FIRST + EXTENT),
    ]
    assert table.volumes[0].created_ns == 1_600_000_000_000_000_000


def test_the_newest_intact_metadata_counts_and_who_left_is_said() -> None:
    old = text({"one": [linear(0, 3, "pv0", 0)]}, physical=2, seqno=4)
    new = text({"two": [linear(0, 3, "pv0", 0)]}, physical=1, seqno=7)
    table = opened(reader(old, 1), reader(new, 0))
    assert labels(table) == ["two"]
    assert any("left the group" in note for note in table.notes)
    table = opened(reader(old, 1), MemoryReader(member(b"", 0)))
    assert labels(table) == ["one"]
    assert runs(table, "one") == [(0, 3 * EXTENT, FIRST)]


def test_of_two_copies_of_a_disk_the_newer_one_is_read() -> None:
    old, new = (reader(text({f"v{n}": [linear(0, 3, "pv0", n)]}, seqno=n)) for n in (4, 7))
    for order in ([old, new], [new, old]):
        table = opened(*order)
        which = array("H", table.layouts[0].which)
        assert labels(table) == ["v7"]
        assert order[which[0]] is new
        assert any("once more" in note for note in table.notes)


def test_orphans_are_said() -> None:
    table = opened(reader(b""))
    assert not table.volumes
    assert any("belongs to no group" in note for note in table.notes)
    assert not open_lvm2(reader(b""), Options()).volumes
    damaged = bytearray(member(text({})))
    damaged[compose.AREA + 600] ^= 1
    with pytest.raises(NeedMembers):
        open_lvm2(MemoryReader(bytes(damaged)), Options())


def test_what_leaves_a_disk_is_lost() -> None:
    written = text({"one": [linear(0, 8, "pv0", 60)], "two": [linear(0, 2, "pv0", 1 << 40)]}, extents=66)
    table = opened(reader(written, size=FIRST + 62 * EXTENT))
    assert runs(table, "one") == [(0, 2 * EXTENT, FIRST + 60 * EXTENT), (2 * EXTENT, 6 * EXTENT, LOST)]
    assert runs(table, "two") == [(0, 2 * EXTENT, LOST)]
    assert sum("lost" in note for note in table.notes) == 2


def stripes(count: int, names: list[str], **more: int) -> str:
    areas = ", ".join(f'"{name}", 0' for name in names)
    rest = "\n".join(f"{key} = {value}" for key, value in more.items())
    return f'start_extent = 0\nextent_count = {count}\ntype = "striped"\nstripes = [{areas}]\n{rest}'


KINDS = (
    *("striped", "mirror", "raid0", "raid1", "raid5", "raid6_nc", "raid10", "raid99", "thin", "thin-pool"),
    *("cache", "cache-pool", "snapshot", "zero", "error", "vdo", "writecache", "integrity", "none"),
)
MANY = ", ".join(['"m", "z"'] * 64)


def bare(kind: str, more: str = "") -> str:
    return f'start_extent = 0\nextent_count = 60\ntype = "{kind}"\n{more}'


def towers(width: int, height: int) -> dict[str, list[str]]:
    """Return volumes each of which lies ``width`` times in the next."""
    found = {"l0": [linear(0, 1, "pv0", 0), linear(1, 1, "pv0", 2)]}
    for level in range(1, height):
        below = 2 * width ** (level - 1)
        found[f"l{level}"] = [linear(below * n, below, f"l{level - 1}", 0) for n in range(width)]
    return found


HOSTILE = {
    "itself": {"a": [linear(0, 2, "a", 0)]},
    "each other": {"a": [linear(0, 2, "b", 0)], "b": [linear(0, 2, "a", 0)]},
    "nobody": {"a": [linear(0, 2, "missing", 0)]},
    "deep": {f"l{n}": [linear(0, 2, f"l{n + 1}", 0)] for n in range(500)},
    "doubled": towers(2, 40),
    "wide": towers(100, 7),
    "huge": {"a": [linear(0, (1 << 63) // EXTENT - 1, "pv0", 0)], "b": [linear(0, 1 << 62, "pv0", 0)]},
    "overlapping": {"a": [linear(0, 2, "pv0", 0), linear(1, 2, "pv0", 0)], "b": [linear(5, 2, "pv0", 0)]},
    "no chunk": {"a": [stripes(2, ["pv0", "pv0"])], "b": [stripes(2, ["pv0", "pv0"], stripe_size=3)]},
    "odd": {
        "a": [stripes(3, ["pv0"] * 2, stripe_size=8)],
        "b": [stripes(1 << 45, ["pv0"] * 2, stripe_size=1)],
    },
    "kinds": {f"k{kind}": [bare(kind)] for kind in KINDS},
    "raid": {
        "a": [bare("raid6", f"device_count = 64\nstripe_size = 8\nraids = [{MANY}]")],
        "z": [linear(0, 1, "pv0", 0)],
        "m": [linear(0, 1, "pv0", 1)],
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_groups_cost_neither_time_nor_memory_nor_each_other(name: str) -> None:
    written = text({**HOSTILE[name], "good": [linear(0, 2, "pv0", 5)]})
    one = reader(written)
    table = opened(one)
    assert runs(table, "good") == [(0, 2 * EXTENT, FIRST + 5 * EXTENT)]
    begin = time.monotonic()
    build_all(table.layouts, [Memory(bytes(one.size))], "test", table=memoryview(one.table))
    assert time.monotonic() - begin < 20


@pytest.mark.slow
def test_thousands_of_volumes_are_read_in_time() -> None:
    written = text({f"v{n}": [linear(i, 1, "pv0", (n + 7 * i) % 64) for i in range(3)] for n in range(3000)})
    area = 4 << 20
    table = opened(reader(written, area=area, size=area + FIRST + 64 * EXTENT))
    assert len(labels(table)) == 3000


def thin(mappings: dict[int, int], size: int, *, spoil: int = -1, data: int = 40, flags: int = 0):
    """Open a pool whose device 1 has these mappings; ``spoil``: a block of its metadata with a wrong bit."""
    made = compose.Metadata()
    root = made.device(mappings)
    leaves = len(made.blocks)
    blocks = bytearray(made.done({1: root}, flags=flags))
    if spoil >= 0:
        blocks[spoil * compose.BLOCK + 100] ^= 4
    metadata = -(-len(blocks) // EXTENT)
    written = text(compose.pool({"t": 1, "other": 2}, size, metadata, data), extents=metadata + data)
    one = reader(written, data=bytes(blocks), size=FIRST + (metadata + data) * EXTENT)
    return opened(one), one, FIRST + metadata * EXTENT, leaves


def test_thin_volumes_have_holes_and_what_leaves_the_pool_is_lost() -> None:
    table, _, base, _ = thin({0: 5, 1: 6, 2: 30, 9: 39, 10: 40, 11: 1 << 38, 99: 1}, 16)
    assert runs(table, "t") == [
        (0, 2 * EXTENT, base + 5 * EXTENT),
        (2 * EXTENT, EXTENT, base + 30 * EXTENT),
        (3 * EXTENT, 6 * EXTENT, HOLE),
        (9 * EXTENT, EXTENT, base + 39 * EXTENT),
        (10 * EXTENT, 2 * EXTENT, LOST),
        (12 * EXTENT, 4 * EXTENT, HOLE),
    ]
    assert runs(table, "other") == [(0, 16 * EXTENT, LOST)]
    assert any("device 2 is not in the pool" in note for note in table.notes)
    made = compose.Metadata()
    blocks = made.done({number: made.device({0: 1}) for number in (1, 7, 9)})
    table = opened(reader(text(compose.pool({"t": 1}, 4, 1, 9)), data=blocks))
    assert "pool: 2 devices of the pool are no volumes of the group: 7, 9" in table.notes


def test_a_damaged_node_costs_the_keys_beneath_it() -> None:
    rng = random.Random(1)
    places = {key: rng.randrange(40) for key in range(0, 4000, 2)}
    whole, _, _, leaves = thin(places, 4000, flags=1)
    assert any("asks for a check" in note for note in whole.notes)
    good = runs(whole, "t")
    for spoil in range(1, leaves - 1):
        table, _, _, _ = thin(places, 4000, spoil=spoil)
        found = runs(table, "t")
        lost = [(at, at + length) for at, length, target in found if target == LOST]
        assert lost
        assert any("damaged" in note for note in table.notes)
        kept = [row for row in found if row[2] != LOST]
        assert {row for row in kept if row[2] >= 0} <= set(good)
        assert sum(stop - start for start, stop in lost) <= 1010 * EXTENT
    for spoil in (0, leaves - 1):  # the superblock, the root of the device
        table, _, _, _ = thin(places, 4000, spoil=spoil)
        assert runs(table, "t") == [(0, 4000 * EXTENT, LOST)]


@pytest.mark.slow
def test_a_large_pool_is_read_in_time() -> None:
    rng = random.Random(1)
    count = 300_000
    table, one, _, _ = thin({key: rng.randrange(40) for key in range(count)}, count)
    layout = table.layouts[next(volume.layout for volume in table.volumes if volume.label == "t")]
    assert layout.rows > count // 2
    assert len(one.table) == 26 * layout.rows
    assert not [note for note in table.notes if "lost" in note and note.startswith("t:")]


def test_checksums_of_many_blocks_are_those_of_each() -> None:
    rng = random.Random(1)
    for count, length in ((1, 9), (3, 0), (7, 300)):
        blocks = [rng.randbytes(length) for _ in range(count)]
        assert list(crc32c_all(blocks)) == [crc32c(block) for block in blocks]
