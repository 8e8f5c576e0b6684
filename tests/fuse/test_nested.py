"""Laws of images inside images: a live medium is browsed to its last file, and nothing is copied."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mounts import tree
from tests.peers import layers, statistics, watched
from tests.recipes import ext, plant

MIB = 1 << 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tree of every shape."""
    folder = tmp_path_factory.mktemp("source")
    plant(folder)
    return folder


def run(*command: object) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, check=False)
    assert done.returncode == 0, (command, done.stderr)


def squashed(image: Path, folder: Path, *options: str) -> Path:
    run("mksquashfs", folder, image, "-noappend", "-no-progress", *options)
    return image


def burnt(image: Path, folder: Path) -> Path:
    run("xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-o", image, folder)
    return image


def medium(at: Path, source: Path, compressor: str) -> Path:
    """Make a live medium: ext4 in SquashFS on a disc, as live images of Fedora have it."""
    root = at / "squash" / "LiveOS"
    root.mkdir(parents=True)
    ext(root / "rootfs.img", source, "ext4", 48 * MIB)
    disc = at / "disc" / "LiveOS"
    disc.mkdir(parents=True)
    squashed(disc / "squashfs.img", at / "squash", "-comp", compressor)
    return burnt(at / "live.iso", at / "disc")


@pytest.mark.parametrize("compressor", ["gzip", "xz", "zstd"])
def test_a_live_medium_is_browsed_to_its_last_file(source: Path, tmp_path: Path, compressor: str) -> None:
    image = medium(tmp_path, source, compressor)
    before = image.read_bytes()
    with watched(image, at=tmp_path / "m", options=("-o", "symlinks=raw")) as point:
        (disc,) = point.glob("live.iso/00-iso9660/root/LiveOS")
        assert os.listdir(disc) == ["squashfs.img"]  # entered by name only
        (squash,) = (disc / "squashfs.img@").glob("*/root")
        (root,) = (squash / "LiveOS/rootfs.img@").glob("*/root")
        found = {name: row for name, row in tree(root).items() if name.split("/")[0] != "lost+found"}
        assert found == tree(source)
        assert (squash / "LiveOS/rootfs.img@/disk.raw").read_bytes() == (
            tmp_path / "squash/LiveOS/rootfs.img"
        ).read_bytes()
        assert {layer["backend"] for layer in layers(point, kind="files")} == {"iso9660", "squashfs", "ext"}
        assert statistics(point)["fetch"]["decoded_bytes"]
    assert image.read_bytes() == before


def test_what_is_listed_can_be_entered(source: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    ext(inner / "disk.img", source, "ext4", 48 * MIB)
    (inner / "plain.txt").write_text("no image")
    image = squashed(tmp_path / "outer.sqfs", inner)
    with watched(image, at=tmp_path / "m", options=("-o", "nested=list")) as point:
        (root,) = point.glob("*/*/root")
        assert sorted(os.listdir(root)) == ["disk.img", "disk.img@", "plain.txt"]
        found = {one.name for one in root.glob("disk.img@/*/root/*")}
        assert found - {"lost+found"} == set(os.listdir(source))
        with pytest.raises(FileNotFoundError):
            os.stat(root / "plain.txt@")
    with watched(image, at=tmp_path / "m", options=("-o", "nested=off")) as point:
        (root,) = point.glob("*/*/root")
        with pytest.raises(FileNotFoundError):
            os.stat(root / "disk.img@")


def test_images_in_images_end(tmp_path: Path) -> None:
    """Each of twenty discs holds the one before; those beyond the limit of depth stay files."""
    folder = tmp_path / "disc"
    folder.mkdir()
    (folder / "file").write_text("the innermost")
    for number in range(20):
        image = burnt(tmp_path / f"{number}.iso", folder)
        shutil.rmtree(folder)
        folder.mkdir()
        image.rename(folder / "next.iso")
    image = folder / "next.iso"
    with watched(image, at=tmp_path / "m") as point:
        here = next(point.glob("*/*/root"))
        depth = 0
        while (here / "next.iso").exists():
            try:
                below = [path for path in (here / "next.iso@").iterdir() if (path / "root").is_dir()]
            except FileNotFoundError:
                break
            here = below[0] / "root"
            depth += 1
        assert 4 <= depth < 19
        assert (here / "next.iso").stat().st_size
