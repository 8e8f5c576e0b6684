"""Extended attributes: in the inode, in leaves, below nodes, and values in blocks of their own.

Source: XFS Algorithms and Data Structures, 3rd edition, "Extended Attributes", "Access Control Lists"; the
binary form of ``system.posix_acl_*`` in Linux include/uapi/linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import struct
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.xfs.extents import blocks_of
from imgfs.backends.xfs.inode import FLAGS, FLAGS2, LOCAL, Inode
from imgfs.backends.xfs.volume import ATTRIBUTES, REMOTE
from imgfs.errors import EvidenceError, ImgfsError, Malformed
from imgfs.limits import MAX_XATTRS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.xfs.extents import Row
    from imgfs.backends.xfs.volume import Volume

_LOCAL: Final = 0x1
_ROOT: Final = 0x2
_SECURE: Final = 0x4
_PARENT: Final = 0x8
_INCOMPLETE: Final = 0x80  # being written when the machine stopped: not there
_ACLS: Final = {b"SGI_ACL_FILE": b"system.posix_acl_access", b"SGI_ACL_DEFAULT": b"system.posix_acl_default"}
_NAMED: Final = {0x02, 0x08}  # entries of an ACL that name a user or a group
_ACE: Final = struct.Struct(">IIHxx")
_LEAVES: Final = (0xFBEE, 0x3BEE)  # without and with a checksum
_NODES: Final = (0xFEBE, 0x3EBE)
_BLOCKS: Final = 100_000  # of one tree
_DEPTH: Final = 5
_TOTAL: Final = 4 << 20  # bytes of all values of one file: a message holds 16 MiB
_DAMAGED: Final = b"user.imgfs.xattrs_damaged"
_PARENTS: Final = b"user.imgfs.xfs.parents"
_FACTS: Final = 4096  # bytes of the parents that are shown


class Stored(NamedTuple):
    """One attribute. ``value`` is a block and a length where the value lies elsewhere."""

    flags: int
    name: bytes
    value: bytes | tuple[int, int]


class _Fork:
    """The attribute fork of one file, and where its blocks lie, which is found out once."""

    def __init__(self, inode: Inode, volume: Volume) -> None:
        self.inode = inode
        self.volume = volume
        self._bits = volume.superblock.block_bits

    @cached_property
    def _rows(self) -> list[Row]:
        return blocks_of(self.inode, self.volume, 0, 1 << 32, attributes=True)

    def place(self, number: int) -> int:
        """Return the byte where a block of the fork lies. Raises Malformed."""
        at = number << self._bits
        low, high = 0, len(self._rows)
        while high - low > 1:
            middle = (low + high) // 2
            if self._rows[middle][0] <= at:
                low = middle
            else:
                high = middle
        logical, length, target = self._rows[low] if self._rows else (0, 0, -1)
        if target < 0 or not logical <= at < logical + length:
            raise Malformed(f"inode {self.inode.number}: attribute block {number} is not there")
        return target + at - logical

    def block(self, number: int) -> tuple[bytes, int]:
        """Return a block of the fork, and where it lies. Raises EvidenceError."""
        place = self.place(number)
        return self.volume.read(place, self.volume.superblock.block), place


def xattrs_of(inode: Inode, volume: Volume) -> dict[bytes, bytes]:
    """Return all attributes under the names the kernel gives them, and what is special about the file.

    What cannot be read is left out, and ``user.imgfs.xattrs_damaged`` says why.
    """
    found: dict[bytes, bytes] = {}
    parents: list[bytes] = []
    damage: list[str] = []
    total = names = 0
    fork = _Fork(inode, volume)
    try:
        for stored in _stored(fork, damage):
            if stored.flags & _INCOMPLETE:
                continue
            if stored.flags & _PARENT:
                parents.append(_parent(stored))
                continue
            try:
                value = _value(stored, fork)
                full, value = _shown(stored, value)
            except EvidenceError as why:
                damage.append(str(why))
                continue
            total += len(value)
            names += len(full) + 1
            if len(full) > 255 or b"\0" in full:
                damage.append(f"inode {inode.number}: a name of {len(full)} bytes, or with a zero in it")
                continue
            if names > MAX_XATTRS // 2 or total > _TOTAL:
                raise Malformed("extended attributes of too much")
            found.setdefault(full, value)
    except ImgfsError as why:
        damage.append(str(why))
    found.update(_facts(inode))
    if parents:
        found[_PARENTS] = b"\n".join(parents)[:_FACTS]
    if damage:
        found[_DAMAGED] = damage[0][:200].encode("utf-8", "replace")
    return found


def _facts(inode: Inode) -> dict[bytes, bytes]:
    """Return flags, project and hints of allocation. Units: blocks."""
    flags = [name for bit, name in FLAGS.items() if inode.flags & bit]
    flags += [name for bit, name in FLAGS2.items() if inode.flags2 & bit]
    facts = {
        b"flags": " ".join(flags).encode(),
        b"project": b"%d" % inode.project if inode.project else b"",
        b"extsize": b"%d" % inode.extsize if inode.extsize else b"",
        b"cowextsize": b"%d" % inode.cowextsize if inode.cowextsize and inode.flags2 & 4 else b"",
    }
    return {b"user.imgfs.xfs." + key: value for key, value in facts.items() if value}


def _shown(stored: Stored, value: bytes) -> tuple[bytes, bytes]:
    """Return name and value as the kernel hands them out. Raises Malformed for an ACL that is none."""
    if stored.flags & _ROOT:
        full = _ACLS.get(stored.name)
        if full:
            return full, _acl(value)
        return b"trusted." + stored.name, value
    full = (b"security." if stored.flags & _SECURE else b"user.") + stored.name
    if full.startswith(b"user.imgfs."):
        full = b"xfs." + full  # an image must not speak in our name
    return full, value


def _parent(stored: Stored) -> bytes:
    """Return a parent pointer: the number of the directory, and the name there."""
    value = stored.value if isinstance(stored.value, bytes) else b""
    return b"%d %s" % (int.from_bytes(value[:8], "big"), stored.name)


def _acl(value: bytes) -> bytes:
    """Return an ACL as the kernel hands it out: 8 bytes an entry, version 2. Raises Malformed."""
    count = int.from_bytes(value[:4], "big")
    if len(value) < 4 or 4 + 12 * count > len(value):
        raise Malformed(f"an ACL of {count} entries in {len(value)} bytes")
    rows = [b"\x02\0\0\0"]
    for tag, who, permissions in _ACE.iter_unpack(value[4 : 4 + 12 * count]):
        rows.append(struct.pack("<HHI", tag & 0xFFFF, permissions, who if tag in _NAMED else 0xFFFF_FFFF))
    return b"".join(rows)


def _stored(fork: _Fork, damage: list[str]) -> Iterator[Stored]:
    """Yield all attributes of a file; what of them cannot be read is said in ``damage``."""
    inode = fork.inode
    if not inode.fork:
        return
    if inode.attribute_format == LOCAL:
        yield from _short(inode)
    elif inode.counts[1]:
        for number in _leaves(fork, damage):
            try:
                block, _ = _checked(fork, number)
                yield from _leaf(inode, fork.volume, block)
            except EvidenceError as why:
                damage.append(str(why))


def _short(inode: Inode) -> Iterator[Stored]:
    data = inode.attributes
    if len(data) < 4:
        raise Malformed(f"inode {inode.number}: attributes in {len(data)} bytes")
    total, count, at = int.from_bytes(data[:2], "big"), data[2], 4
    data = data[:total]
    for _ in range(count):
        if at + 3 > len(data):
            raise Malformed(f"inode {inode.number}: an attribute at {at} leaves the inode")
        length, size, flags = data[at : at + 3]
        stop = at + 3 + length + size
        if stop > len(data):
            raise Malformed(f"inode {inode.number}: an attribute at {at} leaves the inode")
        yield Stored(flags, data[at + 3 : at + 3 + length], data[at + 3 + length : stop])
        at = stop


def _checked(fork: _Fork, number: int) -> tuple[bytes, int]:
    """Return a leaf or a node, and its magic number. Raises EvidenceError."""
    block, place = fork.block(number)
    magic = int.from_bytes(block[8:10], "big")
    checked = fork.volume.superblock.checked
    if magic not in (_LEAVES[checked], _NODES[checked]):
        raise Malformed(f"inode {fork.inode.number}: attribute block {number} is none")
    if checked:
        fork.volume.verify(block, ATTRIBUTES, place, fork.inode.number)
    return block, magic


def _leaves(fork: _Fork, damage: list[str]) -> Iterator[int]:
    """Yield the leaves in the order of their hashes. What of the tree is damaged is said."""
    checked = fork.volume.superblock.checked
    head = 64 if checked else 16
    todo = [(0, _DEPTH)]
    seen: set[int] = set()
    while todo:
        number, depth = todo.pop()
        if number in seen or len(seen) >= _BLOCKS or not depth:
            damage.append(f"inode {fork.inode.number}: attribute block {number} is twice in its tree")
            continue
        seen.add(number)
        try:
            block, magic = _checked(fork, number)
        except EvidenceError as why:
            damage.append(str(why))
            continue
        if magic == _LEAVES[checked]:
            yield number
            continue
        (count,) = struct.unpack_from(">H", block, head - 8 if checked else 12)
        if head + 8 * count > len(block):
            damage.append(f"inode {fork.inode.number}: a node of {count} entries")
            continue
        below = struct.unpack_from(f">{2 * count}I", block, head)[1::2]
        todo += [(child, depth - 1) for child in reversed(below)]


def _leaf(inode: Inode, volume: Volume, block: bytes) -> Iterator[Stored]:
    """Yield the attributes of a leaf."""
    checked = volume.superblock.checked
    (count,) = struct.unpack_from(">H", block, 56 if checked else 12)
    head = 80 if checked else 32
    for index in range(count):
        at = head + 8 * index
        if at + 8 > len(block):
            raise Malformed(f"inode {inode.number}: {count} attributes in a leaf")
        where, flags = struct.unpack_from(">HB", block, at + 4)
        local = flags & _LOCAL
        start = where + (3 if local else 9)
        if where < head or start > len(block):
            raise Malformed(f"inode {inode.number}: an attribute at {where} leaves its leaf")
        length = block[start - 1]
        name = block[start : start + length]
        if local:
            size = int.from_bytes(block[where : where + 2], "big")
            value: bytes | tuple[int, int] = block[start + length : start + length + size]
            stop = start + length + size
        else:
            first, size = struct.unpack_from(">II", block, where)
            value = first, size
            stop = start + length
        if stop > len(block):
            raise Malformed(f"inode {inode.number}: an attribute at {where} leaves its leaf")
        yield Stored(flags, name, value)


def _value(stored: Stored, fork: _Fork) -> bytes:
    """Return the value of an attribute, from blocks of its own if it lies there. Raises EvidenceError."""
    if isinstance(stored.value, bytes):
        return stored.value
    first, size = stored.value
    inode, volume = fork.inode, fork.volume
    if size > MAX_XATTRS:
        raise Malformed(f"inode {inode.number}: an attribute of {size} bytes")
    parts, left = [], size
    sb, number = volume.superblock, first
    while left > 0:
        block, place = fork.block(number)
        if sb.checked:
            if block[:4] != b"XARM":
                raise Malformed(f"inode {inode.number}: attribute block {number} holds no value")
            volume.verify(block, REMOTE, place, inode.number)
            offset, length = struct.unpack_from(">II", block, 4)
            if offset != size - left or not 0 < length <= min(left, sb.block - 56):
                raise Malformed(f"inode {inode.number}: attribute block {number} holds another value")
            part = block[56 : 56 + length]
        else:
            part = block[:left]
        parts.append(part)
        left -= len(part)
        number += 1
    return b"".join(parts)
