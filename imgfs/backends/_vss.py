"""Volume shadow copies: the catalog, and the blocks of a store.

Source: Joachim Metz, Volume Shadow Snapshot (VSS) format, "Volume header" to "Store bitmap".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.errors import EvidenceError, Malformed, NotMine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

MAGIC: Final = UUID("3808876b-c176-4e48-b7ae-04046e6cc752").bytes_le
HEADER_AT: Final = 0x1E00
BLOCK: Final = 0x4000
SECTOR: Final = 512

FORWARDER, OVERLAY, UNUSED = 1, 2, 4  # flags of a descriptor

_HEADER: Final = struct.Struct("<16sII5Q")  # the first 64 bytes of any structure
_VOLUME, _CATALOG, _LIST, _STORE, _BITMAP = 1, 2, 3, 4, 6  # types of records
_FIRST: Final = 128  # where entries begin in a block
_ENTRY: Final = 128
_TAKEN: Final = struct.Struct("<QQ16sQQQ")
_KEPT: Final = struct.Struct("<8xQ16sQQQQQQ")
_DESCRIPTOR: Final = struct.Struct("<QQQII")
_EPOCH: Final = 116_444_736_000_000_000  # 1970 in units of 100 ns since 1601
_CATALOG_MOST: Final = 1024  # blocks: a hundred thousand entries
_DESCRIPTORS_MOST: Final = 3_000_000  # of one chain of stores: 46 GiB of blocks, in a worker's memory
_LISTS_MOST: Final = 4 * _DESCRIPTORS_MOST // 508  # blocks of one store's list, which may be filled in part
_BITMAP_MOST: Final = 256 << 20  # bytes: of a volume of 32 TiB


@dataclass(slots=True, kw_only=True)
class Store:
    """A shadow copy as the catalog has it. Units: bytes from the start of the volume; 0: it has none.

    ``kept`` False: the catalog does not say where its store is.
    """

    id: str
    size: int
    sequence: int
    created: int
    kept: bool = False
    blocks_at: int = 0
    header_at: int = 0
    bitmap_at: int = 0
    before_at: int = 0


@dataclass(slots=True)
class Descriptors:
    """What a store changes: where the content of a block was put when it was overwritten.

    ``blocks`` maps an offset of the volume to (relative offset, offset, forwarder). ``overlays`` maps one to
    (offset, bits): sectors that were put elsewhere. ``moved`` are the offsets that forwarders lead to.
    """

    blocks: dict[int, tuple[int, int, bool]] = field(default_factory=dict)
    overlays: dict[int, tuple[int, int]] = field(default_factory=dict)
    moved: dict[int, int] = field(default_factory=dict)
    read: int = 0

    def take(self, original: int, relative: int, offset: int, flags: int, bits: int) -> None:
        """Take the next descriptor of the list. Source: "Successive block descriptors"."""
        if flags & UNUSED:
            return
        forwarder = bool(flags & FORWARDER)
        if flags & OVERLAY:
            held = self.overlays.get(original)
            self.overlays[original] = (held[0], held[1] | bits) if held else (offset, bits)
        else:
            origin = self.moved.pop(original, None)
            if origin is not None:
                original = origin
                if forwarder and original == relative:
                    return
            self.blocks[original] = (relative, offset, forwarder)
        if forwarder:
            self.moved[relative] = original


def stores(reader: Reader, said: list[str]) -> list[Store]:
    """Return the shadow copies, oldest first.

    Raises:
        NotMine: this volume has no header of theirs.
        Malformed: the catalog cannot be read.
    """
    if reader.size < HEADER_AT + SECTOR:
        raise NotMine("vss")
    raw = reader.read(HEADER_AT, SECTOR)
    magic, version, kind, here = struct.unpack_from("<16sIIQ", raw)
    if magic != MAGIC or kind != _VOLUME or here != HEADER_AT:
        raise NotMine("vss")
    if version not in (1, 2):
        said.append(f"version {version} is not known: read as version 2")
    (at,) = struct.unpack_from("<Q", raw, 48)
    found: dict[bytes, Store] = {}
    kept: dict[bytes, tuple[int, int, int, int]] = {}
    for data in _chain(reader, at, _CATALOG, _CATALOG_MOST, "catalog", said) if at else ():
        for place in range(_FIRST, BLOCK, _ENTRY):
            (entry,) = struct.unpack_from("<Q", data, place)
            if entry == 2:
                _, size, identity, sequence, _, created = _TAKEN.unpack_from(data, place)
                store = Store(id=str(UUID(bytes_le=identity)), size=size, sequence=sequence, created=created)
                found.setdefault(identity, store)
            elif entry == 3:
                blocks, identity, header, _, current, _, _, before = _KEPT.unpack_from(data, place)
                kept.setdefault(identity, (blocks, header, current, before))
    for identity, store in found.items():
        if identity in kept:
            store.kept = True
            store.blocks_at, store.header_at, store.bitmap_at, store.before_at = kept[identity]
    return sorted(found.values(), key=lambda one: (one.created, one.sequence))


def created_ns(store: Store) -> int | None:
    """Return when a shadow copy was taken, as in ``Attr``."""
    when = (store.created - _EPOCH) * 100
    return when if store.created and -(1 << 63) <= when < 1 << 63 else None


def copy_id(reader: Reader, store: Store) -> str:
    """Return the identifier of a shadow copy, which its store holds; else that of the store."""
    try:
        if store.kept:
            data = _block(reader, store.header_at, _STORE)
            return str(UUID(bytes_le=data[_FIRST + 16 : _FIRST + 32]))
    except EvidenceError:
        pass
    return store.id


def descriptors(reader: Reader, store: Store, room: int) -> Descriptors:
    """Return what a store changes; ``room``: so many descriptors may there be.

    Raises:
        Malformed: the list cannot be read to its end: what it lacks would be taken from a later state.
    """
    found = Descriptors()
    for data in _chain(reader, store.blocks_at, _LIST, _LISTS_MOST, "list of blocks", None):
        for original, relative, offset, flags, bits in _DESCRIPTOR.iter_unpack(data[_FIRST:]):
            if not (original or relative or offset or flags or bits):
                continue
            found.read += 1
            if found.read > room:
                raise Malformed(f"more than {_DESCRIPTORS_MOST} blocks are described")
            if max(original, relative, offset) >= 1 << 62:
                raise Malformed(f"a block at {original} is at {offset}")
            found.take(original, relative, offset, flags, bits)
    return found


def all_descriptors(reader: Reader, chain: list[Store]) -> list[Descriptors]:
    """Return what each store of a chain changes."""
    found: list[Descriptors] = []
    room = _DESCRIPTORS_MOST
    for store in chain:
        if not store.kept:
            raise Malformed(f"the catalog does not say where the store {store.id} is")
        found.append(descriptors(reader, store, room))
        room -= found[-1].read
    return found


def bitmap(reader: Reader, at: int) -> bytes:
    """Return a bitmap of blocks; nothing where there is none."""
    if not at:
        return b""
    most = _BITMAP_MOST // (BLOCK - _FIRST)
    return b"".join(data[_FIRST:] for data in _chain(reader, at, _BITMAP, most, "bitmap", None))


def _chain(
    reader: Reader, at: int, kind: int, most: int, what: str, said: list[str] | None
) -> Iterator[bytes]:
    """Yield the blocks of a list; with ``said`` what is behind a damaged one is missing, and said.

    Raises:
        Malformed: the first block cannot be read, or another one without ``said``.
    """
    seen: set[int] = set()
    while at:
        try:
            if at in seen or len(seen) >= most:
                raise Malformed(f"{what}: goes in a circle, or has more than {most} blocks")
            data = _block(reader, at, kind)
        except EvidenceError as why:
            if said is None or not seen:
                raise
            said.append(f"{what}: {why}: what follows is missing")
            return
        seen.add(at)
        yield data
        (at,) = struct.unpack_from("<Q", data, 40)


def _block(reader: Reader, at: int, kind: int) -> bytes:
    if not 0 < at <= reader.size - BLOCK:
        raise Malformed(f"a block at {at} of {reader.size}")
    data = reader.read(at, BLOCK)
    magic, _, found, _, here, *_ = _HEADER.unpack_from(data)
    if magic != MAGIC or found != kind or here != at:
        raise Malformed(f"no block of type {kind}", start=at, stop=at + BLOCK)
    return data
