from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from imgfs.tree import names

NAMES = st.binary(max_size=300)


@given(NAMES)
@example(b"")
@example(b".")
@example(b"..")
@example(b"%")
@example(b"%2F")
@example(b"%%2f")
@example(b"../../../etc/passwd")
@example(b"a\0b")
def test_a_name_is_a_legal_entry_and_comes_back(name: bytes) -> None:
    shown = names.escape(name)
    assert shown not in (b"", b".", b"..")
    assert b"/" not in shown
    assert b"\0" not in shown
    assert names.unescape(shown) == name


@given(NAMES, NAMES)
def test_different_names_stay_different(one: bytes, other: bytes) -> None:
    if one != other:
        assert names.escape(one) != names.escape(other)


@given(st.binary(min_size=1, max_size=255))
def test_a_name_without_such_bytes_is_shown_as_it_is(name: bytes) -> None:
    if not set(name) & set(b"/\0%") and name not in (b".", b".."):
        assert names.escape(name) == name


def test_long_names_are_cut_to_what_the_kernel_takes_and_stay_distinct() -> None:
    one, other = names.escape(b"x" * 5000 + b"1"), names.escape(b"x" * 5000 + b"2")
    assert len(one) <= 1024
    assert one != other


def test_a_taken_name_gets_the_inode_number() -> None:
    taken = {b"a": 1, b"a~12": 2}
    assert names.distinct(b"a", 11, taken) == b"a~11"
    assert names.distinct(b"a", 12, taken) == b"a~12-2"


@given(NAMES)
def test_printable_names_cannot_steer_a_terminal(name: bytes) -> None:
    assert names.printable(name).isprintable()
