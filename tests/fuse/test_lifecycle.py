from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from imgfs import runtime
from tests.mounts import daemon, imgfs, mounted, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "case" / "disk.dd"
    path.parent.mkdir()
    path.write_bytes(os.urandom(1 << 20))
    return path


@pytest.fixture
def point(tmp_path: Path) -> Path:
    return tmp_path.resolve() / "mnt"


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_missing_mount_point_is_made_and_removed_again(image: Path, point: Path) -> None:
    with mounted(image, at=point):
        assert (point / "disk.dd/disk.raw").read_bytes() == image.read_bytes()
    assert not point.exists()


def test_a_mount_point_that_was_there_stays(image: Path, point: Path) -> None:
    point.mkdir()
    with mounted(image, at=point):
        assert sorted(os.listdir(point)) == [".imgfs", "disk.dd"]
    assert os.listdir(point) == []


def test_mount_options_are_those_of_evidence(image: Path, point: Path) -> None:
    with mounted(image, at=point):
        line = next(x for x in Path("/proc/self/mountinfo").read_text().splitlines() if f" {point} " in x)
        assert {"ro", "nosuid", "nodev", "noexec"} <= set(line.split()[5].split(","))
        assert " fuse.imgfs disk.dd " in line
        with pytest.raises(OSError, match="Read-only"):
            (point / "disk.dd/new").write_bytes(b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_cleanly(image: Path, point: Path, number: int) -> None:
    imgfs("mount", image, point)
    pid = daemon(point)
    os.kill(pid, number)
    wait_until(lambda: gone(pid))
    assert not runtime.is_mounted(str(point))
    assert not point.exists()
    assert pid not in [record.pid for _, record in runtime.records()]


def _answer(point: Path) -> int:
    try:
        os.listdir(point)
    except OSError as why:
        return why.errno
    return 0


@pytest.mark.parametrize("cure", ["mount", "umount", "doctor"])
def test_a_dead_mount_answers_enotconn_and_the_next_command_clears_it(
    image: Path, point: Path, cure: str
) -> None:
    imgfs("mount", image, point)
    pid = daemon(point)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: gone(pid))
    wait_until(lambda: _answer(point) == errno.ENOTCONN)  # what the kernel still aborts is ECONNABORTED
    rows = json.loads(imgfs("mounts", "--json").stdout)
    assert [r["state"] for r in rows if r["mountpoint"] == str(point)] == ["dead"]
    if cure == "mount":
        with mounted(image, at=point):
            assert (point / "disk.dd/disk.raw").stat().st_size == 1 << 20
    else:
        imgfs(cure, *([point] if cure == "umount" else []), check=False)
    assert not runtime.is_mounted(str(point))


def test_umount_refuses_while_a_file_is_open_and_force_does_not(image: Path, point: Path) -> None:
    with mounted(image, at=point):
        with (point / "disk.dd/disk.raw").open("rb") as file:
            assert file.read(1)
            done = imgfs("umount", point, check=False)
            assert done.returncode == 3
            assert "in use" in done.stderr
        imgfs("umount", point)
        imgfs("mount", image, point)


def test_mounts_says_what_by_whom_and_alive(image: Path, point: Path) -> None:
    with mounted(image, at=point):
        line = next(x for x in imgfs("mounts").stdout.splitlines() if str(point) in x)
        assert line.startswith("alive")
        assert str(image) in line
        assert f"pid {daemon(point)}" in line


def test_two_mounts_do_not_know_each_other(image: Path, tmp_path: Path) -> None:
    one, two = tmp_path.resolve() / "one", tmp_path.resolve() / "two"
    with mounted(image, at=one), mounted(image, at=two):
        os.kill(daemon(one), signal.SIGKILL)
        assert (two / "disk.dd/disk.raw").read_bytes() == image.read_bytes()


def test_stacks_are_written_on_request(image: Path, point: Path) -> None:
    with mounted(image, at=point):
        os.kill(daemon(point), signal.SIGUSR1)
        events = point / ".imgfs/events.jsonl"
        wait_until(lambda: '"stacks"' in events.read_text())


def test_statistics_count_what_was_read(image: Path, point: Path) -> None:
    with mounted(image, at=point):
        (point / "disk.dd/disk.raw").read_bytes()
        said = json.loads((point / ".imgfs/statistics.json").read_text())
        assert said["operations"]["bytes_read"] >= 1 << 20
        assert said["supervisor"]["deaths"] == 0
