"""A daemon that crashes leaves its last words, and the commands show them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from imgfs import runtime
from imgfs.daemon import crash
from imgfs.daemon.mountpoint import alive
from tests.mounts import daemon, imgfs, mounted, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "case" / "disk.dd"
    path.parent.mkdir()
    path.write_bytes(bytes(1 << 20))
    return path


@pytest.fixture
def point(tmp_path: Path) -> Path:
    return tmp_path.resolve() / "mnt"


def crashed(image: Path, point: Path, number: int) -> Path:
    """Mount and end the daemon by a signal it does not handle; returns its record."""
    imgfs("mount", image, point)
    pid = daemon(point)
    os.kill(pid, number)
    wait_until(lambda: not alive(pid))
    return runtime.path_of(pid)


def row(point: Path) -> dict[str, str]:
    found: list[dict[str, str]] = json.loads(imgfs("mounts", "--json").stdout)
    return next(r for r in found if r["mountpoint"] == str(point))


def test_a_fatal_signal_leaves_the_stacks_and_umount_shows_them_once(image: Path, point: Path) -> None:
    record = crashed(image, point, signal.SIGABRT)
    assert "Fatal Python error: Aborted" in row(point)["last_words"]
    assert "Fatal Python error: Aborted" in imgfs("mounts").stdout
    said = imgfs("umount", point).stderr
    assert "had crashed: Fatal Python error: Aborted" in said
    assert "pyfuse3" in said  # the stack
    assert list(record.parent.glob(f"{record.stem}.*")) == []
    assert not point.exists()


def test_a_killed_daemon_says_nothing_and_that_is_said(image: Path, point: Path) -> None:
    crashed(image, point, signal.SIGKILL)
    assert "killed without a word" in imgfs("umount", point).stderr


def test_doctor_names_the_end_of_a_dead_mount(image: Path, point: Path) -> None:
    crashed(image, point, signal.SIGABRT)
    said = imgfs("doctor", "--check", check=False).stdout
    line = next(x for x in said.splitlines() if str(point) in x)
    assert line.startswith("note")
    assert "Aborted" in line
    imgfs("umount", point)


def test_the_next_mount_keeps_the_last_words_as_an_event(image: Path, point: Path) -> None:
    crashed(image, point, signal.SIGABRT)
    with mounted(image, at=point):
        assert "Fatal Python error: Aborted" in (point / ".imgfs/events.jsonl").read_text()


def test_a_clean_end_leaves_nothing(image: Path, point: Path) -> None:
    with mounted(image, at=point):
        record = runtime.path_of(daemon(point))
        assert record.with_suffix(runtime.WORDS).exists()
    assert list(record.parent.glob(f"{record.stem}.*")) == []


GROUP = "  + Exception Group Traceback:\n  | Group\n    | ValueError: what\n    +-----\n"


@pytest.mark.parametrize(
    "words,line",
    [
        ("Fatal Python error: Segmentation\n\nThread 0x1:\n  File x\n", "Fatal Python error: Segmentation"),
        ("Traceback:\n  File x\nRuntimeError: what\n", "RuntimeError: what"),
        (GROUP, "ValueError: what"),
        ("free(): invalid pointer\nFatal Python error: Aborted\n", "Fatal Python error: Aborted"),
        ("", ""),
    ],
)
def test_the_headline_says_most(words: str, line: str) -> None:
    assert crash.headline(words) == line
