"""Directories of EROFS: blocks of entries with their names behind them.

Source: erofs.docs.kernel.org, Core on-disk format, Directories.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.erofs.content import Contents
    from imgfs.backends.erofs.inode import Inode

_ENTRY: Final = struct.Struct("<QHBB")
_DOTS: Final = frozenset((b".", b".."))
_LONGEST: Final = 255
_BAD: Final = 64  # blocks that are said to be damaged before a directory is given up
_NAMES_MAX: Final = 3_000_000  # of one directory: two thirds of a worker's memory

Name = tuple[bytes, int, int]  # name, number of the inode, type


def names(inode: Inode, contents: Contents, block: int) -> Iterator[Name | str]:
    """Yield what a directory holds; strings say what is damaged."""
    bad = found = 0
    seen: set[int] = set()
    for at in range(0, inode.size, block):
        length = min(block, inode.size - at)
        try:
            data = contents.read(inode, at, length)
        except EvidenceError as why:
            bad += 1
            yield f"directory {inode.number}, byte {at}: {why.message}"
            if bad >= _BAD:
                return
            continue
        for name in _entries(data, inode.number, at):
            if isinstance(name, str):
                bad += 1
                yield name
                if bad >= _BAD:
                    return
                continue
            found += 1
            if found > _NAMES_MAX:
                yield f"more than {_NAMES_MAX} names"
                return
            yield name
        key = hash(data)
        if key in seen:
            yield f"directory {inode.number}: a block is twice in it"
            return
        seen.add(key)


def _entries(data: bytes, number: int, at: int) -> Iterator[Name | str]:
    """Yield the entries of one block: where the first name begins says how many there are."""
    first = int.from_bytes(data[8:10], "little")
    count = first // _ENTRY.size
    if not count or first % _ENTRY.size or first > len(data):
        yield f"directory {number}, byte {at}: {first} bytes of entries"
        return
    rows = list(_ENTRY.iter_unpack(data[:first]))
    for index, (inum, start, kind, _) in enumerate(rows):
        last = index + 1 == count
        stop = len(data) if last else rows[index + 1][1]
        if not first <= start < stop <= len(data):
            yield f"directory {number}, byte {at}: a name at [{start}, {stop})"
            continue
        name = data[start:stop]
        if last:
            name = name.split(b"\0", 1)[0]
        if not name or len(name) > _LONGEST:
            yield f"directory {number}, byte {at}: a name of {len(name)} bytes"
        elif name not in _DOTS:
            yield name, inum, kind
