"""Host files: only what can be an image is opened, what changes is not served, errors name the place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imgfs.block.hostfile import HostFile, NotCached
from imgfs.errors import MediaChanged, Truncated, UsageError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "image.raw"
    path.write_bytes(bytes(range(256)) * 16)
    return path


def test_a_file_reads_what_it_holds_and_has_the_name_it_was_given(path) -> None:
    file = HostFile.open(path)
    assert (file.size, file.name) == (4096, "image.raw")
    assert file.read(255, 3) == b"\xff\x00\x01"
    assert bytes(file.read_nowait(10, 4)) == bytes(range(10, 14))
    buffer = bytearray(5)
    file.read_into(4091, memoryview(buffer))
    assert buffer == bytes(range(251, 256))
    assert file.plan(5, 5) == []
    file.close()
    file.close()


def test_a_file_may_be_named_in_an_open_directory(path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    file = HostFile.open("image.raw", dir_fd=folder)
    assert file.size == 4096
    file.close()
    os.close(folder)


def test_what_is_no_image_is_the_analysts_error(tmp_path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    for name, message in [
        ("missing", "No such file"),
        (".", "a directory"),
        ("fifo", "neither a file nor a block device"),
        ("empty", "empty"),
    ]:
        before = len(list(Path("/proc/self/fd").iterdir()))
        with pytest.raises(UsageError, match=message):
            HostFile.open(tmp_path / name)
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    with pytest.raises(UsageError, match="neither a file nor a block device"):
        HostFile.open("/dev/null")


def test_reading_behind_the_end_is_truncated_and_names_the_place(path) -> None:
    file = HostFile.open(path)
    with pytest.raises(Truncated, match=r"image.raw: host file ends at 4096.*\[4096, 4100\)"):
        file.read(4090, 10)
    with pytest.raises(NotCached):
        file.read_nowait(4090, 10)
    file.close()


@pytest.mark.parametrize("change", ["grow", "shrink", "touch", "empty", "write"])
def test_a_change_is_noticed_once_a_second_and_latched(path, change) -> None:
    clock = [0.0]
    file = HostFile.open(path, clock=lambda: clock[0])
    facts = path.stat()
    file.check(now=True)
    match change:
        case "grow":
            os.truncate(path, 5000)
        case "shrink":
            os.truncate(path, 4000)
        case "touch":
            os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
        case "empty":
            os.truncate(path, 0)
        case "write":
            with path.open("r+b") as out:
                out.write(b"x")
            os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # ctime gives it away
    file.check()
    clock[0] = 1.5
    with pytest.raises(MediaChanged, match=r"image\.raw"):
        file.check()
    with pytest.raises(MediaChanged):
        file.check()
    file.close()


def test_reading_does_not_change_the_access_time(path) -> None:
    os.utime(path, ns=(10**18, path.stat().st_mtime_ns))
    file = HostFile.open(path)
    file.read(0, 100)
    assert path.stat().st_atime_ns == 10**18
    file.close()


def test_a_reopened_file_is_the_same_file_with_a_position_of_its_own(path) -> None:
    file = HostFile.open(path)
    path.rename(path.with_name("moved"))
    os.utime(path.with_name("moved"), ns=(0, 0))
    with pytest.raises(MediaChanged):
        file.reopen()
    file.close()
    file = HostFile.open(path.with_name("moved"))
    fd = file.reopen()
    assert fd != file.fd
    assert not os.get_inheritable(fd)
    os.lseek(fd, 100, os.SEEK_SET)
    assert os.lseek(file.fd, 0, os.SEEK_CUR) == 0
    assert os.read(fd, 2) == bytes([100, 101])
    os.close(fd)
    file.close()
