"""Compressed files: the attribute that says how, and the resource fork that may hold the units."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from imgfs.backends._bsdflags import COMPRESSED
from imgfs.backends._decmpfs import ATTRIBUTE, RESOURCE, Compressed
from imgfs.errors import Malformed
from imgfs.limits import MAX_XATTRS, READ_MAX
from imgfs.model import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.backends.apfs.catalog import Item
    from imgfs.backends.apfs.records import Extra

_DECODERS: Final = 4  # compressed files that are being read


class Compression:
    """The compressed files of a container; ``reads`` returns what reads bytes of an attribute of a tree."""

    __slots__ = ("_decoders", "_reads")

    def __init__(self, reads: Callable[[int, Extra], Callable[[int, int], bytes]]) -> None:
        self._reads = reads
        self._decoders: OrderedDict[tuple[int, int], Compressed] = OrderedDict()

    def said(self, tree: int, item: Item) -> Compressed | None:
        """Return what is known of compressed content, None: the data stream is what a file holds.

        Raises:
            EvidenceError: the attribute that says so is damaged, or may be what is missing.
        """
        if not item.inode.flags & COMPRESSED or item.inode.kind != Kind.REG:
            return None
        for extra in item.extras:
            if extra.name == ATTRIBUTE:
                if extra.size > MAX_XATTRS:
                    raise Malformed(f"decmpfs: an attribute of {extra.size} bytes")
                return Compressed(self._reads(tree, extra)(0, extra.size))
        if item.damaged:
            raise Malformed(item.damaged)
        return None

    def opened(self, tree: int, item: Item) -> Compressed | None:
        """Return compressed content ready to be read, None: the data stream is what a file holds.

        Raises:
            NotSupported: a compression that is not decoded.
            EvidenceError: what says how it is compressed is damaged.
        """
        packed = self.said(tree, item)
        if packed is not None:
            fork = next((extra for extra in item.extras if extra.name == RESOURCE), None)
            packed.attach(self._reads(tree, fork) if fork is not None else _none)
            self._decoders[tree, item.inode.number] = packed
            if len(self._decoders) > _DECODERS:
                self._decoders.popitem(last=False)
        return packed

    def read(self, tree: int, item: Item, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of compressed content.

        Raises:
            NotSupported: a compression that is not decoded.
            EvidenceError: there are none, or they do not decode.
        """
        number = item.inode.number
        packed = self._decoders.get((tree, number)) or self.opened(tree, item)
        if packed is None or not 0 <= offset <= offset + length <= packed.size or length > READ_MAX:
            raise Malformed(f"inode {number}: no compressed bytes [{offset}, {offset + length})")
        return packed.read(offset, length)


def _none(start: int, length: int) -> bytes:
    raise Malformed(f"decmpfs: bytes [{start}, {start + length}) of a resource fork that is not there")
