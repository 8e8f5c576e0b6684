"""YAFFS2 as a dump of pages with their spare areas, read by one scan of the tags.

Found by trial: there is no magic. Evidence asked for is an object header in the first page whose tags
agree with it, and tags that make sense on every page that is not erased.

Source: "How YAFFS Works" (Charles Manning, 2012), sections 7 (tags), 8 (object headers), 10 (scanning).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role
from imgfs.backends._tsk_layout import linear
from imgfs.backends._tsk_list import Listings
from imgfs.errors import Malformed, NotFound, NotMine
from imgfs.model import HOLE, Attr, Entry, FilesInfo, Kind, Layout, Page, TreeInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader

ROOT: Final = 1  # lost+found is 2, unlinked files hang under 3, deleted ones under 4
_GEOMETRIES: Final = ((2048, 64), (4096, 128), (8192, 256), (4096, 224))
_TAGS_AT: Final = (2, 0)  # behind the bad-block marker, or without one
_KINDS: Final = {1: Kind.REG, 2: Kind.LNK, 3: Kind.DIR}
_HARD_LINK, _SPECIAL = 4, 5
_LOWEST_SEQUENCE: Final = 0x1000
_MAX_CHUNK: Final = 1 << 28  # above are the flags of extended tags
_MAX_OBJECTS: Final = 1 << 20
_MAX_CHUNKS: Final = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Units: ``page`` and ``spare`` bytes; tags lie ``tags_at`` in the spare area."""

    page: int
    spare: int
    tags_at: int
    order: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """The newest header of one object."""

    type: int
    parent: int
    name: bytes
    attr: Attr
    target: bytes
    same_as: int


class YaffsFiles:
    """Objects of a dump; see ``backends.Files``. Numbers are object numbers."""

    def __init__(self, reader: Reader, shape: Geometry) -> None:
        self._shape = shape
        self._objects: dict[int, Object] = {}
        self._chunks: dict[int, dict[int, int]] = {}
        self._children: dict[int, list[int]] = {}
        self._scan(reader)
        for number, found in self._objects.items():
            if number != found.parent:
                self._children.setdefault(found.parent, []).append(number)
        self._listings = Listings(self._entries)
        self.info = FilesInfo(
            type="yaffs2",
            trees=(TreeInfo("root", ROOT),),
            block=shape.page,
            size=reader.size,
            version=f"{shape.page}+{shape.spare}, {'little' if shape.order == '<' else 'big'}-endian",
        )

    def _scan(self, reader: Reader) -> None:
        shape, newest = self._shape, dict[tuple[int, int], int]()
        step = shape.page + shape.spare
        for at in range(0, reader.size - step + 1, step):
            sequence, number, chunk, _ = _tags(reader.read(at + shape.page, shape.spare), shape)
            if sequence == 0xFFFFFFFF or number == 0xFFFFFFFF:
                continue  # erased
            if chunk & 0x8000_0000:  # a header with extended tags: the type stands above the number
                number, chunk = number & 0x0FFF_FFFF, 0
            if chunk >= _MAX_CHUNK or newest.get((number, chunk), 0) > sequence:
                continue
            if len(newest) >= _MAX_CHUNKS or len(self._objects) >= _MAX_OBJECTS:
                raise Malformed(f"more than {_MAX_OBJECTS} objects or {_MAX_CHUNKS} chunks")
            newest[number, chunk] = sequence
            if chunk:
                self._chunks.setdefault(number, {})[chunk - 1] = at
            else:
                found = _header(reader.read(at, min(shape.page, 512)), number, shape.order)
                if found is not None:
                    self._objects[number] = found

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if self.stat(tree, inum, 0).kind != Kind.DIR:
            raise NotFound(f"object {inum} is no directory")
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of an object."""
        return self._object(tree, inum, stream).attr

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say in which pages the content lies; chunks that were never written are holes."""
        attr = self._object(tree, inum, stream).attr
        page, chunks = self._shape.page, self._chunks.get(attr.inum, {})
        size = attr.size if attr.kind == Kind.REG else 0
        rows: list[tuple[int, int, int]] = []
        for chunk in sorted(chunks):
            start = chunk * page
            if start >= size:
                break
            behind = rows[-1][0] + rows[-1][1] if rows else 0
            if behind < start:
                rows.append((behind, start - behind, HOLE))
            rows.append((start, min(page, size - start), chunks[chunk]))
        behind = rows[-1][0] + rows[-1][1] if rows else 0
        if behind < size:
            rows.append((behind, size - behind, HOLE))
        return (linear(size, rows),)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link."""
        return self._object(tree, inum, 0).target

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return nothing: attributes in headers are not read."""
        self._object(tree, inum, 0)
        return {}

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Refuse: every stream has a layout."""
        raise NotFound(f"tree {tree}, object {inum}-{stream}: [{offset}, {offset + length}) is not foreign")

    def _object(self, tree: int, inum: int, stream: int) -> Object:
        found = self._objects.get(inum)
        if tree or stream or (found is None and inum != ROOT):
            raise NotFound(f"tree {tree}, object {inum}, stream {stream}")
        if found is None:  # the root is in a dump only if it was ever changed
            attr = Attr(kind=Kind.DIR, inum=ROOT, mode=0o755)
            return Object(type=3, parent=ROOT, name=b"", attr=attr, target=b"", same_as=0)
        if found.type == _HARD_LINK:
            other = self._objects.get(found.same_as)
            if other is None or other.type == _HARD_LINK:
                raise NotFound(f"object {inum} is a link to object {found.same_as}, which is none")
            return other
        return found

    def _entries(self, inum: int) -> Iterator[Entry | str]:
        for number in self._children.get(inum, ()):
            name = self._objects[number].name
            try:
                yield Entry(name, self._object(0, number, 0).attr)
            except NotFound as why:
                yield Entry(name, Attr(kind=Kind.REG, inum=number, nlink=0, damaged=why.message))


def _tags(spare: bytes, shape: Geometry) -> tuple[int, int, int, int]:
    sequence, number, chunk, length = struct.unpack_from(shape.order + "4I", spare, shape.tags_at)
    return sequence, number, chunk, length


def _header(raw: bytes, number: int, order: str) -> Object | None:
    """Return the object a header page describes, None: it describes none."""
    kind, parent = struct.unpack_from(order + "II", raw)
    if kind not in _KINDS and kind not in {_HARD_LINK, _SPECIAL}:
        return None
    mode, uid, gid, atime, mtime, ctime, size, same_as = struct.unpack_from(order + "8I", raw, 268)
    (rdev,) = struct.unpack_from(order + "I", raw, 460)
    target = raw[300:460].split(b"\0", 1)[0] if kind == 2 else b""
    shown = _KINDS.get(kind, Kind.REG)
    if kind == _SPECIAL and mode >> 12 in Kind._value2member_map_:
        shown = Kind(mode >> 12)
    attr = Attr(
        kind=shown,
        inum=number,
        size=len(target) if kind == 2 else size if kind == 1 and size != 0xFFFFFFFF else 0,
        mode=mode & 0o7777,
        uid=uid,
        gid=gid,
        m_ns=mtime * 10**9 or None,
        a_ns=atime * 10**9 or None,
        c_ns=ctime * 10**9 or None,
        rdev=rdev if shown in {Kind.CHR, Kind.BLK} else 0,
    )
    name = raw[10:266].split(b"\0", 1)[0]
    return Object(type=kind, parent=parent, name=name, attr=attr, target=target, same_as=same_as)


def _fits(reader: Reader, shape: Geometry) -> bool:
    """Say whether the first pages are what this geometry would make of a file system."""
    step, headers = shape.page + shape.spare, 0
    for at in range(0, min(reader.size - step + 1, 64 * step), step):
        sequence, number, chunk, length = _tags(reader.read(at + shape.page, shape.spare), shape)
        if sequence == 0xFFFFFFFF:
            continue
        plain = chunk & 0x8000_0000 == 0
        if not _LOWEST_SEQUENCE <= sequence < 0xEFFF_0000 or not number & 0x0FFF_FFFF:
            return False
        if plain and (chunk > _MAX_CHUNK or not (length <= shape.page or length in {0xFFFF, 0xFFFFFFFF})):
            return False
        if chunk == 0 or not plain:
            raw = reader.read(at, 512)
            kind, parent = struct.unpack_from(shape.order + "II", raw)
            if (
                not 1 <= kind <= _SPECIAL
                or not parent
                or raw[8:10] != b"\xff\xff"
                or b"\0" not in raw[10:266]
            ):
                return False
            headers += 1
    return headers > 0


def open_yaffs2(reader: Reader, _options: Options) -> YaffsFiles:
    """Open a dump.

    Raises:
        NotMine: no geometry makes sense of the first pages.
        Malformed: more objects than a flash can hold.
    """
    for page, spare in _GEOMETRIES:
        if reader.size < page + spare:
            continue
        for tags_at in _TAGS_AT:
            for order in "<>":
                shape = Geometry(page=page, spare=spare, tags_at=tags_at, order=order)
                if _fits(reader, shape):
                    return YaffsFiles(reader, shape)
    raise NotMine("yaffs2")


BACKEND = Backend(
    name="yaffs2",
    title="YAFFS2",
    role=Role.FILES,
    rank=90,
    open=open_yaffs2,
    by_trial=True,
    supports="pages of 2 to 8 KiB with spare areas, both byte orders",
    truth=("corpus",),
)
