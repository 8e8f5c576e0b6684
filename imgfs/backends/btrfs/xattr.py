"""Extended attributes: items of the same form as names in directories.

Source: btrfs.readthedocs.io, "On-disk format" (Dir item); the values of ACLs are stored as the kernel hands
them out, properties such as ``btrfs.compression`` under their full names.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends.btrfs.nodes import Gap
from imgfs.limits import MAX_XATTRS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.btrfs.nodes import Nodes
    from imgfs.backends.btrfs.superblock import Root

XATTR_ITEM: Final = 24
_VERITY: Final = 36
_HEAD: Final = struct.Struct("<QBQQHHB")
_TOTAL: Final = 4 << 20  # bytes of all values of one file: a message holds 16 MiB
_DAMAGED: Final = b"user.imgfs.xattrs_damaged"


def entries(data: bytes) -> Iterator[tuple[tuple[int, int, int], int, bytes, bytes] | None]:
    """Yield (key, type, name, value) of each entry of an item; None: the rest contradicts itself."""
    at = 0
    while at < len(data):
        if at + _HEAD.size > len(data):
            yield None
            return
        number, kind, offset, _, length, name, sort = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if at + name + length > len(data):
            yield None
            return
        yield (number, kind, offset), sort, data[at : at + name], data[at + name : at + name + length]
        at += name + length


def xattrs_of(nodes: Nodes, root: Root, number: int) -> dict[bytes, bytes]:
    """Return all attributes; what cannot be read is left out, ``user.imgfs.xattrs_damaged`` says why."""
    found: dict[bytes, bytes] = {}
    total = names = 0
    for item in nodes.items(root, (number, XATTR_ITEM, 0), (number, _VERITY + 1, 0)):
        if isinstance(item, Gap):
            found[_DAMAGED] = item.why[:200].encode("utf-8", "replace")
            continue
        if item.key[1] == _VERITY:
            found[b"user.imgfs.verity"] = b"fs-verity"
        if item.key[1] != XATTR_ITEM:
            continue
        for entry in entries(item.data):
            if entry is None:
                found[_DAMAGED] = b"an item that contradicts itself"
                break
            _, _, name, value = entry
            full = b"btrfs.stored." + name if name.startswith(b"user.imgfs.") else name
            total += len(value)
            names += len(full) + 1
            if not full or len(full) > 255 or b"\0" in full or names > MAX_XATTRS // 2 or total > _TOTAL:
                found[_DAMAGED] = b"extended attributes of too much"
                return found
            found.setdefault(full, value)
    return found
