"""The files of an AccessData logical image, by their addresses in it.

Source: as for ``_ad1``.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._ad1 import (
    ACCESSED,
    FOLDER,
    HASHES,
    MAGIC,
    MD5,
    SHA1,
    TIMES,
    Header,
    Item,
    digest,
    moment,
    read_header,
    read_item,
    read_records,
    worded,
)
from imgfs.backends._listings import Listings
from imgfs.backends._units import Units
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.model import (
    PACKED_CODED,
    PACKED_LOST,
    Attr,
    Codec,
    Entry,
    FilesInfo,
    Foreign,
    Inline,
    Kind,
    Layout,
    Packed,
    Page,
    TreeInfo,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader

_ROOT: Final = 1  # no item lies there: the image header does
_BELOW: Final = 1 << 61  # added to the address of a file: the folder of what stands below it
_MOST_ROWS: Final = 500_000  # chunks of a file whose layout fits a message; larger files are read here
_SIBLINGS: Final = 8_000_000
_LOST_ROW: Final = struct.pack("<QII", 0, 0, PACKED_LOST)
_WORDS: Final = 8 << 10  # bytes of the records of a file that are shown


class AdFiles:
    """One image. A file's number is its address."""

    def __init__(self, reader: Reader, header: Header, info: FilesInfo) -> None:
        self._reader = reader
        self._header = header
        self.info = info
        self._listings = Listings(self._entries)
        self._decoded: tuple[int, Units] | None = None

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if self.stat(tree, inum, 0).kind != Kind.DIR:
            raise NotFound(f"item {inum} is no directory")
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file."""
        if (tree, inum, stream) == (0, _ROOT, 0):
            return Attr(kind=Kind.DIR, inum=_ROOT, mode=0o555, nlink=2)
        return self._attr(self._item(tree, inum, stream), inum)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the chunks of a file lie."""
        item = self._item(tree, inum, stream)
        if inum >= _BELOW or item.kind == FOLDER:
            raise NotFound(f"item {inum} is a directory")
        return (self._layout(item),)

    def link(self, tree: int, inum: int) -> bytes:
        """Refuse: targets are not recorded."""
        self._item(tree, inum, 0)
        raise Malformed(f"item {inum}: no link target")

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return digests and all records, as they are stored."""
        if (tree, inum) == (0, _ROOT):
            return {}
        item = self._item(tree, inum, 0)
        records, _ = read_records(self._reader, item.told)
        found = {
            b"user.imgfs.md5": digest(records.get((HASHES, MD5)), 16),
            b"user.imgfs.sha1": digest(records.get((HASHES, SHA1)), 20),
        }
        found[b"user.imgfs.records"] = worded(records)[:_WORDS]
        return {name: value for name, value in found.items() if value}

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Return bytes of a file of more chunks than a layout carries."""
        item = self._item(tree, inum, stream)
        if not isinstance(self._layout(item), Foreign) or not 0 <= offset <= offset + length <= item.size:
            raise NotFound(f"item {inum}: [{offset}, {offset + length}) is not foreign")
        if self._decoded is None or self._decoded[0] != inum:
            self._decoded = (inum, Units(self._header.unit))
        return self._decoded[1].read(offset, length, lambda index: self._chunk(item, index))

    def _item(self, tree: int, inum: int, stream: int) -> Item:
        at = inum - _BELOW if inum >= _BELOW else inum
        if tree or stream or not _ROOT < at < self._reader.size:
            raise NotFound(f"item {inum}-{stream} of tree {tree}")
        item = read_item(self._reader, at)
        if inum >= _BELOW and (item.kind == FOLDER or not item.below):
            raise NotFound(f"nothing is below item {at}")
        return item

    def _attr(self, item: Item, inum: int) -> Attr:
        records, damaged = read_records(self._reader, item.told)
        folder = item.kind == FOLDER or inum >= _BELOW
        return Attr(
            kind=Kind.DIR if folder else Kind.REG,
            inum=inum,
            size=0 if folder else item.size,
            mode=0o555 if folder else 0o444,
            a_ns=moment(records.get((TIMES, ACCESSED))),
            damaged=damaged,
        )

    def _entries(self, inum: int) -> Iterator[Entry | str]:
        """Return what stands in a folder: items that name each other, none of them twice."""
        at = self._header.first if inum == _ROOT else self._item(0, inum, 0).below
        seen: set[int] = set()
        while at:
            if at in seen or len(seen) >= _SIBLINGS:
                yield f"item {at} is its own successor, or there are too many"
                return
            seen.add(at)
            try:
                item = read_item(self._reader, at)
                attr = self._attr(item, at)
            except EvidenceError as why:
                yield f"item {at}: {why.message}"
                return
            yield Entry(item.shown, attr)
            if item.below and item.kind != FOLDER:
                yield Entry(item.shown, self._attr(item, at + _BELOW))
            at = item.after

    def _layout(self, item: Item) -> Layout:
        if not item.size:
            return Inline(b"")
        unit = self._header.unit
        count = -(-item.size // unit)
        if count > _MOST_ROWS:
            return Foreign(size=item.size, why="more chunks than a layout carries")
        ends = self._addresses(item, 0, count)
        rows = bytearray(_LOST_ROW * count)
        words = memoryview(rows).cast("Q")
        for index, (start, stop) in enumerate(pairwise(ends)):
            if 0 < start < stop <= self._reader.size and stop - start <= 2 * unit + limits.KIB:
                words[2 * index] = start
                words[2 * index + 1] = stop - start | PACKED_CODED << 32
        words.release()
        return Packed(size=item.size, unit=unit, codec=Codec("zlib"), table=bytes(rows))

    def _addresses(self, item: Item, first: int, count: int) -> array[int]:
        """Return the addresses of ``count`` chunks from ``first`` on, and where the last one ends."""
        size = self._reader.size
        if not 0 < item.table <= size - 8:
            return array("Q")
        stored = min(int.from_bytes(self._reader.read(item.table, 8), "little"), size // 8)
        start = item.table + 8 + 8 * first
        count = min(count, stored - first, (size - start) // 8 - 1)
        if count <= 0:
            return array("Q")
        try:
            return array("Q", self._reader.read(start, 8 * (count + 1)))
        except EvidenceError:
            return array("Q")  # a missing segment holds the table: all is lost

    def _chunk(self, item: Item, index: int) -> bytes:
        unit = self._header.unit
        length = min(unit, item.size - index * unit)
        ends = self._addresses(item, index, 1)
        if (
            len(ends) < 2
            or not 0 < ends[0] < ends[1] <= self._reader.size
            or ends[1] - ends[0] > 2 * unit + 1024
        ):
            raise Malformed(f"item {item.at}: chunk {index} has no place")
        stream = zlib.decompressobj()
        try:
            data = stream.decompress(self._reader.read(ends[0], ends[1] - ends[0]), length + 1)
        except zlib.error as why:
            raise Malformed(f"item {item.at}: chunk {index}: {why}") from why
        if len(data) != length or not stream.eof:
            raise Malformed(f"item {item.at}: chunk {index} holds {len(data)} bytes, {length} expected")
        return data


def open_adlogical(reader: Reader, options: Options) -> AdFiles:  # noqa: ARG001  # the contract of `open`
    """Open an image.

    Raises:
        NotMine: no signature.
        NotSupported: another version.
        Malformed: it holds no item.
    """
    header = read_header(reader)
    read_item(reader, header.first)
    info = FilesInfo(
        type="ad1",
        trees=(TreeInfo("root", _ROOT),),
        block=header.unit,
        size=reader.size,
        label=header.source,
        version=f"{header.version}",
    )
    return AdFiles(reader, header, info)


BACKEND = Backend(
    name="adlogical",
    title="AccessData logical image, files",
    role=Role.FILES,
    rank=10,
    open=open_adlogical,
    signatures=(Signature(0, MAGIC),),
    supports="versions 3, 4; names, times, MD5 and SHA-1 of each file as user.imgfs.*",
    truth=("composed", "corpus"),
)
