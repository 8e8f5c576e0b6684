"""ext2, ext3 and ext4 against the kernel's own mount of the same image, every path and every fact."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from imgfs.tree.names import escape
from tests.backends.tskimages import need, run
from tests.peers import attributes, by_kernel, differences, layers, need_backend, walk, watched
from tests.recipes import MIB, ODD_NAMES, ext, plant, plant_posix, sized

pytestmark = pytest.mark.slow

SHAPES = {
    "ext2-1k": ("ext2", "-b", "1024"),
    "ext3-4k": ("ext3", "-b", "4096"),
    "ext4": ("ext4",),
    "ext4-1k-128": ("ext4", "-b", "1024", "-I", "128"),
    "ext4-bigalloc": ("ext4", "-O", "bigalloc,inline_data", "-C", "16384"),
}


@pytest.fixture(scope="module", params=SHAPES)
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image the kernel wrote."""
    need_backend("ext")
    need("mke2fs", "setfacl")
    kind, *options = SHAPES[request.param]
    folder = tmp_path_factory.mktemp("ext")
    path = sized(folder / "disk.img", 80 * MIB)
    run("mke2fs", "-q", "-t", kind, "-N", "8000", *options, path)
    with by_kernel(path, folder / "kernel", "rw") as root:
        plant_posix(root)
    return path


def test_every_path_and_every_fact_is_as_the_kernel_shows_it(image: Path, tmp_path: Path) -> None:
    with by_kernel(image, tmp_path / "kernel") as truth, watched(image, at=tmp_path / "m") as point:
        ours = next(point.glob("disk.img/00-*")) / "root"
        expected = walk(truth, shown=lambda path: b"/".join(map(escape, path.split(b"/"))))
        assert len(expected) > 5000 + len(ODD_NAMES)
        found = differences(walk(ours), expected)
        assert not found, "\n".join(found[:40])
        base, theirs = os.fsencode(ours), os.fsencode(truth)
        for path in walk(truth, content=False, skip=frozenset({b"odd", b"many"})):
            said = attributes(os.path.join(base, path))
            assert said == attributes(os.path.join(theirs, path)), path
        kernel, we = os.statvfs(truth), os.statvfs(ours)
        assert kernel.f_namemax <= we.f_namemax
        assert we.f_bfree == 0
        assert we.f_blocks * we.f_frsize == image.stat().st_size


def test_what_was_written_without_privileges_is_read(tmp_path: Path) -> None:
    need_backend("ext")
    need("mke2fs", "debugfs")
    source = tmp_path / "source"
    source.mkdir()
    plant(source)
    image = ext(tmp_path / "disk.img", source)
    with watched(image, at=tmp_path / "m") as point:
        ours = walk(point / "disk.img/00-ext4/root", skip=frozenset({b"lost+found"}))
        facts = "type", "mode", "uid", "gid", "nlink", "sha256", "target"
        truth = walk(source)
        assert differences(ours, truth, *facts) == []
        assert [ours[p]["size"] for p in sorted(truth) if truth[p]["type"] == "f"] == [
            truth[p]["size"] for p in sorted(truth) if truth[p]["type"] == "f"
        ]
        dumped = tmp_path / "dumped"
        run("debugfs", "-R", f"dump /pieces {dumped}", image)
        assert hashlib.sha256(dumped.read_bytes()).hexdigest() == ours[b"pieces"]["sha256"]
        assert [layer["type"] for layer in layers(point, kind="files")] == ["ext4"]
