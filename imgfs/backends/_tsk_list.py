"""Listings of the live tree: a directory is loaded once, with the attributes of everything in it."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from imgfs.backends._tsk import ALLOCATED, META_KINDS, NAME_KINDS, RESIDENT, attr_of, clamp_size, mapped
from imgfs.backends._tsk_layout import RESIDENT_IN_LISTING, layout_of, size_of
from imgfs.errors import ImgfsError
from imgfs.limits import PAGE_SECONDS
from imgfs.model import Attr, Entry, Kind, Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgfs.backends._tsk_format import Format

KEPT_DIRECTORIES: Final = 8
KEPT_ENTRIES: Final = 200_000  # beyond, older directories are dropped
Entries = list[Entry]  # of one file: its content, then its streams
_NO_FILES: Final = "the entry has no metadata"


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


def names_of(fs: Any, inum: int) -> Iterator[Any]:
    """Yield the files of a directory, dot entries too; a string says what could not be read.

    One entry TSK cannot resolve does not end the listing as long as its iterator moves on.
    """
    with mapped(f"directory {inum}"):
        directory = fs.open_dir(inode=inum)
    iterator = iter(directory)
    while True:
        before = directory.current
        try:
            file = next(iterator)
        except StopIteration:
            return
        except OSError as why:
            yield f"directory {inum}: entry {before}: {str(why).splitlines()[0][:200]}"
            if directory.current <= before:
                return
            continue
        yield file


class Describer:
    """Turns a TSK file into entries: attributes, streams, and layouts of a run or two."""

    __slots__ = ("_block", "_format", "_volume")

    def __init__(self, form: Format, block: int, volume: int) -> None:
        self._format = form
        self._block = block
        self._volume = volume

    def kind_of(self, file: Any, attributes: list[Any]) -> Kind:
        """Say what a file is: the format's word, then the metadata's, then the name's."""
        name, meta = file.info.name, file.info.meta
        kind = self._format.kind(file, attributes)
        if kind is None and meta is not None:
            kind = META_KINDS.get(int(meta.type))
        if kind is None and name is not None:
            kind = NAME_KINDS.get(int(name.type))
        return Kind.REG if kind is None else kind

    def entries(self, file: Any, name: bytes, inum: int, *, deleted: bool = False) -> list[Entry]:
        """Return the entry of a file and, after it, those of its streams."""
        meta, form = file.info.meta, self._format
        if meta is None:
            kind = NAME_KINDS.get(int(file.info.name.type), Kind.REG)
            return [Entry(name, Attr(kind=kind, inum=inum, nlink=0, deleted=deleted, damaged=_NO_FILES))]
        damaged = ""
        try:
            attributes = list(file)
        except OSError as why:
            attributes, damaged = [], str(why).splitlines()[0][:200]
        kind = self.kind_of(file, attributes)
        size, allocated, layout = clamp_size(meta.size), 0, None
        found: list[Entry] = []
        for attribute in attributes:
            if form.is_content(attribute):
                if kind == Kind.REG:
                    size = size_of(attribute)
                    layout, allocated, why_not = self._layout(file, attribute, size)
                    damaged = damaged or why_not
            elif kind == Kind.REG or form.directory_streams:
                stream = form.stream_name(attribute)
                if stream is not None:
                    found.append(self._stream(file, attribute, name + b":" + stream, inum, deleted=deleted))
        attr = attr_of(
            inum,
            kind,
            meta,
            size=size,
            allocated=allocated,
            deleted=deleted,
            damaged=damaged,
            owners=self._format.owners,
        )
        return [Entry(name, form.repair(attr, int(meta.addr)), 0, layout), *found]

    def _stream(self, file: Any, attribute: Any, name: bytes, inum: int, *, deleted: bool) -> Entry:
        size = size_of(attribute)
        layout, allocated, damaged = self._layout(file, attribute, size)
        attr = attr_of(
            inum,
            Kind.REG,
            file.info.meta,
            size=size,
            allocated=allocated,
            deleted=deleted,
            damaged=damaged,
            owners=self._format.owners,
        )
        return Entry(
            name, self._format.repair(attr, int(file.info.meta.addr)), 1 + int(attribute.info.id), layout
        )

    def _layout(self, file: Any, attribute: Any, size: int) -> tuple[Any, int, str]:
        """Return the layout if it is short enough for a listing, the allocated bytes, and damage."""
        if int(attribute.info.flags) & RESIDENT and size > RESIDENT_IN_LISTING:
            return None, 0, ""
        try:
            layout, allocated = self.layout(file, attribute, size)
        except ImgfsError as why:
            return None, 0, why.message
        except OSError as why:
            return None, 0, str(why).splitlines()[0][:200]
        runs = len(getattr(layout, "logical", b"")) // 8
        return (layout,) if runs <= 2 else None, allocated, ""

    def layout(self, file: Any, attribute: Any, size: int) -> tuple[Any, int]:
        """Say where an attribute lies."""
        valid = None
        if not int(attribute.info.flags) & RESIDENT:
            valid = self._format.valid(int(file.info.meta.addr), attribute.info.name)
        return layout_of(
            file, attribute, size, self._block, self._volume, valid=valid, holes=self._format.holes
        )


def live_entries(fs: Any, inum: int, form: Format, describer: Describer) -> Iterator[Entry | str]:
    """Yield what is allocated in a directory; strings say what is missing."""
    for file in names_of(fs, inum):
        if isinstance(file, str):
            yield file
            continue
        found = file.info.name
        if found is None or not int(found.flags) & ALLOCATED:
            continue
        name = bytes(found.name or b"")
        if name in {b".", b".."} or not form.keep(file):
            continue
        yield from describer.entries(file, name, int(found.meta_addr))
