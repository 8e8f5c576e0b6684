"""The generated tree through tools and drivers that are not the kernel's; root is needed for few."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from imgfs.model import Kind
from imgfs.testing.fakes import FileReader
from imgfs.testing.files import open_files
from tests.backends.btrfsimages import mkfs
from tests.backends.compared import SOURCE, compare, same
from tests.backends.generated import make
from tests.backends.romimages import packed
from tests.backends.seen import look
from tests.backends.tskimages import looped, mounted, need, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from tests.backends.seen import Seen

    Trees = Callable[[str], tuple[Path, dict[bytes, Seen]]]

pytestmark = pytest.mark.slow
# what Microsoft's file systems have of it
PLAIN = replace(SOURCE, modes=False, owners=False, links=False, xattrs=False, more=True)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    """Return how to come by the tree of some limits, and what is in it."""
    made: dict[str, tuple[Path, dict[bytes, Seen]]] = {}

    def tree(limits: str) -> tuple[Path, dict[bytes, Seen]]:
        if limits not in made:
            folder = tmp_path_factory.mktemp(limits) / "tree"
            made[limits] = folder, packed(folder, limits, 10_000)
        return made[limits]

    return tree


def without(
    seen: Mapping[bytes, Seen], paths: Iterable[bytes] = (), kinds: Iterable[Kind] = ()
) -> dict[bytes, Seen]:
    """Leave out the root, whose times a tool changes, and what it does not write."""
    left = {b"", *paths}
    return {path: row for path, row in seen.items() if path not in left and row.kind not in kinds}


@pytest.mark.parametrize(
    "options", [("-t", "ext4"), ("-t", "ext2", "-b", "4096"), ("-t", "ext3", "-b", "4096")]
)
def test_what_mke2fs_packed_is_shown(trees: Trees, tmp_path: Path, options: tuple[str, ...]) -> None:
    need("mke2fs", "e2fsck")
    folder, truth = trees("packed")
    image = tmp_path / "image"
    run("mke2fs", "-q", "-F", *options, "-d", folder, image, "512m")
    run("e2fsck", "-fn", image)
    same("ext", image, without(truth), replace(SOURCE, more=True))


@pytest.mark.parametrize("options", [(), ("--csum", "blake2")])
def test_what_mkfs_btrfs_packed_is_shown(trees: Trees, tmp_path: Path, options: tuple[str, ...]) -> None:
    need("mkfs.btrfs")
    folder, truth = trees("packed")
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(1 << 30)
    mkfs(*options, "--rootdir", folder, image)
    nodes = {
        path: row._replace(rdev=0) for path, row in without(truth).items()
    }  # it writes no numbers of devices
    same("btrfs", image, nodes, SOURCE)


@pytest.mark.parametrize(("version", "order"), [(1, "be"), (2, "le")])
def test_what_makefs_packed_is_shown(trees: Trees, tmp_path: Path, version: int, order: str) -> None:
    need("makefs")
    folder, truth = trees("packed")
    image = tmp_path / "image"
    run("makefs", "-t", "ffs", "-B", order, "-s", "512m", "-o", f"version={version}", image, folder)
    same("ufs", image, without(truth, kinds=[Kind.SOCK]), replace(SOURCE, xattrs=False, grain=10**9))


@pytest.mark.parametrize("tool", ["genisoimage", "xorriso"])
def test_what_was_written_to_a_disc_is_shown(trees: Trees, tmp_path: Path, tool: str) -> None:
    need(tool)
    folder, truth = trees("iso9660-bridge")
    image = tmp_path / "image"
    command = (
        ["genisoimage", "-input-charset", "utf-8", "-udf"]
        if tool == "genisoimage"
        else ["xorriso", "-as", "mkisofs"]
    )
    run(*command, "-quiet", "-R", "-J", "-joliet-long", "-o", image, folder)
    truth = without(truth, [b"links/odd 5"])  # its doubled slashes are not kept
    reader = FileReader(image)
    files = open_files("iso9660", reader)
    names = [tree.name for tree in files.info.trees]
    compare(files, reader, truth, rules=replace(SOURCE, xattrs=False, more=True))
    short = {  # the limits of Joliet
        path: row
        for path, row in truth.items()
        if row.kind == Kind.REG and path.count(b"/") < 4 and max(map(len, path.split(b"/"))) <= 60
    }
    assert len(short) > 8000
    compare(files, reader, short, tree=names.index("joliet"), rules=PLAIN)
    reader.close()
    if (
        tool == "genisoimage"
    ):  # which writes the day after into UDF from 2038 on, as other readers see it, too
        early = {path: row for path, row in short.items() if row.m_ns < 2_145_916_800 * 10**9}
        same("udf", image, early, PLAIN)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ntfs", "exfat"])
def test_what_a_driver_in_user_space_shows_is_shown(tmp_path: Path, kind: str) -> None:
    maker, driver = {"ntfs": ("mkfs.ntfs", "ntfs-3g"), "exfat": ("mkfs.exfat", "mount.exfat-fuse")}[kind]
    need(maker, driver)
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(512 << 20)
    run(maker, *(("-F", "-Q", "-q") if kind == "ntfs" else ()), image)
    with looped(image) if kind == "exfat" else nullcontext(str(image)) as device:
        with mounted([driver, device], tmp_path / "mnt") as where:
            made = make(where, files=10_000, limits=kind)
        assert made.made == 10_000
        with mounted([driver, "-o", "ro", device], tmp_path / "again") as where:
            truth = look(where)
    kept = without(truth)
    same(kind, image, kept, replace(PLAIN, times="mac" if kind == "ntfs" else "m"))
