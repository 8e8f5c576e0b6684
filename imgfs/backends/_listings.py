"""Pages of directories: what one holds is drawn once, and kept while somebody pages through it."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from imgfs.limits import PAGE_SECONDS
from imgfs.model import Entry, Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEPT_DIRECTORIES: Final = 8
KEPT_ENTRIES: Final = 200_000  # beyond, older directories are dropped
Entries = list[Entry]  # of one file: its content, then its streams


class Listing:
    """Entries of one directory, drawn from their source as far as somebody asked."""

    __slots__ = ("_damaged", "_source", "entries")

    def __init__(self, source: Iterator[Entry | str]) -> None:
        self.entries: list[Entry] = []
        self._source: Iterator[Entry | str] | None = source
        self._damaged = ""

    def page(self, cursor: int, limit: int) -> Page:
        """Return a page; shorter than ``limit`` when the work took long, never empty before the end."""
        stop, deadline = cursor + limit, time.monotonic() + PAGE_SECONDS
        entries, source = self.entries, self._source
        if source is not None:
            for item in source:
                if isinstance(item, str):
                    self._damaged = self._damaged or item
                    continue
                entries.append(item)
                if len(entries) >= stop or (len(entries) > cursor and time.monotonic() > deadline):
                    break
            else:
                self._source = None
        page = entries[cursor:stop]
        ended = self._source is None and cursor + len(page) >= len(entries)
        return Page(page, -1 if ended else cursor + len(page), self._damaged if ended else "")


class Listings:
    """The last few listings, so that the next page of one costs a slice."""

    __slots__ = ("_kept", "_load")

    def __init__(self, load: Callable[[int], Iterator[Entry | str]]) -> None:
        self._load = load
        self._kept: OrderedDict[int, Listing] = OrderedDict()

    def page(self, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of directory ``inum``."""
        listing = self._kept.get(inum)
        if listing is None:
            listing = self._kept[inum] = Listing(self._load(inum))
        self._kept.move_to_end(inum)
        try:
            return listing.page(max(cursor, 0), max(limit, 1))
        except BaseException:
            self._kept.pop(inum, None)  # a source that raised is exhausted: the next call starts over
            raise
        finally:
            self._trim()

    def _trim(self) -> None:
        while len(self._kept) > 1 and (
            len(self._kept) > KEPT_DIRECTORIES
            or sum(len(x.entries) for x in self._kept.values()) > KEPT_ENTRIES
        ):
            self._kept.popitem(last=False)
