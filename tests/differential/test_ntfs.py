"""NTFS against ntfs-3g: content, streams, sparse and compressed files, sizes, times, names, numbers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.backends.tskimages import need, noise, run
from tests.peers import LOW, by_ntfs3g, differences, digest, walk, watched
from tests.recipes import MIB, sized

pytestmark = pytest.mark.slow

SYSTEM = frozenset(
    name.encode()
    for name in [
        "$AttrDef",
        "$BadClus",
        "$Bitmap",
        "$Boot",
        "$Extend",
        "$LogFile",
        "$MFT",
        "$MFTMirr",
        "$Secure",
        "$UpCase",
        "$Volume",
    ]
)


def plant(root: Path) -> None:
    """Write through ntfs-3g."""
    for size in (0, 1, 511, 700, 4095, 4096, 70_000, 1 << 20):
        (root / f"bytes{size}").write_bytes(noise(size, size))
    with (root / "sparse").open("wb") as file:
        for at in (0, 5 * MIB, 11 * MIB + 3):
            file.seek(at)
            file.write(noise(9000, at))
        file.truncate(13 * MIB)
    small = root / "compressed"
    small.mkdir()
    os.setxattr(small, "system.ntfs_attrib_be", (0x810).to_bytes(4, "big"))
    text = b"".join(b"line %d of a text that compresses\n" % n for n in range(20_000))
    (small / "text").write_bytes(text)
    (small / "mixed").write_bytes(text[:100_000] + noise(200_000) + bytes(300_000) + text[:7])
    (small / "short").write_bytes(b"ab" * 400)
    (root / "streams").write_bytes(b"main\n")
    os.setxattr(root / "streams", "user.Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n")
    os.setxattr(root / "streams", "user.large", noise(50_000))
    os.setxattr(root / "compressed", "user.of a directory", b"yes")
    folder = root / "Größe"
    folder.mkdir()
    (folder / "first").write_bytes(b"two names\n")
    (folder / "second").hardlink_to(folder / "first")
    (folder / "日本語 🎉").write_bytes(b"astral\n")
    (folder / ("n" * 255)).write_bytes(b"long\n")
    many = root / "many"
    many.mkdir()
    for number in range(3000):
        (many / f"file with number {number:04d}").touch()
    (root / "link").symlink_to("streams")
    os.utime(root / "bytes1", ns=(1_700_000_000_123_456_700, 1_600_000_000_765_432_100))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image ntfs-3g wrote."""
    need("mkfs.ntfs", "ntfs-3g")
    folder = tmp_path_factory.mktemp("ntfs")
    path = sized(folder / "disk.img", 64 * MIB)
    run("mkfs.ntfs", "-F", "-q", "-Q", "-L", "peer", path)
    with by_ntfs3g(path, folder / "peer", "compression") as root:
        plant(root)
    return path


def test_every_path_and_every_fact_is_as_ntfs3g_shows_it(image: Path, tmp_path: Path) -> None:
    with (
        by_ntfs3g(image, tmp_path / "peer", "ro,show_sys_files") as peer,
        watched(image, at=tmp_path / "m") as m,
    ):
        ours = m / "disk.img/00-ntfs/root"
        truth = walk(peer, skip=SYSTEM)
        said = walk(ours, skip=SYSTEM)
        streams = {path for path in said if b":" in path and not path.startswith(b"$")}
        assert streams == {b"streams:Zone.Identifier", b"streams:large", b"compressed:of a directory"}
        plain = {path: row for path, row in said.items() if b":" not in path and path != b"link"}
        assert len(truth) > 3000
        assert truth.pop(b"link")["type"] == "l"
        for row in truth.values():
            if row["type"] == "d":
                del row["size"]  # which index a directory's size is of is the reader's choice
        wrong = differences(plain, truth, "type", "size", "ino", "mtime", "sha256")
        assert not wrong, "\n".join(wrong[:40])
        assert {p: r["nlink"] for p, r in plain.items() if r["type"] == "f"} == {
            p: r["nlink"] for p, r in truth.items() if r["type"] == "f"
        }
        for path in streams:
            owner, _, name = path.partition(b":")
            wanted = os.getxattr(os.path.join(os.fsencode(peer), owner), b"user." + name)
            assert (ours / os.fsdecode(path)).read_bytes() == wanted


def test_the_files_of_ntfs_itself_are_there_and_read_the_same(image: Path, tmp_path: Path) -> None:
    with (
        by_ntfs3g(image, tmp_path / "peer", "ro,show_sys_files") as peer,
        watched(image, at=tmp_path / "m") as m,
    ):
        ours = m / "disk.img/00-ntfs/root"
        shown = set(os.listdir(os.fsencode(ours)))
        assert shown >= SYSTEM
        for name in ("$MFT", "$MFTMirr", "$Bitmap", "$Boot", "$UpCase", "$AttrDef", "$LogFile"):
            if name == "$MFT":
                continue  # the peer's size of it is what it has mapped
            assert digest(ours / name) == digest(peer / name), name
            assert (ours / name).stat().st_ino & LOW == (peer / name).stat().st_ino & LOW


def test_ntfscat_reads_the_same_by_number(image: Path, tmp_path: Path) -> None:
    need("ntfscat")
    with watched(image, at=tmp_path / "m") as point:
        ours = point / "disk.img/00-ntfs/root"
        for name in ("sparse", "bytes70000", "bytes700"):
            path = ours / name
            number = path.stat().st_ino & LOW
            done = subprocess.run(["ntfscat", "-i", str(number), image], capture_output=True, check=True)
            assert done.stdout == path.read_bytes()
