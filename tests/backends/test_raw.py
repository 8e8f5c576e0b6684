"""Split raw images: the segments in order are the media; a missing one is lost and said."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING

import pytest

from imgfs.backends import Options
from imgfs.backends.raw import BACKEND, open_raw, siblings
from imgfs.block.build import build
from imgfs.block.memory import Memory
from imgfs.errors import Malformed, NotMine
from imgfs.testing.fakes import MemoryReader
from imgfs.testing.media import check_media
from tests.block.stacks import UNKNOWN, resolve

if TYPE_CHECKING:
    from imgfs.model import Media

DATA = random.Random(5).randbytes(2500)
PARTS = [DATA[at : at + 1000] for at in range(0, 2500, 1000)]
NAMES = {
    "001": ["d.001", "d.002", "d.003"],
    "000": ["d.000", "d.001", "d.002"],
    "01": ["d.raw.01", "d.raw.02", "d.raw.03"],
    "aa": ["d.aa", "d.ab", "d.ac"],
    "aaa": ["d.aaa", "d.aab", "d.aac"],
}


def opened(names: list[str], parts: list[bytes]) -> tuple[Media, list[int]]:
    others = [MemoryReader(part, name=name) for name, part in zip(names[1:], parts[1:], strict=True)]
    media = open_raw(MemoryReader(parts[0], name=names[0], others=others), Options())
    source = build(media.layouts, [Memory(part) for part in parts], "raw")
    return media, resolve(source.plan(0, source.size))


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_segments_in_any_order_are_the_media(names) -> None:
    assert bytes(opened(names, PARTS)[1]) == DATA
    shuffled = opened([names[0], names[2], names[1]], [PARTS[0], PARTS[2], PARTS[1]])
    assert bytes(shuffled[1]) == DATA
    assert re.fullmatch(BACKEND.by_name, names[0])
    assert all(re.fullmatch(siblings(names[0]), name) for name in names)
    assert not re.fullmatch(siblings(names[0]), "e" + names[1])


def test_a_missing_segment_is_lost_with_the_size_of_the_first_and_said() -> None:
    media, content = opened(["d.001", "d.003"], [PARTS[0], PARTS[2]])
    assert content == [*PARTS[0], *[UNKNOWN] * 1000, *PARTS[2]]
    assert media.lost == ((1000, 2000, "segment 2 is missing"),)
    assert any("segment 2" in note for note in media.notes)


def test_segments_of_different_sizes_are_said() -> None:
    media, content = opened(["d.001", "d.002", "d.003"], [b"long", b"s", b"x"])
    assert bytes(content) == b"longsx"
    assert any("d.002: 1 bytes" in note for note in media.notes)


@pytest.mark.parametrize("name", ["d.raw", "d.002", "d.dd", "001", "d.ab"])
def test_other_names_are_not_mine(name) -> None:
    with pytest.raises(NotMine):
        open_raw(MemoryReader(b"x", name=name, others=[MemoryReader(b"y", name="d.003")]), Options())


def test_a_single_segment_is_not_mine() -> None:
    with pytest.raises(NotMine):
        open_raw(MemoryReader(b"x", name="d.001"), Options())


def test_too_many_missing_segments_are_malformed() -> None:
    with pytest.raises(Malformed):
        opened(["d.00001", "d.99999"], [b"x", b"y"])


def test_the_contract_of_media() -> None:
    files = dict(zip(NAMES["001"], PARTS, strict=True))
    check_media("raw", files, DATA)
