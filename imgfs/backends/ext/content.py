"""The bytes of a file: layouts, and the targets of symbolic links.

Source: Linux Documentation/filesystems/ext4, "The Contents of inode.i_block", "Inline Data".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends.ext.blocks import linear, quick_layout, rows_of
from imgfs.backends.ext.inode import COMPRESSED, ENCRYPTED, FSCRYPT, INLINE, Inode, size_of
from imgfs.backends.ext.superblock import COMPRESSION
from imgfs.backends.ext.xattr import inline_rest
from imgfs.errors import EvidenceError, Malformed, NotFound, NotSupported
from imgfs.limits import MAX_LINK
from imgfs.model import LOST, Inline, Kind, Linear

if TYPE_CHECKING:
    from imgfs.backends.ext.tables import Tables
    from imgfs.model import Layout

EMPTY: Final = (Inline(b""),)
_IN_LISTING: Final = 4096  # bytes of inline content that travel with a name


def layout_of(inode: Inode, tables: Tables, *, deleted: bool = False) -> tuple[Layout, ...]:
    """Say where the content lies. What is no regular file has none.

    ``deleted``: an inode that lost its map has lost its content, and is not one hole.

    Raises:
        NotSupported: encrypted, or compressed.
        EvidenceError: the map contradicts itself.
    """
    if inode.kind != Kind.REG:
        return EMPTY
    size = size_of(inode, tables)
    if not size:
        return EMPTY
    _refuse_coded(inode, tables)
    if inode.flags & INLINE:
        return (Inline(_inline(inode, tables, size)),)
    if deleted and not any(inode.data[12:] if inode.data[:2] == b"\x0a\xf3" else inode.data):
        return (Linear.of(size, []),)
    rows = rows_of(inode, tables, size)
    if deleted and all(target < 0 for _, _, target in rows):
        return (Linear.of(size, []),)
    return (linear(size, rows),)


def listed_layout(inode: Inode, tables: Tables, size: int) -> tuple[Layout, ...] | None:
    """Return the layout of a regular file when its inode alone tells it, else None."""
    if not size:
        return EMPTY
    if inode.flags & (ENCRYPTED | COMPRESSED):
        return None
    if inode.flags & INLINE:
        if size > _IN_LISTING:
            return None
        try:
            return (Inline(_inline(inode, tables, size)),)
        except EvidenceError:
            return None
    found = quick_layout(inode, tables, size)
    return None if found is None else (found,)


def target_of(inode: Inode, tables: Tables) -> bytes:
    """Return the target of a symbolic link.

    Raises:
        NotFound: the inode is no symbolic link.
        NotSupported: encrypted.
        EvidenceError: the target cannot be read, or is longer than a path can be.
    """
    if inode.kind != Kind.LNK:
        raise NotFound(f"inode {inode.number} is no symbolic link")
    _refuse_coded(inode, tables)
    size = size_of(inode, tables)
    if size > MAX_LINK:
        raise Malformed(f"inode {inode.number}: link target of {size} bytes")
    if inode.flags & INLINE:
        return _inline(inode, tables, size)
    if inode.holds_link:
        return inode.data[:size]
    parts = []
    for logical, length, target in rows_of(inode, tables, size):
        if target == LOST:
            raise Malformed(f"inode {inode.number}: bytes of the target from {logical} on are lost")
        parts.append(bytes(length) if target < 0 else tables.read(target, length))
    return b"".join(parts)


def _refuse_coded(inode: Inode, tables: Tables) -> None:
    if inode.flags & ENCRYPTED:
        raise NotSupported(f"inode {inode.number}: {FSCRYPT}: the key is not in the image")
    if inode.flags & COMPRESSED and tables.superblock.incompat & COMPRESSION:
        raise NotSupported(f"inode {inode.number}: compressed (e2compr)")


def _inline(inode: Inode, tables: Tables, size: int) -> bytes:
    data = inode.data if size <= len(inode.data) else inode.data + inline_rest(inode, tables)
    if size > len(data):
        raise Malformed(f"inode {inode.number}: {size} bytes of inline data, {len(data)} are there")
    return data[:size]
