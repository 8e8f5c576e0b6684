"""NTFS as ``Files``: the live tree from MFT and indexes, beside it what was deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends._listings import Listings
from imgfs.backends.ntfs.deleted import FORMER, ORPHANS, Deleted
from imgfs.backends.ntfs.describe import Describer
from imgfs.backends.ntfs.index import Index
from imgfs.backends.ntfs.record import COMPRESSED, DATA, DIRECTORY, IN_USE
from imgfs.backends.ntfs.values import Values
from imgfs.backends.ntfs.volume import parts_of
from imgfs.backends.ntfs.wof import overlaid
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.limits import MAX_LINK, READ_MAX
from imgfs.model import Attr, Entry, FilesInfo, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.ntfs.lznt1 import Packed
    from imgfs.backends.ntfs.volume import Parts, Volume
    from imgfs.backends.ntfs.wof import Overlaid
    from imgfs.model import Layout, Page

ROOT: Final = 5  # the record of the root directory


class NtfsFiles:
    """Live tree and deleted entries of one volume; see ``backends.Files``."""

    def __init__(self, volume: Volume, info: FilesInfo) -> None:
        self.info = info
        self._volume = volume
        self._describer = Describer(volume)
        self._values = Values(volume)
        self._live = Listings(self._entries)
        self._deleted = Deleted(volume, ROOT)
        self._packed: tuple[int, int, Packed | Overlaid] | None = None  # the stream read last

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if self._is_deleted(tree):
            return self._deleted.list(inum, max(cursor, 0), max(limit, 1))
        return self._live.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file or of one of its streams."""
        if self._is_deleted(tree):
            return self._deleted.stat(inum, stream)
        for entry in self._describer.entries(inum, b""):
            if entry.stream == stream:
                return entry.attr
        raise NotFound(f"file {inum} has no stream {stream}")

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a stream lie."""
        if self._is_deleted(tree):
            return (self._deleted.layout(inum, stream),)
        return (self._describer.layout(inum, stream),)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a reparse point."""
        target = self._values.link(self._number(tree, inum))
        if len(target) > MAX_LINK:
            raise Malformed(f"file {inum}: link target of {len(target)} bytes")
        return target

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return extended attributes; of what is deleted also the number of its MFT record."""
        deleted = self._is_deleted(tree)
        if deleted and (inum == ORPHANS or inum >= FORMER):
            return {}
        number = self._number(tree, inum)
        found = self._values.xattrs(number)
        if deleted:
            found[b"user.imgfs.ntfs.record"] = b"%d" % number
        return found

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of a compressed stream."""
        number = self._number(tree, inum)
        kept = self._packed
        if kept is None or kept[:2] != (number, stream):
            kept = self._packed = number, stream, self._decoded(number, stream)
        packed = kept[2]
        if not 0 <= offset <= offset + length <= packed.size or length > READ_MAX:
            raise Malformed(f"file {number}: no bytes [{offset}, {offset + length})")
        return packed.read(offset, length)

    def _decoded(self, number: int, stream: int) -> Packed | Overlaid:
        """Return a stream that is kept in another form. Raises Malformed: it is not."""
        if not stream and (found := overlaid(self._volume, self._volume.file(number))) is not None:
            return found
        parts = self._stream(number, stream)
        if not parts or parts[0].resident or not parts[0].form & COMPRESSED:
            raise Malformed(f"file {number}: stream {stream} is not compressed")
        return self._volume.packed(parts)

    def _stream(self, number: int, stream: int) -> Parts:
        """Return the parts of a data attribute by its number in the file, 0: the one without a name."""
        file = self._volume.file(number)
        if not stream:
            return parts_of(file, DATA, b"")
        names = [a.name for a in file.attributes if a.type == DATA and a.id + 1 == stream]
        return parts_of(file, DATA, names[0]) if names else []

    def _is_deleted(self, tree: int) -> bool:
        if not 0 <= tree < len(self.info.trees):
            raise NotFound(f"tree {tree}")
        return self.info.trees[tree].deleted

    def _number(self, tree: int, inum: int) -> int:
        return self._deleted.record(inum) if self._is_deleted(tree) else inum

    def _entries(self, inum: int) -> Iterator[Entry | str]:
        file = self._volume.file(inum)
        if file.state.flags & (DIRECTORY | IN_USE) != DIRECTORY | IN_USE:
            raise NotFound(f"MFT record {inum} is no directory")
        try:
            index = Index(self._volume, file)
        except EvidenceError as why:
            yield f"directory {inum}: {why.message}"
            return
        described = self._describer.entries
        for name in index.names():
            if isinstance(name, str):
                yield f"directory {inum}: {name}"
            elif name.name not in {b".", b".."}:
                try:
                    found = described(name.number, name.name, name.sequence)
                except EvidenceError as why:
                    kind = Kind.DIR if name.is_directory else Kind.REG
                    attr = Attr(kind=kind, inum=name.number, nlink=0, damaged=why.message)
                    found = [Entry(name.name, attr)]
                yield from found
