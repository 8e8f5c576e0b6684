"""The ``Files`` verbs of UDF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from imgfs.backends._layouts import linear
from imgfs.backends._listings import Listings
from imgfs.backends.udf.attributes import attr_of, target_of
from imgfs.backends.udf.directory import names
from imgfs.backends.udf.icb import STREAMS, inline, place_of, read_icb, rows_of
from imgfs.errors import EvidenceError, NotFound
from imgfs.model import Attr, Entry, FilesInfo, Inline, Kind, Layout, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.udf.directory import Name
    from imgfs.backends.udf.icb import Icb
    from imgfs.backends.udf.structures import Address, Clock
    from imgfs.backends.udf.volume import Volume

_STREAMS: Final = 1024  # named streams of one file
_IN_LISTING: Final = 4096  # bytes of content that travel with a name
_LENGTH: Final = 0x3FFF_FFFF


class UdfFiles:
    """The tree of one file set; see ``backends.Files``."""

    def __init__(self, volume: Volume, info: FilesInfo, clock: Clock) -> None:
        self.info = info
        self._volume = volume
        self._clock = clock
        self._listings = Listings(self._entries)

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if self._icb(tree, inum).kind != Kind.DIR:
            raise NotFound(f"ICB {inum} is no directory")
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file or of one of its streams."""
        icb = self._icb(tree, inum)
        attr = attr_of(self._volume, icb, self._clock)
        return attr if not stream else self._as_stream(attr, self._stream(icb, stream))

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a file lie."""
        icb = self._icb(tree, inum)
        if stream:
            icb = self._stream(icb, stream)
        elif icb.kind != Kind.REG:
            raise NotFound(f"ICB {inum} is no regular file")
        return (self._layout(icb),)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link."""
        icb = self._icb(tree, inum)
        if icb.kind != Kind.LNK:
            raise NotFound(f"ICB {inum} is no symbolic link")
        return target_of(self._volume, icb)

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return the number that stays when an ICB is written elsewhere (OSTA UDF 2.60, 3.2.1)."""
        unique = self._icb(tree, inum).unique
        return {b"user.imgfs.udf.unique_id": b"%d" % unique} if unique else {}

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Refuse: every stream has a layout."""
        raise NotFound(f"tree {tree}, ICB {inum}-{stream}: [{offset}, {offset + length}) is not foreign")

    def _icb(self, tree: int, inum: int) -> Icb:
        if tree or inum < 0:
            raise NotFound(f"ICB {inum} of tree {tree}")
        ref, block = place_of(inum)
        if ref >= len(self._volume.spaces):
            raise NotFound(f"partition map {ref}")
        return read_icb(self._volume, ref, block)

    def _entries(self, inum: int) -> Iterator[Entry | str]:
        volume, clock = self._volume, self._clock
        for found in names(volume, self._icb(0, inum)):
            if isinstance(found, str):
                yield found
                continue
            name, characteristics, address = found
            try:
                icb = read_icb(volume, address.ref, address.block)
                attr = attr_of(volume, icb, clock)
            except EvidenceError as why:
                kind = Kind.DIR if characteristics & 2 else Kind.REG
                number = address.ref << 32 | address.block
                yield Entry(name, Attr(kind=kind, inum=number, damaged=why.message))
                continue
            yield Entry(name, attr, 0, self._listed(icb) if attr.kind is Kind.REG else None)
            if icb.streams.length & _LENGTH:
                yield from self._with_streams(name, attr, icb)

    def _with_streams(self, name: bytes, attr: Attr, icb: Icb) -> Iterator[Entry | str]:
        """Yield the entries of a file's streams."""
        for number, stream in enumerate(self._streams(icb), 1):
            if isinstance(stream, str):
                yield f"{name.decode('utf-8', 'replace')}: {stream}"
                continue
            try:
                held = self._stream_at(stream.icb)
            except (EvidenceError, NotFound) as why:
                yield f"{name.decode('utf-8', 'replace')}: {why.message}"
                continue
            yield Entry(name + b":" + stream.name, self._as_stream(attr, held), number, self._listed(held))

    def _streams(self, icb: Icb) -> Iterator[Name | str]:
        """Yield the names in the stream directory of a file."""
        try:
            folder = read_icb(self._volume, icb.streams.ref, icb.streams.block)
            if folder.type != STREAMS:
                yield f"a stream directory of type {folder.type}"
                return
            for number, found in enumerate(names(self._volume, folder)):
                if number >= _STREAMS:
                    yield f"more than {_STREAMS} streams"
                    return
                yield found
        except EvidenceError as why:
            yield why.message

    def _stream(self, icb: Icb, stream: int) -> Icb:
        if icb.streams.length & _LENGTH:
            for number, found in enumerate(self._streams(icb), 1):
                if number == stream and not isinstance(found, str):
                    return self._stream_at(found.icb)
        raise NotFound(f"ICB {icb.number} has no stream {stream}")

    def _stream_at(self, address: Address) -> Icb:
        icb = read_icb(self._volume, address.ref, address.block)
        if icb.kind != Kind.REG:
            raise NotFound(f"stream in block {address.block}: no content")
        return icb

    def _as_stream(self, attr: Attr, icb: Icb) -> Attr:
        """Return a stream's attributes: its file's, with its own size."""
        blocks = min(icb.blocks, 1 << 50)
        held = {"size": icb.size, "allocated": blocks * self._volume.block}
        return msgspec.structs.replace(attr, kind=Kind.REG, damaged="", **held)

    def _layout(self, icb: Icb) -> Layout:
        held = inline(icb)
        if held is not None:
            return Inline(held)
        return linear(icb.size, rows_of(self._volume, icb)) if icb.size else Inline(b"")

    def _listed(self, icb: Icb) -> tuple[Layout, ...] | None:
        """Return the layout when the ICB alone tells it shortly, None: it is asked for when it is opened."""
        if len(icb.data) > (_IN_LISTING if icb.flags & 7 == 3 else 64):
            return None
        try:
            return (self._layout(icb),)
        except EvidenceError:
            return None
