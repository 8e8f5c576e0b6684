"""Orphans: inodes that hold a file and that no directory names any more."""

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


class _Numbers:
    """A set of inode numbers in pages of bits: a set of integers costs five hundred times as much."""

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}

    def __contains__(self, number: int) -> bool:
        page = self._pages.get(number >> 12)
        return page is not None and bool(page[number >> 3 & 511] >> (number & 7) & 1)

    def add(self, number: int) -> None:
        page = self._pages.get(number >> 12)
        if page is None:
            page = self._pages[number >> 12] = bytearray(512)
        page[number >> 3 & 511] |= 1 << (number & 7)

    def remove(self, number: int) -> None:
        self._pages[number >> 12][number >> 3 & 511] &= ~(1 << (number & 7))


class Orphans(Generic[I]):
    """The orphans of one file system, in the order of their numbers.

    All names are read first, as pages without entries: a page ends when its time does.
    """

    __slots__ = ("_in_tree", "_named", "_names", "_source")

    def __init__(self, source: Source[I]) -> None:
        self._source = source
        self._named: set[int] = set()  # freed inodes some directory names
        self._in_tree = _Numbers()  # inodes in use some directory names
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
                if not mode or number in self._named or number in self._in_tree:
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

        An allocated inode without links is one: the file was deleted while somebody had it open. One with
        links is taken for one where the file system names all it has: only ``page`` knows that nobody does.
        """
        source = self._source
        try:
            inode = source.inode(number)
            if source.kind(inode) is None or not source.is_file(inode):
                return None
            return inode if self._is_alone(inode) else None
        except (EvidenceError, NotFound):
            return None

    def _is_alone(self, inode: I) -> bool:
        source = self._source
        return source.names_all or not source.is_linked(inode) or not source.is_in_use(source.number(inode))

    def _read_names(self) -> Iterator[None]:
        """Note which inodes are named, directory by directory."""
        for inode in self._directories():
            if inode is None:
                yield
                continue
            try:
                for deleted in (False, True):
                    for count, found in enumerate(self._source.names(inode, deleted=deleted)):
                        if isinstance(found, Name):
                            self._note(found.inode, deleted=deleted)
                        if found is None or not count & _OFTEN:
                            yield
            except (EvidenceError, NotFound):
                continue
        if self._source.names_all:
            yield from self._leave_trees()

    def _note(self, number: int, *, deleted: bool) -> None:
        if not self._in_use(number):
            self._named.add(number)
        elif self._source.names_all and not deleted:
            self._in_tree.add(number)

    def _leave_trees(self) -> Iterator[None]:
        """Forget what only directories name that nobody names: below an orphan all are orphans."""
        source = self._source
        for inode in self._directories():
            if inode is None:
                yield
                continue
            number = source.number(inode)
            if number in self._in_tree or not source.is_file(inode) or not self._in_use(number):
                continue
            todo = [inode]
            while todo:
                try:
                    for count, found in enumerate(source.names(todo.pop(), deleted=False)):
                        if isinstance(found, Name) and found.inode in self._in_tree:
                            todo += self._taken_out(found.inode)
                        if found is None or not count & _OFTEN:
                            yield
                except (EvidenceError, NotFound):
                    continue

    def _taken_out(self, number: int) -> list[I]:
        """Forget an inode, unless it has other names; returns it if it is a directory."""
        inode = self._source.inode(number)
        is_directory = self._source.kind(inode) == Kind.DIR
        if is_directory or self._source.attr(inode, number, deleted=False).nlink == 1:
            self._in_tree.remove(number)
        return [inode] if is_directory else []

    def _directories(self) -> Iterator[I | None]:
        """Yield all directories; None: only time has passed."""
        source = self._source
        for first, modes in source.scan(1):
            for index, mode in enumerate(modes):
                if mode >> 12 != _DIRECTORY or not source.is_searched(first + index):
                    continue
                try:
                    inode = source.inode(first + index)
                    if source.kind(inode) == Kind.DIR:
                        yield inode
                except (EvidenceError, NotFound):
                    continue
            yield None

    def _in_use(self, number: int) -> bool:
        try:
            return self._source.is_in_use(number)
        except (EvidenceError, NotFound):
            return False
