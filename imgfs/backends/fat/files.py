"""The ``Files`` verbs of FAT and exFAT."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.fat.clusters import chain, directory_clusters
from imgfs.backends.fat.content import EMPTY, described, layout_of, rows_of, xattrs_of
from imgfs.backends.fat.deleted import MIRROR, Deleted
from imgfs.backends.fat.directory import Directory
from imgfs.backends.fat.volume import ROOT
from imgfs.errors import Malformed, NotFound
from imgfs.limits import PAGE_SECONDS
from imgfs.model import Attr, Entry, FilesInfo, Kind, Layout, Linear, Page, TreeInfo

if TYPE_CHECKING:
    from imgfs.backends._layouts import Row
    from imgfs.backends.fat.volume import Form, Item, Volume

TREES: Final = (TreeInfo("root", ROOT), TreeInfo("deleted", MIRROR | ROOT, deleted=True))
_KEPT: Final = 64  # directories: where they lie
_BEHIND: Final = 1 << 60  # cursor of what the root shows behind its entries


Entries = list[Entry]


class Special(NamedTuple):
    """What the root shows that no entry names, under TSK's name and number. Units: bytes."""

    name: bytes
    number: int
    at: int
    size: int


class SlotFiles:
    """Live tree and deleted entries of one volume; see ``backends.Files``.

    ``fixed`` is where the root lies when it is no chain: rows; else ``first`` is its first cluster.
    """

    def __init__(
        self,
        volume: Volume,
        form: Form,
        info: FilesInfo,
        specials: tuple[Special, ...],
        *,
        first: int,
        fixed: list[Row] | None = None,
    ) -> None:
        self.info = info
        self._volume = volume
        self._form = form
        self._specials = specials
        self._kept: OrderedDict[int, Directory] = OrderedDict()
        self._root = _root(volume, form, first) if fixed is None else Directory(volume, form, fixed)
        self._deleted = Deleted(volume, form, self.directory, self.live)

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        cursor, limit = max(cursor, 0), max(limit, 1)
        deadline = time.monotonic() + PAGE_SECONDS
        if self._is_deleted(tree):
            return self._deleted.list(inum, cursor, limit, deadline)
        if cursor >= _BEHIND:
            return self._behind([], cursor - _BEHIND, limit, "")
        directory = self.directory(inum)
        found = directory.page(cursor, limit, deadline)
        entries = Entries()
        volume, form = self._volume, self._form
        for number, item in found.items:
            attr, layout = described(volume, item, number, form, deleted=False)
            entries.append(Entry(item.name, attr, 0, layout))
            if time.monotonic() > deadline and len(entries) < len(found.items):
                return Page(entries, directory.behind(number), found.damaged)
        if found.next >= 0:
            return Page(entries, found.next, found.damaged)
        damaged = directory.damaged or found.damaged
        if inum == ROOT:
            return self._behind(entries, 0, limit, damaged)
        return Page(entries, -1, damaged)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file."""
        _no_stream(inum, stream)
        if self._is_deleted(tree):
            return self._deleted.stat(inum)
        return self.live(inum)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a file lie."""
        _no_stream(inum, stream)
        if self._is_deleted(tree):
            return self._deleted.layout(inum)
        if inum == ROOT:
            return EMPTY
        special = self._special(inum)
        if special is not None:
            return self._special_layout(special)
        return layout_of(self._volume, self._item(inum), deleted=False)

    def link(self, tree: int, inum: int) -> bytes:
        """Refuse: there are no symbolic links."""
        raise Malformed(f"entry {inum} of tree {tree} is no link")

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return what the entry says of its file: read-only, hidden, system, archive."""
        if self._is_deleted(tree) and not inum & MIRROR:
            return self._deleted.xattrs(inum)
        inum &= ~MIRROR
        if inum in {0, ROOT} or self._special(inum) is not None:
            return {}
        return xattrs_of(self._item(inum))

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Refuse: there are no foreign bytes."""
        raise Malformed(
            f"entry {inum} of tree {tree}, stream {stream}: no bytes [{offset}, {offset + length})"
        )

    def live(self, inum: int) -> Attr:
        """Return the attributes of a number of the live tree. Raises NotFound when it is none."""
        if inum == ROOT:
            return Attr(
                kind=Kind.DIR,
                inum=ROOT,
                size=self._root.size,
                allocated=self._root.size,
                mode=0o777,
                damaged=self._root.damaged,
            )
        special = self._special(inum)
        if special is not None:
            return _special_attr(special)
        return described(self._volume, self._item(inum), inum, self._form, deleted=False)[0]

    def directory(self, inum: int) -> Directory:
        """Return a live directory.

        Raises:
            NotFound: the number is none of one.
            Malformed: it lies inside itself.
        """
        if inum == ROOT:
            return self._root
        kept = self._kept.get(inum)
        if kept is not None:
            return kept
        item = self._item(inum)
        if not item.directory:
            raise NotFound(f"entry {inum} is no directory")
        found = directory_clusters(self._volume, item, self._form)
        own = self._volume.cluster_at(self._volume.slot(inum))
        if any(start <= own < start + count for start, count in found.runs):
            raise Malformed(f"directory {inum} lies inside itself")
        size = found.clusters * self._volume.cluster
        directory = Directory(
            self._volume, self._form, rows_of(self._volume, found.runs, size), found.damaged
        )
        if len(self._kept) >= _KEPT:
            self._kept.popitem(last=False)
        self._kept[inum] = directory
        return directory

    def _item(self, inum: int) -> Item:
        item = self._form.entry(self._volume, self._volume.slot(inum))
        if item.marked:
            raise NotFound(f"entry {inum} is deleted")
        return item

    def _is_deleted(self, tree: int) -> bool:
        if not 0 <= tree < len(TREES):
            raise NotFound(f"tree {tree}")
        return TREES[tree].deleted

    def _special(self, inum: int) -> Special | None:
        return next((special for special in self._specials if special.number == inum), None)

    def _special_layout(self, special: Special) -> tuple[Layout, ...]:
        inside = min(special.size, max(self._volume.limit - special.at, 0))
        return (Linear.of(special.size, [(0, inside, special.at)] if inside else []),)

    def _behind(self, entries: Entries, index: int, limit: int, damaged: str) -> Page:
        room = max(limit - len(entries), 0)
        entries += [
            Entry(special.name, _special_attr(special), 0, self._special_layout(special))
            for special in self._specials[index : index + room]
        ]
        index += room
        return Page(entries, _BEHIND + index if index < len(self._specials) else -1, damaged)


def _root(volume: Volume, form: Form, first: int) -> Directory:
    most = max(form.longest // volume.cluster, 1)
    found = chain(volume, first, most)
    why = "" if found.short else found.damaged  # every chain ends before the largest size
    rows = rows_of(volume, found.runs, found.clusters * volume.cluster)
    return Directory(volume, form, rows, why)


def _special_attr(special: Special) -> Attr:
    return Attr(kind=Kind.REG, inum=special.number, size=special.size, allocated=special.size)


def _no_stream(inum: int, stream: int) -> None:
    if stream:
        raise NotFound(f"entry {inum} has no stream {stream}")
