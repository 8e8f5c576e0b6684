"""btrfs as the kernel wrote and read it, recorded: profiles, compression, missing and damaged devices."""

from __future__ import annotations

import hashlib
import os
import random
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgfs.errors import ImgfsError, Malformed, NeedMembers
from imgfs.model import Kind
from imgfs.testing.fakes import FileReader
from imgfs.testing.files import check_hostile, content, walk
from tests.backends.btrfsimages import PLACE, opened, walked
from tests.backends.btrfsrecorded import SETS, load

if TYPE_CHECKING:
    from imgfs.backends import Files

RECORDED = Path(__file__).parent.parent / "recorded"
SPARE = {"raid0": 0, "raid10": 1, "raid5": 1, "raid6": 2, "lzo": 0}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    found = {}
    for name in SETS:
        found |= load(RECORDED / f"btrfs-{name}.xz", tmp_path_factory.mktemp(name))
    return found


def check(files: Files, reader: FileReader, trees) -> None:
    """Compare all trees with what the kernel showed of them."""
    assert sorted(tree.name for tree in files.info.trees) == sorted(trees)
    for number, tree in enumerate(files.info.trees):
        truth = trees[tree.name]
        found = {os.fsdecode(path): entry for path, entry in walk(files, number).items()}
        if tree.name == "root":  # the kernel's tree holds the others
            truth = {path: row for path, row in truth.items() if not path.startswith(("sub/", "snap/"))}
        assert sorted(found) == sorted(truth)
        for path, row in truth.items():
            attr = found[path].attr
            assert attr.kind == Kind(row[0] >> 12), path
            if attr.inum & PLACE:
                continue
            ours = [attr.mode, attr.uid, attr.gid, attr.nlink, attr.size, attr.allocated]
            assert [*ours, attr.m_ns, attr.a_ns, attr.c_ns] == [row[0] & 0o7777, *row[1:9]], path
            if row[9]:
                data = content(files, reader, number, found[path])
                assert hashlib.sha256(data).hexdigest() == row[9], path
            if row[10]:
                assert files.link(number, attr.inum).decode() == row[10]
            said = files.xattrs(number, attr.inum)
            shown = {key.decode(): value.hex() for key, value in said.items() if b".imgfs." not in key}
            assert shown == row[11], path


def older(files: Files) -> bool:
    """Say whether an older state is shown, or one that cannot be compared: then that is said."""
    return any("backup root" in note or "without comparing" in note for note in files.info.notes)


@pytest.mark.parametrize("name", SETS)
def test_what_the_kernel_showed_is_shown(sets, name: str) -> None:
    images, trees = sets[name]
    check(*opened(images), trees)
    check(*opened(images[::-1]), trees)


@pytest.mark.parametrize("name", [name for name in SETS if SPARE[name]])
def test_whatever_device_is_missing(sets, name: str) -> None:
    images, trees = sets[name]
    for count in range(1, SPARE[name] + 1):
        for gone in combinations(images, count):
            left = [image for image in images if image not in gone]
            with pytest.raises(NeedMembers):
                opened(left, final=False)
            files, reader = opened(left)
            assert any("missing" in note for note in files.info.notes)
            check(files, reader, trees)


@pytest.mark.parametrize("name", SETS)
def test_with_too_few_devices_nothing_is_wrong(sets, name: str) -> None:
    images, trees = sets[name]
    for count in range(SPARE[name] + 1, len(images)):
        for gone in combinations(images, count):
            try:
                files, reader = opened([image for image in images if image not in gone])
            except Malformed:
                continue
            if older(files):
                continue
            for path, data in walked(files, reader).items():
                digest = trees["root"][path.decode()][9]
                assert data is None or hashlib.sha256(data).hexdigest() == digest, path


@pytest.mark.parametrize("name", SETS)
def test_damage_on_one_device_changes_no_byte(sets, name: str, tmp_path: Path) -> None:
    images, trees = sets[name]
    rng = random.Random(name)
    for turn in range(3):
        bad = rng.randrange(len(images))
        data = bytearray(images[bad].read_bytes())
        busy = [at for at in range(0x11000, len(data), 4096) if any(data[at : at + 4096])]
        for at in rng.sample(busy, max(len(busy) // 3, 1)):
            data[at + rng.randrange(4096)] ^= 1 << rng.randrange(8)
        (copy := tmp_path / "copy").write_bytes(data)
        given = [copy if number == bad else image for number, image in enumerate(images)]
        try:
            files, reader = opened(given)
        except ImgfsError:
            assert not SPARE[name]
            continue
        if older(files):
            assert not SPARE[name]
            continue
        if SPARE[name]:
            check(files, reader, trees)
            continue
        for path, found in walked(files, reader).items():
            digest = trees["root"][path.decode()][9]
            assert found is None or hashlib.sha256(found).hexdigest() == digest, (path, turn)


def test_damage_to_compressed_files_stays_inside_the_contract(sets, tmp_path: Path) -> None:
    images, _ = sets["lzo"]
    short = tmp_path / "short"
    short.write_bytes(images[0].read_bytes()[: 40 << 20])
    line = check_hostile("btrfs", short, tmp_path, seeds=20, seconds=100)
    assert line
