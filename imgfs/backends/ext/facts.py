"""What an inode says of its file beside stat: flags in chattr's words, and the project it belongs to.

Source: Linux Documentation/filesystems/ext4, "Index Nodes" (i_flags, i_projid).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from imgfs.backends.ext.inode import Inode
    from imgfs.backends.ext.tables import Tables

_FLAGS: Final = {
    0x1: "secure-deletion",
    0x2: "undelete",
    0x4: "compress",
    0x8: "sync",
    0x10: "immutable",
    0x20: "append",
    0x40: "nodump",
    0x80: "noatime",
    0x200: "compressed",
    0x400: "uncompressed-access",
    0x800: "encrypted",
    0x4000: "journal-data",
    0x8000: "notail",
    0x10000: "dirsync",
    0x20000: "topdir",
    0x100000: "verity",
    0x200000: "holds-an-attribute",
    0x800000: "nocow",
    0x2000000: "dax",
    0x20000000: "project-inherit",
    0x40000000: "casefold",
}
# how it is stored, which its runs tell: dirty compression, hash tree, huge, extents, space behind the
# end, inline data
_STORED: Final = 0x100 | 0x1000 | 0x40000 | 0x80000 | 0x400000 | 0x10000000
_PROJECT: Final = 0x2000  # s_feature_ro_compat
_PROJECT_AT: Final = 0x9C  # i_projid
_BASE: Final = 128  # bytes of an inode before i_extra_isize counts


def facts_of(inode: Inode, tables: Tables) -> dict[bytes, bytes]:
    """Return the flags and the project of an inode where it has any."""
    words, rest = [], inode.flags & ~_STORED
    for bit, word in _FLAGS.items():
        if rest & bit:
            words.append(word)
            rest ^= bit
    if rest:
        words.append(f"{rest:#x}")
    found = {b"user.imgfs.ext.flags": " ".join(words).encode()} if words else {}
    if tables.superblock.ro_compat & _PROJECT and inode.extra_size >= _PROJECT_AT + 4 - _BASE:
        (project,) = struct.unpack_from("<I", inode.whole, _PROJECT_AT)
        if project:
            found[b"user.imgfs.ext.project"] = b"%d" % project
    return found
