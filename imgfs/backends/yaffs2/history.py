"""What a YAFFS2 log says happened to its objects, read from its end to its beginning.

Every page carries the sequence number of its block, so that all pages have an order in time. The newest
header of an object counts; so do chunks, unless a header written later says that the file was shorter then.
An object is removed by a header that moves it to one of the directories 3 (unlinked, somebody has it open)
and 4 (deleted). Its number may be used again: each use is a life of its own.

Source: "How YAFFS Works" (Charles Manning, 2012), section 10 (scanning); his message "Re: [Yaffs] shrink
header" to the YAFFS list, 19 April 2012, on old headers and holes, and that of 10 December 2005 on the
directories of unlinked and deleted objects.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from imgfs.backends.yaffs2.structures import (
    DELETED,
    FILE,
    HEADER,
    HIGHEST_SEQUENCE,
    LOWEST_SEQUENCE,
    MAX_CHUNK,
    UNLINKED,
    header_of,
    tags_of,
)
from imgfs.errors import EvidenceError, Malformed
from imgfs.limits import SOURCE_READ_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._tsk_layout import Row
    from imgfs.backends.yaffs2.structures import Geometry, Object

_MAX_HEADERS: Final = 1 << 19  # and
_MAX_PAGES: Final = 1 << 22  # of 2 KiB are 8 GiB of flash: what the memory of a worker holds
_EXTENDED: Final = 0x8000_0000
_ENDLESS: Final = 1 << 62


class Life:
    """One use of an object number. Places of chunks are bytes of the dump; times are ranks in the log."""

    __slots__ = ("_cut", "_grown", "chunks", "gone", "header", "number", "until", "written")

    def __init__(self, number: int) -> None:
        self.number = number
        self.header: Object | None = None  # the newest with a place in the tree
        self.gone: Object | None = None  # the one that removed it
        self.written = 0  # when that header was
        self.until = _ENDLESS  # when it was removed
        self.chunks: dict[int, int] = {}
        self._cut = _ENDLESS  # bytes: the shortest the file was later than what is read next
        self._grown = 0

    @property
    def size(self) -> int:
        """Return the bytes of a file: what its header says, more when chunks were written later."""
        stated = self.header.attr.size if self.header is not None else 0
        return max(stated, self._grown)

    @property
    def last(self) -> Object | None:
        """Return the header that says most, None: only chunks are left."""
        return self.header or self.gone

    def older_header(self, found: Object, when: int) -> None:
        """Take a header that keeps the object in the tree."""
        if self.header is None:
            self.header, self.written = found, when
        if found.type == FILE:
            self._cut = min(self._cut, found.attr.size)

    def older_removal(self, found: Object, when: int) -> None:
        """Take a header that removed the object, or the earlier one of two."""
        self.gone, self.until = found, when

    def older_chunk(self, index: int, at: int, length: int, page: int) -> None:
        """Take a chunk unless a later one replaces it or a later header cut it off."""
        if index * page >= self._cut:
            return
        self.chunks.setdefault(index, at)
        if self.header is None and length <= page:
            self._grown = max(self._grown, index * page + length)

    def rows(self, size: int, page: int, missing: int) -> list[Row]:
        """Return runs that cover [0, size) bytes, ``missing`` where there is no chunk."""
        rows: list[Row] = []
        behind = 0
        for index in sorted(self.chunks):
            start = index * page
            if start >= size:
                break
            if behind < start:
                rows.append((behind, start - behind, missing))
            behind = min(start + page, size)
            rows.append((start, behind - start, self.chunks[index]))
        if behind < size:
            rows.append((behind, size - behind, missing))
        return rows


class _Pages:
    """The tags of all written pages in the order they lie."""

    __slots__ = ("_step", "chunks", "headers", "lengths", "numbers", "places", "segments")

    def __init__(self, shape: Geometry) -> None:
        self._step = shape.page + shape.spare
        self.places, self.numbers = array("I"), array("I")
        self.chunks, self.lengths = array("I"), array("I")
        self.headers: dict[int, Object] = {}  # by row
        self.segments: list[int] = []  # sequence << 32 | first row: integers sort without tuples

    def newest_first(self) -> Iterator[int]:
        """Yield rows backwards in time."""
        ends = dict(zip(self._firsts(), [*self._firsts()[1:], len(self.places)], strict=True))
        for segment in sorted(self.segments, reverse=True):
            first = segment & 0xFFFF_FFFF
            yield from range(ends[first] - 1, first - 1, -1)

    def _firsts(self) -> list[int]:
        return [segment & 0xFFFF_FFFF for segment in self.segments]

    def at(self, row: int) -> int:
        """Return the byte of the dump where the page of a row begins."""
        return self.places[row] * self._step


def lives_of(reader: Reader, shape: Geometry) -> tuple[list[Life], int]:
    """Return the lives of all objects, newest first by number, and how many pages could not be read.

    Raises:
        Malformed: more headers or pages than a worker can hold.
    """
    pages, unread = _scan(reader, shape)
    current: dict[int, Life] = {}
    lives: list[Life] = []
    when = len(pages.places)
    for row in pages.newest_first():
        when -= 1
        number, chunk = pages.numbers[row], pages.chunks[row]
        found = None if chunk else pages.headers[row]
        removed = found is not None and found.parent in {UNLINKED, DELETED}
        life = current.get(number)
        if life is None or (removed and life.header is not None):
            life = current[number] = Life(number)
            lives.append(life)
            if len(lives) > _MAX_HEADERS:
                raise Malformed(f"more than {_MAX_HEADERS} objects")
        if found is None:
            life.older_chunk(chunk - 1, pages.at(row), pages.lengths[row], shape.page)
        elif removed:
            life.older_removal(found, when)
        else:
            life.older_header(found, when)
    return lives, unread


def _scan(reader: Reader, shape: Geometry) -> tuple[_Pages, int]:
    pages, unread, before = _Pages(shape), 0, -1
    for place, page, spare in _read(reader, shape):
        if page is None:
            unread += 1
            continue
        sequence, number, chunk, length = tags_of(spare, shape)
        if not LOWEST_SEQUENCE <= sequence < HIGHEST_SEQUENCE or number == 0xFFFF_FFFF:
            continue  # erased, a checkpoint, or nothing at all
        if chunk & _EXTENDED:  # a header whose tags say more: the type stands above the number
            number, chunk = number & 0x0FFF_FFFF, 0
        if chunk >= MAX_CHUNK:
            continue
        row = len(pages.places)
        if not chunk:
            found = header_of(page, number, shape.order)
            if found is None:
                continue
            pages.headers[row] = found
        if row >= _MAX_PAGES or len(pages.headers) > _MAX_HEADERS:
            raise Malformed(f"more than {_MAX_HEADERS} headers or {_MAX_PAGES} pages")
        if sequence != before:
            pages.segments.append(sequence << 32 | row)
            before = sequence
        pages.places.append(place)
        pages.numbers.append(number)
        pages.chunks.append(chunk)
        pages.lengths.append(length)
    return pages, unread


def _read(reader: Reader, shape: Geometry) -> Iterator[tuple[int, bytes | None, bytes]]:
    """Yield number, first bytes and spare area of every page; None: it cannot be read."""
    step = shape.page + shape.spare
    count, many = reader.size // step, max(SOURCE_READ_MAX // step, 1)
    for first in range(0, count, many):
        pages = min(many, count - first)
        try:
            data = reader.read(first * step, pages * step)
        except EvidenceError:
            yield from _read_singly(reader, shape, first, pages)
            continue
        for index in range(pages):
            at = index * step
            yield first + index, data[at : at + HEADER], data[at + shape.page : at + step]


def _read_singly(
    reader: Reader, shape: Geometry, first: int, pages: int
) -> Iterator[tuple[int, bytes | None, bytes]]:
    step = shape.page + shape.spare
    for place in range(first, first + pages):
        try:
            data = reader.read(place * step, step)
            yield place, data[:HEADER], data[shape.page :]
        except EvidenceError:
            yield place, None, b""
