"""File systems of images the tests built, through the kernel of this machine."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.backends.generated import Made, make
from tests.backends.seen import look
from tests.backends.tskimages import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.backends.seen import Seen

# what old versions lack, small blocks have no room for, and links longer than a small node
MAY = {"xattr ENOSPC", "fallocate ENOTSUP", "clone ENOTSUP", "symlink ENAMETOOLONG"}


@contextmanager
def attached(kind: str, image: Path | str, where: Path, *options: str) -> Iterator[Path]:
    """Mount an image, or what a loop device holds, or skip."""
    if os.geteuid():
        pytest.skip("mounting needs root")
    where.mkdir(exist_ok=True)
    options = options if isinstance(image, str) else ("loop", *options)
    done = subprocess.run(
        ["mount", "-t", kind, "-o", ",".join(options) or "rw", image, where],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"the kernel does not mount this: {done.stderr.strip()[:200]}")
    try:
        yield where
    finally:
        run("umount", where)


def grown(where: Path, limits: str, files: int = 10_000) -> Made:
    """Fill a mounted file system with the generated tree; it may refuse little."""
    made = make(where, files=files, limits=limits)
    assert made.made >= files
    assert set(made.refused) <= MAY, made.refused
    assert sum(made.refused.values()) < 50, made.refused
    return made


def shown(kind: str, image: Path, where: Path, *options: str) -> dict[bytes, Seen]:
    """Return what the kernel shows of an image that nobody writes to."""
    with attached(kind, image, where, "ro", *options) as top:
        return look(top)
