"""The ``Files`` verbs: every volume of a container is a tree, and every snapshot of one.

A file has its content, and its extended attributes, each a stream too.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from imgfs.backends._bsdflags import COMPRESSED, DATALESS
from imgfs.backends._decmpfs import RESOURCE
from imgfs.backends._layouts import linear
from imgfs.backends._listings import Listings
from imgfs.backends.apfs.compressed import Compression
from imgfs.backends.apfs.content import EMPTY, layouts_of, read_runs, runs_of
from imgfs.backends.apfs.records import KIND_OF_TYPE, NUMBER, PRIVATE, ROOT, ROOT_PARENT
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.limits import MAX_LINK, MAX_XATTRS
from imgfs.model import Attr, Entry, Foreign, Inline, Kind, Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imgfs.backends import Reader
    from imgfs.backends._decmpfs import Compressed
    from imgfs.backends.apfs.catalog import Item
    from imgfs.backends.apfs.content import Run
    from imgfs.backends.apfs.objects import Blocks
    from imgfs.backends.apfs.records import Extra, Name
    from imgfs.backends.apfs.states import State
    from imgfs.model import FilesInfo, Layout

_SYMLINK: Final = b"com.apple.fs.symlink"
_FIRMLINK: Final = b"com.apple.fs.firmlink"
_PRIVATE_NAME: Final = b"$private-dir"
_TOGETHER: Final = 2048  # names shown by the order of their inodes; a cold disk reads them within a deadline
_ALL_XATTRS: Final = 8 << 20  # of one file: half a message
_Names = list["Name"]
_NAME_MAX: Final = 255  # bytes of an attribute's name that the kernel takes


class ApfsFiles:
    """The volumes of one container; see ``backends.Files``."""

    def __init__(self, reader: Reader, blocks: Blocks, states: Sequence[State], info: FilesInfo) -> None:
        self.info = info
        self._reader = reader
        self._blocks = blocks
        self._states = states
        self._listings = [Listings(partial(self._entries, tree)) for tree in range(len(states))]
        self._compression = Compression(self._bytes)

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        state = self._state(tree)
        if not cursor and self._item(state, inum).inode.kind != Kind.DIR:
            raise NotFound(f"inode {inum} is no directory")
        return self._listings[tree].page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file or of one of its streams."""
        item = self._item(self._state(tree), inum)
        if not stream:
            return self._attr(tree, item)[0]
        return _attr_of_extra(item, _extra(item, stream))

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a stream lie."""
        state = self._state(tree)
        item = self._item(state, inum)
        if stream:
            extra = _extra(item, stream)
            if extra.value is not None:
                return (Inline(extra.value),)
            return self._layouts(state, extra.size, self._runs(state, extra.stream, extra.size))
        if item.inode.kind != Kind.REG:
            return EMPTY
        packed = self._compression.opened(tree, item)
        if packed is None:
            size = item.inode.size
            return self._layouts(state, size, self._runs(state, item.inode.private, size))
        if not packed.size:
            return EMPTY
        fork = next((one for one in item.extras if one.name == RESOURCE and one.value is None), None)
        if fork is not None:
            lowers = self._layouts(state, fork.size, self._runs(state, fork.stream, fork.size))
            units = packed.packed(len(lowers))
            if units is not None:
                return (*lowers, units)
        return (Foreign(size=packed.size, why="decmpfs"),)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link: an attribute of its own."""
        state = self._state(tree)
        item = self._item(state, inum)
        if item.inode.kind != Kind.LNK:
            raise NotFound(f"inode {inum} is no symbolic link")
        for extra in item.extras:
            if extra.name == _SYMLINK and extra.size <= MAX_LINK + 1:
                return self._bytes(tree, extra)(0, extra.size).removesuffix(b"\0")
        raise Malformed(f"inode {inum}: a symbolic link without a target {item.damaged}".rstrip())

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return the attributes whose names and sizes the kernel takes; all of them are streams too."""
        state = self._state(tree)
        item = self._item(state, inum)
        found = item.inode.facts()
        if inum == ROOT:
            found |= state.facts()
        room, names = _ALL_XATTRS, MAX_XATTRS
        for extra in item.extras:
            name = extra.name
            if not 0 < len(name) <= _NAME_MAX or b"\0" in name or extra.size > min(room, MAX_XATTRS):
                continue
            names -= len(name) + 1
            if names < 0:
                break
            with suppress(EvidenceError):  # the stream of it says what is lost
                found[name] = self._bytes(tree, extra)(0, extra.size)
                room -= extra.size
        if _FIRMLINK in found:
            found[b"user.imgfs.firmlink"] = found[_FIRMLINK].removesuffix(b"\0")
        return found

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of compressed content."""
        if not stream:
            return self._compression.read(tree, self._item(self._state(tree), inum), offset, length)
        raise Malformed(
            f"inode {inum} of tree {tree}, stream {stream}: no bytes [{offset}, {offset + length})"
        )

    def _state(self, tree: int) -> State:
        if not 0 <= tree < len(self._states):
            raise NotFound(f"tree {tree}")
        return self._states[tree]

    def _item(self, state: State, inum: int) -> Item:
        return state.catalog.item(inum)

    def _runs(self, state: State, stream: int, size: int) -> Sequence[Run]:
        if not size:
            return []
        return runs_of(state.catalog.runs(stream), size, self._blocks, encrypted=state.codec is not None)

    def _layouts(self, state: State, size: int, runs: Sequence[Run]) -> tuple[Layout, ...]:
        return layouts_of(size, runs, self._blocks, state.codec)

    def _bytes(self, tree: int, extra: Extra) -> Callable[[int, int], bytes]:
        """Return what reads bytes (offset, length) of an attribute.

        Raises:
            EvidenceError: what says where they lie cannot be read.
        """
        value, state = extra.value, self._states[tree]
        if value is not None:
            return partial(_part, value)
        runs = self._runs(state, extra.stream, extra.size)
        return lambda start, length: read_runs(self._reader, runs, start, length, self._blocks, state.codec)

    def _attr(self, tree: int, item: Item) -> tuple[Attr, Compressed | None]:
        """Return the attributes of a file, and how its content is compressed, None: it is not."""
        attr, inode = _attr_of(item), item.inode
        if not inode.flags & (COMPRESSED | DATALESS):
            return attr, None
        damaged = attr.damaged
        packed: Compressed | None = None
        try:
            packed = self._compression.said(tree, item)
        except EvidenceError as why:
            damaged = damaged or why.message
        if packed is not None:
            fork = next((extra.allocated for extra in item.extras if extra.name == RESOURCE), 0)
            damaged = damaged or packed.unsupported
            return _with(attr, size=packed.size, allocated=fork, damaged=damaged), packed
        if inode.flags & DATALESS and attr.size and not item.extents:
            damaged = damaged or "dataless: its content is kept elsewhere"
        return (_with(attr, damaged=damaged) if damaged else attr), None

    def _entries(self, tree: int, inum: int) -> Iterator[Entry | str]:
        """Yield what a directory holds; inodes are looked up in the order of the tree."""
        catalog = self._states[tree].catalog
        if inum == ROOT:
            yield from self._private(tree)
        waiting: _Names = []
        for found in catalog.names(inum):
            if isinstance(found, str):
                yield found
                continue
            waiting.append(found)
            if len(waiting) >= _TOGETHER:
                yield from self._described(tree, waiting)
                waiting = []
        yield from self._described(tree, waiting)

    def _private(self, tree: int) -> Iterator[Entry]:
        """Yield the directory of files that were deleted while they were open, if a volume has one."""
        with suppress(EvidenceError, NotFound):
            item = self._states[tree].catalog.item(PRIVATE)
            if item.inode.kind == Kind.DIR and item.inode.parent == ROOT_PARENT:
                yield from self._entry(tree, _PRIVATE_NAME, item)

    def _described(self, tree: int, names: _Names) -> Iterator[Entry]:
        """Yield the entries of names, by the numbers of their inodes: the tree has those side by side."""
        catalog = self._states[tree].catalog
        names.sort()
        for number, name, sort in names:
            try:
                item = catalog.item(number)
            except (EvidenceError, NotFound) as why:
                kind = KIND_OF_TYPE.get(sort, Kind.REG)
                yield Entry(name, Attr(kind=kind, inum=number & NUMBER, damaged=why.message))
            else:
                yield from self._entry(tree, name, item)

    def _entry(self, tree: int, name: bytes, item: Item) -> Sequence[Entry]:
        """Return the entry of a file and, after it, those of its streams."""
        attr, packed = self._attr(tree, item)
        short: tuple[Layout, ...] | None = None
        if attr.kind == Kind.REG and packed is None and not attr.damaged:
            short = self._short(self._states[tree], item)
        found = [Entry(name, attr, 0, short)]
        for stream, extra in enumerate(item.extras, 1):
            if extra.name == _SYMLINK:
                continue
            short = (Inline(extra.value),) if extra.value is not None else None
            found.append(Entry(name + b":" + extra.name, _attr_of_extra(item, extra), stream, short))
        return found

    def _short(self, state: State, item: Item) -> tuple[Layout, ...] | None:
        """Return the layout of a file of one or two runs, None: it is asked for when it is opened."""
        size = item.inode.size
        if not size:
            return EMPTY
        extents = item.extents
        if extents is None or state.codec is not None:
            return None
        if len(extents) == 1:
            logical, length, block, _ = extents[0]
            at = block * self._blocks.block
            if block and not logical and size <= length and at + size <= self._blocks.held:
                return (linear(size, [(0, size, at)]),)
        return self._layouts(state, size, runs_of(extents, size, self._blocks, encrypted=False))


def _part(value: bytes, start: int, length: int) -> bytes:
    """Return part of a value that is at hand.

    Raises:
        Malformed: it ends before.
    """
    if start + length > len(value):
        raise Malformed(f"bytes [{start}, {start + length}) of an attribute of {len(value)}")
    return value[start : start + length]


def _attr_of(item: Item) -> Attr:
    """Return the attributes of a file; damage is said in them."""
    inode = item.inode
    try:
        attr = inode.attr()
    except Malformed as why:
        kind = inode.kind or Kind.REG
        return Attr(kind=kind, inum=inode.number, mode=inode.mode & 0o7777, damaged=why.message)
    changed: dict[str, object] = {"damaged": item.damaged} if item.damaged else {}
    if attr.kind == Kind.LNK:
        changed["size"] = max((extra.size for extra in item.extras if extra.name == _SYMLINK), default=1) - 1
    return _with(attr, **changed) if changed else attr


def _attr_of_extra(item: Item, extra: Extra) -> Attr:
    return _with(_attr_of(item), kind=Kind.REG, size=extra.size, allocated=extra.allocated, nlink=1, rdev=0)


def _extra(item: Item, stream: int) -> Extra:
    if not 0 < stream <= len(item.extras):
        raise NotFound(f"inode {item.inode.number} has no stream {stream} {item.damaged}".rstrip())
    return item.extras[stream - 1]


def _with(attr: Attr, **changed: object) -> Attr:
    names = attr.__struct_fields__
    return Attr(**{name: getattr(attr, name) for name in names} | changed)
