"""The states of volumes that become trees: each volume as it is, and as each snapshot has it.

Source: Apple File System Reference (2020-06-22), "Snapshot Metadata", "Object Maps": the map of a volume has
the objects of all its snapshots, so that a state is the number of a transaction.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Final

from imgfs.backends.apfs.btree import LAST, PAIRS, RECORDS, Tree
from imgfs.backends.apfs.catalog import Catalog
from imgfs.backends.apfs.keybag import deciphered
from imgfs.backends.apfs.objects import FEXT_TREE, FSTREE, PHYSICAL, SNAPMETATREE
from imgfs.backends.apfs.omap import ObjectMap
from imgfs.backends.apfs.volume import moment, read_older, read_seal
from imgfs.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgfs.backends.apfs.btree import Place
    from imgfs.backends.apfs.container import Container
    from imgfs.backends.apfs.volume import Volume
    from imgfs.model import Codec

_SNAPSHOT: Final = struct.Struct("<QQqqQIIH")
_METADATA: Final = 1  # the type of such a record
_MOST: Final = 4000  # snapshots of one volume
_SAID: Final = 100  # what cannot be read of their tree, in notes
_PENDING_DATALESS, _MERGING = 1, 2


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot, as the volume lists it. ``superblock`` is the block of its copy."""

    xid: int
    name: bytes
    superblock: int
    created: int
    changed: int
    flags: int

    @property
    def label(self) -> str:
        """Return its name as text; one without is called by its transaction."""
        return self.name.decode("utf-8", "backslashreplace") or str(self.xid)

    def facts(self) -> dict[bytes, bytes]:
        """Return attributes for its root directory."""
        flags = [("pending-dataless", _PENDING_DATALESS), ("merging", _MERGING)]
        words = [
            ("name", self.name.decode("utf-8", "backslashreplace")),
            ("transaction", str(self.xid)),
            ("created", moment(self.created)),
            ("changed", moment(self.changed)),
            ("flags", " ".join(name for name, bit in flags if self.flags & bit)),
        ]
        return {f"user.imgfs.snapshot.{name}".encode(): value.encode() for name, value in words if value}


class State:
    """One tree: a volume, or a snapshot of one. ``codec`` is the cipher of its data, None: it has none."""

    __slots__ = ("_catalog", "_container", "_number", "_volume", "codec", "seal", "snapshot")

    def __init__(
        self,
        container: Container,
        volume: Volume,
        snapshot: Snapshot | None,
        number: int,
        codec: Codec | None,
    ) -> None:
        """``number`` tells volumes apart whose nodes have different keys, from 1."""
        self._container = container
        self._volume = volume
        self._number = number
        self._catalog: Catalog | None = None
        self.snapshot = snapshot
        self.codec = codec
        self.seal = ""

    @property
    def catalog(self) -> Catalog:
        """Return the records, opened by the first look.

        Raises:
            EvidenceError: they cannot be read.
        """
        if self._catalog is None:
            self._catalog = self._opened()
        return self._catalog

    def _opened(self) -> Catalog:
        container, volume, xid = self._container, self._volume, self._container.head.xid
        omap = ObjectMap(container.blocks, container.nodes, volume.omap)
        if self.snapshot is not None:
            volume = read_older(container, self.snapshot.superblock)
            xid = self.snapshot.xid
            if volume.uuid != self._volume.uuid:
                raise Malformed(f"snapshot {self.snapshot.label}: its superblock is of another volume")
        place: Callable[[int], Place] = lambda oid: omap.place(oid, xid)  # noqa: E731  # one word for both trees
        nodes = container.nodes
        extents: Tree | None = None
        digest, seal = None, b""
        if volume.sealed:
            sealed = read_seal(container, omap, volume, xid)
            digest, seal, self.seal = sealed.digest, sealed.root, sealed.said
            virtual = not volume.extents_type & PHYSICAL
            extents = (
                Tree(nodes, volume.extents, FEXT_TREE, PAIRS, place)
                if virtual
                else Tree(nodes, volume.extents, FEXT_TREE, PAIRS)
            )
        tree = Tree(
            nodes,
            volume.root,
            FSTREE,
            RECORDS,
            place,
            cipher=self._number if self.codec is not None else 0,
            decrypt=partial(deciphered, self.codec, container.head.block) if self.codec is not None else None,
            digest=digest,
            seal=seal,
        )
        tree.root()
        return Catalog(tree, extents, hashed=volume.hashed)

    def facts(self) -> dict[bytes, bytes]:
        """Return attributes for the root directory."""
        found = self._volume.facts()
        if self.seal:
            found[b"user.imgfs.volume.seal"] = self.seal.encode()
        return found | (self.snapshot.facts() if self.snapshot else {})


def snapshots_of(container: Container, volume: Volume, notes: list[str]) -> list[Snapshot]:
    """Return the snapshots of a volume, oldest first."""
    if not volume.snapshots:
        return []
    found = sorted(islice(_listed(container, volume, notes), _MOST + 1), key=lambda one: one.xid)
    if len(found) > _MOST:
        notes.append(f"more than {_MOST} snapshots of {volume.label}")
    return found[:_MOST]


def _listed(container: Container, volume: Volume, notes: list[str]) -> Iterator[Snapshot]:
    tree = Tree(container.nodes, volume.snapshots, SNAPMETATREE, RECORDS)
    left = _SAID
    for found in tree.leaves(0, LAST):
        if isinstance(found, str):
            notes.append(f"snapshots of {volume.label}: {found}")
            left -= 1
            if not left:
                return
            continue
        node, low, high = found
        for row in range(low, high):
            key, value = node.keys[row], node.value(row)
            if key & 15 != _METADATA:
                continue
            if len(value) < _SNAPSHOT.size:
                notes.append(f"snapshots of {volume.label}: a record of {len(value)} bytes")
                continue
            _, superblock, created, changed, _, _, flags, length = _SNAPSHOT.unpack_from(value)
            name = value[_SNAPSHOT.size : _SNAPSHOT.size + length].split(b"\0")[0]
            yield Snapshot(key >> 4, name, superblock, created, changed, flags)
