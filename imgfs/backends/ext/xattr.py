"""Extended attributes: behind the inode's fields, in a block of their own, in inodes of their own.

Source: Linux Documentation/filesystems/ext4, "Extended Attributes", "POSIX ACLs"; acl(5) and the binary
form of the ``system.posix_acl_*`` attributes in Linux include/uapi/linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends.ext.blocks import rows_of
from imgfs.backends.ext.inode import EA_INODE, Inode, read_inode
from imgfs.backends.ext.superblock import BIT64
from imgfs.errors import ImgfsError, Malformed
from imgfs.limits import MAX_XATTRS
from imgfs.model import LOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.ext.tables import Tables

_MAGIC: Final = b"\x00\x00\x02\xea"
_ENTRY: Final = struct.Struct("<BBHIII")  # name_len, name_index, value_offs, inum, size, hash
_BLOCK_HEADER: Final = 32
_PREFIXES: Final = {
    0: b"",
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    5: b"lustre.",
    6: b"security.",
    7: b"system.",
    8: b"system.richacl",
    9: b"encryption.",
}
_ACCESS, _DEFAULT, _SYSTEM = 2, 3, 7
_NAMED: Final = {0x02, 0x08}  # ACL entries that name a user or a group
_TOTAL: Final = 4 << 20  # bytes of all values of one file: a message holds 16 MiB
_DAMAGED: Final = b"user.imgfs.xattrs_damaged"

Stored = tuple[int, bytes, bytes]  # name index, name, value


def xattrs_of(inode: Inode, tables: Tables) -> dict[bytes, bytes]:
    """Return all attributes under the names the kernel gives them.

    What cannot be read is left out, and ``user.imgfs.xattrs_damaged`` says why.
    """
    found: dict[bytes, bytes] = {}
    total = names = 0
    try:
        for index, name, value in _stored(inode, tables):
            if index == _SYSTEM and name == b"data":
                continue  # the content of an inline file
            full = _PREFIXES.get(index, b"ext.%d." % index) + name
            if full.startswith(b"user.imgfs."):
                full = b"ext." + full  # an image must not speak in our name
            if index in (_ACCESS, _DEFAULT):
                full, value = _PREFIXES[index], _acl(value)  # noqa: PLW2901
            total += len(value)
            names += len(full) + 1
            if len(full) > 255 or b"\0" in full or names > MAX_XATTRS // 2 or total > _TOTAL:
                raise Malformed("extended attributes of too much")
            found.setdefault(full, value)
    except ImgfsError as why:
        found[_DAMAGED] = str(why)[:200].encode("utf-8", "replace")
    return found


def inline_rest(inode: Inode, tables: Tables) -> bytes:
    """Return what an inline file holds beyond i_block: the attribute ``system.data``.

    Raises:
        Malformed: the attributes cannot be read.
    """
    for index, name, value in _inside(inode, tables):
        if index == _SYSTEM and name == b"data":
            return value
    return b""


def _stored(inode: Inode, tables: Tables) -> Iterator[Stored]:
    yield from _inside(inode, tables)
    number = inode.acl_low | (inode.acl_high << 32 if tables.superblock.incompat & BIT64 else 0)
    if number:
        block = tables.block(number)
        if block[:4] != _MAGIC:
            raise Malformed(f"inode {inode.number}: block {number} holds no extended attributes")
        if tables.sums is not None and not tables.sums.attributes(number, block):
            raise Malformed(f"inode {inode.number}: the checksum of block {number}, its attributes, differs")
        yield from _entries(block, _BLOCK_HEADER, 0, tables)


def _inside(inode: Inode, tables: Tables) -> Iterator[Stored]:
    start = 128 + inode.extra_size
    whole = inode.whole
    if inode.extra_size and start + 8 <= len(whole) and whole[start : start + 4] == _MAGIC:
        yield from _entries(whole, start + 4, start + 4, tables)


def _entries(data: bytes, at: int, base: int, tables: Tables) -> Iterator[Stored]:
    """Yield the entries from ``at``; the places of values count from ``base``.

    Raises:
        Malformed: an entry or its value leaves ``data``.
    """
    while data[at : at + 4] != bytes(4):
        if at + _ENTRY.size > len(data):
            raise Malformed(f"extended attribute at {at} leaves its block")
        length, index, place, number, size, _ = _ENTRY.unpack_from(data, at)
        name = data[at + _ENTRY.size : at + _ENTRY.size + length]
        at += _ENTRY.size + (length + 3 & ~3)
        if number:
            yield index, name, _value_inode(tables, number, size)
            continue
        place += base
        if size > len(data) - place or at > len(data):
            raise Malformed(f"extended attribute {name!r} leaves its block")
        yield index, name, data[place : place + size]


def _value_inode(tables: Tables, number: int, size: int) -> bytes:
    """Return a value that lies in an inode of its own (ea_inode)."""
    inode = read_inode(tables, number)
    if not inode.flags & EA_INODE or inode.size_low != size or size > MAX_XATTRS:
        raise Malformed(f"inode {number} holds no attribute of {size} bytes")
    parts = []
    for _, length, target in rows_of(inode, tables, size):
        if target == LOST:
            raise Malformed(f"inode {number}: a part of the value is lost")
        parts.append(bytes(length) if target < 0 else tables.read(target, length))
    return b"".join(parts)


def _acl(value: bytes) -> bytes:
    """Return an ACL as the kernel hands it out: 8 bytes an entry, version 2.

    Raises:
        Malformed: it is cut off or of an unknown version.
    """
    if len(value) < 4 or value[:4] != b"\x01\0\0\0":
        raise Malformed("an ACL of an unknown version")
    rows, at = [b"\x02\0\0\0"], 4
    while at < len(value):
        tag = int.from_bytes(value[at : at + 2], "little")
        stop = at + (8 if tag in _NAMED else 4)
        if stop > len(value):
            raise Malformed("an ACL that is cut off")
        rows.append(value[at : at + 4] + (value[at + 4 : stop] or b"\xff\xff\xff\xff"))
        at = stop
    return b"".join(rows)
