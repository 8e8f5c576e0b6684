"""Mounting for tests: the command as a user calls it, and nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgfs import runtime

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = [sys.executable, "-m", "imgfs"]
ROOT = Path(__file__).parent.parent


def imgfs(*arguments: str | Path, check: bool = True, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command line; with ``check`` a failure fails the test with what it said."""
    command = [*COMMAND, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)
    if check and done.returncode:
        pytest.fail(f"imgfs {' '.join(map(str, arguments))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


@contextmanager
def mounted(*images: Path, at: Path, options: tuple[str, ...] = ()) -> Iterator[Path]:
    """Mount images on ``at``; unmounted, and looked after, at the end."""
    imgfs("mount", *options, *images, at)
    try:
        yield at
    finally:
        done = imgfs("umount", "--force", at, check=False)
        assert not runtime.is_mounted(str(at)), done.stderr
        assert done.returncode == 0, done.stderr


def daemon(at: Path) -> int:
    """Return the process id of the daemon that serves a mount."""
    return next(record.pid for _, record in runtime.records() if record.mountpoint == str(at))


def wait_until(true: object, patience: float = 10.0) -> None:
    """Wait for a process outside our control; fails when it takes too long."""
    end = time.monotonic() + patience
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        os.sched_yield()


def tree(folder: Path) -> dict[str, tuple[str, int, bytes]]:
    """Return {path: (type, size, content or target)} of everything below a folder."""
    found: dict[str, tuple[str, int, bytes]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = "l", 0, os.fsencode(path.readlink())
        elif path.is_dir():
            found[name] = "d", 0, b""
        else:
            data = path.read_bytes()
            found[name] = "f", len(data), data
    return found
