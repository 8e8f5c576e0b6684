"""The tree of an HFS+ volume; see ``backends.Files``.

A file has its data fork, its resource fork (``:rsrc``), and its extended attributes, each a stream too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends._bsdflags import words_of
from imgfs.backends._layouts import linear
from imgfs.backends._listings import Listings
from imgfs.backends.hfs.btree import BTree
from imgfs.backends.hfs.catalog import FOLDER_THREAD, ROOT, Catalog, Item, with_fields
from imgfs.backends.hfs.extended import Extended
from imgfs.backends.hfs.volume import (
    ALLOCATION,
    ATTRIBUTES,
    BAD_BLOCKS,
    CATALOG,
    EXTENTS,
    STARTUP,
    Fork,
    extents_at,
    read_rows,
    read_volume,
    rows_of,
)
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.limits import MAX_LINK, MAX_RUNS
from imgfs.model import Attr, Entry, FilesInfo, Foreign, Inline, Kind, Layout, Page, TreeInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader
    from imgfs.backends._listings import Entries
    from imgfs.backends.hfs.volume import Extent, Rows, Volume

_RSRC: Final = 2  # number of the stream; those above count the attributes
_FORK_TYPES: Final = {0: 0x00, _RSRC: 0xFF}  # in keys of the extents overflow file
_SPECIAL: Final = {
    b"$ExtentsFile": EXTENTS,
    b"$CatalogFile": CATALOG,
    b"$BadBlockFile": BAD_BLOCKS,
    b"$AllocationFile": ALLOCATION,
    b"$StartupFile": STARTUP,
    b"$AttributesFile": ATTRIBUTES,
}
_OPTIONAL: Final = {STARTUP, ATTRIBUTES}
_FINDER: Final = b"com.apple.FinderInfo"


class HfsFiles:
    """Files of HFS+ and HFSX."""

    def __init__(self, reader: Reader, volume: Volume) -> None:
        self._reader = reader
        self._volume = volume
        self._overflow: BTree | None = None
        self._extended = Extended(reader, volume, self._rows)
        fork = volume.forks[CATALOG]
        rows = self._rows(CATALOG, 0, fork)
        self._catalog = Catalog(reader, rows, fork, volume)
        self._listings = Listings(self._entries)
        self.info = FilesInfo(
            type="hfsx" if volume.extended else "hfs+",
            trees=(TreeInfo("root", ROOT),),  # deleted records are not looked for
            block=volume.block,
            size=volume.block * volume.blocks,
            label=self._catalog.label(),
            uuid=volume.uuid,
            notes=volume.notes,
        )

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a folder."""
        if tree:
            raise NotFound(f"tree {tree}")
        try:
            folder = self._catalog.thread(inum)[0] == FOLDER_THREAD
        except NotFound:
            folder = self._catalog.item(inum).attr.kind == Kind.DIR
        if not folder:
            raise NotFound(f"catalog number {inum} is no folder")
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file or of one of its streams."""
        for entry in self._described(b"", self._item(tree, inum)):
            if entry.stream == stream:
                return entry.attr
        raise NotFound(f"catalog number {inum} has no stream {stream}")

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a stream lie."""
        item = self._item(tree, inum)
        if item.attr.kind not in {Kind.REG, Kind.LNK} and not stream:
            return (Inline(b""),)
        if stream not in _FORK_TYPES:
            return (self._extended.layout(item, stream - _RSRC - 1),)
        packed = None if stream else self._extended.opened(item)
        if packed is not None:
            return (Foreign(size=packed.size, why="decmpfs") if packed.size else Inline(b""),)
        fork = item.resource if stream else item.data
        return (self._layout(inum, stream, fork),)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link: its data fork."""
        item = self._item(tree, inum)
        size = item.data.size
        if item.attr.kind != Kind.LNK or size > MAX_LINK:
            raise Malformed(f"catalog number {inum}: no link, or a target of {size} bytes")
        return read_rows(self._reader, self._rows(inum, 0, item.data), 0, size)

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return extended attributes, what the catalog keeps for the Finder as macOS shows it, and flags."""
        item = self._item(tree, inum)
        finder = item.finder if item.attr.kind in {Kind.REG, Kind.DIR} else b""
        found = {_FINDER: finder} if any(finder) else {}
        if item.flags:
            found[b"user.imgfs.flags"] = words_of(item.flags).encode()
        return found | self._extended.xattrs(item)

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of compressed content."""
        if stream:
            raise Malformed(f"catalog number {inum}: stream {stream} is not compressed")
        return self._extended.read(self._item(tree, inum), offset, length)

    def _item(self, tree: int, inum: int) -> Item:
        if tree:
            raise NotFound(f"tree {tree}")
        if inum in _SPECIAL.values():
            return self._special(inum)
        return self._catalog.linked(self._catalog.item(inum))

    def _special(self, number: int) -> Item:
        fork = self._volume.forks.get(number)
        if fork is None:  # bad blocks have no fork: all their extents lie in the overflow file
            extents = tuple(self._more(number, 0, 0))
            blocks = sum(count for _, count in extents)
            fork = Fork(blocks * self._volume.block, blocks, extents)
        attr = Attr(kind=Kind.REG, inum=number, size=fork.size, allocated=fork.blocks * self._volume.block)
        return Item(attr, fork, Fork(0, 0, ()))

    def _entries(self, inum: int) -> Iterator[Entry | str]:
        if inum == ROOT:
            for name, number in _SPECIAL.items():
                if number in _OPTIONAL and not self._volume.forks[number].size:
                    continue
                try:
                    yield from self._described(name, self._special(number))
                except EvidenceError as why:
                    yield f"{name.decode()}: {why.message}"
        for found in self._catalog.children(inum):
            if isinstance(found, str):
                yield found
            else:
                yield from self._described(*found)

    def _described(self, name: bytes, item: Item) -> Entries:
        """Return the entry of a file and, after it, those of its streams."""
        attr, damaged = item.attr, item.attr.damaged
        layout: tuple[Layout, ...] | None = None
        if attr.kind != Kind.REG:
            return [Entry(name, attr)]
        extras, missing = self._extended.of(item)
        damaged = damaged or missing
        try:
            packed = self._extended.compressed(item, extras, missing)
        except EvidenceError as why:
            damaged = damaged or why.message
        else:
            if packed is None:
                layout = self._short(item.data)
            else:
                attr, damaged = with_fields(attr, size=packed.size), damaged or packed.unsupported
                if packed.size and not packed.unsupported:
                    layout = (Foreign(size=packed.size, why="decmpfs"),)
        found = [Entry(name, with_fields(attr, damaged=damaged) if damaged else attr, 0, layout)]
        if item.resource.size:
            fork = item.resource
            changed = with_fields(item.attr, size=fork.size, allocated=fork.blocks * self._volume.block)
            found.append(Entry(name + b":rsrc", changed, _RSRC, self._short(fork)))
        for stream, extra in enumerate(extras, _RSRC + 1):
            blocks = sum(count for _, count in extra.extents)
            changed = with_fields(item.attr, size=extra.size, allocated=blocks * self._volume.block)
            short = (Inline(extra.value),) if extra.value is not None else None
            found.append(Entry(name + b":" + extra.name, changed, stream, short))
        return found

    def _short(self, fork: Fork) -> tuple[Layout, ...] | None:
        """Return the layout of a fork of one or two extents, None: it is asked for when it is opened."""
        if len(fork.extents) > 2:
            return None
        size, block = fork.size, self._volume.block
        if not size:
            return (Inline(b""),)
        if sum(count for _, count in fork.extents) * block < size:
            return None
        return (linear(size, rows_of(fork.extents, size, block, self._volume.held)),)

    def _layout(self, inum: int, stream: int, fork: Fork) -> Layout:
        return linear(fork.size, self._rows(inum, stream, fork)) if fork.size else Inline(b"")

    def _rows(self, inum: int, stream: int, fork: Fork) -> Rows:
        block = self._volume.block
        extents = list(fork.extents)
        have = sum(count for _, count in extents)
        if have * block < fork.size and inum != EXTENTS:
            extents += self._more(inum, stream, have)
        return rows_of(extents, fork.size, block, self._volume.held)

    def _more(self, inum: int, stream: int, have: int) -> Iterator[Extent]:
        """Yield the extents of a fork from block ``have`` on, out of the overflow file."""
        if self._overflow is None:
            fork = self._volume.forks[EXTENTS]
            if not fork.size:
                return
            rows = self._rows(EXTENTS, 0, fork)
            self._overflow = BTree(self._reader, rows, fork.size, "extents overflow", _extent_key)
        given = 0
        for record in self._overflow.seek((inum, _FORK_TYPES[stream], have)):
            if isinstance(record, str):
                raise Malformed(record)
            node, start, body, stop = record
            if _extent_key(node, start, body) != (inum, _FORK_TYPES[stream], have) or body + 64 > stop:
                return
            for extent in extents_at(node, body):
                yield extent
                have += extent[1]
                given += 1
            if given > MAX_RUNS:
                raise Malformed(f"catalog number {inum}: more than {MAX_RUNS} extents")


def _extent_key(node: bytes, start: int, body: int) -> tuple[int, int, int]:
    if body - start < 12:
        raise Malformed("extents overflow: a short key")
    number, first = (int.from_bytes(node[at : at + 4], "big") for at in (start + 4, start + 8))
    return number, node[start + 2], first


def open_hfs(reader: Reader, _options: Options) -> HfsFiles:
    """Open an HFS+ or HFSX volume.

    Raises:
        NotMine: no volume header.
        NotSupported: HFS without plus, or HFS+ wrapped in it.
        Malformed: an impossible block size, or no catalog.
    """
    return HfsFiles(reader, read_volume(reader))
