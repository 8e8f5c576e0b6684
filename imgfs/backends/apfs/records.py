"""Records of a volume's tree: inodes with their extended fields, names of directories, attributes.

Source: Apple File System Reference (2020-06-22), "File-System Objects", "Extended Fields"; sys/stat.h of
Apple's published xnu for flags and the packing of device numbers; libfsapfs: times are signed.
"""

from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple

import msgspec

from imgfs.backends._bsdflags import words_of
from imgfs.errors import Malformed
from imgfs.limits import MAX_SIZE
from imgfs.model import Attr, Kind

INODE, XATTR, SIBLING_LINK, DSTREAM, CRYPTO, EXTENT, NAME, SIBLING_MAP, FILE_INFO = (
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    12,
    13,
)
ROOT_PARENT, ROOT, PRIVATE = 1, 2, 3
NUMBER: Final = (1 << 60) - 1
_INODE: Final = struct.Struct("<QQqqqqQiIIIIIHHQ")
_FIELD: Final = struct.Struct("<BBH")
_DSTREAM: Final = struct.Struct("<QQQQQ")
_SIZES: Final = struct.Struct("<QQ")  # which it begins with
_NAMED: Final = struct.Struct("<QqH")
_XATTR: Final = struct.Struct("<HH")
_STREAM, _EMBEDDED = 1, 2
_DOCUMENT, _NAME, _PREVIOUS, _FINDER, _DATA, _STATS, _VOLUME, _SPARSE, _RDEV, _PURGEABLE, _SYNC = (
    3, 4, 5, 7, 8, 10, 11, 13, 14, 15, 16,
)  # fmt: skip
_NAME_MOST: Final = 1024  # bytes with the zero at the end: what the key of a name can count
_KINDS: Final = {kind << 12: kind for kind in Kind}
_DEVICES: Final = frozenset((Kind.CHR, Kind.BLK))
KIND_OF_TYPE: Final = {int(kind): kind for kind in Kind}
_INTERNAL: Final = {
    0: "private",
    1: "maintain-dir-stats",
    2: "dir-stats-origin",
    3: "explicit-protection-class",
    4: "was-cloned",
    6: "security-ea",
    7: "being-truncated",
    8: "finder-info",
    9: "sparse",
    10: "was-ever-cloned",
    11: "active-file-trimmed",
    12: "pinned-to-main",
    13: "pinned-to-tier2",
    14: "resource-fork",
    15: "no-resource-fork",
    16: "allocation-spilled-over",
    17: "fast-promote",
    18: "uncompressed-size",
    19: "purgeable",
    20: "wants-to-be-purgeable",
    21: "sync-root",
    22: "no-copy-on-write",
}
_UNCOMPRESSED: Final = 1 << 18


Name = tuple[int, bytes, int]  # the number that a name of a directory is of, the name, the type that it says


class Inode(msgspec.Struct, frozen=True, gc=False):
    """An inode. Units: ``size`` and ``stored`` bytes of the data stream; ``record`` is j_inode_val_t's."""

    number: int
    private: int
    flags: int
    mode: int
    size: int
    stored: int
    record: tuple[int, ...]
    fields: dict[int, bytes]

    @property
    def parent(self) -> int:
        """Return the number of the directory that it was made in."""
        return self.record[0]

    @property
    def kind(self) -> Kind | None:
        """Return the file type, None: none that there is."""
        return _KINDS.get(self.mode & 0xF000)

    def number_of(self, field: int, size: int) -> int:
        """Return an extended field that is a number, -1: there is none."""
        raw = self.fields.get(field, b"")
        return int.from_bytes(raw[:size], "little") if len(raw) >= size else -1

    def attr(self) -> Attr:
        """Return the attributes.

        Raises:
            Malformed: it names no file type, or numbers that are none.
        """
        kind, size, stored = _KINDS.get(self.mode & 0xF000), self.size, self.stored
        if kind is None or size > MAX_SIZE or stored > MAX_SIZE:
            raise Malformed(f"inode {self.number}: mode {self.mode:#o}, size {size}, {stored} stored")
        _, _, birth, modified, changed, accessed, _, links, _, _, _, uid, gid, _, _, _ = self.record
        fields = self.fields
        if _SPARSE in fields:
            stored = max(stored - max(self.number_of(_SPARSE, 8), 0), 0)
        device = max(self.number_of(_RDEV, 4), 0) if _RDEV in fields and kind in _DEVICES else 0
        return Attr(
            kind=kind,
            inum=self.number,
            size=0 if kind == Kind.DIR else size,
            allocated=stored,
            mode=self.mode & 0o7777,
            uid=uid,
            gid=gid,
            nlink=max(links, 0) + (2 if kind == Kind.DIR else 0),
            m_ns=modified,
            a_ns=accessed,
            c_ns=changed,
            b_ns=birth,
            rdev=os.makedev(device >> 24 & 0xFF, device & 0xFF_FFFF) if device else 0,
        )

    def facts(self) -> dict[bytes, bytes]:
        """Return what an inode says beside the attributes."""
        parent, private, _, _, _, _, inner, _, protection, writes, _, _, _, _, _, uncompressed = self.record
        internal = [name for bit, name in _INTERNAL.items() if inner >> bit & 1]
        words = [
            ("flags", words_of(self.flags)),
            ("internal-flags", " ".join(internal)),
            ("parent", str(parent)),
            ("private-id", str(private) if private != self.number else ""),
            ("writes", str(writes) if writes else ""),
            ("protection-class", str(protection) if protection else ""),
            ("document-id", _word(self.number_of(_DOCUMENT, 4))),
            ("previous-size", _word(self.number_of(_PREVIOUS, 8))),
            ("sparse-bytes", _word(self.number_of(_SPARSE, 8))),
            ("device", f"{self.number_of(_RDEV, 4):#x}" if _RDEV in self.fields else ""),
            ("sync-root", _word(self.number_of(_SYNC, 8))),
            ("mounted-volume", self.fields.get(_VOLUME, b"")[:16].hex()),
            ("finder-info", self.fields.get(_FINDER, b"")[:32].hex()),
        ]
        if inner & _UNCOMPRESSED:
            words.append(("uncompressed-size", str(uncompressed)))
        found = {f"user.imgfs.{name}".encode(): value.encode() for name, value in words if value}
        name = self.fields.get(_NAME, b"").split(b"\0")[0]
        if name:
            found[b"user.imgfs.name"] = name
        return found


def _word(number: int) -> str:
    return str(number) if number > 0 else ""


def fields_of(data: bytes, at: int, stop: int) -> dict[int, bytes]:
    """Return extended fields by their type, as far as they lie within [at, stop)."""
    found: dict[int, bytes] = {}
    if at + 4 > stop:
        return found
    count = int.from_bytes(data[at : at + 2], "little")
    at += 4
    body = at + count * _FIELD.size
    if body > stop:
        return found
    for kind, _, size in _FIELD.iter_unpack(data[at:body]):
        if body + size > stop:
            break
        found[kind] = data[body : body + size]
        body += size + 7 & ~7
    return found


def inode_of(number: int, data: bytes, start: int, stop: int) -> Inode:
    """Read the value of an inode's record.

    Raises:
        Malformed: it is too short.
    """
    if stop - start < _INODE.size:
        raise Malformed(f"inode {number}: a record of {stop - start} bytes")
    record = _INODE.unpack_from(data, start)
    fields = fields_of(data, start + _INODE.size, stop)
    size = stored = 0
    held = fields.get(_DATA)
    if held is not None and len(held) >= _DSTREAM.size:
        size, stored = _SIZES.unpack_from(held)
    return Inode(number, record[1], record[10], record[13], size, stored, record, fields)


def name_of(key: bytes, data: bytes, start: int, stop: int, *, hashed: bool) -> Name | None:
    """Read a directory's record, None: it contradicts itself."""
    if hashed:
        length, begin = (key[8] | key[9] << 8) & 0x3FF, 12
    else:
        length, begin = key[8] | key[9] << 8, 10
    stop_of_name = begin + length - 1
    if not 0 < length <= _NAME_MOST or len(key) <= stop_of_name or key[stop_of_name]:
        return None
    if stop - start < _NAMED.size:
        return None
    number, _, flags = _NAMED.unpack_from(data, start)
    return number, key[begin:stop_of_name], flags & 15


class Extra(NamedTuple):
    """An extended attribute: ``value`` itself, or the number of the stream that holds ``size`` bytes."""

    name: bytes
    value: bytes | None
    stream: int
    size: int
    allocated: int


def extra_of(key: bytes, value: bytes) -> Extra | None:
    """Read an extended attribute's record, None: it contradicts itself."""
    length = int.from_bytes(key[8:10], "little")
    name = key[10 : 10 + length]
    if not 0 < length == len(name) <= _NAME_MOST or name[-1] or len(value) < _XATTR.size:
        return None
    flags, size = _XATTR.unpack_from(value)
    body = value[_XATTR.size :]
    if flags & _STREAM:
        if len(body) < 8 + _DSTREAM.size:
            return None
        stream = int.from_bytes(body[:8], "little")
        size, allocated, *_ = _DSTREAM.unpack_from(body, 8)
        if size > MAX_SIZE or allocated > MAX_SIZE:
            return None
        return Extra(name[:-1], None, stream, size, allocated)
    if size > len(body) or not flags & _EMBEDDED:
        return None
    return Extra(name[:-1], body[:size], 0, size, 0)
