"""ISO 9660 against xorriso and 7z, HFS+ against 7z, UFS against what makefs was given."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.backends.tskimages import need, noise, run
from tests.peers import differences, walk, watched
from tests.recipes import MIB

pytestmark = pytest.mark.slow

SHOWN = "type", "mode", "sha256", "target"


def plant(root: Path) -> None:
    """Write what a disc holds."""
    for size in (0, 1, 2047, 2048, 2049, 300_001):
        (root / f"bytes{size}.bin").write_bytes(noise(size, size))
    (root / "a rather long name with Capitals, and commas.text").write_bytes(b"long\n")
    (root / "Größe.txt").write_bytes(b"unicode\n")
    (root / "run.sh").write_bytes(b"#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    deep = root
    for number in range(6):
        deep = deep / f"level{number}"
        deep.mkdir()
    (deep / "bottom.txt").write_bytes(b"bottom\n")
    (root / "link").symlink_to("level0/level1")
    (root / "long link").symlink_to("/".join(["component" * 10] * 5))
    many = root / "many"
    many.mkdir()
    for number in range(400):
        (many / f"file number {number:04d}.txt").write_bytes(b"%d" % number)
    for number, path in enumerate(sorted(p for p in root.rglob("*") if not p.is_symlink())):
        os.utime(path, (1_500_000_000, 1_600_000_000 + number))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that goes into the images."""
    folder = tmp_path_factory.mktemp("source")
    plant(folder)
    return folder


def unpacked(image: Path, into: Path, *options: str) -> dict[bytes, dict[str, object]]:
    """Return what 7z extracts, links left out: it writes them as files."""
    need("7z")
    run("7z", "x", "-y", *options, f"-o{into}", image)
    return walk(into)


def test_rock_ridge_is_as_written_and_as_xorriso_extracts(source: Path, tmp_path: Path) -> None:
    need("xorriso")
    image = tmp_path / "disk.iso"
    run("xorriso", "-as", "mkisofs", "-quiet", "-R", "-V", "PEER", "-o", image, source)
    peer = tmp_path / "peer"
    run("xorriso", "-osirrox", "on", "-indev", image, "-extract", "/", peer)
    with watched(image, at=tmp_path / "m") as point:
        said = walk(point / "disk.iso/00-iso9660/root")
        for truth in (walk(source), walk(peer)):
            if os.geteuid():
                for row in truth.values():
                    row.pop("uid")
            for row in truth.values():
                if row["type"] == "l":
                    row.pop("mtime")
            wrong = differences(said, truth, "type", "sha256", "target", "mtime")
            assert not wrong, "\n".join(wrong[:40])
        modes = {path: row["mode"] for path, row in walk(source).items() if row["type"] == "f"}
        assert {path: said[path]["mode"] for path in modes} == modes
        listed = run("xorriso", "-indev", image, "-find", "/", "-exec", "echo")
        assert len([line for line in listed.splitlines() if line.startswith("'/")]) == len(said) + 1


def test_joliet_names_are_as_7z_reads_them(source: Path, tmp_path: Path) -> None:
    need("xorriso", "7z")
    image = tmp_path / "disk.iso"
    flags = ("-J", "-joliet-long", "-f", "--norock")
    run("xorriso", "-as", "mkisofs", "-quiet", *flags, "-m", "*link", "-o", image, source)
    truth = unpacked(image, tmp_path / "peer")
    with watched(image, at=tmp_path / "m") as point:
        wrong = differences(walk(point / "disk.iso/00-iso9660/root"), truth, "type", "sha256")
        assert not wrong, "\n".join(wrong[:40])


def test_plain_iso_has_its_short_names(source: Path, tmp_path: Path) -> None:
    need("xorriso", "7z")
    image = tmp_path / "disk.iso"
    run("xorriso", "-as", "mkisofs", "-quiet", "--norock", "-m", "*link", "-o", image, source)
    truth = unpacked(image, tmp_path / "peer")
    with watched(image, at=tmp_path / "m") as point:
        wrong = differences(walk(point / "disk.iso/00-iso9660/root"), truth, "type", "sha256")
        assert not wrong, "\n".join(wrong[:40])


def test_a_file_of_several_extents_is_one_file(tmp_path: Path) -> None:
    need("xorriso")
    source = tmp_path / "source"
    source.mkdir()
    size = (1 << 32) + 3 * MIB + 17
    marks = {0: b"start", (1 << 32) - 3: b"across 4 GiB", size - 3: b"end"}
    with (source / "large").open("wb") as file:
        for at, text in marks.items():
            file.seek(at)
            file.write(text)
    image = tmp_path / "disk.iso"
    # cp keeps holes, so that the image takes no room
    writer = subprocess.Popen(
        ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-iso-level", "3", source], stdout=subprocess.PIPE
    )
    run_sparse(writer, image)
    with watched(image, at=tmp_path / "m") as point:
        path = point / "disk.iso/00-iso9660/root/large"
        assert path.stat().st_size == size
        with path.open("rb") as file:
            for at, text in marks.items():
                file.seek(at)
                assert file.read(len(text)) == text


def run_sparse(writer: subprocess.Popen[bytes], image: Path) -> None:
    """Write what a tool prints, leaving zeros out."""
    subprocess.run(
        ["dd", "bs=1M", "conv=sparse", "iflag=fullblock", "status=none", f"of={image}"],
        stdin=writer.stdout,
        check=True,
    )
    assert writer.stdout is not None
    writer.stdout.close()
    assert writer.wait() == 0


@pytest.mark.parametrize("levels", [0, 6])
def test_hfs_plus_is_as_7z_reads_it(levels: int, source: Path, tmp_path: Path) -> None:
    need("xorriso", "7z")
    if not levels:
        source = Path(shutil.copytree(source, tmp_path / "flat", symlinks=True))
        shutil.rmtree(source / "level0")
        shutil.rmtree(source / "many")
    disc = tmp_path / "disc.iso"
    run("xorriso", "-as", "mkisofs", "-quiet", "-hfsplus", "-R", "-o", disc, source)
    data = disc.read_bytes()
    start = next(at for at in range(0, len(data), 512) if data[at : at + 4] == b"H+\0\4") - 1024
    image = tmp_path / "disk.hfs"
    image.write_bytes(data[start:])  # the volume of the hybrid disc
    peer = tmp_path / "peer"
    unpacked(image, peer, "-thfs")
    top = next(path.parent for path in peer.rglob("run.sh"))
    truth = walk(top, skip=frozenset({b"link", b"long link"}))
    truth = {path: row for path, row in truth.items() if not path.endswith(b":rsrc")}
    with (
        watched(image, at=tmp_path / "m") as point,
        watched(disc, at=tmp_path / "n", options=("--offset", str(start))) as inside,
    ):
        for root in (
            next(point.glob("disk.hfs/00-*")) / "root",
            next(inside.glob("disc.iso/00-hfs*")) / "root",
        ):
            said = {path: row for path, row in walk(root).items() if not path.startswith(b"$")}
            links = {os.fsdecode(path) for path, row in said.items() if row["type"] == "l"}
            assert links == {"link", "long link"}
            files = {path: row for path, row in said.items() if row["type"] != "l"}
            wrong = differences(files, truth, "type", "sha256")
            assert not wrong, "\n".join(wrong[:40])


@pytest.mark.parametrize("version", [1, 2])
def test_ufs_is_as_written(version: int, source: Path, tmp_path: Path) -> None:
    need("makefs")
    image = tmp_path / "disk.ufs"
    run("makefs", "-t", "ffs", "-o", f"version={version}", "-s", "4m", image, source)
    with watched(image, at=tmp_path / "m") as point:
        said = walk(next(point.glob("disk.ufs/00-*")) / "root")
        facts = *SHOWN, "uid", "gid", "nlink", "mtime"
        truth = walk(source)
        for row in truth.values():
            if row["type"] == "l":
                row["mtime"] -= row["mtime"] % 10**9  # makefs keeps whole seconds
        wrong = differences(said, truth, *facts)
        assert not wrong, "\n".join(wrong[:40])
