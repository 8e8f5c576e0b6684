"""python3 seen.py ROOT: what the kernel shows of a tree, one line of JSON a path.

It needs the standard library alone: guests run it, too.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import sys
from typing import IO, TYPE_CHECKING, NamedTuple

try:
    import ctypes
except ImportError:  # a minimal installation: no times of birth
    ctypes = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BLOCK = 1 << 20  # of what is hashed: a block of zeros is left out of large files
LARGE = 8 << 20
_STATX_BTIME, _NOFOLLOW, _HERE = 0x800, 0x100, -100


class Seen(NamedTuple):
    """What the kernel shows of one path.

    ``kind`` is ``st_mode >> 12``; ``blocks`` are of 512 bytes, times nanoseconds since 1970, ``b_ns`` None
    where there is none. ``body``: of a regular file ``digest`` of its content, of a link its target in
    Latin-1. ``data``: where a regular file has none of the holes the kernel tells of, in bytes.
    """

    kind: int
    mode: int
    uid: int
    gid: int
    nlink: int
    inum: int
    size: int
    rdev: int
    m_ns: int
    a_ns: int
    c_ns: int
    b_ns: int | None
    blocks: int
    body: str | None
    xattrs: Mapping[bytes, bytes]
    data: tuple[tuple[int, int], ...]


class Digest:
    """SHA-256 of a content; of a large one, of its length and its blocks that are not zeros."""

    def __init__(self, size: int) -> None:
        self._large = size > LARGE
        self._sum = hashlib.sha256(struct.pack("<Q", size) if self._large else b"")

    def add(self, at: int, block: bytes) -> None:
        """Add the block at a multiple of ``BLOCK``; blocks of zeros of a large content may be left out."""
        if not self._large:
            self._sum.update(block)
        elif block.count(0) != len(block):
            self._sum.update(struct.pack("<Q", at))
            self._sum.update(block)

    def hex(self) -> str:
        """Return the digest."""
        return self._sum.hexdigest()


def digest(data: bytes) -> str:
    """Return the digest of a content."""
    made = Digest(len(data))
    for at in range(0, len(data), BLOCK):
        made.add(at, data[at : at + BLOCK])
    return made.hex()


def look(root: str | os.PathLike[str]) -> dict[bytes, Seen]:
    """Return everything below a folder by its path, and the folder as the empty one."""
    top = os.fsencode(root)
    found = {b"": _seen(top)}
    for folder, folders, names in os.walk(top, onerror=_fail):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            found[os.path.relpath(path, top) if folder != top else name] = _seen(path)
    return found


def _fail(why: OSError) -> None:
    raise why


def _seen(path: bytes) -> Seen:
    told = os.lstat(path)
    data: tuple[tuple[int, int], ...] = ()
    body = None
    born = _born(path)
    if stat.S_ISREG(told.st_mode):
        body, data = _content(path, told.st_size)
    elif stat.S_ISLNK(told.st_mode):
        body = os.readlink(path).decode("latin-1")
    try:
        keys = [os.fsencode(key) for key in os.listxattr(path, follow_symlinks=False)]
    except OSError:  # a file system without any
        keys = []
    values = {key: os.getxattr(path, key, follow_symlinks=False) for key in keys}
    return Seen(
        told.st_mode >> 12, told.st_mode & 0o7777, told.st_uid, told.st_gid, told.st_nlink, told.st_ino,
        told.st_size, told.st_rdev, told.st_mtime_ns, told.st_atime_ns, told.st_ctime_ns, born,
        told.st_blocks, body, values, data,
    )  # fmt: skip


def _content(path: bytes, size: int) -> tuple[str, tuple[tuple[int, int], ...]]:
    made = Digest(size)
    with open(path, "rb", buffering=0) as file:
        ranges = tuple(_ranges(file.fileno(), size))
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        blocks = range(0, size, BLOCK)
        if size > LARGE:
            parts = {at for start, stop in ranges for at in range(start // BLOCK * BLOCK, stop, BLOCK)}
            blocks = sorted(parts)  # type: ignore[assignment]
        for at in blocks:
            block = os.pread(file.fileno(), BLOCK, at)
            if len(block) != min(BLOCK, size - at):
                raise OSError(f"a short read of {path!r}")
            made.add(at, block)
    return made.hex(), ranges


def _ranges(handle: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        try:
            start = os.lseek(handle, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole follows
            return
        at = os.lseek(handle, start, os.SEEK_HOLE)
        yield start, at


def _born(path: bytes) -> int | None:
    if ctypes is None:
        return None
    buffer = ctypes.create_string_buffer(256)
    call = _LIBC.statx
    if call(_HERE, path, _NOFOLLOW, _STATX_BTIME, buffer):
        return None
    (mask,) = struct.unpack_from("=I", buffer, 0)
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, 80)  # stx_btime
    return int(seconds * 10**9 + nanoseconds) if mask & _STATX_BTIME else None


_LIBC = ctypes.CDLL(None, use_errno=True) if ctypes is not None else None


def dump(seen: Mapping[bytes, Seen], file: IO[str]) -> None:
    """Write lines of JSON, bytes in Latin-1."""
    for path, row in seen.items():
        xattrs = {key.decode("latin-1"): value.decode("latin-1") for key, value in row.xattrs.items()}
        file.write(json.dumps([path.decode("latin-1"), *row._replace(xattrs=xattrs)]) + "\n")  # type: ignore[arg-type]


def load(file: IO[str]) -> dict[bytes, Seen]:
    """Read what ``dump`` wrote."""
    found = {}
    for line in file:
        path, *fields = json.loads(line)
        row = Seen(*fields)
        xattrs = {
            str(key).encode("latin-1"): str(value).encode("latin-1") for key, value in row.xattrs.items()
        }
        data = tuple((start, stop) for start, stop in row.data)
        found[path.encode("latin-1")] = row._replace(xattrs=xattrs, data=data)
    return found


if __name__ == "__main__":
    dump(look(sys.argv[1]), sys.stdout)
