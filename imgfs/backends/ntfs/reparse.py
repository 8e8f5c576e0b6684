"""Reparse points: what their tags make of a file, and where its content is if not in the file.

Source: [MS-FSCC] 2.1.2.1 (reparse tags), 2.6 (file attributes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from imgfs.backends.ntfs import wof
from imgfs.backends.ntfs.extended import posix
from imgfs.backends.ntfs.links import LX_SYMLINK, MOUNT_POINT, SYMLINK, path
from imgfs.backends.ntfs.record import DIRECTORY
from imgfs.errors import EvidenceError, ImgfsError, Malformed, NotSupported
from imgfs.model import Attr, Foreign, Inline, Kind

if TYPE_CHECKING:
    from imgfs.backends.ntfs.streams import Data

REPARSE_MAX: Final = 16 * 1024  # [MS-FSCC] 2.1.2: a reparse point is at most 16 KiB
_CLOUD: Final = 0x9000001A  # and fifteen more, which differ in one digit
_CLOUD_MASK: Final = 0xFFFF0FFF
_KINDS: Final = {
    SYMLINK: Kind.LNK,
    MOUNT_POINT: Kind.LNK,
    LX_SYMLINK: Kind.LNK,
    0x80000023: Kind.SOCK,
    0x80000024: Kind.FIFO,
    0x80000025: Kind.CHR,
    0x80000026: Kind.BLK,
}
_NAMES: Final = {
    0xC0000004: "HSM",
    0x80000005: "DRIVE_EXTENDER",
    0x80000006: "HSM2",
    0x80000007: "SIS",
    0x80000008: "WIM",
    0x80000009: "CSV",
    0x8000000A: "DFS",
    0x8000000B: "FILTER_MANAGER",
    0xA0000010: "IIS_CACHE",
    0x80000012: "DFSR",
    0x80000013: "DEDUP",
    0xC0000014: "APPXSTRM",
    0x80000014: "NFS",
    0x80000015: "FILE_PLACEHOLDER",
    0x80000016: "DFM",
    0x80000018: "WCI",
    0x90001018: "WCI_1",
    0xA0000019: "GLOBAL_REPARSE",
    0x9000001C: "PROJFS",
    0x8000001E: "STORAGE_SYNC",
    0x90000027: "STORAGE_SYNC_FOLDER",
    0xA000001F: "WCI_TOMBSTONE",
    0x80000020: "UNHANDLED",
    0x80000021: "ONEDRIVE",
    0xA0000022: "PROJFS_TOMBSTONE",
    0x80000023: "AF_UNIX",
    0x80000024: "LX_FIFO",
    0x80000025: "LX_CHR",
    0x80000026: "LX_BLK",
    0xA0000027: "WCI_LINK",
    0xA0001027: "WCI_LINK_1",
    MOUNT_POINT: "MOUNT_POINT",
    SYMLINK: "SYMLINK",
    LX_SYMLINK: "LX_SYMLINK",
    wof.TAG: "WOF",
    0x8000001B: "APPEXECLINK",
}
_ELSEWHERE: Final = {  # the stream itself reads as zeros
    0x80000007: "single-instance: the content is in the common store of the volume",
    0x80000008: "the content is in a WIM archive elsewhere",
    0x80000013: "deduplicated: the content is in the chunk store of the volume",
}
_RECALLED: Final = frozenset(  # files that may have content of their own, or be brought when somebody reads
    {
        0xC0000004,
        0x80000006,
        0xC0000014,
        0x80000015,
        0x80000016,
        0x80000018,
        0x90001018,
        _CLOUD,
        0x9000001C,
        0x8000001E,
        0x80000021,
    }
)
_RECALL: Final = 0x1000 | 0x40000 | 0x400000  # offline, recall on open, recall on data access


def kind_of(tag: int, flags: int) -> Kind:
    """Return what a record with these flags is, ``tag`` being 0 without a reparse point."""
    return _KINDS.get(tag) or (Kind.DIR if flags & DIRECTORY else Kind.REG)


def told(attr: Attr, point: bytes, extended: bytes) -> Attr:
    """Return attributes with what a reparse point and extended attributes say: a link's length, owners."""
    size, damaged = attr.size, attr.damaged
    uid, gid, mode, rdev = attr.uid, attr.gid, attr.mode, 0
    try:
        if attr.kind == Kind.LNK:
            size = 0
            size = len(path(point))
        elif attr.kind not in {Kind.REG, Kind.DIR}:
            size = 0
        if extended:
            said = posix(extended)
            uid = uid if said.uid is None else said.uid
            gid = gid if said.gid is None else said.gid
            mode = mode if said.mode is None else said.mode & 0o7777
            rdev = said.rdev if attr.kind in {Kind.CHR, Kind.BLK} else 0
    except EvidenceError as why:
        damaged = damaged or why.message
    return msgspec.structs.replace(attr, size=size, uid=uid, gid=gid, mode=mode, rdev=rdev, damaged=damaged)


def name_of(tag: int) -> str:
    """Return how Windows names a tag without IO_REPARSE_TAG_, empty: it is not known."""
    if tag & _CLOUD_MASK == _CLOUD:
        number = tag >> 12 & 15
        return f"CLOUD_{number:X}" if number else "CLOUD"
    return _NAMES.get(tag, "")


def resolved(point: bytes, bits: int, content: Data, streams: list[Data]) -> Data:
    """Return the content of a file with a reparse point: its own, in another form, or why there is none.

    ``bits`` are the attributes of the file.
    """
    tag = int.from_bytes(point[:4], "little")
    if tag == wof.TAG:
        return _overlaid(point, content, streams)
    if tag in _ELSEWHERE:
        return content._replace(layout=None, problem=NotSupported(_ELSEWHERE[tag]))
    family = _CLOUD if tag & _CLOUD_MASK == _CLOUD else tag
    if family in _RECALLED and content.size and (bits & _RECALL or not _stored(content)):
        why = f"the content is elsewhere ({name_of(tag)}): it is brought when somebody reads"
        return content._replace(layout=None, problem=NotSupported(why))
    return content


def _overlaid(point: bytes, content: Data, streams: list[Data]) -> Data:
    try:
        how = wof.form(point)
        stream = next((data for data in streams if data.name == wof.STREAM), None)
        if stream is None:
            raise Malformed(f"compressed by the overlay filter, without a stream {wof.STREAM.decode()}")
        if stream.problem is not None:
            raise stream.problem
    except ImgfsError as why:
        return content._replace(layout=None, problem=why)
    layout = Foreign(size=content.size, why=how.name) if content.size else Inline(b"")
    return content._replace(layout=layout, allocated=stream.allocated, problem=None)


def _stored(content: Data) -> bool:
    """Say whether a stream has bytes of its own."""
    return bool(content.allocated) or type(content.layout) is Inline
