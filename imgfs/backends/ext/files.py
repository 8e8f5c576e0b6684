"""The ``Files`` verbs of ext2, ext3 and ext4."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from imgfs.backends._deleted import Deleted
from imgfs.backends._deleted_source import Damage
from imgfs.backends.ext.blocks import single_extent
from imgfs.backends.ext.content import EMPTY, layout_of, listed_layout, target_of
from imgfs.backends.ext.deleted import ROOT, DeletedExt
from imgfs.backends.ext.directory import bad_blocks, live_names
from imgfs.backends.ext.facts import facts_of
from imgfs.backends.ext.inode import (
    DATA,
    FLAGS,
    KIND_OF_TYPE,
    UNUSUAL,
    Inode,
    attr_of,
    attr_of_fields,
    read_fields,
    read_inode,
)
from imgfs.backends.ext.xattr import xattrs_of
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.limits import PAGE_SECONDS
from imgfs.model import Attr, Entry, FilesInfo, Kind, Layout, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._deleted_source import Found, Name
    from imgfs.backends.ext.tables import Tables

_KEPT_DIRECTORIES: Final = 16
_KEPT_NAMES: Final = 400_000  # beyond, older directories are dropped
_NAMES_MAX: Final = 3_000_000  # of one directory: two thirds of a worker's memory
_OFTEN: Final = 63  # entries between two looks at the clock, less one


class _Listing:
    """The names of one directory, drawn as far as somebody asked. None: nothing, a place in the order."""

    __slots__ = ("_source", "damaged", "names")

    def __init__(self, source: Iterator[Found]) -> None:
        self.names: list[Name | None] = []
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


class ExtFiles:
    """Live tree and deleted entries of one file system; see ``backends.Files``."""

    def __init__(self, tables: Tables, info: FilesInfo) -> None:
        self.info = info
        self._tables = tables
        self._kept: OrderedDict[int, _Listing] = OrderedDict()
        self._deleted = Deleted(DeletedExt(tables), ROOT)

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if self._is_deleted(tree):
            return self._deleted.list(inum, max(cursor, 0), max(limit, 1))
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
            if name is not None:
                entries.append(self._entry(name))
                if not at & _OFTEN and time.monotonic() > deadline:
                    break
        ended = listing.ended and at >= len(listing.names)
        return Page(entries, -1 if ended else at, listing.damaged if ended else "")

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file."""
        if stream:
            raise NotFound(f"inode {inum} has no stream {stream}")
        if self._is_deleted(tree):
            return self._deleted.stat(inum)
        return attr_of(self._inode(inum), self._tables, inum)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a file lie."""
        if stream:
            raise NotFound(f"inode {inum} has no stream {stream}")
        if self._is_deleted(tree):
            return self._deleted.layout(inum)
        return layout_of(self._inode(inum), self._tables)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link."""
        if self._is_deleted(tree):
            return self._deleted.link(inum)
        return target_of(self._inode(inum), self._tables)

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return extended attributes, flags and project."""
        if self._is_deleted(tree):
            return self._deleted.xattrs(inum)
        inode = self._inode(inum)
        found = xattrs_of(inode, self._tables) | facts_of(inode, self._tables)
        if inode.kind == Kind.DIR and (bad := bad_blocks(inode, self._tables)):
            found[b"user.imgfs.checksum"] = f"differs in the blocks at {', '.join(map(str, bad))}".encode()
        return found

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Refuse: there are no foreign bytes."""
        raise Malformed(
            f"inode {inum} of tree {tree}, stream {stream}: no bytes [{offset}, {offset + length})"
        )

    def _is_deleted(self, tree: int) -> bool:
        if not 0 <= tree < len(self.info.trees):
            raise NotFound(f"tree {tree}")
        return self.info.trees[tree].deleted

    def _inode(self, inum: int) -> Inode:
        """Return an inode that holds a file. Raises NotFound when it holds none."""
        inode = read_inode(self._tables, inum)
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
        listing = self._kept[inum] = _Listing(live_names(inode, self._tables))
        return listing

    def _entry(self, found: Name) -> Entry:
        _, number, kind, name = found
        tables = self._tables
        try:
            fields = read_fields(tables, number)
            attr = attr_of_fields(number, fields, tables, number)
        except (EvidenceError, NotFound) as why:
            kind = KIND_OF_TYPE.get(kind, Kind.REG)
            return Entry(name, Attr(kind=kind, inum=number, damaged=why.message))
        if attr.kind != Kind.REG or attr.damaged:
            return Entry(name, attr)
        size, flags = attr.size, fields[FLAGS]
        if not size:
            return Entry(name, attr, 0, EMPTY)
        if not flags & UNUSUAL:
            single = single_extent(flags, fields[DATA], size, tables)
            if single is not None:
                return Entry(name, attr, 0, (single,))
        return Entry(name, attr, 0, listed_layout(read_inode(tables, number), tables, size))
