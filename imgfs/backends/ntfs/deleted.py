"""The deleted tree: a lazy mirror of the live directories with what was deleted in them.

A directory shows released records that name it as theirs and names its index no longer counts. Numbers:
below ``RECORD`` a live directory seen from here, ``RECORD | n`` the file of MFT record n, ``ORPHANS`` the
directory of files no directory shows, ``FORMER | n << 27 | at / 8`` a name in the index of directory n whose
file is another one now. A circle of deleted directories repeats a number: whoever looks at the numbers
of ancestors ends it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.ntfs.describe import Describer
from imgfs.backends.ntfs.index import Former, Index
from imgfs.backends.ntfs.orphans import Orphans
from imgfs.backends.ntfs.record import DIRECTORY, IN_USE, REFERENCE, state_of
from imgfs.backends.ntfs.scan import LIVE, NAMED, PLACED, RELEASED, Scan
from imgfs.backends.ntfs.volume import same_file, sequences_of
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.limits import PAGE_SECONDS
from imgfs.model import Attr, Entry, Inline, Kind, Layout, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._listings import Entries
    from imgfs.backends.ntfs.index import Name, Parents
    from imgfs.backends.ntfs.scan import Statements
    from imgfs.backends.ntfs.volume import Volume

RECORD: Final = 1 << 46
ORPHANS: Final = 1 << 45
FORMER: Final = 1 << 60
_NUMBER: Final = (1 << 32) - 1
_PLACE: Final = 27  # bits of a position in an index: 512 MiB and its root in steps of eight bytes
_KEPT: Final = 8  # directories
_KEPT_ROWS: Final = 200_000  # beyond, older directories are dropped
_NAMES_MAX: Final = 1_000_000  # of one directory
_STEPS: Final = 16  # bits of a cursor that count pages without entries
_STREAMS: Final = 16  # bits of a cursor that count entries of one file
_OFTEN: Final = 255  # names between two looks at the clock, less one
_REUSED: Final = "the MFT record belongs to another file now"
_RENAMED: Final = "the file was given another name"


class _Row(NamedTuple):
    """What a directory shows here: a live directory, a file, or a name alone."""

    number: int
    name: bytes
    sequence: int = 0
    former: Former | None = None


_Rows = list[_Row]


class _Listing:
    """What a directory shows here. ``source`` brings the rows, and ends when all are there."""

    __slots__ = ("damaged", "rows", "source")

    def __init__(self) -> None:
        self.source: Iterator[None] | None = None
        self.rows: _Rows = []
        self.damaged = ""


class Deleted:
    """The deleted tree of one volume."""

    __slots__ = ("_describer", "_kept", "_live", "_orphans", "_root", "_scan", "_volume")

    def __init__(self, volume: Volume, root: int) -> None:
        self._volume = volume
        self._root = root
        self._live = Describer(volume)
        self._describer = Describer(volume, RECORD, released=True)
        self._kept: OrderedDict[int, _Listing] = OrderedDict()
        self._scan = Scan(volume)
        self._orphans = Orphans(volume, self._scan)

    def list(self, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory of this tree.

        The cursor is the place of a row, below it that of a stream, below that a count of pages that
        only brought names.
        """
        deadline = time.monotonic() + PAGE_SECONDS
        if inum == ORPHANS:
            return self._list_orphans(cursor, limit, deadline)
        try:
            listing = self._listing(inum)
        except (EvidenceError, NotFound) as why:
            if inum != self._root:
                raise
            return Page([Entry(b"$Orphans", _orphans_attr())], -1, why.message)  # what it held is there
        if listing.source is not None:
            try:
                for _ in listing.source:
                    if time.monotonic() > deadline:
                        return Page([], cursor + 1)
            except BaseException:
                self._kept.pop(inum, None)  # a source that raised is exhausted: the next call starts over
                raise
            listing.source = None
        found: list[Entry] = []
        at, skip = cursor >> _STEPS + _STREAMS, cursor >> _STEPS & (1 << _STREAMS) - 1
        for row in listing.rows[at : at + limit]:
            entries = self._entries(inum, row)[skip:]
            room = limit - len(found)
            found += entries[:room]
            if len(entries) > room:
                return Page(found, _cursor(at, skip + room))
            at, skip = at + 1, 0
            if len(found) >= limit or time.monotonic() > deadline:
                break
        if at < len(listing.rows):
            return Page(found, _cursor(at, 0))
        if inum == self._root:  # what is always last has a place of its own
            if len(found) >= limit:
                return Page(found, _cursor(at, 0))
            found.append(Entry(b"$Orphans", _orphans_attr()))
        return Page(found, -1, listing.damaged)

    def stat(self, inum: int, stream: int) -> Attr:
        """Return the attributes of an entry of this tree, or of one of its streams."""
        if inum == ORPHANS and not stream:
            return _orphans_attr()
        if inum >= FORMER and not stream:
            former = self._former(inum)
            return self._name_alone(inum, former).attr
        if 0 <= inum < ORPHANS and not stream:
            attr = self._live.entries(inum, b"")[0].attr
            if attr.kind != Kind.DIR:
                raise NotFound(f"deleted entry {inum} is no directory")
            return attr
        for entry in self._describer.entries(self.record(inum), b""):
            if entry.stream == stream:
                return entry.attr
        raise NotFound(f"deleted entry {inum} has no stream {stream}")

    def layout(self, inum: int, stream: int) -> Layout:
        """Say where the bytes of a deleted file lie; of a name whose file is another one nothing is known."""
        if inum >= FORMER or inum == ORPHANS:
            return Inline(b"")
        return self._describer.layout(self.record(inum), stream)

    def record(self, inum: int) -> int:
        """Return the MFT record behind a number. Raises NotFound: there is none, or it is another file's."""
        if RECORD <= inum <= RECORD + _NUMBER:
            return inum - RECORD
        if 0 <= inum < ORPHANS:
            return inum
        raise NotFound(f"deleted entry {inum} has no MFT record")

    def _entries(self, directory: int, row: _Row) -> Entries:
        if row.former is not None:
            number = self.record(directory)
            inum = FORMER | number << _PLACE | row.former.name.at >> 3
            return [self._name_alone(inum, row.former)]
        if row.number < RECORD:
            return self._mirror(row)
        try:
            return self._describer.entries(row.number - RECORD, row.name)
        except EvidenceError as why:
            attr = Attr(kind=Kind.REG, inum=row.number, nlink=0, deleted=True, damaged=why.message)
            return [Entry(row.name, attr)]

    def _mirror(self, row: _Row) -> Entries:
        try:
            attr = self._live.entries(row.number, b"", row.sequence)[0].attr
        except EvidenceError as why:
            return [Entry(row.name, Attr(kind=Kind.DIR, inum=row.number, damaged=why.message))]
        return [Entry(row.name, attr)] if attr.kind == Kind.DIR else []  # a mount point is not entered

    def _name_alone(self, inum: int, former: Former) -> Entry:
        """Describe a name by what its entry said of the file; the bytes are not known."""
        name = former.name
        born, modified, changed, accessed = former.times
        state, sequence = self._volume_state(name.number)
        renamed = state & IN_USE and sequence == name.sequence
        attr = Attr(
            kind=Kind.REG,
            inum=inum,
            generation=name.sequence,
            nlink=0,
            b_ns=born,
            m_ns=modified,
            c_ns=changed,
            a_ns=accessed,
            deleted=True,
            damaged=_RENAMED if renamed else _REUSED,
        )
        return Entry(name.name, attr)

    def _volume_state(self, number: int) -> tuple[int, int]:
        try:
            state = state_of(self._volume.mft.record(number))
        except EvidenceError:
            return 0, 0
        return state.flags, state.sequence

    def _former(self, inum: int) -> Former:
        number = inum >> _PLACE & _NUMBER
        file = self._volume.file(number)
        index = Index(self._volume, file)
        return index.at((inum & (1 << _PLACE) - 1) << 3, (number, sequences_of(file.state)))

    def _listing(self, inum: int) -> _Listing:
        kept = self._kept.get(inum)
        if kept is not None:
            self._kept.move_to_end(inum)
            return kept
        number = self.record(inum)
        file = self._volume.file(number)
        if not file.state.flags & DIRECTORY or (inum < RECORD and not file.state.flags & IN_USE):
            raise NotFound(f"deleted entry {inum} is no directory")
        while self._kept and (
            len(self._kept) >= _KEPT or sum(len(x.rows) for x in self._kept.values()) > _KEPT_ROWS
        ):
            self._kept.popitem(last=False)
        listing = self._kept[inum] = _Listing()
        listing.source = self._rows(inum, listing)
        return listing

    def _rows(self, inum: int, listing: _Listing) -> Iterator[None]:
        """Put what a directory shows into a listing; yields now and then.

        Of a live directory that is its directories and what was deleted, of an orphan in use and of a
        deleted one all.
        """
        while not self._scan.has_records(0.0):
            yield
        number = self.record(inum)
        file = self._volume.file(number)
        in_use = bool(file.state.flags & IN_USE)
        parents = number, sequences_of(file.state)
        rows = listing.rows
        alive: set[tuple[int, bytes]] = set()
        index: Index | None = None
        try:
            index = Index(self._volume, file)
        except Malformed as why:
            listing.damaged = why.message if in_use else ""
        if index is not None and in_use:
            for count, found in enumerate(index.names()):
                if not count & _OFTEN:
                    yield
                if isinstance(found, str):
                    listing.damaged = listing.damaged or found
                elif found.name not in {b".", b".."}:
                    alive.add((found.number, found.name))
                    self._alive(inum, found, rows)
                if len(alive) > _NAMES_MAX:
                    listing.damaged = f"more than {_NAMES_MAX} names"
                    return
        yield from self._deleted(index, parents, alive, listing, whole=not in_use)
        listing.damaged = listing.damaged or self._scan.damaged

    def _alive(self, inum: int, found: Name, rows: _Rows) -> None:
        """Add what counts as a name of a directory in use: below an orphan files, else directories."""
        if inum >= RECORD:
            state, sequence = self._scan.state(found.number)
            if state in {LIVE, NAMED} and found.sequence in {0, sequence}:
                rows.append(_Row(RECORD | found.number, found.name))
        elif found.is_directory and self._volume_state(found.number)[0] & DIRECTORY:
            rows.append(_Row(found.number, found.name, found.sequence))

    def _deleted(
        self,
        index: Index | None,
        parents: Parents,
        alive: set[tuple[int, bytes]],
        listing: _Listing,
        *,
        whole: bool,
    ) -> Iterator[None]:
        """Add released records that name a directory, and names in what its index does not use."""
        rows = listing.rows
        shown: set[tuple[int, bytes]] = set()
        numbers: set[int] = set()
        for number in self._scan.children(*parents):
            yield
            if len(rows) > _NAMES_MAX:
                listing.damaged = f"more than {_NAMES_MAX} names"
                return
            for stated in self._stated(number):
                if (
                    stated.parent & REFERENCE == parents[0]
                    and stated.parent >> 48 in parents[1]
                    and (number, stated.name) not in shown
                ):
                    shown.add((number, stated.name))
                    numbers.add(number)
                    rows.append(_Row(RECORD | number, stated.name))
        if index is None:
            return
        short: list[Former] = []
        for former in index.former(parents, whole=whole):
            yield
            if former is None or len(rows) + len(short) > _NAMES_MAX:
                continue
            key = former.name.number, former.name.name
            if key in alive or key in shown:
                continue
            if former.short:
                short.append(former)
                continue
            shown.add(key)
            numbers.add(former.name.number)
            rows.append(self._row(former))
        living = {number for number, _ in alive}
        for former in short:
            key = former.name.number, former.name.name
            if former.name.number not in numbers and former.name.number not in living and key not in shown:
                shown.add(key)
                rows.append(self._row(former))

    def _stated(self, number: int) -> Statements:
        try:
            return self._scan.stated(number)
        except EvidenceError:
            return []

    def _row(self, former: Former) -> _Row:
        """Return a name with its file, if that was released and is still there."""
        name = former.name
        state, sequence = self._scan.state(name.number)
        if state in {RELEASED, PLACED} and same_file(name.sequence, sequence, released=True):
            return _Row(RECORD | name.number, name.name)
        return _Row(0, name.name, 0, former)

    def _list_orphans(self, cursor: int, limit: int, deadline: float) -> Page:
        if not self._orphans.ready(deadline):
            return Page([], cursor + 1)
        found: list[Entry] = []
        at, skip = cursor >> _STEPS + _STREAMS, cursor >> _STEPS & (1 << _STREAMS) - 1
        while (following := self._orphans.first(at)) >= 0:
            if following != at:
                at, skip = following, 0
            entries = self._entries(ORPHANS, _Row(RECORD | at, self._orphans.name(at)))[skip:]
            room = limit - len(found)
            found += entries[:room]
            if len(entries) > room:
                return Page(found, _cursor(at, skip + room))
            at, skip = at + 1, 0
            if len(found) >= limit or time.monotonic() > deadline:
                return Page(found, _cursor(at, 0))
        return Page(found, -1, self._scan.damaged)


def _cursor(row: int, entry: int) -> int:
    return row << _STEPS + _STREAMS | entry << _STEPS


def _orphans_attr() -> Attr:
    return Attr(kind=Kind.DIR, inum=ORPHANS, mode=0o555, deleted=True)
