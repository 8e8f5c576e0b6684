"""The ``Files`` verbs: every subvolume is a tree."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from imgfs.backends._listings import Listings
from imgfs.backends.btrfs.extents import EMPTY, Map, content_of, layouts_of, listed, map_of
from imgfs.backends.btrfs.inode import ITEM, KIND_OF_TYPE, NODATASUM, attr_of, facts_of, flags_of
from imgfs.backends.btrfs.nodes import INODE_ITEM, Gap, Leaf
from imgfs.backends.btrfs.subvolumes import FIRST, ROOT_ITEM
from imgfs.backends.btrfs.xattr import entries, xattrs_of
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.model import Attr, Entry, Kind, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.btrfs.checksums import Checksums
    from imgfs.backends.btrfs.nodes import Nodes
    from imgfs.backends.btrfs.space import Space
    from imgfs.backends.btrfs.subvolumes import Subvolume
    from imgfs.backends.btrfs.superblock import Root, Superblock
    from imgfs.model import FilesInfo, Layout

DIR_INDEX: Final = 96
_PLACE: Final = 1 << 46  # the number of a place where another subvolume stands: this and its number
_ENCRYPTED: Final = 0x80  # of a type: the name is
_RECENT: Final = 4


class BtrfsFiles:
    """The subvolumes of one file system; see ``backends.Files``."""

    def __init__(
        self,
        superblock: Superblock,
        space: Space,
        nodes: Nodes,
        subvolumes: list[Subvolume],
        default: int,
        checksums: Checksums | None,
        info: FilesInfo,
    ) -> None:
        self.info = info
        self._sector = superblock.sector
        self._space = space
        self._nodes = nodes
        self._subvolumes = subvolumes
        self._default = default
        self._checksums = checksums
        self._known = {one.number for one in subvolumes}
        self._leaves: list[list[Leaf]] = [[] for _ in subvolumes]
        self._listings = [Listings(partial(self._entries, tree)) for tree in range(len(subvolumes))]

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if inum & _PLACE:
            self._place(inum)
            return Page([])
        if not cursor and self.stat(tree, inum, 0).kind != Kind.DIR:
            raise NotFound(f"inode {inum} is no directory")
        return self._listings[self._tree(tree)].page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file."""
        if stream:
            raise NotFound(f"inode {inum} has no stream {stream}")
        if inum & _PLACE:
            return self._place(inum)
        leaf, row = self._inode(tree, inum)
        return attr_of(inum, leaf.data, leaf.places[row][0], self._sector)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a file lie."""
        if self.stat(tree, inum, stream).kind != Kind.REG:
            return EMPTY
        found, checksums = self._mapped(tree, inum, stream)
        return layouts_of(found, self._space, checksums, self._sector)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link."""
        attr = self.stat(tree, inum, 0)
        if attr.kind != Kind.LNK:
            raise NotFound(f"inode {inum} is no symbolic link")
        return content_of(map_of(self._nodes, self._root(tree), inum, attr.size, self._sector), self._space)

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return extended attributes, and what else is known of a file."""
        if inum & _PLACE:
            self._place(inum)
            return self._said(inum & ~_PLACE)
        leaf, row = self._inode(tree, inum)
        found = xattrs_of(self._nodes, self._root(tree), inum)
        found |= facts_of(leaf.item(row))
        if self._checksums is None and not flags_of(leaf.item(row)) & NODATASUM:
            found[b"user.imgfs.checksums"] = b"cannot be read"
        one = self._subvolumes[tree]
        return found | self._said(one.number) if inum == FIRST else found

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Refuse: there are no foreign bytes."""
        raise Malformed(f"inode {inum} of {tree}, stream {stream}: no bytes [{offset}, {offset + length})")

    def _mapped(self, tree: int, inum: int, stream: int) -> tuple[Map, Checksums | None]:
        """Return where a regular file lies, and what its sectors are compared with."""
        attr = self.stat(tree, inum, stream)
        if attr.kind != Kind.REG:
            raise NotFound(f"inode {inum} has no content")
        leaf, row = self._inode(tree, inum)
        found = map_of(self._nodes, self._root(tree), inum, attr.size, self._sector)
        return found, None if flags_of(leaf.item(row)) & NODATASUM else self._checksums

    def _tree(self, tree: int) -> int:
        if not 0 <= tree < len(self._subvolumes):
            raise NotFound(f"tree {tree}")
        return tree

    def _root(self, tree: int) -> Root:
        return self._subvolumes[self._tree(tree)].root

    def _said(self, number: int) -> dict[bytes, bytes]:
        one = next((one for one in self._subvolumes if one.number == number), None)
        if one is None:
            return {b"user.imgfs.subvolume.id": b"%d" % number}
        return one.facts(default=number == self._default)

    def _place(self, inum: int) -> Attr:
        """Return the attributes of a place where another subvolume stands: an empty directory."""
        if inum & ~_PLACE not in self._known:
            raise NotFound(f"inode {inum}")
        return Attr(kind=Kind.DIR, inum=inum, mode=0o755)

    def _inode(self, tree: int, inum: int) -> tuple[Leaf, int]:
        """Return the leaf of an inode item, and its row."""
        recent = self._leaves[self._tree(tree)]
        for leaf in recent:
            row = leaf.inodes.get(inum)
            if row is not None:
                return leaf, row
        if not 0 < inum < 1 << 63:
            raise NotFound(f"inode {inum}")
        item = self._nodes.find(self._root(tree), (inum, INODE_ITEM, 0))
        if item is None or item.leaf.places[item.row][1] < ITEM.size:
            raise NotFound(f"inode {inum}")
        recent.insert(0, item.leaf)
        del recent[_RECENT:]
        return item.leaf, item.row

    def _entries(self, tree: int, inum: int) -> Iterator[Entry | str]:
        """Yield what a directory holds, in the order of its index."""
        first, stop = (inum, DIR_INDEX, 0), (inum, DIR_INDEX + 1, 0)
        for item in self._nodes.items(self._root(tree), first, stop):
            if isinstance(item, Gap):
                yield item.why
                continue
            for entry in entries(item.data):
                if entry is None:
                    yield f"index {item.key[2]} contradicts itself"
                    break
                yield self._entry(tree, *entry[:3])

    def _entry(self, tree: int, key: tuple[int, int, int], sort: int, name: bytes) -> Entry:
        number = key[0]
        if key[1] == ROOT_ITEM:
            return self._crossing(number, name)
        if sort & _ENCRYPTED:
            name = b"$encrypted-" + name.hex().encode()
        try:
            leaf, row = self._inode(tree, number)
            attr = attr_of(number, leaf.data, leaf.places[row][0], self._sector)
            if attr.kind != Kind.REG:
                return Entry(name, attr)
            return Entry(name, attr, 0, listed(leaf, row, attr.size))
        except (EvidenceError, NotFound) as why:
            kind = KIND_OF_TYPE.get(sort & ~_ENCRYPTED, Kind.REG)
            return Entry(name, Attr(kind=kind, inum=number & (1 << 46) - 1, damaged=why.message))

    def _crossing(self, number: int, name: bytes) -> Entry:
        place = _PLACE | number & _PLACE - 1
        damaged = "" if number in self._known else f"subvolume {number} is not there"
        return Entry(name, Attr(kind=Kind.DIR, inum=place, mode=0o755, damaged=damaged))
