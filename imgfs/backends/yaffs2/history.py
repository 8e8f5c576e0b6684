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

import struct
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
)
from imgfs.errors import EvidenceError, Malformed
from imgfs.limits import SOURCE_READ_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._layouts import Row
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

    __slots__ = ("chunks", "headers", "lengths", "numbers", "places", "segments")

    def __init__(self) -> None:
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


def lives_of(reader: Reader, shape: Geometry) -> tuple[list[Life], int]:
    """Return the lives of all objects, newest first by number, and how many pages could not be read.

    Raises:
        Malformed: more headers or pages than a worker can hold.
    """
    pages, unread = _scan(reader, shape)
    current: dict[int, Life] = {}
    lives: list[Life] = []
    when, step = len(pages.places), shape.page + shape.spare
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
            life.older_chunk(chunk - 1, pages.places[row] * step, pages.lengths[row], shape.page)
        elif removed:
            life.older_removal(found, when)
        else:
            life.older_header(found, when)
    return lives, unread


def _scan(reader: Reader, shape: Geometry) -> tuple[_Pages, int]:
    pages, unread, before = _Pages(), 0, -1
    step, tags = shape.page + shape.spare, struct.Struct(shape.order + "4I")
    headers, places, numbers = pages.headers, pages.places, pages.numbers
    chunks, lengths, unpack = pages.chunks, pages.lengths, tags.unpack_from
    for first, data in _read(reader, step):
        if data is None:
            unread += 1
            continue
        place = first - 1
        for at in range(0, len(data), step):
            place += 1
            sequence, number, chunk, length = unpack(data, at + shape.page + shape.tags_at)
            if not LOWEST_SEQUENCE <= sequence < HIGHEST_SEQUENCE or number == 0xFFFF_FFFF:
                continue  # erased, a checkpoint, or nothing at all
            if chunk & _EXTENDED:  # a header whose tags say more: the type stands above the number
                number, chunk = number & 0x0FFF_FFFF, 0
            if chunk >= MAX_CHUNK:
                continue
            if not chunk:
                found = header_of(data[at : at + HEADER], number, shape.order)
                if found is None:
                    continue
                headers[len(places)] = found
                if len(headers) > _MAX_HEADERS:
                    raise Malformed(f"more than {_MAX_HEADERS} headers")
            if sequence != before:
                pages.segments.append(sequence << 32 | len(places))
                before = sequence
            places.append(place)
            numbers.append(number)
            chunks.append(chunk)
            lengths.append(length)
        if len(places) > _MAX_PAGES:
            raise Malformed(f"more than {_MAX_PAGES} pages")
    return pages, unread


def _read(reader: Reader, step: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the number of a page and all bytes of it and of some behind it; None: it cannot be read."""
    count, many = reader.size // step, max(SOURCE_READ_MAX // step, 1)
    for first in range(0, count, many):
        pages = min(many, count - first)
        try:
            yield first, reader.read(first * step, pages * step)
        except EvidenceError:
            yield from _read_singly(reader, step, range(first, first + pages))


def _read_singly(reader: Reader, step: int, places: range) -> Iterator[tuple[int, bytes | None]]:
    for place in places:
        try:
            data: bytes | None = reader.read(place * step, step)
        except EvidenceError:
            data = None
        yield place, data
