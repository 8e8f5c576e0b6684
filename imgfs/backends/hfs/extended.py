"""What HFS+ files have through the attributes tree: extended attributes, compressed content."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from imgfs.backends._decmpfs import ATTRIBUTE, Compressed
from imgfs.backends._layouts import linear
from imgfs.backends.hfs.attributes import Attributes
from imgfs.backends.hfs.volume import ATTRIBUTES, read_rows, rows_of
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.limits import MAX_XATTRS, READ_MAX
from imgfs.model import Inline

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.backends import Reader
    from imgfs.backends.hfs.attributes import Extra, Extras
    from imgfs.backends.hfs.catalog import Item
    from imgfs.backends.hfs.volume import Fork, Rows, Volume
    from imgfs.model import Layout

_ALL_XATTRS: Final = 8 << 20  # of one file: half a message
_NAME_MAX: Final = 255  # bytes of an attribute's name that the kernel takes
_DECODERS: Final = 4  # compressed files that are being read
_RESOURCE: Final = 2  # what ``rows`` calls the resource fork


class Extended:
    """The extended attributes of one volume's files. ``rows`` says where a fork of a number lies."""

    __slots__ = ("_attributes", "_decoders", "_reader", "_rows", "_volume")

    def __init__(self, reader: Reader, volume: Volume, rows: Callable[[int, int, Fork], Rows]) -> None:
        self._reader = reader
        self._volume = volume
        self._rows = rows
        self._attributes: Attributes | None = None
        self._decoders: OrderedDict[int, Compressed] = OrderedDict()

    def of(self, item: Item) -> tuple[Extras, str]:
        """Return the attributes of an item, and what of them is damaged."""
        if not item.extra and not item.compressed:
            return [], ""
        try:
            if self._attributes is None:
                fork = self._volume.forks[ATTRIBUTES]
                self._attributes = Attributes(self._reader, self._rows(ATTRIBUTES, 0, fork), fork)
            return self._attributes.of(item.attr.inum)
        except EvidenceError as why:
            return [], why.message

    def compressed(self, item: Item, extras: Extras, damaged: str) -> Compressed | None:
        """Return what is known of compressed content, None: the data fork is what a file holds.

        Raises:
            EvidenceError: the attribute that says so is damaged, or may be what is missing.
        """
        if not item.compressed:
            return None
        for extra in extras:
            if extra.name == ATTRIBUTE:
                return Compressed(self._value(extra))
        if damaged:
            raise Malformed(damaged)
        return None

    def opened(self, item: Item) -> Compressed | None:
        """Return compressed content ready to be read, None: the data fork is what a file holds.

        Raises:
            NotSupported: a compression that is not decoded.
            EvidenceError: what says how it is compressed is damaged.
        """
        packed = self.compressed(item, *self.of(item))
        if packed is not None:
            number = item.attr.inum
            packed.attach(partial(read_rows, self._reader, self._rows(number, _RESOURCE, item.resource)))
            self._decoders[number] = packed
            if len(self._decoders) > _DECODERS:
                self._decoders.popitem(last=False)
        return packed

    def read(self, item: Item, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of compressed content.

        Raises:
            NotSupported: a compression that is not decoded.
            EvidenceError: there are none, or they do not decode.
        """
        number = item.attr.inum
        packed = self._decoders.get(number) or self.opened(item)
        if packed is None or not 0 <= offset <= offset + length <= packed.size or length > READ_MAX:
            raise Malformed(f"catalog number {number}: no compressed bytes [{offset}, {offset + length})")
        return packed.read(offset, length)

    def layout(self, item: Item, index: int) -> Layout:
        """Say where the bytes of an attribute lie, counted in the order of the tree.

        Raises:
            NotFound: there are fewer.
        """
        extras, damaged = self.of(item)
        if not 0 <= index < len(extras):
            raise NotFound(f"catalog number {item.attr.inum} has no attribute {index} {damaged}".rstrip())
        extra = extras[index]
        if extra.value is not None:
            return Inline(extra.value)
        return linear(extra.size, self._rows_of(extra)) if extra.size else Inline(b"")

    def xattrs(self, item: Item) -> dict[bytes, bytes]:
        """Return the attributes whose names and sizes the kernel takes; all of them are streams too."""
        found: dict[bytes, bytes] = {}
        room, names = _ALL_XATTRS, MAX_XATTRS
        for extra in self.of(item)[0]:
            name = extra.name
            if not 0 < len(name) <= _NAME_MAX or b"\0" in name or extra.size > min(room, MAX_XATTRS):
                continue
            names -= len(name) + 1
            if names < 0:
                break
            with suppress(EvidenceError):  # the stream of it says what is lost
                found[name] = self._value(extra)
                room -= extra.size
        return found

    def _value(self, extra: Extra) -> bytes:
        if extra.value is not None:
            return extra.value
        if extra.size > MAX_XATTRS:
            raise Malformed(f"{extra.name.decode(errors='replace')}: {extra.size} bytes")
        return read_rows(self._reader, self._rows_of(extra), 0, extra.size)

    def _rows_of(self, extra: Extra) -> Rows:
        return rows_of(extra.extents, extra.size, self._volume.block, self._volume.held)
