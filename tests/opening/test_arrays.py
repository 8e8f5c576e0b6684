"""Arrays through a mount: members of several disks become one, with what is in it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.guest.arrays import load
from tests.guest.pattern import data
from tests.peers import layers, watched

RECORDED = Path(__file__).parent.parent / "recorded" / "md-files.xz"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def arrays(tmp_path_factory):
    return load(RECORDED, tmp_path_factory.mktemp("arrays"))


def check(point: Path, name: str, size: int, truth) -> None:
    """Compare the array and the files in it with what the guest read and wrote."""
    (raw,) = (path for path in point.glob(f"*/*{name}/volume.raw"))
    assert hashlib.sha256(raw.read_bytes()).hexdigest() == truth["sha256"]
    for file in ("one", "two", "three"):
        (path,) = raw.parent.glob(f"root/{file}")
        assert path.read_bytes() == data(f"{name}-{file}", 0, size)


@pytest.mark.parametrize("missing", [None, 0, 3])
def test_the_members_of_an_array_are_a_disk_of_its_own(arrays, missing, tmp_path: Path) -> None:
    paths, truth = arrays["files5"]
    given = [path for number, path in enumerate(paths) if number != missing]
    with watched(*given, at=tmp_path / "m") as point:
        check(point, "files5", 300 << 10, truth)
        notes = [note for layer in layers(point, backend="md") for note in layer["notes"]]
        assert any("missing: member" in note for note in notes) == (missing is not None)


def test_too_few_members_are_errors_to_read(arrays, tmp_path: Path) -> None:
    paths, _ = arrays["files5"]
    with watched(*paths[:2], at=tmp_path / "m") as point:
        (raw,) = point.glob("*/*files5/volume.raw")
        with pytest.raises(OSError, match="Input/output"):
            raw.read_bytes()


@pytest.mark.parametrize("number", [0, 1])
def test_one_side_of_a_mirror_is_found_far_from_the_end(arrays, number: int, tmp_path: Path) -> None:
    paths, truth = arrays["files1"]
    with watched(paths[number], at=tmp_path / "m") as point:
        (raw,) = point.glob("*/00-md.*/volume.raw")
        assert hashlib.sha256(raw.read_bytes()).hexdigest() == truth["sha256"]
        for file in ("one", "two", "three"):
            assert (raw.parent / "root" / file).read_bytes() == data(f"files1-{file}", 0, 200 << 10)
