"""Trees of 10,000 files on XFS 4, UDF, HFS+, APFS, FAT and exFAT, as the kernel of a guest reads them.

IMGFS_GUEST=1 runs this: it fetches packages, boots an emulated machine, and takes eight minutes. Without it,
what the same kernels wrote of some hundred files is compared by test_xfs_recorded, test_udf,
test_hfs_recorded, test_apfs_recorded and test_fat_generated.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from imgfs.testing.fakes import FileReader
from imgfs.testing.files import open_files
from tests.backends import apfsrecorded, largetrees, seen, test_apfs_recorded, test_fat_generated
from tests.backends.compared import compare
from tests.backends.test_hfs_recorded import as_apple
from tests.guest import apfs, shown

if TYPE_CHECKING:
    from pathlib import Path

    from tests.backends.seen import Seen

Made = tuple["Path", dict[str, dict[bytes, "Seen"]]]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not os.environ.get("IMGFS_GUEST"), reason="IMGFS_GUEST=1 boots a guest for eight minutes"
    ),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("large")
    shown.made("large", folder)
    return folder, largetrees.load(folder)


@pytest.mark.parametrize("name", list(largetrees.TREES))
def test_what_the_kernel_saw_of_10_000_files_is_shown(made: Made, name: str) -> None:
    folder, trees = made
    truth = trees[name]
    assert largetrees.summary(truth) == json.loads(largetrees.RECORDED.read_text())[name]
    if name == "hfsplus":
        truth = as_apple(truth)
    if name == "udf":  # the kernel shows a name that begins with two dots as another
        truth = {
            b"names/odd/..a" if path == b"names/odd/.#C4A9.a" else path: one for path, one in truth.items()
        }
    backend, rules = largetrees.TREES[name]
    reader = FileReader(folder / f"{name}.img")
    files = open_files(backend, reader)
    assert files.info.notes == ()
    compare(files, reader, truth, rules=rules)
    reader.close()


def test_what_the_module_saw_of_10_000_files_of_apfs_is_shown(tmp_path: Path) -> None:
    shown.made("apfs", tmp_path, uses={"kit": apfs.kit()})
    with (tmp_path / "many.rows").open() as file:
        truth = {path: apfsrecorded.told(row) for path, row in seen.load(file).items()}
    assert len(truth) > 10_000
    reader = FileReader(tmp_path / "many.img")
    test_apfs_recorded.compare(open_files("apfs", reader), reader, 0, truth)
    reader.close()
    for disk in ("small", "cased", "exact", "snaps", "many"):
        assert (tmp_path / f"{disk}.fsck").read_bytes() == b""


def test_what_the_kernel_saw_of_10_000_files_of_fat_and_exfat_is_shown(tmp_path: Path) -> None:
    shown.made("fat", tmp_path)
    for disk, backend in (("fat32", "fat"), ("exfat-large", "exfat")):
        with (tmp_path / f"{disk}.rows").open() as file:
            truth = test_fat_generated.without_root(seen.load(file))
        assert len(truth) == 10_000
        test_fat_generated.as_the_kernel_shows_it(tmp_path / f"{disk}.img", truth, backend)
