"""Orphans: inodes that hold a deleted file and that no directory names any more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Generic

from imgfs.backends._deleted_source import I, Name
from imgfs.errors import EvidenceError, NotFound
from imgfs.model import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._deleted_source import Source

_STEPS: Final = 20  # bits of a cursor that count pages spent on reading names
_OFTEN: Final = 1023  # names between two looks at the clock, less one
_DIRECTORY: Final = 4  # st_mode >> 12


class Orphans(Generic[I]):
    """The orphans of one file system, in the order of their numbers.

    All names are read first, as pages without entries: a page ends when its time does.
    """

    __slots__ = ("_named", "_names", "_source")

    def __init__(self, source: Source[I]) -> None:
        self._source = source
        self._named: set[int] = set()  # freed inodes some directory names
        self._names: Iterator[None] | None = self._read_names()

    def page(self, cursor: int, limit: int, deadline: float) -> tuple[list[I], int]:
        """Return at most ``limit`` orphans and the cursor of the next page, -1: there is none."""
        if self._names is not None:
            for _ in self._names:
                if time.monotonic() > deadline:
                    return [], cursor + 1
            self._names = None
        found: list[I] = []
        at = cursor >> _STEPS
        for first, modes in self._source.scan(at + 1):
            for index, mode in enumerate(modes):
                number = first + index
                if not mode or number in self._named:
                    continue
                inode = self.inode(number)
                if inode is not None:
                    found.append(inode)
                    if len(found) >= limit:
                        return found, number << _STEPS
            at = first + len(modes) - 1
            if time.monotonic() > deadline:
                return found, at << _STEPS
        return found, -1

    def inode(self, number: int) -> I | None:
        """Return an inode that holds a file and belongs to nobody, None when it does not.

        An allocated inode without links is one: the file was deleted while somebody had it open.
        """
        source = self._source
        try:
            inode = source.inode(number)
            if source.kind(inode) is None or not source.is_file(inode):
                return None
            return inode if not source.is_linked(inode) or not source.is_in_use(number) else None
        except (EvidenceError, NotFound):
            return None

    def _read_names(self) -> Iterator[None]:
        """Note which freed inodes are named, directory by directory."""
        source, named = self._source, self._named
        for first, modes in source.scan(1):
            for index, mode in enumerate(modes):
                if mode >> 12 != _DIRECTORY or not source.is_searched(first + index):
                    continue
                try:
                    inode = source.inode(first + index)
                    if source.kind(inode) != Kind.DIR:
                        continue
                    for deleted in (False, True):
                        for count, found in enumerate(source.names(inode, deleted=deleted)):
                            if isinstance(found, Name) and not self._in_use(found.inode):
                                named.add(found.inode)
                            if found is None or not count & _OFTEN:
                                yield
                except (EvidenceError, NotFound):
                    continue
            yield

    def _in_use(self, number: int) -> bool:
        try:
            return self._source.is_in_use(number)
        except (EvidenceError, NotFound):
            return False
