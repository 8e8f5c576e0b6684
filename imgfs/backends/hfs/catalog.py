"""The catalog of HFS+: names, and what its records say of files and folders.

Source: Apple Technical Note TN1150: Catalog File, HFS Plus Names, HFS Plus Permissions, Hard Links;
the case folding of names is approximated, so a search that fails is repeated as a scan.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any, Final

import msgspec

from imgfs.backends._bsdflags import COMPRESSED
from imgfs.backends.hfs.btree import BTree
from imgfs.backends.hfs.volume import Fork, fork_at
from imgfs.errors import NotFound
from imgfs.model import Attr, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends.hfs.btree import Record
    from imgfs.backends.hfs.volume import Rows, Volume

ROOT: Final = 2
FOLDER, FILE, FOLDER_THREAD, FILE_THREAD = 1, 2, 3, 4
_ITEMS: Final = frozenset((FOLDER, FILE))
_THREADS: Final = frozenset((FOLDER_THREAD, FILE_THREAD))
_LENGTHS: Final = {FOLDER: 88, FILE: 248, FOLDER_THREAD: 10, FILE_THREAD: 10}
_HEAD: Final = struct.Struct(">HHII5I")  # type, flags, valence, number, five dates
_PERMISSIONS: Final = struct.Struct(">IIBBHI")  # owner, group, admin flags, owner flags, mode, special
_EPOCH: Final = 2_082_844_800  # seconds from 1904 to 1970
_HAS_ATTRIBUTES: Final = 0x04  # of the record's flags
_BINARY: Final = 0xBC  # names of this tree compare without folding
_FILE_LINKS: Final = "\0\0\0\0HFS+ Private Data".encode("utf-16-be")
_FOLDER_LINKS: Final = ".HFS+ Private Directory Data\r".encode("utf-16-be")
_LINKS: Final = {b"hlnkhfs+": (_FILE_LINKS, "iNode"), b"fdrpMACS": (_FOLDER_LINKS, "dir_")}
_SWAP: Final = str.maketrans("/:", ":/")
_KINDS: Final = {1: Kind.FIFO, 2: Kind.CHR, 6: Kind.BLK, 10: Kind.LNK, 12: Kind.SOCK}


class Item(msgspec.Struct, frozen=True):
    """A file or folder.

    ``extra``: the attributes tree has more of it; ``finder``: what the Finder keeps; ``flags``: of 4.4BSD.
    """

    attr: Attr
    data: Fork
    resource: Fork
    compressed: bool = False
    extra: bool = False
    finder: bytes = b""
    flags: int = 0


_NONE: Final = Fork(0, 0, ())
_EMPTY: Final = bytes(80)  # a fork of which nothing is stored


class Catalog:
    """The catalog tree of one volume."""

    def __init__(self, reader: Reader, rows: Rows, fork: Fork, volume: Volume) -> None:
        self._block, self._linux = volume.block, volume.linux
        self._tree = BTree(reader, rows, fork.size, "catalog", self._key)
        self._binary = volume.extended and self._tree.compare == _BINARY
        self._private: dict[bytes, int] = {}

    def label(self) -> str:
        """Return the name in the first key: the root folder's, whose parent is 1."""
        first = next(self._tree.first(), None)
        if first is None or isinstance(first, str):
            return ""
        parent, name = parse_key(first)
        return name.decode("utf-16-be", "replace") if parent == 1 else ""

    def thread(self, number: int) -> tuple[int, int, bytes]:
        """Return the type, parent and stored name that the thread record of a number gives.

        Raises:
            NotFound: there is none.
            EvidenceError: the way to it is damaged.
        """
        record = next(self._tree.seek((number, b"")), None)
        if record is not None and not isinstance(record, str) and parse_key(record) == (number, b""):
            node, _, at, stop = record
            kind = int.from_bytes(node[at : at + 2], "big")
            length = int.from_bytes(node[at + 8 : at + 10], "big")
            if kind in _THREADS and at + 10 + 2 * length <= stop:
                parent = int.from_bytes(node[at + 4 : at + 8], "big")
                return kind, parent, node[at + 10 : at + 10 + 2 * length]
        raise NotFound(f"catalog number {number} has no thread record")

    def item(self, number: int) -> Item:
        """Return what the catalog says of a number.

        Raises:
            NotFound: nothing.
            EvidenceError: the tree is damaged on the way.
        """
        try:
            _, parent, name = self.thread(number)
        except NotFound:
            records = self._tree.first()  # old files have no thread record
        else:
            found = self._find(parent, name)
            if found is not None and _number(found) == number:
                return self.parse(found)
            records = self._within(parent)
        for record in records:
            if not isinstance(record, str) and _number(record) == number:
                return self.parse(record)
        raise NotFound(f"catalog number {number}")

    def children(self, number: int) -> Iterator[tuple[bytes, Item] | str]:
        """Yield names and items of a folder, hard links resolved; strings say what is damaged."""
        for record in self._within(number):
            if isinstance(record, str):
                yield record
                continue
            node, _, at, stop = record
            kind = int.from_bytes(node[at : at + 2], "big")
            if kind in _THREADS:
                continue
            if _number(record) is None:
                yield f"folder {number}: a record of type {kind} with {stop - at} bytes"
                continue
            parent, name = parse_key(record)
            yield shown(name), self._resolved(record, kind, parent)

    def parse(self, record: Record) -> Item:
        """Return what a file or folder record says; the caller knows that it is one."""
        node, _, at, _ = record
        kind, flags, _, number, born, modified, changed, accessed, _ = _HEAD.unpack_from(node, at)
        uid, gid, admin_flags, owner_flags, mode, special = _PERMISSIONS.unpack_from(node, at + 32)
        shape = Kind.DIR if kind == FOLDER else _KINDS.get(mode >> 12, Kind.REG)
        data = resource = _NONE
        if kind == FILE:
            data = fork_at(node, at + 88)
            resource = _NONE if node[at + 168 : at + 248] == _EMPTY else fork_at(node, at + 168)
        device = shape in {Kind.CHR, Kind.BLK}
        attr = Attr(
            kind=shape,
            inum=number,
            size=data.size,
            allocated=data.blocks * self._block,
            mode=mode & 0o7777,
            uid=uid,
            gid=gid,
            m_ns=_time(modified),
            a_ns=_time(accessed),
            c_ns=_time(changed),
            b_ns=_time(born),
            rdev=self._device(special) if device else 0,
        )
        compressed = shape == Kind.REG and bool(owner_flags & COMPRESSED)
        extra = bool(flags & _HAS_ATTRIBUTES)
        finder, bsd = node[at + 48 : at + 80], admin_flags << 16 | owner_flags
        return Item(attr, data, resource, compressed, extra, finder, bsd)

    def _device(self, special: int) -> int:
        """Return a device number. Linux keeps its own form of 12 and 20 bits, not Apple's of 8 and 24."""
        minor = 20 if self._linux else 24
        return os.makedev(special >> minor, special & (1 << minor) - 1)

    def linked(self, item: Item) -> Item:
        """Return the item with the number of links, if it is where hard links lead."""
        try:
            _, parent, name = self.thread(item.attr.inum)
            if parent not in {self._folder(_FILE_LINKS), self._folder(_FOLDER_LINKS)} - {0}:
                return item
            record = self._find(parent, name)
        except NotFound:
            return item
        return item if record is None else self._counted(record)

    def _counted(self, record: Record) -> Item:
        item = self.parse(record)
        (links,) = struct.unpack_from(">I", record[0], record[2] + 44)
        return _with(item, nlink=max(links, 1))

    def _resolved(self, record: Record, kind: int, parent: int) -> Item:
        node, _, at, _ = record
        item = self.parse(record)
        link = _LINKS.get(node[at + 48 : at + 56]) if kind == FILE else None
        if link is None:
            private = parent > ROOT and parent in (self._folder(_FILE_LINKS), self._folder(_FOLDER_LINKS))
            return self._counted(record) if private else item
        folder, prefix = link
        (target,) = struct.unpack_from(">I", node, at + 44)
        name = f"{prefix}{target}".encode("utf-16-be")
        found = self._find(self._folder(folder), name)
        if found is None or _number(found) is None:
            return _with(item, damaged=f"hard link to {prefix}{target}, which is missing")
        return self._counted(found)

    def _folder(self, name: bytes) -> int:
        if name not in self._private:
            record = self._find(ROOT, name)
            number = _number(record) if record is not None and _type(record) == FOLDER else None
            self._private[name] = number or 0
        return self._private[name]

    def _find(self, parent: int, name: bytes) -> Record | None:
        """Return the record of a name, None: it is not where the tree should have it."""
        target = (parent, self._folded(name))
        for record in self._tree.seek(target):
            if isinstance(record, str):
                return None
            key = parse_key(record)
            if key == (parent, name):
                return record
            if (key[0], self._folded(key[1])) > target:
                return None
        return None

    def _within(self, number: int) -> Iterator[Record | str]:
        if number >> 32:
            return
        parent = number.to_bytes(4, "big")
        for record in self._tree.seek((number, b"")):
            if not isinstance(record, str):
                node, start, _, _ = record
                if node[start + 2 : start + 6] != parent:
                    return
            yield record

    def _key(self, node: bytes, start: int, body: int) -> tuple[int, bytes]:
        parent, name = parse_key((node, start, body, body))
        return parent, self._folded(name)

    def _folded(self, name: bytes) -> bytes:
        if not name or self._binary:
            return name
        text = name.decode("utf-16-be", "surrogatepass").lower().replace("\0", "\uffff")
        return text.encode("utf-16-be", "surrogatepass")


def parse_key(record: Record) -> tuple[int, bytes]:
    """Return the parent and the stored name of a key, the name cut where the key ends."""
    node, start, body, _ = record
    length = int.from_bytes(node[start + 6 : start + 8], "big")
    return int.from_bytes(node[start + 2 : start + 6], "big"), node[
        start + 8 : min(start + 8 + 2 * length, start + 8 + (body - start - 8 & ~1))
    ]


def shown(name: bytes) -> bytes:
    """Return a stored name as POSIX has it: Apple shows the colon for the slash and the other way round."""
    text = name.decode("utf-16-be", "surrogatepass").translate(_SWAP)
    return text.encode("utf-8", "surrogatepass")


def _type(record: Record) -> int:
    return int.from_bytes(record[0][record[2] : record[2] + 2], "big")


def _number(record: Record) -> int | None:
    """Return the catalog number of a file or folder record, None: it is neither, or too short."""
    node, _, at, stop = record
    kind = int.from_bytes(node[at : at + 2], "big")
    if kind not in _ITEMS or at + _LENGTHS[kind] > stop:
        return None
    return int.from_bytes(node[at + 8 : at + 12], "big")


def _time(seconds: int) -> int | None:
    return (seconds - _EPOCH) * 10**9 if seconds else None


def _with(item: Item, **changes: object) -> Item:
    attr = with_fields(item.attr, **changes)
    return msgspec.structs.replace(item, attr=attr)


def with_fields(attr: Attr, **changes: object) -> Attr:
    """Return attributes with some of them changed."""
    fields: dict[str, Any] = {name: getattr(attr, name) for name in attr.__struct_fields__}
    return Attr(**fields | changes)
