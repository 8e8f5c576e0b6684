from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from imgfs.model import SlotKind, Volume
from imgfs.opening.gaps import bounded, gaps

SIZE = 1000


def volume(slot: int, start: int, stop: int, kind: SlotKind = SlotKind.ALLOCATED) -> Volume:
    return Volume(slot=slot, kind=kind, start=start, stop=stop)


tables = st.lists(
    st.builds(
        volume,
        st.integers(0, 200),
        st.integers(0, 2 * SIZE),
        st.integers(0, 2 * SIZE),
        st.sampled_from(list(SlotKind)),
    ),
    max_size=12,
)


def covered(volumes: list[Volume]) -> set[int]:
    return {at for v in volumes for at in range(v.start, min(v.stop, SIZE))}


@given(tables)
def test_gaps_and_volumes_partition_the_media(table: list[Volume]) -> None:
    allocated = covered([v for v in table if v.kind is SlotKind.ALLOCATED])
    found = gaps(table, SIZE)
    assert covered(found) == set(range(SIZE)) - allocated
    assert sum(v.stop - v.start for v in found) == SIZE - len(allocated)


@given(tables)
def test_gaps_are_in_order_whole_and_not_adjacent(table: list[Volume]) -> None:
    found = gaps(table, SIZE)
    assert all(0 <= v.start < v.stop <= SIZE and v.kind is SlotKind.UNALLOCATED for v in found)
    assert all(a.stop < b.start for a, b in itertools.pairwise(found))


@given(tables, st.integers(1, 5))
def test_what_is_shown_lies_on_the_media_and_the_rest_is_said(table: list[Volume], limit: int) -> None:
    shown, remainder, said = bounded(table, SIZE, limit)
    assert len(shown) <= limit
    every = [*shown, *([remainder] if remainder is not None else [])]
    assert all(0 <= v.start < v.stop <= SIZE for v in every)
    allocated = [v for v in table if v.kind is SlotKind.ALLOCATED and v.start < v.stop]
    assert covered(every) >= covered(allocated)
    cut = [v for v in table if v.kind is SlotKind.ALLOCATED and (v.stop > SIZE or v.start >= v.stop)]
    assert not cut or said
