"""Opening a host file that an image names: beneath one folder, through no link, a file and no device.

A name is walked component by component. Without ``..`` and without links that is what openat2(2) does with
RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS, on every kernel.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from imgfs.block.hostfile import HostFile
from imgfs.errors import UsageError
from imgfs.model import beneath

if TYPE_CHECKING:
    from pathlib import Path

# Neither opens a device nor waits for a FIFO: what is there is looked at first.
_LOOK: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


def open_beneath(folder: Path, name: str) -> HostFile | None:
    """Open the regular file ``name`` beneath ``folder``; None: there is none, or it is something else."""
    if not beneath(name):
        return None
    *folders, last = name.split("/")
    held: list[int] = []
    try:
        held.append(os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        for one in folders:
            held.append(os.open(one, _LOOK | os.O_DIRECTORY, dir_fd=held[-1]))
        held.append(os.open(last, _LOOK, dir_fd=held[-1]))
        if not stat.S_ISREG(os.fstat(held[-1]).st_mode):
            return None
        return _opened(held[-1], str(folder / name))
    except OSError:
        return None
    finally:
        for fd in held:
            os.close(fd)


def _opened(looked: int, shown: str) -> HostFile | None:
    """Open for reading what was looked at; None: it is empty."""
    path = f"/proc/self/fd/{looked}"
    try:
        fd = os.open(path, _READ | os.O_NOATIME)
    except PermissionError:  # O_NOATIME is for the owner only
        fd = os.open(path, _READ)
    with suppress(UsageError):
        return HostFile(fd, shown)
    os.close(fd)
    return None
