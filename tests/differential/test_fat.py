"""FAT12, FAT16, FAT32 and exFAT against mtools, 7z and exfat-fuse."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.backends.tskimages import looped, mounted, need, noise, run
from tests.peers import differences, walk, watched
from tests.recipes import MIB, fat, sized

pytestmark = pytest.mark.slow

SYSTEM = frozenset({b"$MBR", b"$FAT1", b"$FAT2", b"$OrphanFiles"})
SIZES = {12: 4 * MIB, 16: 32 * MIB, 32: 40 * MIB}


def plant(root: Path) -> None:
    """Write names and contents FAT can hold."""
    for size in (0, 1, 511, 512, 513, 70_000, 300_001):
        (root / f"bytes{size}.bin").write_bytes(noise(size, size))
    (root / "SHORT.TXT").write_bytes(b"short\n")
    (root / "mixed Case and long, more than thirteen.text").write_bytes(b"long\n")
    (root / "Größe ☃ 日本.txt").write_bytes(b"unicode\n")
    (root / ("n" * 195)).write_bytes(b"long name\n")
    deep = root
    for number in range(12):
        deep = deep / f"level {number}"
        deep.mkdir()
    (deep / "bottom.txt").write_bytes(b"bottom\n")
    many = root / "many"
    many.mkdir()
    for number in range(250):
        (many / f"a file with number {number:04d}.txt").touch()
    for number, path in enumerate(sorted(root.rglob("*"))):
        os.utime(path, (1_500_000_000, 1_600_000_000 + 2 * number))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that goes into the images."""
    folder = tmp_path_factory.mktemp("source")
    plant(folder)
    return folder


def extracted(image: Path, into: Path) -> Path:
    """Return what 7z extracts."""
    need("7z")
    run("7z", "x", "-y", f"-o{into}", image)
    return into


@pytest.fixture(scope="module", params=SIZES)
def image(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a FAT image mtools wrote."""
    need("mkfs.vfat", "mcopy")
    options = ["-s", "1"] if request.param == 32 else []
    path = tmp_path_factory.mktemp("fat") / "disk.img"
    return fat(path, source, request.param, SIZES[request.param], *options)


def test_every_path_and_content_is_as_written_and_as_7z_reads(
    image: Path, source: Path, tmp_path: Path
) -> None:
    with watched(image, at=tmp_path / "m") as point:
        said = walk(next(point.glob("disk.img/00-*")) / "root", skip=SYSTEM)
        wanted = walk(source)
        wrong = differences(said, wanted, "type", "sha256", "mtime")
        assert not wrong, "\n".join(wrong[:40])
        assert {p: r["size"] for p, r in said.items() if r["type"] == "f"} == {
            p: r["size"] for p, r in wanted.items() if r["type"] == "f"
        }
        peer = walk(extracted(image, tmp_path / "peer"))
        assert not differences(said, peer, "type", "sha256")


def test_mdir_lists_the_same_names(image: Path, tmp_path: Path) -> None:
    need("mdir")
    with watched(image, at=tmp_path / "m") as point:
        many = next(point.glob("disk.img/00-*")) / "root/many"
        environment = os.environ | {"LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1"}
        command = ["mdir", "-i", image, "-a", "::many"]
        listed = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
        names = re.findall(r"\d\d:\d\d +(a file with number \d+\.txt)", listed)
        assert sorted(names) == sorted(os.listdir(many))
        assert len(names) == 250


def test_a_name_of_255_characters_is_shown_whole(tmp_path: Path) -> None:
    need("mkfs.vfat", "mcopy")
    source = tmp_path / "source"
    source.mkdir()
    names = ["n" * 196, "m" * 200, "k" * 255]
    for name in names:
        (source / name).write_text(name)
    image = fat(tmp_path / "disk.img", source, 12, 4 * MIB)
    with watched(image, at=tmp_path / "m") as point:
        root = next(point.glob("disk.img/00-*")) / "root"
        assert {p.name: p.read_text() for p in root.iterdir() if len(p.name) > 90} == {n: n for n in names}


def test_exfat_is_as_exfat_fuse_shows_it(source: Path, tmp_path: Path) -> None:
    need("mkfs.exfat", "mount.exfat-fuse")
    image = sized(tmp_path / "disk.img", 16 * MIB)
    run("mkfs.exfat", image)
    with looped(image) as device, mounted(["mount.exfat-fuse", device], tmp_path / "write") as root:
        plant(root)
        holes = root / "pieces.bin"
        other = root / "other.bin"
        for number in range(40):  # two files grown in turns: neither is contiguous
            for path in (holes, other):
                with path.open("ab") as file:
                    file.write(noise(5000, number))
        other.unlink()
    with (
        looped(image) as device,
        mounted(["mount.exfat-fuse", "-o", "ro", device], tmp_path / "peer") as peer,
        watched(image, at=tmp_path / "m") as point,
    ):
        said = walk(next(point.glob("disk.img/00-*")) / "root", skip=SYSTEM)
        said = {path: row for path, row in said.items() if not path.startswith(b"$")}
        wrong = differences(said, walk(peer), "type", "sha256", "mtime")
        assert not wrong, "\n".join(wrong[:40])
