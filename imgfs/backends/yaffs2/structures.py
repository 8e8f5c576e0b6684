"""Pages of a YAFFS2 dump: tags in their spare areas, and object headers.

Source: "How YAFFS Works" (Charles Manning, 2012), sections 7 (tags), 8 (object headers).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError, NotMine
from imgfs.model import Attr, Kind

if TYPE_CHECKING:
    from imgfs.backends import Reader

ROOT: Final = 1  # lost+found is 2, unlinked files hang under 3, deleted ones under 4
UNLINKED, DELETED = 3, 4
_GEOMETRIES: Final = ((2048, 64), (4096, 128), (8192, 256), (4096, 224))
_LOOKED_AT: Final = 64  # pages
_TAGS_AT: Final = (2, 0)  # behind the bad-block marker, or without one
_KINDS: Final = {1: Kind.REG, 2: Kind.LNK, 3: Kind.DIR}
FILE, SYMLINK, HARD_LINK, SPECIAL = 1, 2, 4, 5
LOWEST_SEQUENCE: Final = 0x1000
HIGHEST_SEQUENCE: Final = 0xEFFF_0000
HEADER: Final = 512  # bytes of a header page that say something
MAX_CHUNK: Final = 1 << 28  # above are the flags of extended tags


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Units: ``page`` and ``spare`` bytes; tags lie ``tags_at`` in the spare area."""

    page: int
    spare: int
    tags_at: int
    order: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """What a header page says of an object."""

    type: int
    parent: int
    name: bytes
    attr: Attr
    target: bytes
    same_as: int


def tags_of(spare: bytes, shape: Geometry) -> tuple[int, int, int, int]:
    """Return sequence number, object number, chunk number and bytes of a page."""
    sequence, number, chunk, length = struct.unpack_from(shape.order + "4I", spare, shape.tags_at)
    return sequence, number, chunk, length


def header_of(raw: bytes, number: int, order: str) -> Object | None:
    """Return the object a header page describes, None: it describes none."""
    kind, parent = struct.unpack_from(order + "II", raw)
    if kind not in _KINDS and kind not in {HARD_LINK, SPECIAL}:
        return None
    mode, uid, gid, atime, mtime, ctime, size, same_as = struct.unpack_from(order + "8I", raw, 268)
    (rdev,) = struct.unpack_from(order + "I", raw, 460)
    target = raw[300:460].split(b"\0", 1)[0] if kind == SYMLINK else b""
    shown = _KINDS.get(kind, Kind.REG)
    if kind == SPECIAL and mode >> 12 in Kind._value2member_map_:
        shown = Kind(mode >> 12)
    attr = Attr(
        kind=shown,
        inum=number,
        size=len(target) if kind == SYMLINK else size if kind == FILE and size != 0xFFFFFFFF else 0,
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
    """Say whether the first pages are what this geometry would make of a file system.

    Flash has bad blocks and flipped bits: one page in eight may be anything.
    """
    step, good, bad, headers = shape.page + shape.spare, 0, 0, 0
    for at in range(0, min(reader.size - step + 1, _LOOKED_AT * step), step):
        try:
            raw, spare = reader.read(at, HEADER), reader.read(at + shape.page, shape.spare)
        except EvidenceError:
            continue  # what is lost says nothing
        tags = tags_of(spare, shape)
        if tags[0] == 0xFFFFFFFF:
            continue  # erased
        is_header = tags[2] == 0 or bool(tags[2] & 0x8000_0000)
        if _is_page(tags, shape) and (not is_header or _is_header(raw, shape)):
            good, headers = good + 1, headers + is_header
        else:
            bad += 1
            if bad * 8 > _LOOKED_AT:
                return False
    return headers > 0 and bad * 8 <= good


def _is_page(tags: tuple[int, int, int, int], shape: Geometry) -> bool:
    sequence, number, chunk, length = tags
    if not LOWEST_SEQUENCE <= sequence < HIGHEST_SEQUENCE or not number & 0x0FFF_FFFF:
        return False
    if chunk & 0x8000_0000:
        return True
    return chunk <= MAX_CHUNK and (length <= shape.page or length in {0xFFFF, 0xFFFFFFFF})


def _is_header(raw: bytes, shape: Geometry) -> bool:
    kind, parent = struct.unpack_from(shape.order + "II", raw)
    return 1 <= kind <= SPECIAL and parent > 0 and raw[8:10] == b"\xff\xff" and b"\0" in raw[10:266]


def geometry_of(reader: Reader) -> Geometry:
    """Return the geometry that makes sense of the first pages. Raises NotMine."""
    for page, spare in _GEOMETRIES:
        if reader.size < page + spare:
            continue
        for tags_at in _TAGS_AT:
            for order in "<>":
                shape = Geometry(page=page, spare=spare, tags_at=tags_at, order=order)
                if _fits(reader, shape):
                    return shape
    raise NotMine("yaffs2")
