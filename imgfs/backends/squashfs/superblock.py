"""The superblock of SquashFS 2, 3 and 4: where tables lie, how they are compressed.

Source: "Squashfs Binary Format" (dr-emann.github.io/squashfs), Superblock, for version 4; for 2 and 3 the
field names of their superblock as unblob's description of the format has them (MIT), and images of both.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.errors import Malformed, NotMine, NotSupported

if TYPE_CHECKING:
    from imgfs.backends import Reader

# "sqsh" as the byte order writes it, and the marks of vendors who put LZMA into versions 2 and 3
MAGICS: Final = (b"hsqs", b"sqsh", b"shsq", b"qshs", b"hsqt", b"tqsh", b"sqlz", b"zlqs")
NONE: Final = 0xFFFF_FFFF_FFFF_FFFF  # a table there is not
COMPRESSORS: Final = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
_VERSION_AT: Final = 28
_SIZE_4: Final = 96
_SIZE_3: Final = 119
_SIZE_2: Final = 63
_CHECKED: Final = 0x04  # of the flags of 2 and 3: a mark is behind the length of metadata blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What the superblock says. Units: ``block``, ``size`` and places bytes.

    ``order`` is that of ``struct``. ``compressor`` 0: versions 2 and 3 do not say. ``ids`` are counted by
    ``users`` and ``groups`` in versions 2 and 3, which have a table for each.
    """

    order: str
    major: int
    minor: int
    block: int
    size: int
    inodes: int
    fragments: int
    compressor: int
    checked: bool
    made: int
    root: int
    id_table: int
    users: int
    group_table: int
    groups: int
    xattr_table: int
    inode_table: int
    directory_table: int
    fragment_table: int
    export_table: int


def read_superblock(reader: Reader) -> Superblock:
    """Read the superblock.

    Raises:
        NotMine: there is none.
        NotSupported: version 1, or a compressor nobody has described.
        Malformed: it contradicts itself.
    """
    if reader.size < _SIZE_2:
        raise NotMine("squashfs")
    raw = reader.read(0, min(_SIZE_3, reader.size))
    if raw[:4] not in MAGICS:
        raise NotMine("squashfs")
    for order in "<>":  # vendors turned the letters round and not the numbers, or both
        major, minor = struct.unpack_from(order + "HH", raw, _VERSION_AT)
        if 0 < major <= 4:
            break
    else:
        raise Malformed("squashfs: no version between 1 and 4", start=0, stop=_SIZE_2)
    if major == 1:
        raise NotSupported(f"SquashFS {major}.{minor}: versions 2 to 4 are read")
    needed = {2: _SIZE_2, 3: _SIZE_3, 4: _SIZE_4}[major]
    if len(raw) < needed:
        raise Malformed(f"squashfs: the source has {len(raw)} bytes", start=0, stop=needed)
    found = (_fourth if major == 4 else _older)(order, major, minor, raw)
    if found.block & found.block - 1 or not 4096 <= found.block <= 1 << 20:
        raise Malformed(f"squashfs: blocks of {found.block} bytes", start=0, stop=needed)
    return found


def _fourth(order: str, major: int, minor: int, raw: bytes) -> Superblock:
    _, inodes, made, block, fragments, compressor, _, _, users = struct.unpack_from(order + "5I4H", raw)
    root, size, ids, xattrs, inode_table, directories, fragment_table, exports = struct.unpack_from(
        order + "8Q", raw, 32
    )
    if compressor not in COMPRESSORS:
        raise NotSupported(f"SquashFS {major}.{minor} with compressor {compressor}")
    return Superblock(
        order=order,
        major=major,
        minor=minor,
        block=block,
        size=size,
        inodes=inodes,
        fragments=fragments,
        compressor=compressor,
        checked=False,
        made=made,
        root=root,
        id_table=ids,
        users=users,
        group_table=NONE,
        groups=0,
        xattr_table=xattrs,
        inode_table=inode_table,
        directory_table=directories,
        fragment_table=fragment_table,
        export_table=exports,
    )


def _older(order: str, major: int, minor: int, raw: bytes) -> Superblock:
    inodes, size, users_at, groups_at, inode_table, directories = struct.unpack_from(order + "6I", raw, 4)
    _, _, flags, users, groups, made, root, block, fragments, fragment_table = struct.unpack_from(
        order + "HH3BIQIII", raw, 32
    )
    exports = NONE
    if major == 3:
        size, users_at, groups_at, inode_table, directories, fragment_table, exports = struct.unpack_from(
            order + "7Q", raw, 63
        )
    return Superblock(
        order=order,
        major=major,
        minor=minor,
        block=block,
        size=size,
        inodes=inodes,
        fragments=fragments,
        compressor=0,
        checked=bool(flags & _CHECKED),
        made=made,
        root=root,
        id_table=users_at,
        users=users,
        group_table=groups_at,
        groups=groups,
        xattr_table=NONE,
        inode_table=inode_table,
        directory_table=directories,
        fragment_table=fragment_table,
        export_table=exports,
    )
