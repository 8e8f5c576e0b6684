"""The deleted tree: the live directories with what was removed from them.

Numbers: that of an object is a live directory seen from here; ``LIFE | n`` is life n of the log, which has
one place only; ``ORPHANS`` the directory of lives whose directory is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from imgfs.backends._deleted import EMPTY, ORPHANS
from imgfs.backends._layouts import linear
from imgfs.backends._listings import Listings
from imgfs.backends.yaffs2.structures import ROOT
from imgfs.errors import NotFound
from imgfs.model import HOLE, LOST, Attr, Entry, Kind, Layout, Linear, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.yaffs2.objects import Objects

LIFE: Final = 1 << 40
TOP: Final = ROOT
_LINKED: Final = "a hard link: the object has other names"
_UNLINKED: Final = "a hard link: the object is not there any more"
_UNNAMED: Final = "no directory holds it"
_HEADERLESS: Final = "no header is left, only chunks"


class Deleted:
    """The deleted tree of one dump."""

    __slots__ = ("_listings", "_objects", "_page")

    def __init__(self, objects: Objects, page: int) -> None:
        self._objects = objects
        self._page = page
        self._listings = Listings(self._entries)

    def list(self, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if self.stat(inum).kind != Kind.DIR:
            raise NotFound(f"deleted entry {inum} is no directory")
        return self._listings.page(inum, cursor, limit)

    def stat(self, inum: int) -> Attr:
        """Return the attributes of an entry."""
        if inum == ORPHANS:
            return Attr(kind=Kind.DIR, inum=ORPHANS, mode=0o555, deleted=True)
        if 0 <= inum < LIFE:
            return self._mirror(inum)
        return self._attr(self._index(inum))

    def layout(self, inum: int) -> tuple[Layout, ...]:
        """Say in which pages the content lies: LOST where a chunk is gone, or never was."""
        attr = self.stat(inum)
        if attr.kind != Kind.REG or not attr.size:
            return EMPTY
        life = self._objects.target_of(self._objects.lives[self._index(inum)])
        if life is None:
            return EMPTY
        whole = life.gone is None and life.header is not None  # its chunks are still kept
        rows = life.rows(attr.size, self._page, HOLE if whole else LOST)
        if all(target < 0 for _, _, target in rows):
            return (Linear.of(attr.size, []),)
        return (linear(attr.size, rows),)

    def link(self, inum: int) -> bytes:
        """Return the target of a deleted symbolic link."""
        last = self._objects.lives[self._index(inum)].last
        if last is None or last.attr.kind != Kind.LNK:
            raise NotFound(f"deleted entry {inum} is no symbolic link")
        return last.target

    def xattrs(self, inum: int) -> dict[bytes, bytes]:
        """Return the number of the object."""
        if inum == ORPHANS:
            return {}
        number = inum if 0 <= inum < LIFE else self._objects.lives[self._index(inum)].number
        return {b"user.imgfs.yaffs2.object": b"%d" % number}

    def _index(self, inum: int) -> int:
        index = inum - LIFE
        if not 0 <= index < len(self._objects.lives):
            raise NotFound(f"deleted entry {inum}")
        return index

    def _mirror(self, number: int) -> Attr:
        index = self._objects.live.get(number)
        if index is None:
            if number == ROOT:
                return Attr(kind=Kind.DIR, inum=ROOT, mode=0o755)
            raise NotFound(f"deleted entry {number}")
        attr = self._objects.attr(self._objects.lives[index])
        if attr.kind != Kind.DIR:
            raise NotFound(f"object {number} is no directory")
        return attr

    def _attr(self, index: int) -> Attr:
        inum, life = LIFE | index, self._objects.lives[index]
        last = life.last
        if last is None:
            return Attr(kind=Kind.REG, inum=inum, size=life.size, nlink=0, deleted=True, damaged=_HEADERLESS)
        other = self._objects.target_of(life)
        damaged = _UNNAMED if life.gone is None else ""
        if other is not life:
            if other is None or other.gone is None:
                why = _UNLINKED if other is None else _LINKED
                return Attr(kind=Kind.REG, inum=inum, nlink=0, deleted=True, damaged=why)
            life = other
        attr = self._objects.attr(life)
        return msgspec.structs.replace(attr, inum=inum, nlink=0, deleted=True, damaged=damaged)

    def _entries(self, inum: int) -> Iterator[Entry | str]:
        objects = self._objects
        if inum == ORPHANS:
            for index in objects.orphans:
                yield self._entry(index, alone=True)
            return
        if inum < LIFE:
            for number in objects.children.get(inum, ()):
                header = objects.lives[objects.live[number]].header
                if header is not None and header.attr.kind == Kind.DIR:
                    yield Entry(header.name, self._mirror(number))
        above = -1 if inum == ROOT else objects.live[inum] if inum < LIFE else self._index(inum)
        for index in objects.removed.get(above, ()):
            yield self._entry(index, alone=False)
        if inum == TOP:
            yield Entry(b"$Orphans", self.stat(ORPHANS))

    def _entry(self, index: int, *, alone: bool) -> Entry:
        """Return an entry under its last name, under its number where there is none."""
        header = self._objects.lives[index].header
        name = header.name if header is not None else b""
        if alone or not name:
            name = b"%d" % self._objects.lives[index].number
        return Entry(name, self._attr(index))
