"""What a worker says is refused unless it means something possible."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgfs import errors, limits
from imgfs.model import (
    HOLE,
    LOST,
    Attr,
    Chunked,
    Codec,
    Entry,
    FilesInfo,
    Inline,
    Kind,
    Linear,
    Media,
    Packed,
    Page,
    State,
    TreeInfo,
    Volume,
    VolumeTable,
)
from imgfs.model import SlotKind as Slot
from imgfs.worker import wire
from imgfs.worker.checks import check_attr, check_layouts, check_opened, check_page, check_xattrs

runs = st.lists(st.tuples(st.integers(-2, 60), st.integers(-1, 30), st.integers(-3, 130)), max_size=6)


def legal(size: int, rows: list[tuple[int, int, int]], lower: int) -> bool:
    at = 0
    for logical, length, target in rows:
        if logical < at or length <= 0 or target < LOST or (target >= 0 and target + length > lower):
            return False
        at = logical + length
    return at <= size


@given(st.integers(0, 100), runs, st.integers(0, 120))
def test_runs_are_accepted_exactly_when_they_are_legal(size: int, rows, lower: int) -> None:
    claim = (Linear.of(size, rows),)
    if legal(size, rows, lower):
        check_layouts(claim, [lower])
    else:
        with pytest.raises(errors.WorkerLied):
            check_layouts(claim, [lower])


@given(st.lists(st.binary(max_size=40), min_size=4, max_size=4), st.integers(-10, 1 << 63))
def test_columns_of_any_bytes_never_raise_anything_else(columns, size: int) -> None:
    logical, length, target, which = columns
    try:
        check_layouts(
            [Linear(size=size, logical=logical, length=length, target=target, which=which)], [100, 50]
        )
    except errors.WorkerLied:
        return
    assert len(logical) == len(length) == len(target)


def test_holes_may_be_longer_than_the_source_below() -> None:
    check_layouts([Linear.of(1 << 40, [(0, 1 << 39, HOLE), (1 << 39, 10, 5)])], [20])


def test_an_earlier_layout_can_be_a_source_and_a_later_one_cannot() -> None:
    check_layouts([Inline(b"x" * 10), Linear.of(10, [(0, 10, 0)], [1])], [5])
    with pytest.raises(errors.WorkerLied):
        check_layouts([Linear.of(10, [(0, 10, 0)], [2]), Inline(b"x" * 10)], [5])


def chunked(**changes: object) -> Chunked:
    column = array("q", [0]).tobytes()
    facts = {
        "size": 100,
        "unit": 10,
        "codec": Codec("x"),
        "table": bytes(40),
        "first": column,
        "base": column,
    }
    facts["ends"] = array("q", [90]).tobytes()
    return Chunked(**{**facts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": 0},
        {"unit": limits.MAX_UNIT + 1},
        {"table": bytes(36)},
        {"table": b""},
        {"first": array("q", [1]).tobytes()},
        {"first": b""},
        {"ends": array("q", [101]).tobytes()},
        {"base": array("q", [91]).tobytes()},
        {"which": b"\1\0"},
        {"size": -1},
    ],
)
def test_unit_tables_that_contradict_themselves_are_lies(changes) -> None:
    check_layouts([chunked()], [100])
    check_layouts([chunked(table=b"")], [100], table=40)
    with pytest.raises(errors.WorkerLied):
        check_layouts([chunked(**changes)], [100])


@pytest.mark.parametrize(
    "changes", [{"unit": 0}, {"table": bytes(15)}, {"table": b""}, {"which": 1}, {"which": -1}, {"size": -1}]
)
def test_rows_that_contradict_themselves_are_lies(changes) -> None:
    facts = {"size": 100, "unit": 10, "codec": Codec("x"), "table": bytes(160)}
    check_layouts([Packed(**facts)], [100])
    check_layouts([Packed(**facts | {"table": b""}), chunked(table=b"")], [100], table=200)
    with pytest.raises(errors.WorkerLied):
        check_layouts([Packed(**facts | changes)], [100])
    with pytest.raises(errors.WorkerLied):
        check_layouts([Packed(**facts)], [100], table=160)


@pytest.mark.parametrize(
    "field", ["size", "allocated", "inum", "generation", "rdev", "uid", "gid", "nlink", "mode"]
)
@pytest.mark.parametrize("number", [-1, -(1 << 63), 1 << 63, (1 << 64) - 1])
def test_no_number_leaves_its_c_type(field: str, number: int) -> None:
    facts = {"kind": Kind.REG, "inum": 1, field: number}
    with pytest.raises(errors.WorkerLied):
        check_attr(Attr(**facts))


def test_extreme_numbers_that_fit_are_accepted() -> None:
    top = (1 << 63) - 1
    check_attr(
        Attr(kind=Kind.REG, inum=top, size=top, m_ns=-(1 << 63), b_ns=top, uid=0xFFFF_FFFF, mode=0o7777)
    )


def test_names_may_hold_any_byte_and_pages_must_advance() -> None:
    attr = Attr(kind=Kind.REG, inum=1)
    names = [b"", b"/", b"\0", b"..", b"\xff" * 4096]
    page = Page(entries=[Entry(name, attr) for name in names], next=9)
    check_page(page, cursor=4, limit=5, tickets=[1])
    for cursor, limit in ((9, 5), (10, 5), (4, 4)):
        with pytest.raises(errors.WorkerLied):
            check_page(page, cursor=cursor, limit=limit, tickets=[1])
    with pytest.raises(errors.WorkerLied):
        check_page(Page(entries=[Entry(b"x" * 4097, attr)]), cursor=0, limit=5, tickets=[1])


def test_what_opening_gives_stays_inside_its_source() -> None:
    def volumes(start: int, stop: int) -> wire.OpenReply:
        volume = Volume(slot=1, kind=Slot.ALLOCATED, start=start, stop=stop)
        return wire.OpenReply(opened=VolumeTable(scheme="gpt", sector=512, volumes=(volume,)))

    check_opened(volumes(0, 100), [100])
    check_opened(volumes(0, 101), [100])  # a truncated media: clipped where volumes are placed
    for start, stop in ((-1, 5), (6, 5), (0, 1 << 63)):
        with pytest.raises(errors.WorkerLied):
            check_opened(volumes(start, stop), [100])
    media = Media(layouts=(Inline(b"abc"),), lost=((0, 4, "x"),))
    with pytest.raises(errors.WorkerLied):
        check_opened(wire.OpenReply(opened=media), [100])
    with pytest.raises(errors.WorkerLied):
        check_opened(wire.OpenReply(opened=FilesInfo(type="x", trees=())), [100])
    check_opened(wire.OpenReply(opened=FilesInfo(type="x", trees=(TreeInfo("root", 2),))), [100])
    with pytest.raises(errors.WorkerLied):
        check_xattrs({b"a\0": b""})


@pytest.mark.parametrize(
    "why",
    [
        errors.Malformed("m", start=1, stop=2),
        errors.NotFound("n"),
        errors.NotSupported("later"),
        errors.NotMine("x"),
        errors.NeedKey("k", kinds=("a", "b")),
        errors.NeedMembers("raid", "u", 1, 3),
    ],
)
def test_errors_travel_as_what_they_are(why) -> None:
    back = wire.decode_failure(wire.encode_failure(why))
    assert type(back) is type(why)
    assert str(back) == str(why)


@example(b"\x92\xa4\0\0\0\x80")  # a string that is not UTF-8
@given(st.binary(max_size=200))
def test_failure_messages_of_any_bytes_are_an_error_or_a_lie(payload: bytes) -> None:
    try:
        assert isinstance(wire.decode_failure(payload), Exception)
    except errors.WorkerLied:
        return


def test_no_class_outside_the_list_is_made() -> None:
    with pytest.raises(errors.WorkerLied):
        wire.decode_failure(wire.encode(wire.Failure("SystemExit", "x")))


def test_further_disks_have_keys_that_may_stand_in_an_address() -> None:
    def said(*states: State) -> wire.OpenReply:
        return wire.OpenReply(opened=Media(layouts=(Inline(b"abc"),), states=states))

    states = [State(f"{number}", "a") for number in range(limits.MAX_STATES + 1)]
    check_opened(said(*states[1:]), [100])
    wrong = (states, [*states[:2], states[1]], *([State(key, "a")] for key in ("", "1|x", "1:2", "1" * 17)))
    for lie in wrong:
        with pytest.raises(errors.WorkerLied):
            check_opened(said(*lie), [100])
