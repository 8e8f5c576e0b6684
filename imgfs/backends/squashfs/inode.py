"""Inodes of SquashFS 4, and what all versions have in common.

Source: "Squashfs Binary Format" (dr-emann.github.io/squashfs), Inode Table.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.errors import Malformed
from imgfs.limits import MAX_LINK, MAX_SIZE
from imgfs.model import Attr, Kind

if TYPE_CHECKING:
    from imgfs.backends.squashfs.metadata import Metadata, Place
    from imgfs.backends.squashfs.superblock import Superblock

NO_FRAGMENT: Final = 0xFFFF_FFFF
NO_XATTRS: Final = 0xFFFF_FFFF
KINDS: Final = (Kind.DIR, Kind.REG, Kind.LNK, Kind.BLK, Kind.CHR, Kind.FIFO, Kind.SOCK)  # of types 1 to 7
WINDOW: Final = 64  # bytes of the largest inode without what follows it
_SECOND: Final = 10**9


class Inode(NamedTuple):
    """An inode of any version. ``uid`` and ``gid`` are looked up.

    ``start`` and ``offset``: of a directory its listing (block in its table, byte in that), of a file its
    first block and where its end lies in the fragment. ``behind``: the place of block sizes, of a link's
    target, of a directory's index. ``long``: its type is an extended one. Units: ``size``, ``sparse`` bytes.
    """

    kind: Kind
    mode: int
    uid: int
    gid: int
    made: int
    number: int
    behind: Place
    nlink: int = 1
    size: int = 0
    start: int = 0
    offset: int = 0
    fragment: int = NO_FRAGMENT
    sparse: int = 0
    rdev: int = 0
    xattr: int = NO_XATTRS
    indexed: int = 0
    long: bool = False


def device(word: int) -> int:
    """Return a device number as os.makedev packs it. Source: "Device Special Files": 12 bits of major."""
    major, minor = word >> 8 & 0xFFF, word & 0xFF | word >> 12 & 0xFFF00
    return (major & 0xFFF) << 8 | minor & 0xFF | (minor & ~0xFF) << 12


def attr_of(inode: Inode, inum: int) -> Attr:
    """Return the attributes; the only time there is, is that of the last modification."""
    kind, size = inode.kind, inode.size
    return Attr(
        kind=kind,
        inum=inum,
        size=size,
        allocated=-(-max(size - inode.sparse, 0) // 512) * 512 if kind is Kind.REG else 0,
        mode=inode.mode & 0o7777,
        uid=inode.uid,
        gid=inode.gid,
        nlink=inode.nlink,
        m_ns=inode.made * _SECOND,
        rdev=inode.rdev,
    )


class Inodes:
    """The inode table of version 4."""

    __slots__ = ("_forms", "_head", "_ids", "_metadata", "_table", "_word")

    def __init__(self, metadata: Metadata, superblock: Superblock, ids: list[int]) -> None:
        self._metadata = metadata
        self._table = superblock.inode_table
        self._ids = ids
        order = superblock.order
        self._head = struct.Struct(order + "4HII")
        self._word = struct.Struct(order + "I")
        rest = {1: "IIHHI", 2: "4I", 3: "II", 4: "II", 5: "II", 6: "I", 7: "I"}
        rest |= {8: "4IHHI", 9: "QQQ4I", 10: "II", 11: "III", 12: "III", 13: "II", 14: "II"}
        self._forms = {kind: struct.Struct(order + "4HII" + form) for kind, form in rest.items()}

    def read(self, where: int) -> Inode:
        """Return the inode at a place; see ``Numbers.place``.

        Raises:
            EvidenceError: there is none, or it is damaged.
        """
        place = self._table + (where >> 16), where & 0xFFFF
        data, at = self._metadata.window(place, WINDOW)
        if at + 16 > len(data):
            raise Malformed("an inode is cut short")
        kind, mode, uid, gid, made, number = self._head.unpack_from(data, at)
        form = self._forms.get(kind)
        if form is None or at + form.size > len(data):
            raise Malformed(f"an inode has the type {kind}, or is cut short")
        ids = self._ids
        if uid >= len(ids) or gid >= len(ids):
            raise Malformed(f"an inode with owner {uid} or {gid} of {len(ids)}")
        fields = form.unpack_from(data, at)[6:]
        behind = place[0], place[1] + form.size
        if kind == 2:  # nearly all of them
            start, fragment, offset, size = fields
            return Inode(
                Kind.REG, mode, ids[uid], ids[gid], made, number, behind, 1, size, start, offset, fragment
            )
        basic = Inode(KINDS[(kind - 1) % 7], mode, ids[uid], ids[gid], made, number, behind, long=kind > 7)
        if kind == 1:
            start, nlink, size, offset, _ = fields
            return basic._replace(start=start, nlink=nlink, size=size, offset=offset)
        if kind == 8:
            nlink, size, start, _, indexed, offset, xattr = fields
            return basic._replace(
                start=start, nlink=nlink, size=size, offset=offset, indexed=indexed, xattr=xattr
            )
        if kind == 9:
            start, size, sparse, nlink, fragment, offset, xattr = fields
            if size > MAX_SIZE or start > MAX_SIZE:
                raise Malformed(f"a file of {size} bytes from {start} on")
            return basic._replace(
                start=start,
                size=size,
                sparse=min(sparse, size),
                nlink=nlink,
                fragment=fragment,
                offset=offset,
                xattr=xattr,
            )
        if kind in (3, 10):
            nlink, size = fields
            basic = basic._replace(nlink=nlink, size=size)
            if kind == 10 and size <= MAX_LINK:  # the number of its attributes is behind the target
                tail = self._metadata.read(self._metadata.moved(behind, size), 4)
                basic = basic._replace(xattr=self._word.unpack(tail)[0])
            return basic
        xattr = fields[-1] if kind > 7 else NO_XATTRS
        rdev = device(fields[1]) if kind in (4, 5, 11, 12) else 0
        return basic._replace(nlink=fields[0], rdev=rdev, xattr=xattr)
