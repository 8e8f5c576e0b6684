"""The mount point before and after: checked, made, cleared of a dead mount, removed again if it was ours."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from imgfs import log, runtime
from imgfs.daemon import crash
from imgfs.errors import MountError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

logger = logging.getLogger(__name__)


def absolute(path: str) -> Path:
    """Return the path the kernel will show, without touching the last component: it may be a dead mount."""
    whole = Path(os.path.abspath(path))  # noqa: PTH100  # links of the last component must not be followed
    return Path(os.path.realpath(whole.parent)) / whole.name


def prepare(mountpoint: Path, images: Sequence[Path]) -> bool:
    """Make ``mountpoint`` fit to be mounted on; returns whether it was created.

    Raises:
        UsageError: no directory, not empty, or it contains an image; or creating it would write into
            the folder of the evidence.
        MountError: something live is mounted there.
    """
    clear_dead(mountpoint)
    for image in images:
        if mountpoint == image or mountpoint in image.parents:
            raise UsageError(f"{image} lies inside the mount point {mountpoint}: it would hide itself")
    try:
        entries = os.listdir(mountpoint)  # noqa: PTH208  # one directory, names only
    except FileNotFoundError:
        _create(mountpoint, images)
        return True
    except NotADirectoryError:
        raise UsageError(f"{mountpoint} is not a directory") from None
    except OSError as why:
        raise UsageError(f"{mountpoint}: {why.strerror}") from why
    if entries:
        raise UsageError(f"{mountpoint} is not empty: its {len(entries)} entries would be hidden")
    return False


def _create(mountpoint: Path, images: Sequence[Path]) -> None:
    if any(mountpoint.parent in (image, image.parent) for image in images):
        raise UsageError(
            f"{mountpoint} does not exist, and making it would write into the folder of the evidence:"
            f" make it yourself (mkdir {mountpoint}) or name another mount point"
        )
    try:
        mountpoint.mkdir()
    except OSError as why:
        raise UsageError(f"{mountpoint}: cannot be made: {why.strerror}") from why


def clear_dead(mountpoint: Path) -> None:
    """Unmount what a daemon that is gone left behind.

    Raises:
        MountError: a live imgfs is mounted there.
    """
    if not runtime.is_mounted(str(mountpoint)):
        return
    for path, record in runtime.records():
        if record.mountpoint == str(mountpoint) and alive(record.pid):
            raise MountError(f"{mountpoint}: {', '.join(record.images)} is mounted there already")
        if record.mountpoint == str(mountpoint):
            words = crash.last_words(path)
            logger.warning(log.DAEMON_CRASHED, extra={"pid": record.pid, "last_words": words})
            runtime.remove(path)
    if _answers(mountpoint):
        raise MountError(f"{mountpoint}: something is mounted there already")
    unmount(mountpoint, lazy=True)


def _answers(mountpoint: Path) -> bool:
    """Say whether a mount answers; one whose daemon is gone fails at once with ENOTCONN."""
    try:
        os.stat(mountpoint)  # noqa: PTH116
    except OSError:
        return False
    return True


def alive(pid: int) -> bool:
    """Say whether a process runs; one that has ended and waits for its parent to notice does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return status.rpartition(b")")[2].split()[0] not in (b"Z", b"X")


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount with fusermount3, which needs no privilege for the user's own mounts.

    Raises:
        MountError: with what fusermount3 said.
    """
    program = shutil.which("fusermount3")
    if program is None:
        raise MountError("fusermount3 is not installed (Debian and Ubuntu: apt install fuse3)")
    command = [program, "-u", *(["-z"] if lazy else []), "--", str(mountpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # found on PATH, no shell
    if done.returncode and runtime.is_mounted(str(mountpoint)):
        raise MountError(done.stderr.strip() or f"fusermount3 ended with {done.returncode}")


def remove(mountpoint: Path) -> None:
    """Remove a mount point that was made for the mount; one that is not empty stays."""
    try:
        mountpoint.rmdir()
    except OSError:
        return
