from __future__ import annotations

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from imgfs import limits
from imgfs.model import Attr, Entry, Inline, Kind, Page
from imgfs.worker import wire
from imgfs.worker.checks import NAME_MAX, check_page
from imgfs.worker.mending import mended

# numbers around every limit, and far beyond what a message can hold
_EDGES = [
    0,
    1,
    -1,
    1 << 12,
    1 << 31,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    1 << 64,
    1 << 80,
    -(1 << 63),
    -(1 << 63) - 1,
]
_NUMBERS = st.sampled_from([edge + by for edge in _EDGES for by in (-1, 0, 1)])
_ATTRS = st.builds(
    Attr,
    kind=st.sampled_from(Kind),
    inum=_NUMBERS,
    generation=_NUMBERS,
    size=_NUMBERS,
    allocated=_NUMBERS,
    mode=_NUMBERS,
    uid=_NUMBERS,
    gid=_NUMBERS,
    nlink=_NUMBERS,
    m_ns=st.none() | _NUMBERS,
    a_ns=st.none() | _NUMBERS,
    c_ns=st.none() | _NUMBERS,
    b_ns=st.none() | _NUMBERS,
    rdev=_NUMBERS,
    damaged=st.sampled_from(["", "before", "x" * (NAME_MAX + 1)]),
)
_NAMES = st.sampled_from([b"", b"name", b"n" * NAME_MAX, b"n" * (NAME_MAX + 1), b"n" * (5 << 20)])
_LAYOUTS = st.sampled_from([None, (Inline(b"x"),)])
_ENTRIES = st.builds(Entry, name=_NAMES, attr=_ATTRS, stream=_NUMBERS, layout=_LAYOUTS)


@given(st.lists(_ENTRIES, max_size=4))
@example([Entry(b"late", Attr(kind=Kind.REG, inum=5, size=7, m_ns=1 << 65))])
def test_what_is_mended_is_accepted_and_can_be_sent(entries: list[Entry]) -> None:
    page = mended(Page(entries, -1))
    held = msgspec.msgpack.decode(wire.encode(page), type=Page)
    check_page(held, cursor=0, limit=4, tickets=[])
    assert len(held.entries) == len(entries)
    for before, after in zip(entries, page.entries, strict=True):
        assert after == before or after.attr.damaged
        assert after.attr.kind == before.attr.kind
        assert before.name.startswith(after.name)
        assert len(after.name) == min(len(before.name), NAME_MAX)


def test_a_sound_page_is_passed_on_as_it_is() -> None:
    page = Page([Entry(b"n", Attr(kind=Kind.REG, inum=5, size=limits.MAX_SIZE, m_ns=(1 << 64) - 1))], -1)
    assert mended(page) is page


def test_a_number_that_is_none_costs_itself() -> None:
    good = Entry(b"good", Attr(kind=Kind.REG, inum=6, size=1), 0, (Inline(b"x"),))
    late = Entry(
        b"late", Attr(kind=Kind.REG, inum=5, size=7, uid=3, m_ns=1 << 65, a_ns=9), 0, (Inline(b"7 bytes"),)
    )
    one, other = mended(Page([late, good], -1)).entries
    assert other == good
    attr = one.attr
    assert (attr.size, attr.uid, attr.m_ns, attr.a_ns) == (7, 3, None, 9)
    assert one.layout == late.layout
    assert "time" in attr.damaged
