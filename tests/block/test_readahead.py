"""Read-ahead: ranges ahead of a sequential reader, never twice, none after a jump."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from imgfs import limits
from imgfs.block.readahead import Readahead

REQUEST = 128 << 10


def test_a_sequential_reader_gets_a_growing_window_without_gaps_or_repeats() -> None:
    state = Readahead()
    covered = REQUEST
    largest = 0
    for at in range(0, 64 << 20, REQUEST):
        got = state.observe(at, at + REQUEST)
        if got:
            assert got[0] == max(covered, at + REQUEST)
            covered = got[1]
            largest = max(largest, got[1] - (at + REQUEST))
        assert covered >= at + REQUEST
    assert largest == limits.READAHEAD_MAX


def test_requests_that_arrive_slightly_out_of_order_keep_the_window() -> None:
    state = Readahead()
    order = [0, 1, 3, 2, 4, 6, 5, 8, 7, 10, 9, 11]
    got = [state.observe(i * REQUEST, (i + 1) * REQUEST) for i in order]
    ranges = [r for r in got if r]
    assert ranges[-1][1] > 30 * REQUEST
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))


def test_a_jump_resets_the_window() -> None:
    state = Readahead()
    for at in range(0, 8 << 20, REQUEST):
        state.observe(at, at + REQUEST)
    assert state.observe(1 << 40, (1 << 40) + 4096) is None
    first = state.observe((1 << 40) + 4096, (1 << 40) + 8192)
    assert first is not None
    assert first[1] - first[0] <= 2 * REQUEST


def test_random_reads_cause_no_prefetch() -> None:
    state = Readahead()
    assert [state.observe(i * 7919 << 20, (i * 7919 << 20) + 4096) for i in (5, 3, 9, 1, 7)] == [None] * 5


@given(reads=st.lists(st.tuples(st.integers(0, 2**30), st.integers(1, 2**20)), max_size=50))
def test_ranges_lie_behind_the_read_and_are_bounded(reads) -> None:
    state = Readahead()
    for start, length in reads:
        got = state.observe(start, start + length)
        if got:
            assert start + length <= got[0] < got[1] <= start + length + limits.READAHEAD_MAX
