"""romfs: files one behind the other, each behind its header.

Source: Linux Documentation/filesystems/romfs.rst.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._layouts import linear
from imgfs.backends._listings import Listings
from imgfs.errors import EvidenceError, Malformed, NotFound, NotMine
from imgfs.limits import MAX_LINK
from imgfs.model import LOST, Attr, Entry, FilesInfo, Inline, Kind, TreeInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader
    from imgfs.model import Layout, Page

_MAGIC: Final = b"-rom1fs-"
_HEAD: Final = struct.Struct(">IIII")
_LONGEST: Final = 256  # bytes of a name, with the zeros behind it
_DEPTH: Final = 16  # hard links to hard links
_SUMMED: Final = 512  # bytes of the superblock that its checksum is of
_LINKED, _FOLDER = 0, 1
# Without flag and with: what the kernel's documentation calls the permission bits.
_TYPES: Final = {
    1: (Kind.DIR, 0o644),
    2: (Kind.REG, 0o644),
    3: (Kind.LNK, 0o777),
    4: (Kind.BLK, 0o600),
    5: (Kind.CHR, 0o600),
    6: (Kind.SOCK, 0o644),
    7: (Kind.FIFO, 0o644),
}
_EXECUTABLE: Final = 8
_DEVICES: Final = frozenset((Kind.CHR, Kind.BLK))
_EMPTY: Final = (Inline(b""),)
_NAMES_MAX: Final = 3_000_000  # of one directory: two thirds of a worker's memory


class _File(NamedTuple):
    following: int
    type: int
    executable: bool
    info: int
    size: int
    name: bytes
    data: int
    damaged: str


class RomFiles:
    """One file system; see ``backends.Files``. A file goes by the byte its header lies at."""

    def __init__(self, reader: Reader) -> None:
        """Read the superblock.

        Raises:
            NotMine: there is none.
            Malformed: it has no root directory.
        """
        if reader.size < 64 or reader.read(0, 8) != _MAGIC:
            raise NotMine("romfs")
        self._reader = reader
        self._size = int.from_bytes(reader.read(8, 4), "big")
        label, root = self._text(16)
        notes = []
        if self._size > reader.size:
            notes.append(f"the volume has {reader.size} bytes, the file system {self._size}")
        elif _sum(reader.read(0, min(_SUMMED, self._size))):
            notes.append("the checksum of the superblock is wrong")
        if self._file(root).type != _FOLDER:
            raise Malformed("romfs: the root is no directory", start=root, stop=root + _HEAD.size)
        self._listings = Listings(self._names)
        self.info = FilesInfo(
            type="romfs",
            trees=(TreeInfo("root", root),),
            block=16,
            size=self._size,
            label=label.decode("utf-8", "replace"),
            notes=tuple(notes),
        )

    def list(self, tree: int, inum: int, cursor: int, limit: int) -> Page:
        """Return a page of a directory."""
        if tree:
            raise NotFound(f"tree {tree}")
        return self._listings.page(inum, cursor, limit)

    def stat(self, tree: int, inum: int, stream: int) -> Attr:
        """Return the attributes of a file."""
        return _attr(self._found(tree, inum, stream), inum)

    def layout(self, tree: int, inum: int, stream: int) -> tuple[Layout, ...]:
        """Say where the bytes of a file lie."""
        return self._layout(self._found(tree, inum, stream))

    def link(self, tree: int, inum: int) -> bytes:
        """Return the target of a symbolic link."""
        file = self._found(tree, inum)
        if _TYPES[file.type][0] is not Kind.LNK:
            raise NotFound(f"inode {inum} is no symbolic link")
        if file.size > MAX_LINK:
            raise Malformed(f"inode {inum}: link target of {file.size} bytes")
        return self._reader.read(file.data, file.size)

    def xattrs(self, tree: int, inum: int) -> dict[bytes, bytes]:
        """Return nothing: there are none."""
        self._found(tree, inum)
        return {}

    def read(self, tree: int, inum: int, stream: int, offset: int, length: int) -> bytes:
        """Refuse: there are no foreign bytes."""
        raise Malformed(f"inode {inum} of {tree}, stream {stream}: no bytes [{offset}, {offset + length})")

    def _found(self, tree: int, inum: int, stream: int = 0) -> _File:
        if tree or stream or inum % 16 or not 16 < inum <= self._reader.size - 2 * _HEAD.size:
            raise NotFound(f"inode {inum} of tree {tree}, stream {stream}")
        file = self._file(inum)
        if file.type == _LINKED:
            raise NotFound(f"inode {inum} is a name of another one")
        return file

    def _text(self, at: int) -> tuple[bytes, int]:
        """Return the text at a byte, and the byte behind the zeros that fill it up to 16."""
        raw = self._reader.read(at, max(min(_LONGEST, self._reader.size - at), 1))
        end = raw.find(b"\0")
        if end < 0:
            raise Malformed("a name without an end", start=at, stop=at + len(raw))
        return raw[:end], at + (end + 16 & ~15)

    def _file(self, at: int) -> _File:
        """Return a header, with what is wrong with its checksum."""
        word, info, size, _ = _HEAD.unpack(self._reader.read(at, _HEAD.size))
        name, data = self._text(at + _HEAD.size)
        damaged = ""
        if _sum(self._reader.read(at, data - at)):
            damaged = f"the checksum of the header at {at} is wrong"
        return _File(word & ~15, word & 7, bool(word & _EXECUTABLE), info, size, name, data, damaged)

    def _layout(self, file: _File) -> tuple[Layout, ...]:
        if _TYPES[file.type][0] is not Kind.REG or not file.size:
            return _EMPTY
        inside = max(min(file.size, self._reader.size - file.data), 0)
        rows = [(0, inside, file.data)] if inside else []
        if inside < file.size:
            rows.append((inside, file.size - inside, LOST))
        return (linear(file.size, rows),)

    def _names(self, inum: int) -> Iterator[Entry | str]:
        folder = self._found(0, inum)
        if folder.type != _FOLDER:
            raise NotFound(f"inode {inum} is no directory")
        at, seen = folder.info & ~15, set[int]()
        while at:
            if at in seen or len(seen) >= _NAMES_MAX:
                yield f"directory {inum}: the header at {at} follows itself"
                return
            seen.add(at)
            try:
                file = self._file(at)
            except EvidenceError as why:
                yield f"directory {inum}: {why.message}"
                return
            if file.name not in {b".", b".."}:
                yield self._entry(at, file)
            at = file.following

    def _entry(self, at: int, file: _File) -> Entry:
        name = file.name
        for _ in range(_DEPTH):
            if file.type != _LINKED:
                break
            at = file.info & ~15
            try:
                file = self._file(at)
            except EvidenceError as why:
                return Entry(name, Attr(kind=Kind.REG, inum=at, damaged=why.message))
        else:
            return Entry(name, Attr(kind=Kind.REG, inum=at, damaged="a hard link without an end"))
        return Entry(name, _attr(file, at), 0, self._layout(file) if file.type == 2 else None)


def _attr(file: _File, inum: int) -> Attr:
    kind, mode = _TYPES[file.type]
    device = kind in _DEVICES
    return Attr(
        kind=kind,
        inum=inum,
        size=file.size if kind in {Kind.REG, Kind.LNK} else 0,
        allocated=-(-file.size // 512) * 512 if kind is Kind.REG else 0,
        mode=mode | (0o111 if file.executable else 0),
        rdev=(file.info >> 16 & 0xFFF) << 8 | file.info & 0xFF | (file.info & 0xFF00) << 12 if device else 0,
        damaged=file.damaged,
    )


def _sum(data: bytes) -> int:
    """Return the sum of words that is zero where nothing was changed."""
    words: tuple[int, ...] = struct.unpack(f">{len(data) // 4}I", data[: len(data) & ~3])
    return sum(words) & 0xFFFF_FFFF


def open_romfs(reader: Reader, _options: Options) -> RomFiles:
    """Open a file system.

    Raises:
        NotMine: no superblock.
        Malformed: no root directory.
    """
    return RomFiles(reader)


BACKEND = Backend(
    name="romfs",
    title="romfs",
    role=Role.FILES,
    rank=35,
    signatures=(Signature(0, _MAGIC),),
    open=open_romfs,
    supports="hard links, devices",
    truth=("peer", "corpus"),
)
