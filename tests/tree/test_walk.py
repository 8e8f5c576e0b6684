from __future__ import annotations

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
