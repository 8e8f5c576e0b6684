"""The bytes of a file: layouts, and the targets of symbolic links.

Source: XFS Algorithms and Data Structures, 3rd edition, "Data Extents", "Symbolic Links".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends._layouts import linear
from imgfs.backends.xfs.extents import blocks_of, rows_of
from imgfs.backends.xfs.inode import LOCAL, REALTIME, Inode
from imgfs.backends.xfs.volume import REMOTE
from imgfs.errors import LostBytes, Malformed, NotFound
from imgfs.limits import MAX_LINK, MAX_SIZE
from imgfs.model import Inline, Kind

if TYPE_CHECKING:
    from imgfs.backends.xfs.volume import Volume
    from imgfs.model import Layout

EMPTY: Final = (Inline(b""),)
ON_REALTIME: Final = "its data is on the real-time device, which is not part of this volume"
_HEAD: Final = 56  # bytes before the target in each run of checked blocks


def layout_of(inode: Inode, volume: Volume) -> tuple[Layout, ...]:
    """Say where the content lies. What is no regular file has none.

    Raises:
        LostBytes: it lies on a device that is not here.
        EvidenceError: the map contradicts itself.
    """
    if inode.kind != Kind.REG or not inode.size:
        return EMPTY
    if inode.size > MAX_SIZE:
        raise Malformed(f"inode {inode.number}: size {inode.size}")
    if inode.flags & REALTIME:
        raise LostBytes(f"inode {inode.number}: {ON_REALTIME}")
    return (linear(inode.size, rows_of(inode, volume, inode.size)),)


def target_of(inode: Inode, volume: Volume) -> bytes:
    """Return the target of a symbolic link.

    Raises:
        NotFound: the inode is no symbolic link.
        EvidenceError: the target cannot be read, or is longer than a path can be.
    """
    if inode.kind != Kind.LNK:
        raise NotFound(f"inode {inode.number} is no symbolic link")
    if inode.size > MAX_LINK:
        raise Malformed(f"inode {inode.number}: link target of {inode.size} bytes")
    if inode.format == LOCAL:
        if inode.size > len(inode.data):
            raise Malformed(f"inode {inode.number}: {inode.size} bytes in the inode")
        return inode.data[: inode.size]
    checked, block = volume.superblock.checked, volume.superblock.block
    room = block - _HEAD if checked else block
    left, parts = inode.size, []
    for logical, length, target in blocks_of(inode, volume, 0, -(-inode.size // room)):
        if left <= 0:
            break
        if target < 0:
            raise Malformed(f"inode {inode.number}: bytes of the target from {logical} on are lost")
        data = volume.read(target, length)
        if checked:
            if data[:4] != b"XSLM":
                raise Malformed(f"inode {inode.number}: no target of a link")
            volume.verify(data, REMOTE, target, inode.number)
            offset, count = struct.unpack_from(">II", data, 4)
            if offset != inode.size - left or not 0 < count <= min(left, length - _HEAD):
                raise Malformed(f"inode {inode.number}: a part of another target")
            data = data[_HEAD : _HEAD + count]
        parts.append(data[:left])
        left -= len(parts[-1])
    if left:
        raise Malformed(f"inode {inode.number}: {left} bytes of the target are missing")
    return b"".join(parts)
