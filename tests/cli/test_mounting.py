"""Mounting as users and mount(8) ask for it: words of -o, in front, all at once, fstab."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgfs import runtime
from imgfs.daemon.mountpoint import alive
from tests.mounts import COMMAND, daemon, imgfs, mounted, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "case" / "disk.dd"
    path.parent.mkdir()
    path.write_bytes(os.urandom(1 << 20))
    return path


@pytest.fixture
def point(tmp_path: Path) -> Path:
    return tmp_path.resolve() / "mnt"


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a runtime folder of its own: what it does to all mounts is done to its own."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))


def table(point: Path) -> str:
    return next(x for x in Path("/proc/self/mountinfo").read_text().splitlines() if f" {point} " in x)


def test_owner_and_source_are_as_asked(image: Path, point: Path) -> None:
    with mounted(image, at=point, options=("-o", "uid=1234,gid=2345,fsname=case 7")):
        for path in (point, point / "disk.dd", point / "disk.dd/disk.raw"):
            assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345), path
        assert " fuse.imgfs case\\0407 " in table(point)


def test_events_are_appended_to_a_log_file(image: Path, point: Path, tmp_path: Path) -> None:
    log = tmp_path / "events.log"
    log.write_text("before\n")
    with mounted(image, at=point, options=("-o", f"log={log}")):
        lines = log.read_text().splitlines()
        assert lines[0] == "before"
        assert json.loads(lines[1])["event"] == "mount.live"
        kept = (point / ".imgfs/events.jsonl").read_text().splitlines()
        assert kept[0] == lines[1]


def test_a_log_never_touches_the_evidence(image: Path, point: Path, tmp_path: Path) -> None:
    before = image.stat()
    (tmp_path / "link").symlink_to(image)
    (tmp_path / "hard").hardlink_to(image)
    for name in (image, image.parent / "events.log", tmp_path / "link", tmp_path / "hard"):
        done = imgfs("mount", "-o", f"log={name}", image, point, check=False)
        assert done.returncode == 2
        assert "evidence" in done.stderr
    assert image.stat().st_mtime_ns == before.st_mtime_ns
    assert os.listdir(image.parent) == [image.name]
    assert not point.exists()


def test_a_log_that_cannot_be_written_is_said_before_and_harmless_after(
    image: Path, point: Path, tmp_path: Path
) -> None:
    done = imgfs("mount", "-o", f"log={tmp_path / 'missing/events.log'}", image, point, check=False)
    assert (done.returncode, "No such file" in done.stderr) == (2, True)
    log = tmp_path / "logs" / "events.log"
    log.parent.mkdir()
    with mounted(image, at=point, options=("-o", f"log={log}")):
        shutil.rmtree(log.parent)
        os.kill(daemon(point), signal.SIGUSR1)
        wait_until(lambda: '"stacks"' in (point / ".imgfs/events.jsonl").read_text())
        counts = json.loads((point / ".imgfs/statistics.json").read_text())["events"]
        assert counts["log.unwritten"] >= 1
        assert (point / "disk.dd/disk.raw").read_bytes() == image.read_bytes()


def test_detection_is_overruled(laptop: Path, point: Path) -> None:
    image = laptop / "laptop.dd"
    with mounted(image, at=point, options=("--offset", "35M", "--type", "ext")):
        assert list(point.glob("*/*/root/home/anna/notes.txt"))
    with mounted(laptop / "laptop.E01", at=point, options=("--raw",)):
        assert (point / "laptop.E01/disk.raw").read_bytes() == (laptop / "laptop.E01").read_bytes()
    with mounted(image, at=point, options=("-o", "offset=71680s,type=ext")):
        assert list(point.glob("*/*/root/home/anna/notes.txt"))
    with mounted(image, at=point, options=("--sector-size", "512")):
        assert (point / "laptop.dd/01-EFI/volume.raw").stat().st_size == 34 << 20


def test_in_front_it_stays_until_interrupted(image: Path, point: Path) -> None:
    with subprocess.Popen([*COMMAND, "mount", "-f", image, point], start_new_session=True) as front:
        wait_until(lambda: any(r.mountpoint == str(point) for _, r in runtime.records()))
        wait_until(lambda: runtime.is_mounted(str(point)))
        pid = daemon(point)
        assert (point / "disk.dd/disk.raw").read_bytes() == image.read_bytes()
        os.killpg(front.pid, signal.SIGINT)  # as a terminal does: to all of the foreground group
        assert front.wait(30) == 0
    assert not alive(pid)
    assert not runtime.is_mounted(str(point))
    assert not point.exists()


@pytest.mark.usefixtures("apart")
def test_umount_all_ends_what_lives_and_what_is_dead(image: Path, tmp_path: Path) -> None:
    one, two = tmp_path.resolve() / "one", tmp_path.resolve() / "two"
    imgfs("mount", image, one)
    imgfs("mount", image, two)
    pid = daemon(one)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid))
    shown = imgfs("mounts").stdout.splitlines()
    assert sorted(x.split()[0] for x in shown if str(tmp_path) in x) == ["alive", "dead"]
    said = imgfs("umount", "--all").stdout.splitlines()
    assert sorted(said) == [f"{one} unmounted", f"{two} unmounted"]
    assert not one.exists()
    assert not two.exists()
    assert list(runtime.records()) == []
    assert imgfs("umount", "--all").stdout == ""


@pytest.mark.usefixtures("apart")
def test_no_mounts_is_said() -> None:
    rows = json.loads(imgfs("mounts", "--json").stdout)
    assert {row["state"] for row in rows} <= {"other"}


@as_root
def test_others_see_a_mount_only_when_allowed(image: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        point = Path(folder) / "mnt"
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "ls", point]
        with mounted(image, at=point):
            assert subprocess.run(command, capture_output=True, check=False).returncode
        with mounted(image, at=point, options=("-o", "allow_other")):
            assert "disk.dd" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def helper() -> Iterator[None]:
    """Have the doctor install what mount(8) calls, and put back what was there."""
    path = Path("/usr/sbin/mount.fuse.imgfs")
    before = path.read_bytes() if path.exists() else None
    imgfs("doctor", check=False)
    assert path.stat().st_mode & 0o777 == 0o755
    yield
    if before is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(before)


@as_root
@pytest.mark.usefixtures("helper")
def test_mount_8_and_fstab_mount(image: Path, point: Path, tmp_path: Path) -> None:
    point.mkdir()
    fstab = tmp_path / "fstab"
    fstab.write_text(f"{image} {point} fuse.imgfs ro,noauto,nofail,uid=1000,x-systemd.automount 0 0\n")
    for command in (
        ["mount", "-t", "fuse.imgfs", image, point, "-o", "ro,uid=1000"],
        ["mount", "-T", fstab, point],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            assert done.returncode == 0, done.stderr
            assert (point / "disk.dd/disk.raw").read_bytes() == image.read_bytes()
            assert point.stat().st_uid == 1000
        finally:
            with contextlib.suppress(StopIteration):
                imgfs("umount", "--force", point, check=False)
        assert not runtime.is_mounted(str(point))


@as_root
@pytest.mark.usefixtures("helper")
def test_umount_8_ends_the_daemon(image: Path, point: Path) -> None:
    point.mkdir()
    imgfs("mount", image, point)
    pid = daemon(point)
    subprocess.run(["umount", point], check=True, capture_output=True)
    wait_until(lambda: not alive(pid))
    assert str(point) not in imgfs("mounts").stdout


def test_a_hostile_module_in_the_current_folder_is_not_run_by_the_daemon(
    image: Path, point: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "evidence"
    folder.mkdir()
    ran = tmp_path / "ran"
    for name in ("json", "socket", "trio", "msgspec", "uuid"):
        text = (
            f"import os\nopen({str(ran)!r}, 'a').write('{name} ' + str(os.getpid()))\nraise SystemExit(1)\n"
        )
        (folder / f"{name}.py").write_text(text)
    imgfs("mount", image, point, cwd=folder)
    try:
        assert (point / "disk.dd/disk.raw").read_bytes() == image.read_bytes()
    finally:
        imgfs("umount", point, cwd=folder)
    assert not ran.exists()


def test_the_completion_script_is_of_its_shell() -> None:
    for shell in ("bash", "zsh", "fish"):
        script = imgfs("completion", shell).stdout
        assert "_IMGFS_COMPLETE" in script
        if shutil.which(shell):
            subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_doctor_looks_without_touching() -> None:
    done = imgfs("doctor", "--check", check=False)
    lines = done.stdout.splitlines()
    assert {line[:4].rstrip() for line in lines} <= {"ok", "note", "miss"}
    assert done.returncode == any(line.startswith("miss") for line in lines)
    for word in ("Python 3", "/dev/fuse", "fusermount3", "pyfuse3", "sandbox", "libewf", "mount.fuse.imgfs"):
        assert any(word in line for line in lines), word
