"""The deleted tree: a mirror of the live directories with what was deleted in them.

Numbers are those of slots, as in the live tree: a deleted entry has its own, a live directory seen from
here the same with ``MIRROR``. A cycle of deleted directories repeats a number, because slots are finite:
whoever looks at the numbers of ancestors ends it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from imgfs.backends.fat.clusters import released
from imgfs.backends.fat.content import EMPTY, described, layout_of, rows_of, xattrs_of
from imgfs.backends.fat.directory import Directory
from imgfs.backends.fat.orphans import Orphans
from imgfs.backends.fat.volume import ROOT
from imgfs.errors import NotFound
from imgfs.model import Attr, Entry, Kind, Layout, Page

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.backends.fat.volume import Form, Item, Volume

MIRROR: Final = 1 << 62
ORPHANS: Final = MIRROR
_BEHIND: Final = 1 << 60  # cursor of $Orphans behind the entries of the root
_AT_ONCE: Final = 32  # entries described between two looks at the clock: each may look for many clusters
_ORPHANS_AT_ONCE: Final = 128


class Deleted:
    """The deleted tree of one volume."""

    __slots__ = ("_attr", "_directory", "_form", "_orphans", "_volume")

    def __init__(
        self,
        volume: Volume,
        form: Form,
        directory: Callable[[int], Directory],
        attr: Callable[[int], Attr],
    ) -> None:
        self._volume = volume
        self._form = form
        self._directory = directory
        self._attr = attr
        self._orphans = Orphans(volume, form, lambda: directory(ROOT))

    def list(self, inum: int, cursor: int, limit: int, deadline: float) -> Page:
        """Return a page of a directory. The cursor is a slot and, in bit 0, whether the end was passed."""
        if inum == ORPHANS:
            found, following = self._orphans.page(cursor, min(limit, _ORPHANS_AT_ONCE), deadline)
            return Page(
                [self._entry(number, item, b"%d-%s" % (number, item.name)) for number, item in found],
                following,
            )
        if cursor >= _BEHIND:
            return Page([Entry(b"$Orphans", _orphans_attr())])
        live = bool(inum & MIRROR)
        directory = self._directory(inum ^ MIRROR) if live else self._released(inum)
        entries: list[Entry] = []
        slot, ended, damaged = cursor >> 1, bool(cursor & 1), ""
        while slot >= 0 and len(entries) < limit:
            room = min(limit - len(entries), _AT_ONCE)
            page = directory.page(slot, room, deadline, marked=True, ended=ended)
            slot, ended, damaged = page.next, page.ended, damaged or page.damaged
            for number, item in page.items:
                if item.marked or not live:
                    entries.append(self._entry(number, item, item.name))
                elif item.directory:
                    attr = described(self._volume, item, MIRROR | number, self._form, deleted=False)[0]
                    entries.append(Entry(item.name, attr))
            if time.monotonic() > deadline:
                break
        if slot >= 0:
            return Page(entries, slot << 1 | ended, damaged)
        damaged = damaged or directory.damaged
        if inum != MIRROR | ROOT:
            return Page(entries, -1, damaged)
        if len(entries) >= limit:
            return Page(entries, _BEHIND, damaged)
        return Page([*entries, Entry(b"$Orphans", _orphans_attr())], -1, damaged)

    def stat(self, inum: int) -> Attr:
        """Return the attributes of an entry of this tree."""
        if inum == ORPHANS:
            return _orphans_attr()
        if inum & MIRROR:
            return msgspec.structs.replace(self._attr(inum ^ MIRROR), inum=inum)
        return described(self._volume, self._item(inum), inum, self._form, deleted=True)[0]

    def layout(self, inum: int) -> tuple[Layout, ...]:
        """Say where the bytes of a deleted file lie."""
        if inum & MIRROR:
            return EMPTY
        return layout_of(self._volume, self._item(inum), deleted=True)

    def xattrs(self, inum: int) -> dict[bytes, bytes]:
        """Return what a deleted entry says of its file."""
        return xattrs_of(self._item(inum))

    def _item(self, number: int) -> Item:
        return self._form.entry(self._volume, self._volume.slot(number))

    def _entry(self, number: int, item: Item, name: bytes) -> Entry:
        attr, layout = described(self._volume, item, number, self._form, deleted=True)
        return Entry(name, attr, 0, layout)

    def _released(self, inum: int) -> Directory:
        """Return what is left of a deleted directory: nothing when its clusters belong to others."""
        item = self._item(inum)
        if not item.directory:
            raise NotFound(f"deleted entry {inum} is no directory")
        runs = released(self._volume, item, self._form)
        size = sum(count for _, count in runs) * self._volume.cluster
        return Directory(self._volume, self._form, rows_of(self._volume, runs, size))


def _orphans_attr() -> Attr:
    return Attr(kind=Kind.DIR, inum=ORPHANS, mode=0o555, deleted=True)
