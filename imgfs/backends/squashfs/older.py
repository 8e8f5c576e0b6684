"""Inodes of SquashFS 2 and 3: fields of bits, which lie the other way round in the other byte order.

Source: the structures of both versions as sets of bit fields, checked against images of both byte orders
that 7z reads: a field that is declared first has the lowest bits on little-endian and the highest on
big-endian machines.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Literal

from imgfs.backends.squashfs.inode import KINDS, WINDOW, Inode
from imgfs.errors import Malformed
from imgfs.limits import MAX_SIZE
from imgfs.model import Kind

if TYPE_CHECKING:
    from imgfs.backends.squashfs.metadata import Metadata
    from imgfs.backends.squashfs.superblock import Superblock

_SAME: Final = 255  # a group that has the number of the user
_DIR, _REG, _LINK, _BLOCK, _CHAR, _LONG_DIR, _LONG_REG = 1, 2, 3, 4, 5, 8, 9


def fields(word: int, widths: tuple[int, ...], order: str) -> list[int]:
    """Cut a word into its fields, in the order they are declared."""
    found = []
    left = sum(widths)
    at = 0
    for width in widths:
        left -= width
        found.append(word >> (at if order == "<" else left) & (1 << width) - 1)
        at += width
    return found


class OlderInodes:
    """The inode table of versions 2 and 3."""

    __slots__ = ("_endian", "_groups", "_metadata", "_order", "_superblock", "_table", "_users")

    def __init__(
        self, metadata: Metadata, superblock: Superblock, users: list[int], groups: list[int]
    ) -> None:
        self._metadata = metadata
        self._superblock = superblock
        self._table = superblock.inode_table
        self._order = superblock.order
        self._endian: Literal["little", "big"] = "little" if self._order == "<" else "big"
        self._users = users
        self._groups = groups

    def read(self, where: int) -> Inode:
        """Return the inode at a place; see ``Numbers.place``.

        Raises:
            EvidenceError: there is none, or it is damaged.
        """
        place = self._table + (where >> 16), where & 0xFFFF
        data, at = self._metadata.window(place, WINDOW)
        if at + 4 > len(data):
            raise Malformed("an inode is cut short")
        order = self._order
        kind, mode = fields(int.from_bytes(data[at : at + 2], self._endian), (4, 12), order)
        uid, gid = data[at + 2], data[at + 3]
        users, groups = self._users, self._groups
        if uid >= len(users) or (gid != _SAME and gid >= len(groups)):
            raise Malformed(f"an inode with owner {uid} of {len(users)}, group {gid} of {len(groups)}")
        if not 0 < kind <= _LONG_REG:
            raise Malformed(f"an inode has the type {kind}")
        basic = Inode(
            KINDS[(kind - 1) % 7],
            mode,
            users[uid],
            users[uid] if gid == _SAME else groups[gid],
            self._superblock.made,
            0,
            place,
        )
        try:
            found, size = (self._third if self._superblock.major == 3 else self._second)(
                basic, kind, data, at
            )
        except struct.error as why:
            raise Malformed("an inode is cut short") from why
        if found.kind is Kind.REG and max(found.size, found.start) > MAX_SIZE:
            raise Malformed(f"a file of {found.size} bytes from {found.start} on")
        return found._replace(behind=(place[0], place[1] + size))

    def _third(self, basic: Inode, kind: int, data: bytes, at: int) -> tuple[Inode, int]:
        """Return an inode of version 3 and how long it is."""
        order = self._order
        made, number = struct.unpack_from(order + "iI", data, at + 4)
        basic = basic._replace(made=made, number=number)
        if kind == _REG:
            start, fragment, offset, size = struct.unpack_from(order + "QIII", data, at + 12)
            return basic._replace(start=start, fragment=fragment, offset=offset, size=size), 32
        (nlink,) = struct.unpack_from(order + "I", data, at + 12)
        basic = basic._replace(nlink=nlink)
        if kind == _LONG_REG:
            start, fragment, offset, size = struct.unpack_from(order + "QIIQ", data, at + 16)
            return basic._replace(start=start, fragment=fragment, offset=offset, size=size), 40
        if kind == _DIR:
            word, start, _ = struct.unpack_from(order + "III", data, at + 16)
            size, offset = fields(word, (19, 13), order)
            return basic._replace(start=start, offset=offset, size=size), 28
        if kind == _LONG_DIR:
            size, offset = fields(int.from_bytes(data[at + 16 : at + 21], self._endian), (27, 13), order)
            start, indexed, _ = struct.unpack_from(order + "IHI", data, at + 21)
            return basic._replace(start=start, offset=offset, size=size, indexed=indexed), 31
        if kind in (_LINK, _BLOCK, _CHAR):
            (word,) = struct.unpack_from(order + "H", data, at + 16)
            return _odd(basic, kind, word), 18
        return basic, 16

    def _second(self, basic: Inode, kind: int, data: bytes, at: int) -> tuple[Inode, int]:
        """Return an inode of version 2 and how long it is."""
        order = self._order
        if kind == _REG:
            made, start, fragment, offset, size = struct.unpack_from(order + "i4I", data, at + 4)
            return basic._replace(made=made, start=start, fragment=fragment, offset=offset, size=size), 24
        if kind in (_DIR, _LONG_DIR):
            wide = kind == _LONG_DIR
            after = at + 4 + (5 if wide else 4)
            size, offset = fields(
                int.from_bytes(data[at + 4 : after], self._endian), (27 if wide else 19, 13), order
            )
            (made,) = struct.unpack_from(order + "i", data, after)
            start = int.from_bytes(data[after + 4 : after + 7], self._endian)
            indexed = struct.unpack_from(order + "H", data, after + 7)[0] if wide else 0
            found = basic._replace(made=made, start=start, offset=offset, size=size, indexed=indexed)
            return found, 18 if wide else 15
        if kind in (_LINK, _BLOCK, _CHAR):
            (word,) = struct.unpack_from(order + "H", data, at + 4)
            return _odd(basic, kind, word), 6
        if kind == _LONG_REG:
            raise Malformed("an inode of version 2 has a type of version 3")
        return basic, 4


def _odd(basic: Inode, kind: int, word: int) -> Inode:
    """Return a link with its size, or a device with its number: 8 bits of major, 8 of minor."""
    if kind == _LINK:
        return basic._replace(size=word)
    return basic._replace(rdev=(word >> 8) << 8 | word & 0xFF)
