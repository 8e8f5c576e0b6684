"""Deleted entries of a file system with inodes: a lazy mirror of the live directories with what was deleted.

Owns the tree and its numbers; what inodes and directories look like a ``Source`` knows. Numbers are
positions: ``inode << 30`` is a live directory seen from here, ``inode << 30 | at / 4 + 1`` the entry at
byte ``at`` of the directory ``inode``, ``ORPHANS`` the directory of nameless inodes, ``ORPHANS | inode``
one of them. A cycle of deleted directories repeats a number, because positions are finite: whoever looks
at the numbers of ancestors ends it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic

from imgfs.backends._deleted_source import Damage, I, Name
from imgfs.backends._orphans import Orphans
from imgfs.errors import EvidenceError, NotFound
from imgfs.limits import PAGE_SECONDS
from imgfs.model import Attr, Entry, Inline, Kind, Layout, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._deleted_source import Source

SHIFT: Final = 30  # positions of one directory: 4 GiB of it
ORPHANS: Final = 1 << 62
EMPTY: Final = (Inline(b""),)
REUSED: Final = "the inode belongs to another file now"
IN_USE: Final = "the inode is in use: by another file, unless it is an orphan"
CLEARED: Final = "the entry no longer says which inode it named"
WIPED: Final = "the inode holds nothing any more"
_POSITION: Final = (1 << SHIFT) - 1
_KEPT: Final = 8  # directories
_KEPT_ROWS: Final = 200_000  # beyond, older directories are dropped
_NAMES_MAX: Final = 1_000_000  # of one directory
_STEPS: Final = 16  # bits of a cursor that count pages without entries
_OFTEN: Final = 1023  # names between two looks at the clock, less one

_Row = tuple[int, Name, bool]  # number here, entry, whether it is a live directory


class _Listing:
    """What a directory shows here."""

    __slots__ = ("damaged", "rows", "source")

    def __init__(self) -> None:
        self.source: Iterator[None] | None = None  # brings the rows, and ends when all are there
        self.rows: list[_Row] = []
        self.damaged = ""


class Deleted(Generic[I]):
    """The deleted tree of one file system."""

    __slots__ = ("_kept", "_names", "_orphans", "_root", "_source")

    def __init__(self, source: Source[I], root: int) -> None:
        self._source = source
        self._root = root
        self._kept: OrderedDict[int, _Listing] = OrderedDict()
        self._names: dict[int, Name] = {}  # by number, of the directory last asked about
        self._orphans = Orphans(source)

    def list(self, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory of this tree.

        The cursor is the place of a row and, below, a count of pages that only brought names.
        """
        deadline = time.monotonic() + PAGE_SECONDS
        if inum == ORPHANS:
            return self._list_orphans(cursor, limit, deadline)
        listing = self._listing(inum)
        if listing.source is not None:
            try:
                for _ in listing.source:
                    if time.monotonic() > deadline:
                        return Page([], cursor + 1)
            except BaseException:
                del self._kept[inum]  # a source that raised is exhausted: the next call starts over
                raise
            listing.source = None
        at = cursor >> _STEPS
        entries: list[Entry] = []
        for number, found, live in listing.rows[at : at + limit]:
            entries.append(self._mirror(number, found) if live else self._entry(number, found))
            at += 1
            if not at & 63 and time.monotonic() > deadline:
                break
        if at < len(listing.rows):
            return Page(entries, at << _STEPS)
        if inum == self._root << SHIFT:  # what is always last has a place of its own
            if len(entries) >= limit:
                return Page(entries, at << _STEPS)
            entries.append(Entry(b"$Orphans", _orphans_attr()))
        return Page(entries, -1, listing.damaged)

    def stat(self, inum: int) -> Attr:
        """Return the attributes of an entry of this tree."""
        if inum == ORPHANS:
            return _orphans_attr()
        if inum > ORPHANS:
            return self._orphan(self._orphan_inode(inum)).attr
        if not inum & _POSITION:
            return self._source.attr(self._live_directory(inum >> SHIFT), inum, deleted=False)
        return self._entry(inum, self._named(inum)).attr

    def layout(self, inum: int) -> tuple[Layout, ...]:
        """Say where the bytes of a deleted file lie; of one whose inode was reused nothing is known."""
        inode = self._inode(inum)
        return EMPTY if inode is None else self._source.layout(inode)

    def link(self, inum: int) -> bytes:
        """Return the target of a deleted symbolic link. Raises NotFound when its inode was reused."""
        inode = self._inode(inum)
        if inode is None:
            raise NotFound(f"deleted entry {inum} has no inode")
        return self._source.link(inode)

    def xattrs(self, inum: int) -> dict[bytes, bytes]:
        """Return extended attributes as far as the inode has any, and its number."""
        key = b"user.imgfs.%b.inode" % self._source.label
        inode = self._inode(inum)
        if inode is None:
            number = 0 if inum == ORPHANS else self._named(inum).inode
            return {key: b"%d" % number} if number else {}
        return self._source.xattrs(inode) | {key: b"%d" % self._source.number(inode)}

    def _inode(self, inum: int) -> I | None:
        """Return the inode behind a number, None when it belongs to somebody else by now."""
        if inum == ORPHANS:
            return None
        if inum > ORPHANS:
            return self._orphan_inode(inum)
        if not inum & _POSITION:
            return self._live_directory(inum >> SHIFT)
        inode = self._freed(self._named(inum).inode)
        return None if isinstance(inode, str) else inode

    def _live_directory(self, number: int) -> I:
        inode = self._source.inode(number)
        if self._source.kind(inode) != Kind.DIR:
            raise NotFound(f"inode {number} is no directory")
        return inode

    def _orphan_inode(self, inum: int) -> I:
        inode = self._orphans.inode(inum - ORPHANS)
        if inode is None:
            raise NotFound(f"inode {inum - ORPHANS} is no orphan")
        return inode

    def _freed(self, number: int) -> I | str:
        """Return an inode that belongs to nobody, else why there is none."""
        if not number:
            return CLEARED
        source = self._source
        try:
            inode = source.inode(number)
            if source.is_linked(inode) and source.is_in_use(number):
                return IN_USE if source.names_all else REUSED
        except (EvidenceError, NotFound) as why:
            return why.message
        return inode if source.kind(inode) is not None else WIPED

    def _entry(self, inum: int, found: Name) -> Entry:
        inode = self._freed(found.inode)
        if isinstance(inode, str):
            kind = self._source.kind_of(found) or Kind.REG
            if kind == Kind.LNK:
                kind = Kind.REG  # it could not be followed, and its target is gone
            return Entry(found.name, Attr(kind=kind, inum=inum, nlink=0, deleted=True, damaged=inode))
        return self._describe(inode, inum, found.name)

    def _describe(self, inode: I, inum: int, name: bytes) -> Entry:
        attr = self._source.attr(inode, inum, deleted=True)
        if attr.kind == Kind.REG and not attr.size:
            return Entry(name, attr, 0, self._source.listed(inode))
        return Entry(name, attr)

    def _mirror(self, inum: int, found: Name) -> Entry:
        try:
            attr = self._source.attr(self._source.inode(found.inode), inum, deleted=False)
        except (EvidenceError, NotFound) as why:
            attr = Attr(kind=Kind.DIR, inum=inum, damaged=why.message)
        return Entry(found.name, attr)

    def _named(self, inum: int) -> Name:
        """Return the entry at a position. Raises NotFound when there is none."""
        found = self._names.get(inum)
        if found is None and 0 < inum < ORPHANS:
            directory = self._source.inode(inum >> SHIFT)
            if self._source.kind(directory) == Kind.DIR:
                self._remember(directory)
                found = self._names.get(inum)
        if found is None:
            raise NotFound(f"deleted entry {inum}")
        return found

    def _remember(self, directory: I) -> None:
        """Keep all names a position of this directory may mean: one walk serves the questions to come."""
        self._names.clear()
        number = self._source.number(directory)
        base, freed = number << SHIFT, not isinstance(self._freed(number), str)
        for deleted in (True, False) if freed else (True,):
            for found in self._source.names(directory, deleted=deleted):
                if isinstance(found, Name) and found.at // 4 < _POSITION:
                    self._names.setdefault(base | found.at // 4 + 1, found)
                if len(self._names) > _NAMES_MAX:
                    return

    def _listing(self, inum: int) -> _Listing:
        kept = self._kept.get(inum)
        if kept is not None:
            self._kept.move_to_end(inum)
            return kept
        inode = self._inode(inum) if inum >= 0 else None
        if inode is None or self._source.kind(inode) != Kind.DIR:
            return self._empty(inum)
        while self._kept and (
            len(self._kept) >= _KEPT or sum(len(x.rows) for x in self._kept.values()) > _KEPT_ROWS
        ):
            self._kept.popitem(last=False)
        listing = self._kept[inum] = _Listing()
        listing.source = self._rows(inode, listing, deleted=bool(inum & _POSITION) or inum > ORPHANS)
        return listing

    def _empty(self, inum: int) -> _Listing:
        """Return the listing of a directory of which only the name is left. Raises NotFound: it is none."""
        attr = self.stat(inum)
        if attr.kind != Kind.DIR:
            raise NotFound(f"deleted entry {inum} is no directory")
        listing = _Listing()
        listing.damaged = attr.damaged
        return listing

    def _rows(self, inode: I, listing: _Listing, *, deleted: bool) -> Iterator[None]:
        """Put what a directory shows into a listing; yields now and then.

        Of a live directory that is its directories and its deleted entries, of a deleted one all.
        """
        rows, base = listing.rows, self._source.number(inode) << SHIFT
        alive: set[tuple[int, bytes]] = set()
        for count, found in enumerate(self._source.names(inode, deleted=False)):
            if isinstance(found, Damage):
                listing.damaged = listing.damaged or found.text
            elif found is not None and deleted:
                rows.append((base | found.at // 4 + 1, found, False))
            elif found is not None:
                alive.add((found.inode, found.name))
                if self._is_directory(found):
                    rows.append((found.inode << SHIFT, found, True))
            if len(rows) + len(alive) > _NAMES_MAX:
                listing.damaged = f"more than {_NAMES_MAX} names"
                break
            if found is None or not count & _OFTEN:
                yield
        for count, found in enumerate(self._source.names(inode, deleted=True)):
            if found is None or not count & _OFTEN:
                yield
            if not isinstance(found, Name) or (found.inode, found.name) in alive:
                continue  # moving entries leaves copies behind
            if found.at // 4 >= _POSITION or len(rows) > _NAMES_MAX:
                break
            rows.append((base | found.at // 4 + 1, found, False))

    def _is_directory(self, found: Name) -> bool:
        kind = self._source.kind_of(found)
        if kind is not None:
            return kind == Kind.DIR
        try:
            return self._source.kind(self._source.inode(found.inode)) == Kind.DIR
        except (EvidenceError, NotFound):
            return False

    def _list_orphans(self, cursor: int, limit: int, deadline: float) -> Page:
        inodes, following = self._orphans.page(cursor, limit, deadline)
        return Page([self._orphan(inode) for inode in inodes], following)

    def _orphan(self, inode: I) -> Entry:
        number = self._source.number(inode)
        return self._describe(inode, ORPHANS | number, b"%d" % number)


def _orphans_attr() -> Attr:
    return Attr(kind=Kind.DIR, inum=ORPHANS, mode=0o555, deleted=True)
