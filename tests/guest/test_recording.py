"""Recordings bring back what was recorded; the data of a name is the same wherever it is made."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

from tests.guest import recording
from tests.guest.pattern import BLOCK, data, digest, fill

if TYPE_CHECKING:
    from pathlib import Path


def test_disks_come_back_as_they_were(tmp_path: Path) -> None:
    rng = random.Random(1)
    disk, other = tmp_path / "disk", tmp_path / "other"
    disk.write_bytes(bytes(100 * BLOCK) + rng.randbytes(700))
    fill("known", str(disk), 10 * BLOCK, 30 * BLOCK)
    fill("known", str(disk), 60 * BLOCK + 512, 5 * BLOCK)
    other.write_bytes(data("unknown", 0, 9 * BLOCK) + bytes(5) + b"x")
    path = tmp_path / "recording.xz"
    length = recording.save(path, {"a": disk, "b": other}, {"truth": [1]}, [("known", 100 * BLOCK)])
    assert length == path.stat().st_size < 5 * BLOCK
    folder = tmp_path / "back"
    folder.mkdir()
    disks, truth = recording.load(path, folder)
    assert truth == {"truth": [1]}
    assert disks["a"].read_bytes() == disk.read_bytes()
    assert disks["b"].read_bytes() == other.read_bytes()


def test_data_is_a_function_of_name_and_offset(tmp_path: Path) -> None:
    whole = data("name", 0, 5 * BLOCK)
    assert data("name", 700, 9000) == whole[700:9700]
    assert len({whole[at : at + 512] for at in range(0, len(whole), 512)}) == 40
    path = tmp_path / "file"
    path.write_bytes(bytes(len(whole)))
    fill("name", str(path))
    assert digest(str(path)) == (hashlib.sha256(whole).hexdigest(), len(whole))
    assert hashlib.sha256(whole).hexdigest().startswith("9c81be6669881ac5")
