"""Listed directories, bounded by bytes. A listing grows page by page and is shared by its readers.

Atomic sections: a page is appended, indexed and numbered between two awaits; one task loads a listing at
a time, the others wait for it and look again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from imgfs import limits
from imgfs.model import Inline
from imgfs.tree import names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from imgfs.model import Entry, Page

    LoadPage = Callable[[int], Awaitable[Page]]
    Key = tuple[int, int, int]

# What an entry was measured to take (tests/tree/test_dircache.py): its row, the two structs with their
# numbers, a place in both indexes; and a layout of one run.
_ROW_BYTES: Final = 650
_LAYOUT_BYTES: Final = 280


class Row(NamedTuple):
    """One entry as shown: the escaped, distinct name, and what the worker said."""

    name: bytes
    entry: Entry


@dataclass(frozen=True, slots=True)
class DirCacheStatistics:
    """Units: ``used`` and ``capacity`` bytes (estimated); hits and misses count listings asked for."""

    entries: int
    used: int
    capacity: int
    hits: int
    misses: int


class Listing:
    """A directory as far as it has been read. ``damaged`` says what is missing from it."""

    __slots__ = ("_load", "_loading", "complete", "cursor", "damaged", "grew", "index", "rows", "weight")

    def __init__(self, load: LoadPage, grew: Callable[[Listing, list[Row], int], None]) -> None:
        self._load = load
        self.grew = grew
        self._loading: trio.Event | None = None
        self.rows: list[Row] = []
        self.index: dict[bytes, Row] = {}
        self.weight = 0  # bytes, estimated
        self.cursor = 0
        self.complete = False
        self.damaged = ""

    @property
    def untouched(self) -> bool:
        """Say whether nothing was read of it and nobody is reading."""
        return not self.rows and not self.complete and self._loading is None

    async def grow(self) -> None:
        """Bring one more page, or wait for the task that is bringing it."""
        if self._loading is not None:
            await self._loading.wait()
            return
        self._loading = trio.Event()
        try:
            page = await self._load(self.cursor)
            self._append(page)
        finally:
            self._loading.set()
            self._loading = None

    def _append(self, page: Page) -> None:
        fresh = []
        for entry in page.entries:
            name = names.distinct(names.escape(entry.name), entry.attr.inum, self.index)
            row = Row(name, entry)
            fresh.append(row)
            self.index[name] = row
        self.rows += fresh
        weight = _weight(fresh)
        self.weight += weight
        if page.damaged:
            self.damaged = page.damaged
        self.complete = page.next < 0
        self.cursor = page.next
        self.grew(self, fresh, weight)

    async def find(self, name: bytes) -> Row | None:
        """Return the entry of that name, reading on until it appears or the directory ends."""
        while True:
            row = self.index.get(name)
            if row is not None or self.complete:
                return row
            await self.grow()

    async def at_least(self, count: int) -> None:
        """Read on until ``count`` rows are there or the directory ends."""
        while len(self.rows) < count and not self.complete:
            await self.grow()


class DirCache:
    """Listings by (file system, tree, inum), oldest dropped first, and their entries by file.

    An entry is kept while a listing that names it is: attributes and layouts of small files are then
    answered without asking a worker.
    """

    __slots__ = ("_capacity", "_entries", "_hits", "_listings", "_misses", "_used")

    def __init__(self, capacity: int = limits.DIRCACHE_BYTES) -> None:
        self._capacity = capacity
        self._listings: OrderedDict[Key, Listing] = OrderedDict()
        self._entries: dict[tuple[int, int, int, int], Entry] = {}
        self._used = 0
        self._hits = 0
        self._misses = 0

    def get(self, key: Key, load: LoadPage) -> Listing:
        """Return the listing of a directory; a new one has read nothing yet."""
        listing = self._listings.get(key)
        if listing is not None:
            self._hits += 1
            self._listings.move_to_end(key)
            return listing
        self._misses += 1
        fs, tree, _inum = key
        entries = self._entries

        def grew(listing: Listing, fresh: list[Row], weight: int) -> None:
            for row in fresh:
                entries[(fs, tree, row.entry.attr.inum, row.entry.stream)] = row.entry
            self._used += weight
            self._shrink(listing)

        listing = Listing(load, grew)
        self._listings[key] = listing
        return listing

    def entry(self, fs: int, tree: int, inum: int, stream: int) -> Entry | None:
        """Return what a cached listing says of a file or stream."""
        return self._entries.get((fs, tree, inum, stream))

    def _shrink(self, growing: Listing) -> None:
        while self._used > self._capacity and len(self._listings) > 1:
            key, oldest = next(iter(self._listings.items()))
            if oldest is growing:
                self._listings.move_to_end(key)
                continue
            del self._listings[key]
            oldest.grew = _dropped  # whoever still reads it keeps it alive, uncounted
            self._used -= oldest.weight
            for row in oldest.rows:
                self._entries.pop((key[0], key[1], row.entry.attr.inum, row.entry.stream), None)

    def statistics(self) -> DirCacheStatistics:
        """Count what is held."""
        return DirCacheStatistics(len(self._entries), self._used, self._capacity, self._hits, self._misses)


def _dropped(_listing: Listing, _fresh: list[Row], _weight: int) -> None:
    """Stand in for the cache once a listing has left it."""


def _weight(rows: list[Row]) -> int:
    """Return the bytes that rows take, with both indexes: a sum over the page, not a measurement."""
    held = len(rows) * _ROW_BYTES + sum([2 * len(row.name) for row in rows])
    for row in rows:
        if row.entry.layout is not None:
            held += _LAYOUT_BYTES
            held += sum([layout.size for layout in row.entry.layout if isinstance(layout, Inline)])
    return held
