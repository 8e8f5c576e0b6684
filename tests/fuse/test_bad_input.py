from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.mounts import imgfs, mounted

pytestmark = pytest.mark.slow


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path.resolve() / "case" / "disk.dd"
    path.parent.mkdir()
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def point(tmp_path: Path) -> Path:
    return tmp_path.resolve() / "mnt"


def refused(code: int, *arguments: str | Path) -> str:
    done = imgfs(*arguments, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(("imgfs: ", "Usage: "))
    return done.stderr


def test_what_is_no_image_is_named(tmp_path: Path, point: Path) -> None:
    empty = tmp_path / "empty.dd"
    empty.touch()
    assert "empty" in refused(2, "mount", empty, point)
    assert "no such file" in refused(2, "mount", tmp_path / "missing.dd", point)
    assert "directory" in refused(2, "mount", tmp_path, point)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert "neither a file" in refused(2, "mount", fifo, point)
    assert not point.exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root can read everything")
def test_an_unreadable_image_is_named(image: Path, point: Path) -> None:
    image.chmod(0)
    assert "disk.dd" in refused(2, "mount", image, point)


def test_the_mount_point_must_be_an_empty_directory(image: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "note").touch()
    assert "not empty" in refused(2, "mount", image, full)
    assert "not a directory" in refused(2, "mount", image, full / "note")


def test_the_folder_of_the_evidence_is_not_written_to(image: Path) -> None:
    before = image.parent.stat().st_mtime_ns
    assert "folder of the evidence" in refused(2, "mount", image, image.parent / "mnt")
    assert image.parent.stat().st_mtime_ns == before
    (image.parent / "mnt").mkdir()
    with mounted(image, at=image.parent / "mnt") as point:
        assert (point / "disk.dd/disk.raw").stat().st_size == 1 << 20


def test_an_image_inside_the_mount_point_would_hide_itself(image: Path) -> None:
    assert "inside the mount point" in refused(2, "mount", image, image.parent)


def test_the_same_image_twice_is_said(image: Path, point: Path) -> None:
    assert "twice" in refused(2, "mount", image, image, point)
    again = image.parent / "again.dd"
    again.hardlink_to(image)
    assert "same file" in refused(2, "mount", image, again, point)


def test_a_live_mount_point_is_not_mounted_on_again(image: Path, point: Path) -> None:
    with mounted(image, at=point):
        assert "already" in refused(3, "mount", image, point)


def test_words_and_values_are_checked(image: Path, point: Path) -> None:
    for words in ("rw", "nested=maybe", "uid=x", "unknown", "tz=Nowhere/City", "codepage=none", "offset=ten"):
        assert words.partition("=")[0] in refused(2, "mount", "-o", words, image, point)
    assert "ewf" in refused(2, "mount", "--type", "nothing", image, point)
    assert "sectors" in refused(2, "mount", "--sector-size", "500", image, point)


def test_key_files_are_private_and_well_formed(image: Path, point: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    keys.write_text('[[key]]\ntype = "password"\nvalue = "secret"\n')
    keys.chmod(0o644)
    assert "chmod 600" in refused(2, "mount", "--keys", keys, image, point)
    keys.chmod(0o600)
    with mounted(image, at=point, options=("--keys", str(keys))):
        pass
    keys.write_text('[[key]]\ntype = "sesame"\nvalue = "secret"\n')
    said = refused(2, "mount", "--keys", keys, image, point)
    assert "password, recovery" in said
    assert "secret" not in said


def test_equal_base_names_get_a_suffix(image: Path, tmp_path: Path, point: Path) -> None:
    other = tmp_path / "other" / "disk.dd"
    other.parent.mkdir()
    other.write_bytes(b"x" * 4096)
    with mounted(image, other, at=point):
        assert sorted(os.listdir(point)) == [".imgfs", "disk.dd", "disk.dd~2"]
        assert (point / "disk.dd~2/disk.raw").read_bytes() == b"x" * 4096


def test_a_changed_image_is_estale_and_never_mixed_bytes(image: Path, point: Path) -> None:
    with mounted(image, at=point):
        path = point / "disk.dd/disk.raw"
        assert path.read_bytes() == bytes(1 << 20)
        with image.open("r+b") as file:
            file.write(b"changed")
        with pytest.raises(OSError, match="Stale"):
            while True:  # noticed within a second: until then the bytes read are those of before
                assert path.read_bytes()[8192:] == bytes((1 << 20) - 8192)


def test_an_image_replaced_under_its_name_keeps_its_bytes(image: Path, point: Path) -> None:
    with mounted(image, at=point):
        new = image.with_name("new")
        new.write_bytes(b"n" * (1 << 20))
        shutil.move(new, image)
        try:
            data = (point / "disk.dd/disk.raw").read_bytes()
        except OSError as why:
            assert why.errno == 116  # ESTALE: the link count changed the inode's ctime
        else:
            assert data == bytes(1 << 20)


def test_a_read_only_file_of_another_group_is_read(image: Path, point: Path) -> None:
    image.chmod(0o400)
    if os.getuid() == 0:
        os.chown(image, 12345, 12345)
    before = image.stat()
    with mounted(image, at=point):
        assert (point / "disk.dd/disk.raw").read_bytes() == bytes(1 << 20)
    after = image.stat()
    assert (before.st_mtime_ns, before.st_ctime_ns, before.st_size) == (
        after.st_mtime_ns,
        after.st_ctime_ns,
        after.st_size,
    )
