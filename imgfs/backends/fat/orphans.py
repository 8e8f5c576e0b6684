"""Orphans: directory entries in free clusters that no entry, live or deleted, leads to.

A free cluster belongs to no live directory. So free space is read for what looks like directories, and
only if there is any, the directories are walked for the deleted ones that lead there. All of that goes
on from page to page.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from imgfs.backends.fat.clusters import directory_clusters, free_runs, released
from imgfs.backends.fat.content import rows_of
from imgfs.backends.fat.directory import Directory
from imgfs.backends.fat.volume import SLOT, Item
from imgfs.errors import EvidenceError, ImgfsError
from imgfs.limits import PAGE_SECONDS, SOURCE_READ_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgfs.backends.fat.volume import Form, Volume

_STEPS: Final = 20  # bits of a cursor that count pages without entries
_LIMIT: Final = (1 << 63 - _STEPS) - 1  # numbers a cursor can say
_OVERLAP: Final = 20 * SLOT  # of two pieces of free space: an entry may lie across
_REGION: Final = 256 << 10  # bytes of free space parsed at once
_REGIONS: Final = 1_000_000
_ROOM: Final = 1024

Numbered = tuple[int, Item]


class Orphans:
    """The orphans of one volume in the order they lie."""

    __slots__ = ("_claimed", "_form", "_parsed", "_root", "_source", "_starts", "_stops", "_volume")

    def __init__(self, volume: Volume, form: Form, root: Callable[[], Directory]) -> None:
        self._volume = volume
        self._form = form
        self._root = root
        self._starts: list[int] = []  # where entries lie in free space: bytes
        self._stops: list[int] = []
        self._claimed: set[int] = set()  # clusters shown elsewhere
        self._parsed: tuple[int, list[Numbered]] = (-1, [])
        self._source: Iterator[None] | None = self._prepare()

    def page(self, cursor: int, limit: int, deadline: float) -> tuple[list[Numbered], int]:
        """Return at most ``limit`` orphans and the cursor of the next page, -1: there is none.

        The cursor is a number and, below, a count of pages that only brought time.
        """
        if self._source is not None:
            for _ in self._source:
                if time.monotonic() > deadline:
                    return [], cursor + 1
            self._source = None
        found: list[Numbered] = []
        least = cursor >> _STEPS
        place = self._volume.slot(least) if least else 0
        for index in range(max(bisect_right(self._starts, place) - 1, 0), len(self._starts)):
            for number, item in self._region(index):
                if number < least:
                    continue
                if len(found) >= limit:
                    return found, min(number, _LIMIT) << _STEPS
                found.append((number, item))
            if index + 1 < len(self._starts) and time.monotonic() > deadline:
                following = self._volume.number(self._starts[index + 1])
                return found, max(min(following, _LIMIT) << _STEPS, cursor + 1)
        return found, -1

    def _prepare(self) -> Iterator[None]:
        yield from self._scan()
        if not self._starts:
            return
        try:
            root = self._root()
        except ImgfsError:
            return
        yield from self._claim([(root, True)], set())
        for index in range(len(self._starts)):  # what orphans lead to is shown below them
            folders = [item for _, item in self._region(index) if item.directory]
            own = {self._volume.cluster_at(self._starts[index])}
            yield from self._claim(self._leading(folders, own), own)
        self._parsed = (-1, [])

    def _scan(self) -> Iterator[None]:
        """Note where in free space directory entries lie."""
        volume, starts, stops = self._volume, self._starts, self._stops
        for first, count in free_runs(volume, 2):
            at, stop = volume.place(first), min(volume.place(first + count), volume.limit)
            while at < stop:
                take = min(SOURCE_READ_MAX, stop - at)
                for begin, end in self._form.hits(self._free(at, min(take + _OVERLAP, stop - at), take)):
                    if begin >= take:
                        break  # the next piece begins with it
                    if starts and stops[-1] >= at + begin and stops[-1] - starts[-1] < _REGION:
                        stops[-1] = max(stops[-1], at + end)
                    elif len(starts) < _REGIONS:
                        starts.append(at + begin)
                        stops.append(at + end)
                at += take
                yield

    def _free(self, at: int, length: int, least: int) -> bytes:
        """Return bytes of free space, zeros where it cannot be read."""
        try:
            return self._volume.read(at, length)
        except EvidenceError:
            parts = []
            for start in range(at, at + least, 4096):
                size = min(4096, at + least - start)
                try:
                    parts.append(self._volume.read(start, size))
                except EvidenceError:
                    parts.append(bytes(size))
            return b"".join(parts)

    def _claim(self, todo: list[tuple[Directory, bool]], seen: set[int]) -> Iterator[None]:
        """Claim the clusters of all deleted directories that directories lead to."""
        while todo:
            directory, live = todo.pop()
            slot, ended = 0, False
            while slot >= 0:
                page = directory.page(
                    slot, _ROOM, time.monotonic() + PAGE_SECONDS / 4, marked=True, ended=ended
                )
                slot, ended = page.next, page.ended
                for _, item in page.items:
                    if not item.directory or item.first in seen:
                        continue
                    if live and not item.marked:
                        seen.add(item.first)
                        todo.append((self._live(item), True))
                    else:
                        todo += self._leading([item], seen)
                yield

    def _leading(self, folders: list[Item], seen: set[int]) -> list[tuple[Directory, bool]]:
        """Claim the clusters of deleted directories and return those that were not looked at yet."""
        found = []
        for item in folders:
            if item.first in seen or item.first in self._claimed:
                continue
            runs = released(self._volume, item, self._form)
            for start, count in runs:
                self._claimed.update(range(start, start + count))
            if runs:
                found.append((self._of(runs), False))
        return found

    def _live(self, item: Item) -> Directory:
        try:
            return self._of(directory_clusters(self._volume, item, self._form).runs)
        except EvidenceError:
            return self._of([])

    def _of(self, runs: list[tuple[int, int]]) -> Directory:
        size = sum(count for _, count in runs) * self._volume.cluster
        return Directory(self._volume, self._form, rows_of(self._volume, runs, size))

    def _region(self, index: int) -> list[Numbered]:
        """Return the orphans of a piece of free space."""
        if self._parsed[0] == index:
            return self._parsed[1]
        volume, start, stop = self._volume, self._starts[index], self._stops[index]
        found: list[Numbered] = []
        try:
            data = volume.read(start, stop - start)
        except EvidenceError:
            data = self._free(start, stop - start, stop - start)
        for item in self._form.parse(data, len(data), final=True, marked=True, ended=True).items:
            at = start + item.slot * SLOT
            if volume.cluster_at(at) not in self._claimed:
                found.append((volume.number(at), item))
        self._parsed = (index, found)
        return found
