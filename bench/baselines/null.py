"""The price of FUSE through this binding: a file of zeros and made-up directories, no work behind them.

``python -m bench.baselines.null MOUNTPOINT SIZE DIRECTORIES FILES_EACH``
"""

from __future__ import annotations

import stat
import sys

import pyfuse3
import trio

_BIG = 2
_TREE = 3
_FOLDER = 1000
_FILE = 1 << 20
_FOREVER = 3600.0


class Null(pyfuse3.Operations):
    """Answers at once: memory for reads, attributes made as imgfs makes them."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, size: int, folders: int, each: int) -> None:
        super().__init__()
        self._size, self._folders, self._each = size, folders, each
        self._zeros = memoryview(bytes(1 << 20))
        self._names = [b"report_%06d_summary.docx" % j for j in range(each)]

    def _attr(self, ino: int) -> pyfuse3.EntryAttributes:
        shown = pyfuse3.EntryAttributes()
        folder = ino in (1, _TREE) or _FOLDER <= ino < _FILE
        shown.st_ino = ino
        shown.st_mode = (stat.S_IFDIR | 0o755) if folder else (stat.S_IFREG | 0o644)
        shown.st_nlink = 1
        shown.st_size = self._size if ino == _BIG else 4096
        shown.st_mtime_ns = shown.st_atime_ns = shown.st_ctime_ns = 1_700_000_000_000_000_000
        shown.attr_timeout = shown.entry_timeout = _FOREVER
        return shown

    async def getattr(self, inode: int, ctx: object = None) -> pyfuse3.EntryAttributes:
        return self._attr(inode)

    async def lookup(self, parent_inode: int, name: bytes, ctx: object = None) -> pyfuse3.EntryAttributes:
        if parent_inode == 1 and name in (b"big.bin", b"tree"):
            return self._attr(_BIG if name == b"big.bin" else _TREE)
        if parent_inode == _TREE and name.startswith(b"d"):
            return self._attr(_FOLDER + int(name[1:]))
        if parent_inode >= _FOLDER and name.startswith(b"report_"):
            return self._attr(_FILE + (parent_inode - _FOLDER) * self._each + int(name[7:13]))
        raise pyfuse3.FUSEError(2)

    async def opendir(self, inode: int, ctx: object) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: object) -> None:
        if fh == 1:
            rows = [(b"big.bin", _BIG), (b"tree", _TREE)]
        elif fh == _TREE:
            rows = [(b"d%d" % i, _FOLDER + i) for i in range(self._folders)]
        else:
            rows = [(n, _FILE + (fh - _FOLDER) * self._each + j) for j, n in enumerate(self._names)]
        for index in range(start_id, len(rows)):
            name, ino = rows[index]
            if not pyfuse3.readdir_reply(token, name, self._attr(ino), index + 1):
                return

    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    async def read(self, fh: int, off: int, size: int) -> memoryview:
        return self._zeros[: max(0, min(size, (self._size if fh == _BIG else 4096) - off))]


def main(mountpoint: str, size: int, folders: int, each: int) -> None:
    pyfuse3.init(Null(size, folders, each), mountpoint, {"ro", "fsname=null"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]))
