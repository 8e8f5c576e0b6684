"""Sparse bundles: folders that are one disk. Opening their members: regular files, no links."""

from __future__ import annotations

import re
import resource
import stat
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.block.beneath import open_beneath
from imgfs.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from imgfs.block.hostfile import HostFile

_LISTS: Final = ("Info.plist", "Info.bckup")  # what a bundle is, and the backup of it
_BANDS: Final = "bands"
_TOKENS: Final = "token"  # of an encrypted bundle it holds how
_SPARE: Final = 512  # descriptors for everything else: workers, the mount, events


def bundle(path: Path) -> Path | None:
    """Return the folder of the sparse bundle that a path names: the folder, or the list in it; None: none."""
    folder = path if path.is_dir() else path.parent if path.name in _LISTS else None
    if folder is None or (folder / _BANDS).is_symlink() or not (folder / _BANDS).is_dir():
        return None
    return folder if any((folder / name).is_file() for name in _LISTS) else None


def open_bundle(folder: Path) -> tuple[tuple[HostFile, ...], tuple[str, ...]]:
    """Open the members of a sparse bundle: its lists, what its token holds, its bands.

    A band of no bytes is left out: it says what a missing one says.

    Returns:
        The files, a list first; the names of bands that are there and cannot be opened.

    Raises:
        UsageError: no list can be opened, or there are too many bands.
    """
    names = _bands(folder)
    make_room(len(names))
    files: list[HostFile] = []
    unopened: list[str] = []
    try:
        for name in (*_LISTS, _TOKENS, *[f"{_BANDS}/{name}" for name in names]):
            if (file := open_beneath(folder, name)) is not None:
                files.append(file)
            elif "/" in name and not _empty(folder / name):
                unopened.append(name.rpartition("/")[2])
        if not files or files[0].name not in _LISTS:
            message = f"{folder}: its property list cannot be opened"
            raise UsageError(message)  # noqa: TRY301  # the files are closed here
    except BaseException:
        for file in files:
            file.close()
        raise
    return tuple(files), tuple(unopened)


def _bands(folder: Path) -> list[str]:
    """Return the names of all bands.

    Raises:
        UsageError: the folder cannot be read, or has too many.
    """
    try:
        names = sorted(path.name for path in (folder / _BANDS).iterdir())
    except OSError as why:
        raise UsageError(f"{folder / _BANDS}: {why.strerror}") from why
    names = [name for name in names if re.fullmatch("[0-9a-fA-F]{1,16}", name)]
    if len(names) > limits.MAX_SEGMENTS:
        raise UsageError(f"{folder}: {len(names)} bands; at most {limits.MAX_SEGMENTS} are opened")
    return names


def _empty(path: Path) -> bool:
    """Say whether a path is a regular file of no bytes."""
    try:
        seen = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(seen.st_mode) and not seen.st_size


def make_room(files: int) -> None:
    """Let this process have that many more files open, as far as the system allows.

    Raises:
        UsageError: it does not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files + _SPARE
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise UsageError(f"{files} files are to be open at once; the system allows {hard} (ulimit -n)")
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
