"""The ``Files`` verbs of XFS."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from imgfs.backends._deleted_source import Damage
from imgfs.backends._layouts import linear
from imgfs.backends.xfs.attributes import xattrs_of
from imgfs.backends.xfs.content import EMPTY, ON_REALTIME, layout_of, target_of
from imgfs.backends.xfs.directory import names_of
from imgfs.backends.xfs.extents import rows_of, single
from imgfs.backends.xfs.inode import (
    CORE,
    EXTENTS,
    INTERNAL,
    KIND_OF_TYPE,
    NREXT64,
    OLD_CORE,
    REALTIME,
    Inode,
    attr_of,
    attr_of_fields,
    read_fields,
    read_inode,
)
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.limits import PAGE_SECONDS
from imgfs.model import Attr, Entry, FilesInfo, Kind, Layout, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._deleted_source import Found, Name
    from imgfs.backends.xfs.volume import Volume

_KEPT_DIRECTORIES: Final = 16
_KEPT_NAMES: Final = 400_000  # beyond, older directories are dropped
_NAMES_MAX: Final = 3_000_000  # of one directory: two thirds of a worker's memory
_OFTEN: Final = 63  # entries between two looks at the clock, less one
# places in what ``read_fields`` returns
_FORMAT, _MANY, _EXTENTS, _FLAGS, _FLAGS2 = (
    Inode._fields.index(name) - 2 for name in ("format", "many", "extents", "flags", "flags2")
)


class _Listing:
    """The names of one directory, drawn as far as somebody asked."""

    __slots__ = ("_source", "damaged", "names")

    def __init__(self, source: Iterator[Found]) -> None:
        self.names: list[Name] = []
        self.damaged = ""
        self._source: Iterator[Found] | None = source

    @property
    def ended(self) -> bool:
        return self._source is None

    def fill(self, cursor: int, stop: int, deadline: float) -> None:
        """Draw names up to ``stop``, fewer when the time is over and there is one behind ``cursor``."""
        names, source = self.names, self._source
        if source is None or len(names) >= stop:
            return
        for found in source:
            if isinstance(found, Damage):
                self.damaged = self.damaged or found.text
                continue
            if found is not None:
                names.append(found)
            count = len(names)
            if count >= stop or (
                (found is None or not count & 1023) and count > cursor and time.monotonic() > deadline
            ):
                break
            if count >= _NAMES_MAX:
                self.damaged = f"more than {_NAMES_MAX} names"
                self._source = None
                return
        else:
            self._source = None


class XfsFiles:
    """The tree of one file system; see ``backends.Files``."""

    def __init__(self, volume: Volume, info: FilesInfo) -> None:
        self.info = info
        self._volume = volume
        self._kept: OrderedDict[int, _Listing] = OrderedDict()

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        self._check(tree, 0)
        cursor, limit = max(cursor, 0), max(limit, 1)
        deadline = time.monotonic() + PAGE_SECONDS
        listing = self._listing(inum)
        try:
            listing.fill(cursor, cursor + limit, deadline)
        except BaseException:
            self._kept.pop(inum, None)  # a source that raised is exhausted: the next call starts over
            raise
        entries: list[Entry] = []
        at = cursor
        for name in listing.names[cursor : cursor + limit]:
            at += 1
            entries.append(self._entry(name))
            if not at & _OFTEN and time.monotonic() > deadline:
                break
        ended = listing.ended and at >= len(listing.names)
        return Page(entries, -1 if ended else at, listing.damaged if ended else "")

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file."""
        self._check(tree, stream)
        inode = self._inode(inum)
        return _said(attr_of(inode, self._volume), inode.flags, inode.flags2)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a file lie."""
        self._check(tree, stream)
        return layout_of(self._inode(inum), self._volume)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link."""
        self._check(tree, 0)
        return target_of(self._inode(inum), self._volume)

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return extended attributes."""
        self._check(tree, 0)
        return xattrs_of(self._inode(inum), self._volume)

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Refuse: there are no foreign bytes."""
        raise Malformed(
            f"inode {inum} of tree {tree}, stream {stream}: no bytes [{offset}, {offset + length})"
        )

    def _check(self, tree: int, stream: int) -> None:
        if tree:
            raise NotFound(f"tree {tree}")
        if stream:
            raise NotFound(f"stream {stream}")

    def _inode(self, inum: int) -> Inode:
        """Return an inode that holds a file. Raises NotFound when it holds none."""
        inode = read_inode(self._volume, inum)
        if not inode.mode:
            raise NotFound(f"inode {inum} holds no file")
        return inode

    def _listing(self, inum: int) -> _Listing:
        listing = self._kept.get(inum)
        if listing is not None:
            self._kept.move_to_end(inum)
            return listing
        inode = self._inode(inum)
        if inode.kind != Kind.DIR:
            raise NotFound(f"inode {inum} is no directory")
        while self._kept and (
            len(self._kept) >= _KEPT_DIRECTORIES
            or sum(len(x.names) for x in self._kept.values()) > _KEPT_NAMES
        ):
            self._kept.popitem(last=False)
        listing = self._kept[inum] = _Listing(names_of(inode, self._volume))
        return listing

    def _entry(self, found: Name) -> Entry:
        _, number, kind, name = found
        volume = self._volume
        try:
            fields, data, at = read_fields(volume, number)
            attr = attr_of_fields(number, fields, data, at, volume)
        except (EvidenceError, NotFound) as why:
            if number >> 63:  # no number of a file system, and none a reply can carry
                number = 0
            return Entry(name, Attr(kind=KIND_OF_TYPE.get(kind, Kind.REG), inum=number, damaged=why.message))
        flags, flags2 = fields[_FLAGS], fields[_FLAGS2]
        attr = _said(attr, flags, flags2)
        if attr.kind != Kind.REG or attr.damaged:
            return Entry(name, attr)
        size = attr.size
        if not size:
            return Entry(name, attr, 0, EMPTY)
        count = fields[_MANY] if flags2 & NREXT64 else fields[_EXTENTS]
        if fields[_FORMAT] != EXTENTS or count > 2:  # a run or two
            return Entry(name, attr)
        if count == 1:
            start = at + (CORE if fields[1] > 2 else OLD_CORE)
            place = single(data[start : start + 16], size, volume)
            if place >= 0:
                return Entry(name, attr, 0, (linear(size, [(0, size, place)]),))
        try:
            rows = rows_of(read_inode(volume, number), volume, size)
        except EvidenceError:
            return Entry(name, attr)
        return Entry(name, attr, 0, (linear(size, rows),) if len(rows) <= 3 else None)


def _said(attr: Attr, flags: int, flags2: int) -> Attr:
    """Return attributes with what keeps the content from being read."""
    why = ""
    if flags & REALTIME and attr.kind == Kind.REG and attr.size:
        why = f"inode {attr.inum}: {ON_REALTIME}"
    elif flags2 & INTERNAL:
        why = f"inode {attr.inum}: a file of the file system itself"
    if not why or attr.damaged:
        return attr
    names = attr.__struct_fields__
    return Attr(**{name: getattr(attr, name) for name in names} | {"damaged": why})
