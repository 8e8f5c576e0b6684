"""The ``Files`` verbs of ISO 9660.

Source: ECMA-119 4th edition, sections 6.5 and 9.1; Joliet Specification, Microsoft 1995; RRIP 1.12.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from imgfs.backends._layouts import linear
from imgfs.backends._listings import Listings
from imgfs.backends.iso9660.attributes import attributes_of
from imgfs.backends.iso9660.links import SHARED, Links
from imgfs.backends.iso9660.records import (
    ASSOCIATED,
    DIRECTORY,
    MORE,
    SECTOR,
    Record,
    RockRidge,
    parse,
    records,
    rock_ridge,
)
from imgfs.backends.iso9660.zisofs import packed
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.model import LOST, Attr, Entry, FilesInfo, Kind, Layout, Linear, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

_KINDS: Final = {int(kind): kind for kind in Kind}
_EXTENTS: Final = 4096  # records of one file: 16 TiB in pieces of 4 GiB


Records = list[Record]  # of one file, in order


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a tree is looked at. ``skip``: bytes before Rock Ridge entries, None: they are not looked at."""

    root: int  # where its record is, in bytes
    skip: int | None = None
    joliet: bool = False


class IsoFiles:
    """The hierarchies of a volume.

    A file's number is the position of its record in bytes; that of one with several names is ``links``'s.
    """

    def __init__(self, reader: Reader, info: FilesInfo, views: tuple[View, ...]) -> None:
        """Take a view for each tree."""
        self._reader = reader
        self._block = info.block
        self._views = views
        self.info = info
        self._listings = [Listings(partial(self._entries, tree)) for tree in range(len(views))]
        self._links = [Links(view.root, partial(self._entries, tree)) for tree, view in enumerate(views)]

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        record, more = self._record(tree, inum)
        if self._kind(record, more) != Kind.DIR:
            raise NotFound(f"record {inum} is no directory")
        return self._listings[tree].page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file."""
        record, more = self._record(tree, inum)
        if stream:
            raise NotFound(f"record {inum} has no stream {stream}")
        return self._attr(tree, self._extents(record), more)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a file lie."""
        record, more = self._record(tree, inum)
        if stream:
            raise NotFound(f"record {inum} has no stream {stream}")
        parts = self._extents(record)
        stored = self._layout(parts)
        if more.zipped is None or self._kind(record, more) != Kind.REG:
            return (stored,)
        start = record.extent * self._block
        if len(parts) == 1 and not record.interleaved and start + record.size <= self._reader.size:
            return (packed(more.zipped, stored.size, partial(self._stored, parts), start, 0),)
        return stored, packed(more.zipped, stored.size, partial(self._stored, parts), 0, 1)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link."""
        _, more = self._record(tree, inum)
        if more.link is None:
            raise Malformed(f"record {inum}: no link target")
        return more.link

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return the attributes that xorriso records, and the serial number of Rock Ridge."""
        _, more = self._record(tree, inum)
        own = {b"user.imgfs.inode": b"%d" % more.serial} if more.serial else {}
        return own | attributes_of(more.attributes)

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Refuse: every stream has a layout."""
        raise NotFound(f"tree {tree}, record {inum}-{stream}: [{offset}, {offset + length}) is not foreign")

    def _record(self, tree: int, inum: int) -> tuple[Record, RockRidge]:
        if not 0 <= tree < len(self._views):
            raise NotFound(f"tree {tree}")
        if inum >= SHARED and self._views[tree].skip is not None:
            inum = self._links[tree].place(inum)
        if not 16 * SECTOR <= inum < self._reader.size:
            raise NotFound(f"record {inum} of tree {tree}")
        inside = SECTOR - inum % SECTOR
        raw = self._reader.read(inum, min(inside, 255, self._reader.size - inum))
        record = parse(raw, 0, inum)
        if record is None:
            raise NotFound(f"no directory record at {inum}")
        return record, self._more(self._views[tree], record)

    def _more(self, view: View, record: Record) -> RockRidge:
        if view.skip is None:
            return RockRidge()
        if record.at != view.root:
            return rock_ridge(self._reader, record, view.skip, self._block)
        at = record.extent * self._block  # of the root, its own entry tells: SUSP 1.12, section 5.3
        raw = self._reader.read(at, min(SECTOR, self._reader.size - at)) if at < self._reader.size else b""
        dot = parse(raw, 0, at)
        if dot is None:
            return RockRidge()
        return rock_ridge(self._reader, dot, max(dot.use.find(b"SP", 0, 16), 0), self._block)

    def _entries(self, tree: int, inum: int) -> Iterator[Entry | str]:
        record, _ = self._record(tree, inum)
        parts: Records = []
        for found in records(self._reader, record.extent * self._block, record.size):
            if isinstance(found, str):
                yield found
                continue
            if found.identifier in {b"\0", b"\1"} and found.flags & DIRECTORY:
                continue
            parts.append(found)
            if found.flags & MORE and len(parts) < _EXTENTS:
                continue
            whole, parts = parts, []
            try:
                entry = self._entry(tree, whole)
            except EvidenceError as why:
                yield f"record {whole[0].at}: {why.message}"
                continue
            if entry is not None:
                yield entry

    def _entry(self, tree: int, parts: Records) -> Entry | None:
        first, view = parts[0], self._views[tree]
        more = self._more(view, first)
        if more.relocated:
            return None  # shown where its CL entry stands
        name = more.name or _name(first.identifier, joliet=view.joliet)
        if first.flags & ASSOCIATED:
            name += b":rsrc"
        if more.child is not None:
            moved, rest = self._record(tree, more.child * self._block)
            return Entry(name, self._attr(tree, [moved], rest))
        attr = self._attr(tree, parts, more)
        small = attr.kind == Kind.REG and len(parts) <= 2 and more.zipped is None
        return Entry(name, attr, 0, (self._layout(parts),) if small else None)

    def _kind(self, record: Record, more: RockRidge) -> Kind:
        kind = None if more.mode is None else _KINDS.get(more.mode >> 12)
        if kind is not None and (kind is Kind.DIR) == bool(record.flags & DIRECTORY):
            return kind
        if more.link is not None:
            return Kind.LNK
        return Kind.DIR if record.flags & DIRECTORY else Kind.REG

    def _extents(self, record: Record) -> Records:
        """Return a record and those that continue it."""
        parts = [record]
        while parts[-1].flags & MORE and len(parts) < _EXTENTS:
            at = parts[-1].stop
            raw = self._reader.read(at, min(SECTOR - at % SECTOR, self._reader.size - at))
            if not raw[0]:
                at += len(raw)
                raw = self._reader.read(at, min(SECTOR, self._reader.size - at))
            following = parse(raw, 0, at)
            if following is None or following.identifier != record.identifier:
                break
            parts.append(following)
        return parts

    def _attr(self, tree: int, parts: Records, more: RockRidge) -> Attr:
        record, kind = parts[0], self._kind(parts[0], more)
        stored = size = len(more.link or b"") if kind == Kind.LNK else sum(part.size for part in parts)
        if more.zipped is not None and kind == Kind.REG:
            size = more.zipped.size
        special = kind in {Kind.CHR, Kind.BLK}
        m_ns, a_ns, c_ns, b_ns = more.times
        attr = Attr(
            kind=kind,
            inum=record.at,
            size=size,
            allocated=0 if kind == Kind.LNK else -(-stored // self._block) * self._block,
            mode=(0o555 if kind == Kind.DIR else 0o444) if more.mode is None else more.mode & 0o7777,
            uid=more.uid,
            gid=more.gid,
            nlink=more.nlink,
            m_ns=record.m_ns if m_ns is None else m_ns,
            a_ns=a_ns,
            c_ns=c_ns,
            b_ns=b_ns,
            rdev=_device(*more.rdev) if special else 0,
            damaged="interleaved" if record.interleaved else more.damaged,
        )
        if attr.nlink < 2 or kind == Kind.DIR or self._views[tree].skip is None:
            return attr
        return msgspec.structs.replace(attr, inum=self._links[tree].number(parts, more, attr))

    def _layout(self, parts: Records) -> Linear:
        rows, at = [], 0
        for part in parts:
            start = part.extent * self._block
            inside = 0 if part.interleaved else max(min(part.size, self._reader.size - start), 0)
            if inside:
                rows.append((at, inside, start))
            if inside < part.size:
                rows.append((at + inside, part.size - inside, LOST))
            at += part.size
        return linear(at, rows)

    def _stored(self, parts: Records, at: int, length: int) -> bytes:
        """Return bytes of a file as it is stored. Raises EvidenceError: some of them are lost."""
        found = bytearray()
        for part in parts:
            take = min(part.size - at, length - len(found))
            if at < part.size and take > 0:
                if part.interleaved:
                    raise Malformed(f"record {part.at}: interleaved")
                found += self._reader.read(part.extent * self._block + at, take)
            at = max(at - part.size, 0)
        if len(found) < length:
            raise Malformed(f"record {parts[0].at}: {length} bytes where {len(found)} are left")
        return bytes(found)


def _device(high: int, low: int) -> int:
    """Return a device number: major and minor number, or both in the low one, as some programs write it.

    Source: RRIP 1.12, section 4.1.2: the high number is 0 where a device number has 32 bits.
    """
    return os.makedev(high & 0xFFF, low & 0xFFFFF) if high or low <= 0xFF else low


def _name(identifier: bytes, *, joliet: bool) -> bytes:
    """Return the name without the version number and the dot of an empty extension."""
    name = identifier
    if joliet:
        text = identifier[: len(identifier) & ~1].decode("utf-16-be", "surrogatepass")
        name = text.encode("utf-8", "surrogatepass")
    base, separator, version = name.rpartition(b";")
    name = base if separator and version.isdigit() else name
    return name[:-1] if not joliet and name.endswith(b".") and len(name) > 1 else name
