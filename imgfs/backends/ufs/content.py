"""The bytes of a file: layouts, and the targets of symbolic links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends._deleted import EMPTY
from imgfs.backends._layouts import linear
from imgfs.backends.ufs.blocks import rows_of
from imgfs.errors import Malformed, NotFound
from imgfs.limits import MAX_LINK
from imgfs.model import HOLE, LOST, Kind, Linear

if TYPE_CHECKING:
    from imgfs.backends.ufs.structures import Inode
    from imgfs.backends.ufs.tables import Tables
    from imgfs.model import Layout

_MAPPED: Final = frozenset((Kind.REG, Kind.DIR))


def layout_of(inode: Inode, tables: Tables) -> tuple[Layout, ...]:
    """Say where the content lies. What is neither file nor directory has none. Raises Malformed."""
    if inode.attr.kind not in _MAPPED or not inode.attr.size:
        return EMPTY
    return (linear(inode.attr.size, rows_of(tables, inode)),)


def deleted_layout_of(inode: Inode, tables: Tables, *, freed: bool) -> tuple[Layout, ...]:
    """Say where the content of a deleted file lies: a map that was cleared is lost, and not one hole."""
    size = inode.attr.size
    if inode.attr.kind != Kind.REG or not size:
        return EMPTY
    rows = rows_of(tables, inode, freed=freed)
    if all(target < 0 for _, _, target in rows):
        return (Linear.of(size, []),)
    return (linear(size, rows),)


def target_of(inode: Inode, tables: Tables, *, freed: bool = False) -> bytes:
    """Return the target of a symbolic link: in the inode if it has no blocks.

    Raises:
        NotFound: the inode is no symbolic link.
        EvidenceError: the target cannot be read, or is longer than a path can be.
    """
    inum, size = inode.attr.inum, inode.attr.size
    if inode.attr.kind != Kind.LNK:
        raise NotFound(f"inode {inum} is no symbolic link")
    if size > MAX_LINK:
        raise Malformed(f"inode {inum}: link target of {size} bytes")
    if size <= len(inode.inline) and not inode.blocks:
        return inode.inline[:size]
    parts = []
    for logical, length, target in rows_of(tables, inode, freed=freed):
        if target == LOST:
            raise Malformed(f"inode {inum}: bytes [{logical}, {logical + length}) of the target are lost")
        parts.append(bytes(length) if target == HOLE else tables.reader.read(target, length))
    return b"".join(parts)
