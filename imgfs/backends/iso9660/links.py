"""Hard links of Rock Ridge: records that are names of one file share a number.

A number says which file it is, not where a record lies: a digest of all that its records have in common. So
a listing needs no look at other directories, and records that contradict each other are two files.

Source: RRIP 1.12, section 4.1.1: files with the same serial number are links to one file. Before 1.12 there
is no serial number; who writes a file once then has the same extents in its records.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from imgfs.backends.iso9660.records import ASSOCIATED
from imgfs.errors import NotFound
from imgfs.model import Attr, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imgfs.backends.iso9660.records import Record, RockRidge
    from imgfs.model import Entry

SHARED: Final = 1 << 62  # of a number: no position
_KEPT: Final = 200_000  # numbers whose record is known
_DIRECTORIES: Final = 1 << 20  # looked through for one


class Links:
    """Which record stands for the files with several names of one tree.

    ``entries`` yields those of the directory with a number; ``root`` is that of the first.
    """

    def __init__(self, root: int, entries: Callable[[int], Iterator[Entry | str]]) -> None:
        self._root = root
        self._entries = entries
        self._places: dict[int, int] = {}

    def number(self, parts: Sequence[Record], more: RockRidge, attr: Attr) -> int:
        """Return the number of a file: the position of its record unless others may name it, too."""
        single = attr.nlink < 2 or attr.kind == Kind.DIR or attr.damaged
        stored = attr.kind == Kind.REG and any(part.size for part in parts)
        if single or not (more.serial or stored):
            return parts[0].at
        extents = [(part.extent, part.size) for part in parts] if stored else []
        fork = parts[0].flags & ASSOCIATED
        key = (more.serial, extents, fork, attr.kind, attr.mode, attr.uid, attr.gid, attr.nlink, attr.size)
        rest = (attr.m_ns, attr.a_ns, attr.c_ns, attr.b_ns, attr.rdev, more.link, more.zipped)
        digest = hashlib.blake2b(repr((key, rest)).encode(), digest_size=8).digest()
        number = SHARED | int.from_bytes(digest) % SHARED
        if len(self._places) >= _KEPT:
            self._places.clear()
        self._places.setdefault(number, parts[0].at)
        return number

    def place(self, number: int) -> int:
        """Return where a record of a shared number lies, in bytes.

        Raises:
            NotFound: no directory has one.
        """
        known = self._places.get(number)
        if known is not None:
            return known
        seen, todo = {self._root}, [self._root]
        while todo:  # a worker that was started again has listed nothing
            for entry in self._entries(todo.pop()):
                if number in self._places:
                    return self._places[number]
                if isinstance(entry, str) or entry.attr.kind != Kind.DIR:
                    continue
                if entry.attr.inum not in seen and len(seen) < _DIRECTORIES:
                    seen.add(entry.attr.inum)
                    todo.append(entry.attr.inum)
        raise NotFound(f"no record is one of file {number}")
