from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from imgfs.tree.links import confine

if TYPE_CHECKING:
    from pathlib import Path

PARTS = st.lists(st.sampled_from([b"..", b".", b"", b"a", b"b", b"link"]), max_size=12)


@given(PARTS, st.booleans(), st.integers(0, 6))
def test_a_target_climbs_no_higher_than_its_root(parts: list[bytes], absolute: bool, depth: int) -> None:  # noqa: FBT001
    shown = confine((b"/" if absolute else b"") + b"/".join(parts), depth)
    assert not shown.startswith(b"/")
    pieces = shown.split(b"/")
    ups = pieces.count(b"..")
    assert ups <= depth
    assert pieces[:ups] == [b".."] * ups, "every .. stands in front, where no other link can move it"


def test_targets_resolve_as_in_a_root_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/home/anna").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    for target, found in {
        b"/etc/passwd": "inside",
        b"../../etc/passwd": "inside",
        b"../../../../../etc/passwd": "inside",
        b"/../../secret": None,
        b"../../../secret": None,
        b"x/../../../../../secret": None,
    }.items():
        link = tmp_path / "root/home/anna/link"
        link.unlink(missing_ok=True)
        link.symlink_to(os.fsdecode(confine(target, 2)))
        assert (link.read_text() if link.exists() else None) == found, target


def test_a_link_through_another_link_stays_inside(tmp_path: Path) -> None:
    deep = tmp_path / "root/a/b/c/d/e"
    deep.mkdir(parents=True)
    (tmp_path / "secret").write_text("outside")
    (deep / "x").symlink_to(os.fsdecode(confine(b"/", 5)))
    (deep / "y").symlink_to(os.fsdecode(confine(b"x/../../../../../secret", 5)))
    assert not (deep / "y").exists()
