"""Nodes of APFS' trees: both ways to read their tables, and what is spread over several of them."""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgfs.backends.apfs import toc
from imgfs.backends.apfs.catalog import Catalog
from imgfs.errors import Malformed
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.files import open_files, walk
from tests.backends.apfscompose import BLOCK, DIR, Composer, File, Volume, roots, summed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.apfs.btree import Node

_HALVES = st.integers(0, 80) | st.sampled_from([0xFFFF, 0xFFFE, 200])


@given(
    data=st.binary(min_size=200, max_size=200),
    table=st.lists(st.tuples(_HALVES, _HALVES, _HALVES, _HALVES), max_size=12),
    area=st.integers(100, 200),
    stop=st.integers(100, 200),
    fixed=st.sampled_from([(0, 0), (8, 16), (16, 16), (8, 8)]),
    turn=st.sampled_from([0, 4]),
)
def test_both_ways_through_a_table_agree(
    data: bytes, table: list[tuple[int, ...]], area: int, stop: int, fixed: tuple[int, int], turn: int
) -> None:
    if toc._fast is None:
        pytest.skip("the extension was not built here")
    raw = b"".join(struct.pack("<HH" if fixed[0] else "<HHHH", *row[: 2 if fixed[0] else 4]) for row in table)
    data = raw + data[len(raw) :]
    least = fixed[0] or 8
    asked = (data, 0, len(table), area, stop, least, *fixed, turn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toc, "_fast", None)
        if area > stop:
            with pytest.raises(ValueError, match="within a node"):
                toc.entries(*asked)
        else:
            slow = toc.entries(*asked)
    if area > stop:
        with pytest.raises(ValueError, match="within a node"):
            toc.entries(*asked)
        return
    assert toc.entries(*asked) == slow
    for begin, end, low, high in toc.PLACE.iter_unpack(slow[0]):
        assert area <= begin <= begin + least <= end <= stop
        assert area <= low <= high <= stop


@pytest.mark.parametrize("way", ["extension", "interpreter"])
@pytest.mark.parametrize(
    "asked",
    [(-1, 1, 0, 64, 8, 0, 0), (0, -1, 0, 64, 8, 0, 0), (60, 1, 0, 64, 8, 0, 0), (0, 1 << 40, 0, 64, 8, 0, 0),
     (0, 1, -1, 64, 8, 0, 0), (0, 1, 0, 65, 8, 0, 0), (0, 17, 0, 64, 8, 8, 8)],
)  # fmt: skip
def test_a_table_that_leaves_its_node_is_refused(
    way: str, asked: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "interpreter":
        monkeypatch.setattr(toc, "_fast", None)
    elif toc._fast is None:
        pytest.skip("the extension was not built here")
    with pytest.raises(ValueError, match="within a node"):
        toc.entries(bytes(64), *asked, 4)


@pytest.mark.parametrize("way", ["as found", "by the interpreter"])
def test_attributes_of_one_file_may_fill_several_leaves(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way != "as found":
        monkeypatch.setattr(toc, "_fast", None)
    chance = random.Random(8)
    files = [*roots(), File(16, 2, "all", DIR)]
    for number in range(20, 320):
        count = chance.choice([0, 0, 0, 1, 2, 5, 30, 80])  # 80 of them fill four leaves
        xattrs = {f"name.{n:03d}": chance.randbytes(chance.randrange(200)) for n in range(count)}
        data = chance.randbytes(chance.choice([0, 1, 5000]))
        files.append(File(number, 16, f"file {number}", data=data, xattrs=xattrs))
    image = Composer([Volume("Spread", files)], blocks=8192).image()
    wanted = {file.number: {name.encode(): value for name, value in file.xattrs.items()} for file in files}

    def held() -> dict[int, dict[bytes, bytes]]:
        found: dict[int, dict[bytes, bytes]] = {number: {} for number in wanted if number >= 20}
        opened = open_files("apfs", MemoryReader(image))
        for entry in opened.list(0, 16, 0, 100_000).entries:
            assert not entry.attr.damaged
            if entry.stream:
                assert entry.layout is not None
                name = entry.name.split(b":", 1)[1]
                found[entry.attr.inum][name] = opened.xattrs(0, entry.attr.inum)[name]
            else:
                assert entry.attr.size == len(next(f.data for f in files if f.number == entry.attr.inum))
        return found

    assert held() == {number: xattrs for number, xattrs in wanted.items() if number >= 20}
    opened = open_files("apfs", MemoryReader(image))
    numbers = [file.number for file in files] * 2
    chance.shuffle(numbers)
    catalog: Catalog = opened._states[0].catalog  # type: ignore[attr-defined]
    quick = [catalog.item(number) for number in numbers]

    def slowly(self: Catalog, first: int, stop: int) -> Iterator[tuple[Node, int, int] | str]:
        return self._tree.leaves(first, stop)

    monkeypatch.setattr(Catalog, "_slices", slowly)
    assert [catalog.item(number) for number in numbers] == quick
    assert len(walk(opened, 0)) > len(numbers) // 2


def test_a_node_without_entries_that_should_have_some_is_said() -> None:
    files = [*roots(), *(File(20 + n, 2, f"file {n}") for n in range(300))]
    image = bytearray(Composer([Volume("Empty", files)], blocks=4096).image())
    inner = 0
    for at in range(0, len(image), BLOCK):
        kind, subtype, _, level = struct.unpack_from("<IIHH", image, at + 24)
        if (kind & 0xFFFF, subtype) in ((2, 14), (3, 14)) and level:
            image[at + 36 : at + 40] = bytes(4)  # its number of keys
            image[at : at + BLOCK] = summed(bytes(image[at : at + BLOCK]))
            inner += 1
    assert inner
    opened = open_files("apfs", MemoryReader(bytes(image)))
    catalog: Catalog = opened._states[0].catalog  # type: ignore[attr-defined]
    with pytest.raises(Malformed, match="without entries"):
        catalog.item(25)
    with pytest.raises(Malformed, match="without entries"):
        catalog._tree.leaf(25 << 4)
