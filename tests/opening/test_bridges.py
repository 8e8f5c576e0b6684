"""Discs with two file systems over the same files: both are shown, on a whole disc and in a slot."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.backends.tskimages import need, noise, run
from tests.peers import watched
from tests.recipes import MIB, gpt_bytes

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_both_trees_of_a_bridge_are_shown(tmp_path: Path) -> None:
    need("genisoimage")
    tree, disc, disk = tmp_path / "tree", tmp_path / "disc.iso", tmp_path / "disk.img"
    tree.mkdir()
    data = noise(300_001)
    (tree / "a long name.bin").write_bytes(data)
    run("genisoimage", "-quiet", "-R", "-J", "-udf", "-o", disc, tree)
    size = disc.stat().st_size
    head = gpt_bytes(4 * MIB, [(2048, 2048 + size // 512 - 1)])
    held = head + bytes(MIB - len(head)) + disc.read_bytes()
    disk.write_bytes(held + bytes(4 * MIB - len(held)))
    with watched(disc, disk, at=tmp_path / "at") as point:
        whole = point / "disc.iso"
        assert sorted(os.listdir(whole)) == ["00-iso9660", "00-udf", "disk.raw"]
        trees = {"root", "joliet", "iso9660"}
        assert set(os.listdir(whole / "00-iso9660")) == {"volume.raw", *trees}
        assert set(os.listdir(whole / "00-udf")) == {"volume.raw", "root"}
        (slot,) = (path for path in (point / "disk.img").iterdir() if path.name.startswith("01-"))
        assert set(os.listdir(slot)) == {"volume.raw", *trees, "udf"}
        shown = [whole / "00-iso9660/root", whole / "00-iso9660/joliet", whole / "00-udf/root"]
        for path in [*shown, slot / "root", slot / "udf"]:
            assert os.listdir(path) == ["a long name.bin"]
            assert (path / "a long name.bin").read_bytes() == data
        assert (slot / "iso9660/A_LONG_N.BIN").read_bytes() == data
        numbers = {os.stat(path / "a long name.bin").st_ino for path in [*shown, slot / "udf"]}
        assert len(numbers) == 4
