"""Looking into an image without a mount: ls, tree, stat, cat."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mounts import COMMAND, ROOT, imgfs

pytestmark = pytest.mark.slow


def test_ls_shows_volumes_then_files(laptop: Path) -> None:
    names = imgfs("ls", laptop / "laptop.E01").stdout.split()
    assert names[:4] == ["disk.raw", "01-EFI", "02-linux", "03-Windows"]
    home = f"{laptop / 'laptop.E01'}:02-linux/root/home/anna"
    assert set(imgfs("ls", home).stdout.split()) >= {"notes.txt", "photo1.jpg", "photo.jpg", "empty"}
    rows = imgfs("ls", "-l", home).stdout.splitlines()
    assert any(
        re.match(r"-rw-r--r-- +\d+ +\d+ +9,437,184 \d{4}-\d\d-\d\d [\d:]{8} photo1\.jpg$", r) for r in rows
    )


def test_ls_of_a_file_is_the_file(laptop: Path) -> None:
    file = f"{laptop / 'laptop.dd'}:disk.raw"
    assert imgfs("ls", file).stdout == "disk.raw\n"
    assert imgfs("ls", "-l", file).stdout.endswith(" disk.raw\n")


def test_tree_goes_as_deep_as_asked(laptop: Path) -> None:
    said = imgfs("tree", "-L", "2", laptop / "laptop.dd").stdout
    assert "├── 01-EFI\n│   ├── volume.raw  35,651,584\n" in said
    assert "BOOT" not in said
    assert "BOOTX64.EFI  300,000" in imgfs("tree", "-L", "4", f"{laptop / 'laptop.dd'}:01-EFI/root").stdout


def test_stat_shows_attributes_times_and_extended_attributes(laptop: Path) -> None:
    said = imgfs("stat", f"{laptop / 'laptop.dd'}:02-linux/root/home/anna/notes.txt").stdout
    facts = dict(line.split(None, 1) for line in said.splitlines())
    assert facts["mode"] == "-rw-r--r-- (0644)"
    assert facts["user.source"] == "downloads"
    assert {"owner", "size", "inode", "modified", "accessed", "changed", "born"} <= facts.keys()
    link = imgfs("stat", f"{laptop / 'laptop.dd'}:02-linux/root/home/anna/photo.jpg").stdout
    assert re.search(r"^target +photo1\.jpg$", link, re.MULTILINE)


def digest(where: str) -> str:
    done = subprocess.run([*COMMAND, "cat", where], capture_output=True, check=True, cwd=ROOT)
    return hashlib.sha256(done.stdout).hexdigest()


def test_cat_writes_files_volumes_and_disks(laptop: Path) -> None:
    disk = (laptop / "laptop.dd").read_bytes()
    image = laptop / "laptop.E01"
    assert digest(f"{image}:disk.raw") == hashlib.sha256(disk).hexdigest()
    volume = disk[1 << 20 : 35 << 20]
    assert digest(f"{image}:01-EFI/volume.raw") == hashlib.sha256(volume).hexdigest()
    said = imgfs("cat", f"{image}:02-linux/root/home/anna/notes.txt").stdout
    assert said.splitlines()[1999] == "line 1999 of notes.txt"


def refused(code: int, *arguments: str) -> str:
    done = imgfs(*arguments, check=False)
    assert done.returncode == code, done
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


@pytest.mark.parametrize("verb", ["ls", "tree", "stat", "cat"])
def test_a_missing_path_is_named_with_what_is_there(laptop: Path, verb: str) -> None:
    image = laptop / "laptop.dd"
    said = refused(1, verb, f"{image}:02-linux/rot/home")
    assert said == (
        "imgfs: laptop.dd:02-linux/rot: no such file or directory (there is volume.raw, root, deleted)\n"
    )
    assert "laptop.dd:02-linux/volume.raw is not a directory" in refused(
        1, verb, f"{image}:02-linux/volume.raw/x"
    )


def test_what_does_not_fit_the_verb_is_said(laptop: Path) -> None:
    image = laptop / "laptop.dd"
    assert "02-linux is a directory" in refused(1, "cat", f"{image}:02-linux")
    assert "disk.raw is not a directory" in refused(1, "tree", f"{image}:disk.raw")
    assert "no such file" in refused(2, "ls", str(image.with_name("missing.dd")))


def test_the_longest_file_before_a_colon_is_the_image(tmp_path: Path) -> None:
    image = tmp_path / "a:b: c.dd"
    image.write_bytes(b"x" * 4096)
    (tmp_path / "a").write_bytes(b"y" * 4096)
    assert imgfs("cat", f"{image}:disk.raw").stdout == "x" * 4096
    assert imgfs("cat", f"{tmp_path / 'a'}:disk.raw").stdout == "y" * 4096
    assert imgfs("ls", image).stdout.split()[0] == "disk.raw"


def test_an_end_that_closes_early_is_no_error(laptop: Path) -> None:
    head = shutil.which("head")
    assert head is not None
    with subprocess.Popen(
        [*COMMAND, "cat", f"{laptop / 'laptop.dd'}:disk.raw"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        assert len(writer.stdout.read(10)) == 10
        writer.stdout.close()
        assert writer.stderr.read() == b""
        assert writer.wait(60) == 0


def test_deleted_files_are_marked(laptop: Path) -> None:
    said = imgfs("ls", "-l", f"{laptop / 'laptop.dd'}:01-EFI/deleted/EFI/BOOT").stdout
    assert "(deleted)" in said


def test_events_are_not_printed(tmp_path: Path) -> None:
    image = tmp_path / "broken.dd"
    table = (
        bytes(446)
        + bytes([0, 0, 0, 0, 0x83, 0, 0, 0])
        + (8).to_bytes(4, "little")
        + (99).to_bytes(4, "little")
    )
    image.write_bytes(table.ljust(510, b"\0") + b"\x55\xaa" + bytes(8192))
    assert imgfs("info", image).stderr == ""
