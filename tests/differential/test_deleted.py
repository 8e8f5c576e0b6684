"""The deleted view against fls and icat: every deleted name is there, and its content is what icat reads."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.backends.tskimages import need, noise, run
from tests.backends.ufsimages import BLOCK, FRAGMENT, Disk
from tests.peers import LOW, by_ntfs3g, need_backend, walk, watched
from tests.recipes import MIB, ext, fat, sized

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow

NAMES = ["one.bin", "a much longer name of a deleted file.text", "three.bin"]


def plant(root: Path) -> None:
    """Write files, some in a folder, none of them deleted yet."""
    for number, name in enumerate(NAMES):
        (root / name).write_bytes(noise(20_000 + number, number))
    (root / "kept.bin").write_bytes(noise(5000, 9))
    (root / "folder").mkdir()
    (root / "folder" / "inner.bin").write_bytes(noise(9000, 8))
    (root / "folder" / "kept too.bin").write_bytes(noise(4000, 7))


def remove(root: Path) -> None:
    """Delete what is to be found again."""
    for name in NAMES:
        (root / name).unlink()
    (root / "folder" / "inner.bin").unlink()


def make_fat(bits: int) -> Callable[[Path], None]:
    """Return a recipe with mtools."""

    def make(image: Path) -> None:
        need("mkfs.vfat", "mdel")
        source = image.parent / "source"
        source.mkdir()
        plant(source)
        fat(image, source, bits, 40 * MIB if bits == 32 else 8 * MIB, *(["-s", "1"] if bits == 32 else []))
        run("mdel", "-i", image, *(f"::{name}" for name in NAMES), "::folder/inner.bin")

    return make


def make_ntfs(image: Path) -> None:
    """Write with ntfs-3g."""
    need("mkfs.ntfs", "ntfs-3g")
    run("mkfs.ntfs", "-F", "-q", "-Q", sized(image, 16 * MIB))
    with by_ntfs3g(image, image.parent / "write") as root:
        plant(root)
    with by_ntfs3g(image, image.parent / "write") as root:
        remove(root)


def make_ext2(image: Path) -> None:
    """Delete with debugfs: a kernel of today wipes names and block numbers."""
    need_backend("ext")
    need("mke2fs", "debugfs")
    source = image.parent / "source"
    source.mkdir()
    plant(source)
    ext(image, source, "ext2", 16 * MIB)
    script = image.parent / "script"
    script.write_text("".join(f'rm "/{name}"\n' for name in [*NAMES, "folder/inner.bin"]))
    run("debugfs", "-w", "-f", script, image)


def make_ufs(image: Path) -> None:
    """Write with makefs, delete as a file system that clears nothing does."""
    need("makefs")
    source = image.parent / "source"
    source.mkdir()
    plant(source)
    options = f"version=1,bsize={BLOCK},fsize={FRAGMENT}"
    run("makefs", "-t", "ffs", "-B", "le", "-s", "4m", "-o", options, image, source)
    disk = Disk(image, 1, "le")
    for name in [*NAMES, "folder/inner.bin"]:
        disk.remove(name)
    disk.save()


RECIPES = {
    "fat12": make_fat(12),
    "fat32": make_fat(32),
    "ntfs": make_ntfs,
    "ext2": make_ext2,
    "ufs": make_ufs,
}


@pytest.fixture(params=RECIPES)
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return an image with deleted files."""
    path = tmp_path / "disk.dd"
    RECIPES[request.param](path)
    return path


def by_fls(image: Path) -> dict[str, str]:
    """Return {name: address} of deleted files."""
    need("fls", "icat")
    rows = re.findall(
        r"^\S+ \* (\d+)(?:-\d+-\d+)?(?:\(realloc\))?:\t(.+)$", run("fls", "-rdp", image), re.MULTILINE
    )
    return {name.rpartition("/")[2]: number for number, name in rows if not name.startswith("$OrphanFiles")}


def test_every_deleted_name_is_shown_with_the_content_icat_reads(image: Path, tmp_path: Path) -> None:
    peer = by_fls(image)
    assert len(peer) >= len(NAMES)
    with watched(image, at=tmp_path / "m") as point:
        folder = next(point.glob("disk.dd/00-*")) / "deleted"
        said = walk(folder, content=False)
        ours = {
            os.fsdecode(path).rpartition("/")[2]: path for path, row in said.items() if row["type"] == "f"
        }
        assert set(peer) <= set(ours), (peer, sorted(ours))
        compared = 0
        for name, number in peer.items():
            path = os.path.join(os.fsencode(folder), ours[name])
            done = subprocess.run(["icat", image, number], capture_output=True, check=False)
            try:
                with open(path, "rb") as file:
                    data = file.read()
            except OSError:
                continue  # refused is allowed, other bytes are not
            if done.returncode == 0 and done.stdout:
                assert data == done.stdout, name
                compared += 1
        assert compared >= len(NAMES)
        live = walk(next(point.glob("disk.dd/00-*")) / "root", content=False)
        assert not {os.fsencode(name) for name in NAMES} & live.keys()
        inner = next(path for name, path in ours.items() if name.endswith("nner.bin"))
        assert inner.startswith(b"folder/")


def test_a_deleted_file_says_so(image: Path, tmp_path: Path) -> None:
    with watched(image, at=tmp_path / "m") as point:
        folder = next(point.glob("disk.dd/00-*")) / "deleted"
        paths = [p for p in folder.rglob("*.bin") if p.is_file() and "kept" not in p.name]
        assert len(paths) >= 3
        for path in paths:
            assert os.getxattr(path, "user.imgfs.deleted") == b"1"
            assert int(os.getxattr(path, "user.imgfs.inum")) & LOW == int(
                os.getxattr(path, "user.imgfs.inum")
            )
