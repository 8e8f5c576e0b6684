"""The files of EnCase logical evidence: what stands in its tree, and where their data lies in the media.

The media comes from ``l01`` or ``lx01``, which name this back-end; the segments come behind it.

Source: Expert Witness Compression Format specification (EWF), Joachim Metz, chapter "File entries category";
keramics format documentation, same chapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, _said
from imgfs.backends import ewf2 as second
from imgfs.backends._ewf import MAGIC_LOGICAL, NotUnderstood
from imgfs.backends._ewf2 import MAGIC_LOGICAL as MAGIC_SECOND
from imgfs.backends._ewf_chunks import collect
from imgfs.backends._layouts import linear
from imgfs.backends._listings import Listings
from imgfs.backends._logical import FOLDER, Item, facts
from imgfs.backends._ltree import Ltree
from imgfs.backends._ltree_place import in_ewf, in_ewf2
from imgfs.errors import Malformed, NotFound, NotMine, NotSupported
from imgfs.model import HOLE, LOST, Attr, Entry, FilesInfo, Foreign, Kind, Layout, Page, TreeInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgfs.backends import Options, Reader
    from imgfs.backends._ltree_place import Place

_BELOW: Final = 1 << 32  # added to the number of a file: the folder of what stands below it
_FEW: Final = 2  # runs of a file whose layout comes with its name


class LogicalFiles:
    """One tree. A file's number is the position of its entry, from 1 on."""

    def __init__(self, media: Reader, tree: Ltree, info: FilesInfo) -> None:
        self._media = media
        self._tree = tree
        self.info = info
        self._listings = Listings(self._entries)

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if self.stat(tree, inum, 0).kind != Kind.DIR:
            raise NotFound(f"entry {inum} is no directory")
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file."""
        return self._attr(self._item(tree, inum, stream), inum)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a file lie."""
        item = self._item(tree, inum, stream)
        if item.folder or inum >= _BELOW:
            raise NotFound(f"entry {inum} is a directory")
        return (self._layout(item),)

    def link(self, tree: int, inum: int) -> bytes:
        """Refuse: targets are not recorded, the data of a link is shown as a file."""
        self._item(tree, inum, 0)
        raise Malformed(f"entry {inum}: no link target")

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return digests, flags, source and permissions as the examiner's tool recorded them."""
        item = self._item(tree, inum, 0)
        return facts(item, self._tree)

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Return bytes of a file that is one byte, repeated."""
        item = self._item(tree, inum, stream)
        filled = self._filled(item)
        if filled is None or not 0 <= offset <= offset + length <= item.size:
            raise NotFound(f"entry {inum}: [{offset}, {offset + length}) is not foreign")
        return filled * length

    def _item(self, tree: int, inum: int, stream: int) -> Item:
        index = (inum - _BELOW if inum >= _BELOW else inum) - 1
        if tree or stream or not 0 <= index < len(self._tree):
            raise NotFound(f"entry {inum}-{stream} of tree {tree}")
        item = Item(self._tree.values(index))
        if inum >= _BELOW and (item.folder or not self._below(index)):
            raise NotFound(f"nothing is below entry {index + 1}")
        if not index:
            item.flags |= FOLDER
        return item

    def _below(self, index: int) -> bool:
        return next(self._tree.children(index), None) is not None

    def _attr(self, item: Item, inum: int) -> Attr:
        folder = item.folder or inum >= _BELOW
        return Attr(
            kind=Kind.DIR if folder else Kind.REG,
            inum=inum,
            size=0 if folder else item.size,
            allocated=0 if folder else sum(length for _, length in item.extents),
            mode=0o555 if folder else 0o444,
            uid=item.owner(self._tree, ""),
            gid=item.owner(self._tree, "1"),
            m_ns=item.time("wr"),
            a_ns=item.time("ac"),
            c_ns=item.time("mo"),
            b_ns=item.time("cr"),
            deleted=item.deleted,
            damaged="" if folder else item.damaged,
        )

    def _entries(self, inum: int) -> Iterator[Entry | str]:
        index = (inum - _BELOW if inum >= _BELOW else inum) - 1
        for child in self._tree.children(index):
            item = Item(self._tree.values(child))
            attr = self._attr(item, child + 1)
            few = not item.folder and len(item.extents) <= _FEW and self._filled(item) is None
            yield Entry(item.name, attr, 0, (self._layout(item),) if few else None)
            if not item.folder and self._below(child):
                yield Entry(item.name, self._attr(item, child + 1 + _BELOW))

    def _filled(self, item: Item) -> bytes | None:
        """Return the byte that a sparse file repeats; None: it is stored, or is zeros."""
        if not item.fills:
            return None
        start = item.extents[0][0]
        byte = self._media.read(start, 1) if start < self._media.size else b"\0"
        return byte if byte != b"\0" else None

    def _layout(self, item: Item) -> Layout:
        size, at = item.size, 0
        rows: list[tuple[int, int, int]] = []
        if item.fills:
            if self._filled(item) is not None:
                return Foreign(size=size, why="one byte, repeated")
            held = item.extents[0][0] < self._media.size
            return linear(size, [(0, size, HOLE if held else LOST)])
        for start, length in item.extents:
            taken = min(length, size - at)
            inside = max(min(taken, self._media.size - start), 0)
            if inside:
                rows.append((at, inside, start))
            if inside < taken:
                rows.append((at + inside, taken - inside, LOST))
            at += taken
        if at < size:
            rows.append((at, size - at, LOST))
        return linear(size, rows)


def open_logical(reader: Reader, options: Options) -> LogicalFiles:  # noqa: ARG001  # the contract of `open`
    """Open the tree that lies in ``reader.others``, the segments; ``reader`` is their media.

    Raises:
        NotMine: there are no segments of logical evidence.
        Malformed: there is no tree in them.
    """
    notes: list[str] = []
    place, version = _place(reader.others, notes)
    if place is None:
        raise Malformed("no segment at hand holds the tree of the files")
    tree = Ltree(place.reader, place.start, place.stop)
    if not place.intact():
        notes.append("the stored MD5 of the tree differs: names, sizes and places may be wrong")
    info = FilesInfo(
        type="logical",
        trees=(TreeInfo("root", 1),),
        size=reader.size,
        version=version,
        notes=_said.notes(notes, tree.notes),
    )
    return LogicalFiles(reader, tree, info)


def _place(members: Sequence[Reader], notes: list[str]) -> tuple[Place | None, str]:
    magics = [m.read(0, len(MAGIC_LOGICAL)) for m in members if m.size >= len(MAGIC_LOGICAL)]
    try:
        if MAGIC_LOGICAL in magics:
            segments = collect(members, [], MAGIC_LOGICAL)
            return in_ewf(members, segments, notes), "EWF-L01"
        if MAGIC_SECOND in magics:
            return in_ewf2(second.collect(members, [])), "EWF2-Lx01"
    except NotUnderstood as why:
        raise NotSupported(str(why)) from why
    raise NotMine("logical")


BACKEND = Backend(
    name="logical",
    title="EnCase logical evidence, files",
    role=Role.FILES,
    rank=10,
    open=open_logical,
    supports="names, times, sizes, flags; digests, sources and permissions of each file as user.imgfs.*",
    truth=("peer", "composed"),
)
