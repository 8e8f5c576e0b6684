"""Subvolumes and snapshots: what the root tree says of them, and what they are called.

Source: btrfs.readthedocs.io, "On-disk format" (Root item, Root ref, Dir item), btrfs-subvolume(8).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.backends.btrfs.nodes import Gap
from imgfs.backends.btrfs.superblock import Root
from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from imgfs.backends.btrfs.nodes import Nodes

TOP: Final = 5  # the tree that is there without anybody making a subvolume
FIRST: Final = 256  # number of the first subvolume, and of the root directory in each
ROOT_ITEM: Final = 132
INODE_REF, INODE_EXTREF, DIR_ITEM, ROOT_BACKREF = 12, 13, 84, 144
_LAST: Final = (1 << 64) - 256
_DIRECTORY: Final = 6  # where the root tree names the default
_ITEM: Final = struct.Struct("<160x7QI17xBB")  # up to level
_MORE: Final = struct.Struct("<Q16s16s16s4QqIqIqIqI")
_OLD: Final = 239  # bytes of an item before there were uuids
_REF: Final = struct.Struct("<QQH")
_DIR: Final = struct.Struct("<QBQQHHB")
_MOST: Final = 4000  # trees of one file system that become directories
_WORDS: Final = 400_000  # characters of their names: the daemon takes a million of all texts
_NAME: Final = 1000  # bytes of a name: the kernel shows 1,024
_DEEPEST: Final = 256  # directories above a subvolume
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subvolume:
    """A tree of files. ``parent`` is the uuid of what it is a snapshot of, empty: of nothing."""

    number: int
    root: Root
    path: bytes
    read_only: bool = False
    uuid: str = ""
    parent: str = ""
    received: str = ""
    created: str = ""

    @property
    def name(self) -> str:
        """Return the path as text, root for the top tree."""
        return self.path.decode("utf-8", "backslashreplace") or "root"

    def facts(self, *, default: bool) -> dict[bytes, bytes]:
        """Return attributes for its root directory."""
        words = [("id", str(self.number)), ("path", ""), ("uuid", self.uuid), ("parent-uuid", self.parent)]
        words += [("received-uuid", self.received), ("created", self.created)]
        words += [("read-only", "1" if self.read_only else ""), ("default", "1" if default else "")]
        found = {f"user.imgfs.subvolume.{name}".encode(): value.encode() for name, value in words if value}
        if self.path:
            found[b"user.imgfs.subvolume.path"] = self.path
        return found

    def said(self) -> str:
        """Return a line for the notes."""
        parts = [f"subvolume {self.number} {self.name}"]
        if self.parent:
            parts.append(f"a snapshot of {self.parent}")
        if self.read_only:
            parts.append("read-only")
        if self.created:
            parts.append(f"created {self.created}")
        return ", ".join(parts + ([f"uuid {self.uuid}"] if self.uuid else []))


class Roots:
    """What one walk of the root tree finds."""

    def __init__(self, nodes: Nodes, root: Root) -> None:
        self.notes: list[str] = []
        self.trees: dict[int, tuple[Root, bytes]] = {}
        self.default = TOP
        self._above: dict[int, tuple[int, int, bytes]] = {}
        self._nodes = nodes
        for item in nodes.items(root, (0, 0, 0)):
            if isinstance(item, Gap):
                self.notes.append(f"root tree: {item.why}: trees may be missing")
                continue
            number, kind, offset = item.key
            if kind == ROOT_ITEM:
                self._root(number, item.data)
            elif kind == ROOT_BACKREF and FIRST <= number < _LAST and number not in self._above:
                if (found := _named(item.data)) is not None:
                    self._above[number] = (offset, *found)
            elif kind == DIR_ITEM and number == _DIRECTORY:
                self._default(item.data)

    def _root(self, number: int, data: bytes) -> None:
        if len(data) < _OLD:
            self.notes.append(f"tree {number}: an item of {len(data)} bytes")
            return
        generation, _, at, _, _, _, _, _, _, level = _ITEM.unpack_from(data)
        self.trees[number] = (Root(at=at, level=level, generation=generation), data)

    def _default(self, data: bytes) -> None:
        if len(data) >= _DIR.size and data[_DIR.size : _DIR.size + 7] == b"default":
            self.default = _DIR.unpack_from(data)[0]

    def subvolumes(self) -> list[Subvolume]:
        """Return the top tree and those below it, by number."""
        found: list[Subvolume] = []
        for number, (root, data) in sorted(self.trees.items()):
            if number != TOP and not FIRST <= number < _LAST:
                continue
            refs = _ITEM.unpack_from(data)[7]
            if number != TOP and not refs:
                self.notes.append(f"subvolume {number}: deleted, being cleared away")
                continue
            if len(found) >= _MOST:
                self.notes.append(f"more than {_MOST} subvolumes")
                break
            found.append(self._subvolume(number, root, data))
        return found

    def names(self, subvolumes: list[Subvolume]) -> list[str]:
        """Return what the trees of subvolumes are called: beyond so many words by number."""
        found, room = [], _WORDS
        for one in subvolumes:
            room -= len(one.name)
            shown = len(one.name.encode()) + 2 * one.name.count("/")  # as it is escaped
            found.append(one.name if room > 0 and shown <= _NAME else f"subvolume-{one.number}")
        if room <= 0:
            self.notes.append("more names of subvolumes than can be shown: later ones are numbers")
        return found

    def _subvolume(self, number: int, root: Root, data: bytes) -> Subvolume:
        flags = _ITEM.unpack_from(data)[6]
        path = b"" if number == TOP else self._path(number)
        if len(data) < _OLD + _MORE.size or _MORE.unpack_from(data, _OLD)[0] != root.generation:
            return Subvolume(number=number, root=root, path=path, read_only=bool(flags & 1))
        _, uuid, parent, received, _, _, _, _, _, _, made, _, _, _, _, _ = _MORE.unpack_from(data, _OLD)
        return Subvolume(
            number=number,
            root=root,
            path=path,
            read_only=bool(flags & 1),
            uuid=_uuid(uuid),
            parent=_uuid(parent),
            received=_uuid(received),
            created=_moment(made),
        )

    def _path(self, number: int) -> bytes:
        """Return the path of a subvolume from the top tree, as far as it is known."""
        parts: list[bytes] = []
        seen: set[int] = set()
        while number != TOP:
            above = self._above.get(number)
            if above is None or number in seen or above[0] not in self.trees:
                return b"/".join([b"subvolume-%d" % number, *reversed(parts)])
            seen.add(number)
            parent, directory, name = above
            parts.append(name)
            try:
                parts += self._directories(self.trees[parent][0], directory)
            except EvidenceError:
                parts.append(b"directory-%d" % directory)
            number = parent
        return b"/".join(reversed(parts))

    def _directories(self, root: Root, directory: int) -> list[bytes]:
        """Return the names of a directory and of those above it, innermost first."""
        names: list[bytes] = []
        while directory != FIRST:
            item = next(
                iter(self._nodes.items(root, (directory, INODE_REF, 0), (directory, INODE_REF + 1, 0))), None
            )
            if item is None or isinstance(item, Gap) or len(names) >= _DEEPEST:
                return [*names, b"directory-%d" % directory]
            data = item.data
            length = int.from_bytes(data[8:10], "little")
            names.append(data[10 : 10 + length])
            directory = item.key[2]
        return names


def _named(data: bytes) -> tuple[int, bytes] | None:
    if len(data) < _REF.size:
        return None
    directory, _, length = _REF.unpack_from(data)
    return directory, data[_REF.size : _REF.size + length]


def _uuid(raw: bytes) -> str:
    return str(UUID(bytes=raw)) if any(raw) else ""


def _moment(seconds: int) -> str:
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return ""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else ""
