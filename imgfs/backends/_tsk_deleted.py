"""Deleted entries: a lazy mirror of the live directories with what was deleted in them.

Numbers are positions: ``meta << 22`` is a live directory seen from here, ``meta << 22 | n + 1`` is
entry n of what TSK lists for directory ``meta``, ``ORPHANS`` the directory of nameless metadata,
``ORPHANS | meta + 1`` one of them. A cycle of deleted directories repeats a number, because
positions are finite: whoever looks at the numbers of ancestors ends it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from imgfs.backends._listings import Listings
from imgfs.backends._tsk import ALLOCATED, META_KINDS, mapped, open_file
from imgfs.backends._tsk_list import names_of
from imgfs.errors import ImgfsError, NotFound
from imgfs.limits import PAGE_SECONDS
from imgfs.model import Attr, Entry, Kind, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends._listings import Entries
    from imgfs.backends._tsk_format import Format
    from imgfs.backends._tsk_list import Describer

SHIFT: Final = 22  # entries of one directory: four million
ORPHANS: Final = 1 << 62
_POSITION: Final = (1 << SHIFT) - 1
_STREAMS: Final = 8  # bits of an orphan cursor that count streams
_REUSED: Final = "the metadata belongs to another file now"


class Deleted:
    """The deleted tree of one TSK file system."""

    __slots__ = ("_describer", "_format", "_fs", "_listings", "_root")

    def __init__(self, fs: Any, form: Format, describer: Describer) -> None:
        self._fs = fs
        self._format = form
        self._describer = describer
        self._root = int(fs.info.root_inum)
        self._listings = Listings(self._entries)

    def is_made_up(self, inum: int) -> bool:
        """Say whether a number is a directory that exists only here."""
        return inum == ORPHANS

    def list(self, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory of the deleted tree."""
        if inum == ORPHANS:
            return self._orphans(cursor, limit)
        with mapped(f"deleted directory {inum}"):
            return self._listings.page(inum, cursor, limit)

    def stat(self, inum: int, stream: int) -> Attr:
        """Return the attributes of an entry of the deleted tree."""
        if inum == ORPHANS:
            return _orphans_attr()
        file = self.file(inum)
        if not inum & _POSITION and inum < ORPHANS:
            return self._mirror(file, inum, b"").attr
        with mapped(f"deleted entry {inum}"):
            for entry in self._describe(file, b"", inum):
                if entry.stream == stream:
                    return entry.attr
        raise NotFound(f"deleted entry {inum} has no stream {stream}")

    def file(self, inum: int) -> Any:
        """Return the TSK file a number of this tree stands for."""
        if inum > ORPHANS:
            return open_file(self._fs, inum - ORPHANS - 1)
        meta, position = inum >> SHIFT, inum & _POSITION
        if inum < 0 or inum == ORPHANS:
            raise NotFound(f"deleted entry {inum}")
        if not position:
            return open_file(self._fs, meta)
        with mapped(f"deleted entry {inum}"):
            for number, file in enumerate(names_of(self._fs, meta), 1):
                if number == position:
                    if isinstance(file, str):
                        break
                    return self._released(file) if file.info.meta is None else file
        raise NotFound(f"deleted entry {inum}")

    def _entries(self, inum: int) -> Iterator[Entry | str]:
        """Yield a directory: of a live one its directories and deleted entries, of a deleted one all."""
        file = self.file(inum)
        inside_deleted = bool(inum & _POSITION) or inum > ORPHANS
        if inside_deleted and not self._is_directory(file, inum):
            return
        meta = int(file.info.meta.addr)
        for number, child in enumerate(names_of(self._fs, meta), 1):
            if isinstance(child, str):
                yield child
                continue
            if number > _POSITION:
                yield f"directory {meta}: more than {_POSITION} entries"
                return
            name = child.info.name
            if name is None:
                continue
            text = bytes(name.name or b"")
            if text in {b".", b".."} or not self._format.keep(child):
                continue
            if int(name.flags) & ALLOCATED and not inside_deleted:
                if child.info.meta is not None and META_KINDS.get(int(child.info.meta.type)) == Kind.DIR:
                    yield self._mirror(child, int(name.meta_addr) << SHIFT, text)
                continue
            yield from self._describe(child, text, meta << SHIFT | number)
        if inum == self._root << SHIFT:
            yield Entry(b"$Orphans", _orphans_attr())

    def _is_directory(self, file: Any, inum: int) -> bool:
        """Say whether an entry is a directory whose metadata is still its own."""
        meta = file.info.meta
        return (
            meta is not None
            and META_KINDS.get(int(meta.type)) == Kind.DIR
            and (not int(meta.flags) & ALLOCATED or self._is_lost(file, inum))
            and int(meta.type) != 11  # the virtual directory $OrphanFiles
        )

    def _is_lost(self, file: Any, inum: int) -> bool:
        """Say whether metadata in use is an orphan, or named by a directory that is one or below one."""
        if inum > ORPHANS:
            return True
        meta, name = inum >> SHIFT, file.info.name
        if not inum & _POSITION or name is None or not int(name.flags) & ALLOCATED:
            return False
        above = open_file(self._fs, meta).info.meta
        return above is not None and bool(int(above.flags) & ALLOCATED)

    def _describe(self, file: Any, name: bytes, inum: int) -> Entries:
        """Describe a deleted entry; if its metadata was given to another file, say only its name."""
        meta = file.info.meta
        if meta is not None and int(meta.flags) & ALLOCATED:
            if self._is_lost(file, inum):
                return self._describer.entries(file, name, inum)
            kind = META_KINDS.get(int(meta.type), Kind.REG) if file.info.name is None else Kind.REG
            return [Entry(name, Attr(kind=kind, inum=inum, nlink=0, deleted=True, damaged=_REUSED))]
        if meta is None:
            file = self._released(file)
        return self._describer.entries(file, name, inum, deleted=True)

    def _released(self, file: Any) -> Any:
        """Return the file behind a name whose metadata TSK withholds for its sequence number.

        NTFS counts the number up when a record is released, so the name of a deleted file is one
        behind; any other difference is another file.
        """
        name = file.info.name
        if not name.meta_addr:
            return file
        try:
            found = open_file(self._fs, int(name.meta_addr))
        except ImgfsError:
            return file
        meta = found.info.meta
        if meta is None or int(meta.flags) & ALLOCATED or int(meta.seq) - int(name.meta_seq) not in {0, 1}:
            return file
        return found

    def _mirror(self, file: Any, inum: int, name: bytes) -> Entry:
        entry = self._describer.entries(file, name, inum)[0]
        return Entry(name, entry.attr)

    def _orphans(self, cursor: int, limit: int) -> Page:
        """Return metadata that is named nowhere.

        The cursor is the number of the metadata and, below, that of the stream.
        """
        info, found = self._fs.info, list[Entry]()
        deadline = time.monotonic() + PAGE_SECONDS
        at, skip, last = cursor >> _STREAMS, cursor & (1 << _STREAMS) - 1, int(info.last_inum)
        at = max(at, int(info.first_inum))
        while at < last:  # the last number is the virtual $OrphanFiles
            likely = self._format.next_orphan(at)
            if likely > at:
                at, skip = likely, 0
                if time.monotonic() > deadline:
                    break
                continue
            entries = self._orphan(at)[skip:][: 1 << _STREAMS]
            room = limit - len(found)
            found += entries[:room]
            if len(entries) > room:
                return Page(found, at << _STREAMS | skip + room)
            at, skip = at + 1, 0
            if not at & 63 and time.monotonic() > deadline:
                break
        return Page(found, at << _STREAMS if at < last else -1)

    def _orphan(self, meta: int) -> Entries:
        try:
            file = open_file(self._fs, meta)
            if file.info.meta is None or int(file.info.meta.type) in {0, 10, 11}:
                return []
            with mapped(f"inode {meta}"):
                return self._describe(file, self._format.orphan_name(meta), ORPHANS | meta + 1)
        except ImgfsError:
            return []  # metadata that cannot be read names nothing


def _orphans_attr() -> Attr:
    return Attr(kind=Kind.DIR, inum=ORPHANS, mode=0o555, deleted=True)
