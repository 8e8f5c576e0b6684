"""HFS+ and HFSX as Linux' kernel wrote and read them.

Recorded by ``python -m tests.guest.shown hfsplus plus cased``. What is the kernel's own: it says when files
and folders were born, not other things; names of attributes of Apple's begin with "osx."; a time before 1970
is one after 2040 to it, where TN1150 counts from 1904 to 2040.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from imgfs.model import HOLE, Kind, Linear
from imgfs.testing.fakes import FileReader
from imgfs.testing.files import check_files, check_hostile, open_files, walk
from tests.backends.compared import Rules, compare
from tests.guest import shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.backends.seen import Seen

RULES = Rules(folders=False, holes=False, more=True)
LAST = (2**32 - 2_082_844_800) * 10**9  # what 32 bits of seconds since 1904 reach
SPECIAL = {b"$ExtentsFile", b"$CatalogFile", b"$BadBlockFile", b"$AllocationFile", b"$AttributesFile"}


def as_apple(truth: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """Return what the kernel shows the way TN1150 and macOS mean it."""
    return {path: _as_apple(seen) for path, seen in truth.items()}


def _as_apple(seen: Seen) -> Seen:
    times = {
        letter: time - 2**32 * 10**9
        for letter in ("m_ns", "a_ns")
        if (time := getattr(seen, letter)) is not None and time >= LAST
    }
    xattrs = {name.removeprefix(b"osx."): value for name, value in seen.xattrs.items()}
    return seen._replace(xattrs=xattrs, **times)


@pytest.mark.slow
@pytest.mark.parametrize(("disk", "kind"), [("plus", "hfs+"), ("cased", "hfsx")])
def test_what_the_kernel_saw_is_shown(tmp_path: Path, disk: str, kind: str) -> None:
    image, trees = shown.load("hfsplus", disk, tmp_path)
    truth = as_apple(trees[disk])
    assert len(truth) > 250
    reader = FileReader(image)
    files = open_files("hfs", reader)
    assert (files.info.type, files.info.label, files.info.notes) == (kind, "BLANK", ())
    compare(files, reader, truth, rules=RULES)
    more = {path for path in walk(files) if path not in truth and b":" not in path}
    inside = {path for path in more if path.startswith(b"\0\0\0\0HFS+ Private Data")}
    assert more - inside == SPECIAL
    assert sum(path.count(b"/iNode") for path in inside) == 2
    reader.close()


@pytest.mark.slow
def test_extents_beyond_the_eighth_are_found(tmp_path: Path) -> None:
    image, _ = shown.load("hfsplus", "plus", tmp_path)
    reader = FileReader(image)
    files = open_files("hfs", reader)
    (layout,) = files.layout(0, walk(files)[b"fragmented"].attr.inum, 0)
    assert isinstance(layout, Linear)
    targets = list(memoryview(layout.target).cast("q"))
    assert len(targets) > 16
    assert HOLE not in targets
    reader.close()


@pytest.mark.slow
def test_names_differ_in_case_where_the_volume_says_so(tmp_path: Path) -> None:
    _, cased = shown.load("hfsplus", "cased", tmp_path)
    _, folded = shown.load("hfsplus", "plus", tmp_path)
    pair = {b"names/CASE", b"names/case"}
    assert pair <= set(cased["cased"])
    assert len(pair & set(folded["plus"])) == 1


@pytest.mark.slow
def test_however_it_is_asked(tmp_path: Path) -> None:
    image, trees = shown.load("hfsplus", "plus", tmp_path)
    check_files(
        "hfs", image, {path: None for path, seen in trees["plus"].items() if path and seen.kind == Kind.DIR}
    )


@pytest.mark.slow
def test_damage_stays_inside_the_contract(tmp_path: Path) -> None:
    image, _ = shown.load("hfsplus", "cased", tmp_path)
    check_hostile("hfs", image, tmp_path, seeds=60)
