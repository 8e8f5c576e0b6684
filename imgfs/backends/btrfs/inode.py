"""Inode items, and the attributes they mean.

Source: btrfs.readthedocs.io, "On-disk format" (Inode item, Time), btrfs(5), "FILE ATTRIBUTES"; the packing of
device numbers is that of the kernel's dev_t: twenty bits of minor.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from imgfs.backends._times import BEYOND, EARLIEST, LATEST, nanoseconds
from imgfs.errors import Malformed
from imgfs.limits import MAX_SIZE
from imgfs.model import Attr, Kind

ITEM: Final = struct.Struct("<5Q4I3Q32xqIqIqIqI")  # 160 bytes
_KINDS: Final = {kind << 12: kind for kind in Kind}
_DEVICES: Final = frozenset((Kind.CHR, Kind.BLK))
_SECOND: Final = 10**9
_FIELD: Final = 63
NODATASUM: Final = 1
FLAGS: Final = {
    0: "nodatasum",
    1: "nodatacow",
    2: "readonly",
    3: "nocompress",
    4: "prealloc",
    5: "sync",
    6: "immutable",
    7: "append",
    8: "nodump",
    9: "noatime",
    10: "dirsync",
    11: "compress",
    32: "verity",
}
KIND_OF_TYPE: Final = {
    1: Kind.REG,
    2: Kind.DIR,
    3: Kind.CHR,
    4: Kind.BLK,
    5: Kind.FIFO,
    6: Kind.SOCK,
    7: Kind.LNK,
}


def attr_of(number: int, data: bytes, at: int, sector: int) -> Attr:
    """Return the attributes that an inode item at ``at`` of ``data`` means, as the kernel shows them.

    Raises:
        Malformed: it names no file type, or holds numbers that are none.
    """
    (
        generation, _, size, stored, _, nlink, uid, gid, mode, rdev, _, _,
        a_s, a_n, c_s, c_n, m_s, m_n, b_s, b_n,
    ) = ITEM.unpack_from(data, at)  # fmt: skip
    kind = _KINDS.get(mode & 0xF000)
    if kind is None or mode >> 16 or size > MAX_SIZE or (generation | stored + sector) >> _FIELD:
        raise Malformed(f"inode {number}: mode {mode:#o}, size {size}, {stored} bytes stored")
    damaged = ""
    m_ns: int | None = m_s * _SECOND + m_n
    a_ns: int | None = a_s * _SECOND + a_n
    c_ns: int | None = c_s * _SECOND + c_n
    b_ns: int | None = b_s * _SECOND + b_n
    if not EARLIEST <= min(m_s, a_s, c_s, b_s) <= max(m_s, a_s, c_s, b_s) < LATEST:
        m_ns, a_ns = nanoseconds(m_s, m_n), nanoseconds(a_s, a_n)
        c_ns, b_ns = nanoseconds(c_s, c_n), nanoseconds(b_s, b_n)
        damaged = BEYOND
    return Attr(
        kind=kind,
        inum=number,
        generation=generation,
        size=size,
        allocated=-(-stored // sector) * sector,
        mode=mode & 0o7777,
        uid=uid,
        gid=gid,
        nlink=nlink,
        m_ns=m_ns,
        a_ns=a_ns,
        c_ns=c_ns,
        b_ns=b_ns,
        rdev=os.makedev(rdev >> 20 & 0xFFF, rdev & 0xF_FFFF) if kind in _DEVICES else 0,
        damaged=damaged,
    )


def flags_of(data: bytes) -> int:
    """Return the flags of an inode item."""
    return int(ITEM.unpack_from(data)[10])


def facts_of(data: bytes) -> dict[bytes, bytes]:
    """Return what an inode item says beside the attributes."""
    fields = ITEM.unpack_from(data)
    words = [name for bit, name in FLAGS.items() if fields[10] >> bit & 1]
    found = {b"user.imgfs.transid": b"%d" % fields[1]}
    if words:
        found[b"user.imgfs.flags"] = " ".join(words).encode()
    return found
