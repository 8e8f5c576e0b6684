"""Where indexes of compressed files are kept: the user's cache directory, else memory.

Nothing in them is looked at here.

``$XDG_CACHE_HOME/imgfs/index/KEY``: the key is made of the identity of the host file, the back-end, and the
version of what it writes. Written beside it and renamed when whole. Together at most ``limits.INDEX_CACHE``:
those that were not used for the longest time give way; mounts that use one keep it open. The file system
keeps a tenth of its size free, of large ones ``limits.INDEX_FREE``: what does not fit is kept in memory, up
to ``limits.INDEX_IN_MEMORY``.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from imgfs import limits
from imgfs.block.hostfile import HostFile
from imgfs.errors import EvidenceError, NotSupported, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Backend

_LOOK_EVERY: Final = 64 * limits.MIB  # bytes written between two looks at what is free
_PREFIX: Final = ".new-"
_STALE: Final = 86_400.0  # seconds after which what was being written is nobody's


class Indexes:
    """The indexes of a session; ``close`` at its end."""

    __slots__ = ("_folder", "_open")

    def __init__(self, folder: Path | None = None) -> None:
        """``folder``: where they are stored; None: in the user's cache directory."""
        self._folder = folder or _cache() / "imgfs" / "index"
        self._open: list[HostFile] = []

    def find(self, image: HostFile, backend: Backend) -> HostFile | None:
        """Return the stored index of an image; None: there is none, or it is not ours."""
        path = self._folder / _key(image, backend)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        facts = os.fstat(fd)
        if facts.st_uid != os.geteuid() or facts.st_mode & 0o077 or not facts.st_size:
            os.close(fd)
            return None
        with suppress(OSError):
            os.utime(fd)  # when it was used last
        return self._opened(fd, path)

    def drop(self, image: HostFile, backend: Backend, file: HostFile) -> None:
        """Remove a stored index that is damaged."""
        with suppress(OSError):
            (self._folder / _key(image, backend)).unlink()
        self._open.remove(file)
        file.close()

    def draft(self, image: HostFile, backend: Backend) -> Draft:
        """Begin to write an index."""
        return Draft(self._folder, _key(image, backend))

    def keep(self, draft: Draft) -> HostFile:
        """Return an index that is whole, stored if it can be.

        Raises:
            EvidenceError: it is empty.
        """
        fd, path = draft.finish()
        try:
            return self._opened(fd, path)
        except UsageError as why:
            raise EvidenceError("an index of no bytes") from why

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._open.pop().close()

    def _opened(self, fd: int, path: Path) -> HostFile:
        try:
            file = HostFile(fd, str(path), ours=True)
        except BaseException:
            os.close(fd)
            raise
        self._open.append(file)
        return file


class Draft:
    """An index that is being written. ``why``: it is kept in memory because of that; empty: it is stored."""

    __slots__ = ("_fd", "_folder", "_key", "_path", "_seen", "size", "why")

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key
        self._path: Path | None = None
        self.size = self._seen = 0
        self.why = ""
        try:
            _prepare(folder)
            self._fd, name = tempfile.mkstemp(prefix=_PREFIX, dir=folder)
        except OSError as why:
            self._fd = _memory()
            self.why = f"{folder}: {why.strerror or why}"
            return
        self._path = Path(name)
        self._look()

    async def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            NotSupported: there is room for them neither in the cache directory nor in memory.
        """
        if data:
            await trio.to_thread.run_sync(self._write, data)

    def finish(self) -> tuple[int, Path]:
        """Give the index its name; return a descriptor, which is the caller's, and what it is called."""
        fd, self._fd = self._fd, -1
        if self._path is None:
            return fd, Path("memory")
        path = self._folder / self._key
        try:
            self._path.rename(path)
        except OSError as why:
            self.why = f"{path}: {why.strerror or why}"
            self._discard()
        self._path = None
        return fd, path

    def close(self) -> None:
        """Give up what is not finished."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._discard()

    def _discard(self) -> None:
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()
            self._path = None

    def _write(self, data: bytes) -> None:
        if self._path is not None and self.size - self._seen >= _LOOK_EVERY:
            self._look()
        view = memoryview(data)
        while view:
            if self._path is None and self.size + len(view) > limits.INDEX_IN_MEMORY:
                raise NotSupported(f"an index of more than {self.size} bytes has no room: {self.why}")
            try:
                done = os.pwrite(self._fd, view, self.size)
            except OSError as why:
                if self._path is None:
                    raise NotSupported(f"an index has no room: {why.strerror}") from why
                self._move(str(why.strerror))
                continue
            self.size += done
            view = view[done:]

    def _look(self) -> None:
        """See to it that the cache stays within its bounds, or go on in memory."""
        self._seen = self.size
        evict(self._folder, limits.INDEX_CACHE - self.size - _LOOK_EVERY)
        try:
            facts = os.fstatvfs(self._fd)
        except OSError:
            return
        free, size = facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
        least = min(size // limits.INDEX_FREE_SHARE, limits.INDEX_FREE)
        if free < least + _LOOK_EVERY:
            self._move(f"{self._folder}: {free >> 20} MiB are free, {least >> 20} are to stay free")
        elif self.size > limits.INDEX_CACHE:
            self._move(f"{self._folder}: it is larger than all indexes together may be")

    def _move(self, why: str) -> None:
        """Go on in memory.

        Raises:
            NotSupported: there is too much of it by now.
        """
        self.why = why
        if self.size > limits.INDEX_IN_MEMORY:
            raise NotSupported(f"an index of more than {self.size} bytes has no room: {why}")
        fd = _memory()
        at = 0
        while at < self.size:
            at += os.pwrite(fd, os.pread(self._fd, 4 * limits.MIB, at), at)
        os.close(self._fd)
        self._fd = fd
        self._discard()


def evict(folder: Path, most: int) -> None:
    """Remove the indexes that were not used for the longest time, until ``most`` bytes are left."""
    rows = sorted(_stored(folder), reverse=True)
    held = 0
    for _, size, path in rows:
        held += size
        if held > most:
            with suppress(OSError):
                path.unlink()


def _stored(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield when each index was used, its size and its path; what was left half written is removed."""
    try:
        entries = list(folder.iterdir())
    except OSError:
        return
    newest = 0.0
    found: list[tuple[float, int, Path]] = []
    for path in entries:
        with suppress(OSError):
            facts = path.lstat()
            if stat.S_ISREG(facts.st_mode):
                found.append((facts.st_mtime, facts.st_size, path))
                newest = max(newest, facts.st_mtime)
    for used, size, path in found:
        if not path.name.startswith(_PREFIX):
            yield used, size, path
        elif used < newest - _STALE:
            with suppress(OSError):
                path.unlink()


def _key(image: HostFile, backend: Backend) -> str:
    words = (*image.identity, backend.name, backend.index)
    return hashlib.sha256(":".join(map(str, words)).encode()).hexdigest()


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    if base and Path(base).is_absolute():
        return Path(base)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # no home
        return Path("/nonexistent")


def _prepare(folder: Path) -> None:
    """Make the folder, which must be the user's alone.

    Raises:
        OSError: it cannot be made, or is somebody else's.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        raise PermissionError(1, "not a folder of this user alone")


def _memory() -> int:
    return os.memfd_create("imgfs-index", os.MFD_CLOEXEC)
