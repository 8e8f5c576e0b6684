"""ISO 9660 with Rock Ridge and Joliet.

Read here and not through TSK, which knows neither links nor times of Rock Ridge as written by several
mastering programs and shows the short names instead.

Source: ECMA-119 4th edition, section 8 (volume descriptors); Joliet Specification, Microsoft 1995.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._iso_records import (
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
from imgfs.backends._layouts import linear
from imgfs.backends._listings import Listings
from imgfs.errors import EvidenceError, Malformed, NotFound, NotMine
from imgfs.model import LOST, Attr, Entry, FilesInfo, Kind, Layout, Page, TreeInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader

_JOLIET: Final = (b"%/@", b"%/C", b"%/E")
_DESCRIPTORS: Final = 64  # volume descriptors that are looked at
_EXTENTS: Final = 4096  # records of one file: 16 TiB in pieces of 4 GiB


Records = list[Record]  # of one file, in order


class IsoFiles:
    """One directory hierarchy of a volume. A file's number is the position of its record in bytes."""

    def __init__(self, reader: Reader, info: FilesInfo, *, skip: int | None, joliet: bool) -> None:
        self._reader = reader
        self._block = info.block
        self._skip = skip
        self._joliet = joliet
        self.info = info
        self._root = info.trees[0].root
        self._listings = Listings(self._entries)

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        record, more = self._record(tree, inum)
        if self._kind(record, more) != Kind.DIR:
            raise NotFound(f"record {inum} is no directory")
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file."""
        record, more = self._record(tree, inum)
        if stream:
            raise NotFound(f"record {inum} has no stream {stream}")
        return self._attr(self._extents(record), more)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a file lie."""
        record, _ = self._record(tree, inum)
        if stream:
            raise NotFound(f"record {inum} has no stream {stream}")
        return (self._layout(self._extents(record)),)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link."""
        _, more = self._record(tree, inum)
        if more.link is None:
            raise Malformed(f"record {inum}: no link target")
        return more.link

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return nothing: the format has none."""
        self._record(tree, inum)
        return {}

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Refuse: every stream has a layout."""
        raise NotFound(f"tree {tree}, record {inum}-{stream}: [{offset}, {offset + length}) is not foreign")

    def _record(self, tree: int, inum: int) -> tuple[Record, RockRidge]:
        if tree or not 16 * SECTOR <= inum < self._reader.size:
            raise NotFound(f"record {inum} of tree {tree}")
        inside = SECTOR - inum % SECTOR
        raw = self._reader.read(inum, min(inside, 255, self._reader.size - inum))
        record = parse(raw, 0, inum)
        if record is None:
            raise NotFound(f"no directory record at {inum}")
        return record, self._more(record)

    def _more(self, record: Record) -> RockRidge:
        if self._skip is None:
            return RockRidge()
        skip = 0 if record.at == self._root else self._skip
        return rock_ridge(self._reader, record, skip, self._block)

    def _entries(self, inum: int) -> Iterator[Entry | str]:
        record, _ = self._record(0, inum)
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
                entry = self._entry(whole)
            except EvidenceError as why:
                yield f"record {whole[0].at}: {why.message}"
                continue
            if entry is not None:
                yield entry

    def _entry(self, parts: Records) -> Entry | None:
        first = parts[0]
        more = self._more(first)
        if more.relocated:
            return None  # shown where its CL entry stands
        name = more.name or self._name(first.identifier)
        if first.flags & ASSOCIATED:
            name += b":rsrc"
        if more.child is not None:
            moved, rest = self._record(0, more.child * self._block)
            return Entry(name, self._attr([moved], rest))
        attr = self._attr(parts, more)
        small = attr.kind == Kind.REG and len(parts) <= 2
        return Entry(name, attr, 0, (self._layout(parts),) if small else None)

    def _name(self, identifier: bytes) -> bytes:
        """Return the name without the version number and the dot of an empty extension."""
        if self._joliet:
            text = identifier[: len(identifier) & ~1].decode("utf-16-be", "surrogatepass")
            name = text.encode("utf-8", "surrogatepass")
        else:
            name = identifier
        base, separator, version = name.rpartition(b";")
        name = base if separator and version.isdigit() else name
        return name[:-1] if not self._joliet and name.endswith(b".") and len(name) > 1 else name

    def _kind(self, record: Record, more: RockRidge) -> Kind:
        if more.mode is not None and more.mode >> 12 in Kind._value2member_map_:
            kind = Kind(more.mode >> 12)
            if (kind == Kind.DIR) == bool(record.flags & DIRECTORY):
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

    def _attr(self, parts: Records, more: RockRidge) -> Attr:
        record, kind = parts[0], self._kind(parts[0], more)
        size = len(more.link or b"") if kind == Kind.LNK else sum(part.size for part in parts)
        special = kind in {Kind.CHR, Kind.BLK}
        return Attr(
            kind=kind,
            inum=record.at,
            size=size,
            allocated=0 if kind == Kind.LNK else -(-size // self._block) * self._block,
            mode=(0o555 if kind == Kind.DIR else 0o444) if more.mode is None else more.mode & 0o7777,
            uid=more.uid,
            gid=more.gid,
            nlink=more.nlink,
            m_ns=more.times.get("m_ns", record.m_ns),
            a_ns=more.times.get("a_ns"),
            c_ns=more.times.get("c_ns"),
            b_ns=more.times.get("b_ns"),
            rdev=os.makedev(more.rdev[0] & 0xFFF, more.rdev[1] & 0xFFFFF) if special else 0,
            damaged="interleaved" if record.interleaved else more.damaged,
        )

    def _layout(self, parts: Records) -> Layout:
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


def open_iso(reader: Reader, _options: Options) -> IsoFiles:
    """Open a volume: Rock Ridge if it is there, else Joliet, else the plain names.

    Raises:
        NotMine: no primary volume descriptor.
        Malformed: a block size or a root directory that cannot be.
    """
    primary, joliet = _descriptors(reader)
    if primary is None:
        raise NotMine("iso9660")
    (block,) = struct.unpack_from("<H", primary[1], 128)
    if block not in {512, 1024, 2048}:
        raise Malformed(f"blocks of {block} bytes", start=primary[0] + 128, stop=primary[0] + 130)
    skip = _rock_ridge_skip(reader, primary[1], block)
    chosen = primary if skip is not None or joliet is None else joliet
    label = primary[1][40:72].decode("ascii", "replace")
    if joliet is not None:
        wide = joliet[1][40:72].decode("utf-16-be", "replace").rstrip(" \0")
        label = wide + label[16:] if len(wide) == 16 else wide or label  # Joliet has room for 16
    info = FilesInfo(
        type="iso9660",
        trees=(TreeInfo("root", chosen[0] + 156),),
        block=block,
        size=struct.unpack_from("<I", primary[1], 80)[0] * block,
        label=label.rstrip(" \0"),
        uuid=_stamp(primary[1][830:846]) or _stamp(primary[1][813:829]),
        version="rock ridge" if skip is not None else "joliet" if joliet is not None else "",
    )
    return IsoFiles(reader, info, skip=skip, joliet=chosen is joliet)


def _descriptors(reader: Reader) -> tuple[tuple[int, bytes] | None, tuple[int, bytes] | None]:
    """Return position and bytes of the primary and of the Joliet descriptor, None: not there."""
    primary = joliet = None
    for number in range(16, 16 + _DESCRIPTORS):
        at = number * SECTOR
        if at + SECTOR > reader.size:
            break
        raw = reader.read(at, SECTOR)
        if raw[1:6] != b"CD001" or raw[0] == 255:
            break
        if raw[0] == 1 and primary is None:
            primary = (at, raw)
        elif raw[0] == 2 and raw[88:91] in _JOLIET and joliet is None:
            joliet = (at, raw)
    return primary, joliet


def _rock_ridge_skip(reader: Reader, primary: bytes, block: int) -> int | None:
    """Return how many bytes precede system use entries, None: there are none.

    Source: SUSP 1.12 section 5.3: SP stands at the start of the first record of the root directory.
    """
    root = parse(primary, 156, 0)
    if root is None:
        raise Malformed("no record of the root directory", start=16 * SECTOR + 156, stop=16 * SECTOR + 190)
    at = root.extent * block
    if at + SECTOR > reader.size:
        return None
    own = parse(reader.read(at, SECTOR), 0, at)
    if own is None:
        return None
    for start in (0, 14):  # CD-XA puts 14 bytes of its own before
        use = own.use[start:]
        if use[:2] == b"SP" and use[4:6] == b"\xbe\xef" and len(use) >= 7:
            return use[6]
    return None


def _stamp(digits: bytes) -> str:
    if not digits.isdigit() or not digits.strip(b"0"):
        return ""
    text = digits.decode()
    return "-".join([text[:4], *(text[at : at + 2] for at in range(4, 16, 2))])


BACKEND = Backend(
    name="iso9660",
    title="ISO 9660",
    role=Role.FILES,
    rank=10,
    open=open_iso,
    signatures=(Signature(32769, b"CD001"),),
    exclusive=False,  # hybrid images carry a partition table as well
    supports="Rock Ridge, Joliet, multi-extent files, moved directories; no deleted files",
    truth=("peer", "corpus"),
)
