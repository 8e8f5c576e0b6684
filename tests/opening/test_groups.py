"""Volume groups through a mount: disks become one group, whose volumes read as the kernel read them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.backends.lvmimages import load
from tests.peers import layers, watched

pytestmark = pytest.mark.slow


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["linear", "raid", "thin", "snapshot", "cache", "stale"])
def test_a_group_over_several_disks_is_a_disk_of_its_own(name: str, tmp_path: Path) -> None:
    group = load(name, tmp_path)
    with watched(*group.disks.values(), at=tmp_path / "m") as point:
        for volume, (truth, _) in group.truth.items():
            if truth != "-" and (name, volume) not in {("snapshot", "into"), ("snapshot", "merged")}:
                assert digest(point / "many" / volume / "volume.raw") == truth, volume


def test_what_a_missing_disk_held_is_an_error_to_read(tmp_path: Path) -> None:
    group = load("linear", tmp_path)
    given = [path for name, path in group.disks.items() if name != "c"]
    with watched(*given, at=tmp_path / "m") as point:
        assert {path.name for path in (point / "many").iterdir()} >= {"one", "stripes", "two"}
        with pytest.raises(OSError, match="Input/output"):
            (point / "many" / "stripes" / "volume.raw").read_bytes()
        with (point / "many" / "one" / "volume.raw").open("rb") as file:
            assert len(file.read(1 << 20)) == 1 << 20
        notes = [note for layer in layers(point, backend="lvm2") for note in layer["notes"]]
        assert any("pv2" in note and "is missing" in note for note in notes)
