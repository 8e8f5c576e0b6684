from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from imgfs import limits
from imgfs.model import Attr, Entry, Kind, Page, Spec
from imgfs.tree.dircache import DirCache
from imgfs.tree.filesystem import FileSystem
from imgfs.tree.walk import Walk


def walk(tree: dict[int, list[int]], folder: int, state: Walk) -> list[tuple[int, int | None]]:
    seen = [(folder, state.listed(folder, tree.get(folder, [])))]
    for inner in tree.get(folder, []):
        seen += walk(tree, inner, state)
    return seen


def test_a_walk_in_order_is_followed_to_its_end() -> None:
    tree = {2: [10, 20, 30], 10: [11, 12], 12: [13], 30: [31]}
    seen = walk(tree, 2, Walk())
    order = [folder for folder, _ in seen]
    guesses = [guess for _, guess in seen]
    assert order == [2, 10, 11, 12, 13, 20, 30, 31]
    assert guesses[1:-1] == order[2:]
    assert guesses[-1] is None


def test_a_reader_that_jumps_about_is_left_alone() -> None:
    state = Walk()
    state.listed(2, [10, 20, 30, 40])
    assert state.listed(30, []) is None
    assert state.listed(10, []) is None
    assert state.listed(40, []) is None


def test_a_cycle_of_directories_ends() -> None:
    state = Walk()
    assert [state.listed(5, [5]) for _ in range(3)] == [None, 5, 5]
    assert state.listed(5, []) is None


@pytest.mark.trio
async def test_each_tree_of_a_file_system_is_followed_for_itself() -> None:
    folders = {0: {2: [10, 20], 10: [11]}, 7: {2: [20, 10], 20: [21]}}
    asked: list[tuple[int, int]] = []

    async def rows(tree: int, inum: int, cursor: int, limit: int) -> Page:
        assert (cursor, limit) == (0, limits.PAGE_ENTRIES)
        asked.append((tree, inum))
        inner = folders[tree].get(inum, [])
        return Page([Entry(b"%d" % number, Attr(kind=Kind.DIR, inum=number)) for number in inner], -1)

    async with trio.open_nursery() as nursery:
        tree = SimpleNamespace(dircache=DirCache(), background=nursery.start_soon)
        client = SimpleNamespace(list=rows)
        fs = FileSystem(cast("Any", tree), 1, cast("Any", client), [], Spec("test"))
        for number, folder in ((0, 2), (7, 2), (0, 10), (7, 20)):
            listing = fs.listing(number, folder)
            await listing.at_least(1)
            fs.walked(number, folder, listing)
    assert asked[:4] == [(0, 2), (7, 2), (0, 10), (7, 20)]
    assert sorted(asked[4:]) == [(0, 11), (7, 21)]
