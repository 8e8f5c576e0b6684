"""NTFS as ``Files``: the live tree from MFT and indexes, all else and every oddity through TSK."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from imgfs.backends._ntfs_index import Index
from imgfs.backends._tsk import mapped, open_file
from imgfs.backends._tsk_list import Listings
from imgfs.errors import EvidenceError, NotFound
from imgfs.model import Attr, Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._ntfs_describe import Describer
    from imgfs.backends._ntfs_index import Name
    from imgfs.backends._tsk_files import TskFiles
    from imgfs.backends._tsk_list import Entries
    from imgfs.model import Layout, Page

_STALE: Final = "the name refers to an earlier file of this MFT record"


def references(reader: Reader, fs: Any, cluster: int, volume: int, inum: int) -> frozenset[int]:
    """Return what a directory refers to, each a number with its sequence above bit 48.

    Raises:
        EvidenceError: no such directory, or no index.
    """
    index = Index(reader, open_file(fs, inum), cluster, volume)
    return frozenset(name.sequence << 48 | name.number for name in index.names() if not isinstance(name, str))


class NtfsFiles:
    """Live tree and deleted entries of one volume; see ``backends.Files``."""

    def __init__(self, reader: Reader, fs: Any, tsk: TskFiles, describer: Describer, volume: int) -> None:
        self._reader = reader
        self._fs = fs
        self._tsk = tsk
        self._describer = describer
        self._volume = volume
        self._live = Listings(self._entries)
        self.info = tsk.info

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if tree:
            return self._tsk.list(tree, inum, cursor, limit)
        with mapped(f"directory {inum}"):
            return self._live.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file or of one of its streams."""
        if not tree:
            for entry in self._described(inum, b"", 0):
                if entry.stream == stream:
                    return entry.attr
        return self._tsk.stat(tree, inum, stream)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a stream lie."""
        found = None if tree else self._describer.layout(inum, stream)
        return self._tsk.layout(tree, inum, stream) if found is None else (found,)

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a reparse point."""
        return self._tsk.link(tree, inum)

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return extended attributes."""
        return self._tsk.xattrs(tree, inum)

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of a stream that only TSK can decode."""
        return self._tsk.read(tree, inum, stream, offset, length)

    def _described(self, inum: int, name: bytes, sequence: int) -> Entries:
        return self._describer.entries(inum, name, sequence) or []

    def _entries(self, inum: int) -> Iterator[Entry | str]:
        file = open_file(self._fs, inum)
        if not self._tsk.is_directory(file):
            raise NotFound(f"MFT record {inum} is no directory")
        try:
            index = Index(self._reader, file, self.info.block, self._volume)
        except EvidenceError as why:
            yield f"directory {inum}: {why.message}"
            return
        described = self._describer.entries
        for name in index.names():
            if isinstance(name, str):
                yield f"directory {inum}: {name}"
            elif name.name not in {b".", b".."}:
                yield from described(name.number, name.name, name.sequence) or self._odd(name)

    def _odd(self, name: Name) -> Entries:
        """Return the entries of a name whose record is damaged, stale, or spread over several."""
        kind = Kind.DIR if name.is_directory else Kind.REG
        attr = Attr(kind=kind, inum=name.number, nlink=0, damaged=_STALE)
        try:
            found = self._tsk.described(name.number, name.name)
        except (EvidenceError, NotFound) as why:
            return [Entry(name.name, Attr(kind=kind, inum=name.number, nlink=0, damaged=why.message))]
        if name.sequence and found[0].attr.generation != name.sequence:
            return [Entry(name.name, attr)]
        return found
