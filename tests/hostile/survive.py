"""Look at all a mount shows, in a child process with a deadline: ``python -m tests.hostile.survive``."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.mounts import ROOT
from tests.peers import events, layers, watched

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE = 60  # seconds; a healthy mount needs one
ENTRIES = 30_000
READ = 1 << 20  # bytes at the start and at the end of every file


@dataclass(frozen=True, slots=True)
class Seen:
    """What a walk met, and what the daemon said of it."""

    entries: int
    readable: int
    refused: int
    layers: list[dict[str, Any]]
    events: list[dict[str, Any]]
    types: dict[str, int]


def survive(
    *images: Path,
    at: Path,
    options: tuple[str, ...] = (),
    also: Callable[[Path], None] = lambda _point: None,
) -> Seen:
    """Mount, walk, read, unmount: nothing hangs, crashes, or loses the mount.

    ``also`` looks at the live mount after the walk. A refusal must have left an event or a damaged layer.
    """
    with watched(*images, at=at / "mnt", options=options) as point:
        command = [sys.executable, "-m", "tests.hostile.survive", point]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=DEADLINE, check=False)
        except subprocess.TimeoutExpired as why:
            pytest.fail(f"hangs at {(why.stdout or b'')[-300:]!r}")
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        said = json.loads(done.stdout.splitlines()[-1])
        for image in images:
            assert (point / image.name / "disk.raw").exists()
        also(point)
        seen = Seen(**said, layers=layers(point), events=events(point))
    assert seen.refused == 0 or any(row["level"] in ("WARNING", "ERROR") for row in seen.events), said
    return seen


def main(root: bytes) -> None:
    """Walk ``root``, reading both ends of every file and every attribute; what is refused is counted."""
    counts = {"entries": 0, "readable": 0, "refused": 0}
    types: dict[str, int] = {}
    todo = [root]
    while todo and counts["entries"] < ENTRIES:
        folder = todo.pop()
        print(folder, flush=True)
        try:
            names = os.listdir(folder)
        except OSError:
            counts["refused"] += 1
            continue
        for name in names:
            path = os.path.join(folder, name)
            counts["entries"] += 1
            try:
                kind = look(path)
            except OSError:
                counts["refused"] += 1
                continue
            types[kind] = types.get(kind, 0) + 1
            counts["readable"] += kind == "f"
            if kind == "d" and len(path) < 4000:
                todo.append(path)
    print(json.dumps({**counts, "types": types}), flush=True)


def look(path: bytes) -> str:
    """Ask everything of one path; returns its type."""
    mode = os.lstat(path).st_mode
    for name in os.listxattr(path, follow_symlinks=False):
        os.getxattr(path, name, follow_symlinks=False)
    if stat.S_ISLNK(mode):
        os.readlink(path)
        return "l"
    if stat.S_ISREG(mode):
        fd = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            os.pread(fd, READ, 0)
            os.pread(fd, READ, max(size - READ, 0))
        finally:
            os.close(fd)
        return "f"
    return "d" if stat.S_ISDIR(mode) else "other"


if __name__ == "__main__":
    main(os.fsencode(sys.argv[1]))
