"""Object identifiers of files, and those they were born with, which the index of $ObjId keeps.

Source: NTFS documentation of the Linux-NTFS project, "$OBJECT_ID", "$ObjId", "$INDEX_ROOT"; [MS-FSCC] 2.1.3
(FILE_OBJECTID_BUFFER).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.backends.ntfs.index import Index
from imgfs.backends.ntfs.record import INDEX_ALLOCATION, INDEX_ROOT, unfixed
from imgfs.backends.ntfs.volume import parts_of
from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.ntfs.volume import File, Volume

OBJECT_ID: Final = 0x40  # the type of their attribute
ID_MAX: Final = 64  # bytes: an identifier and up to three of its birth
_EXTEND: Final = 11  # the record of $Extend
_INDEX: Final = b"$O"
_INDEX_MAX: Final = 64 << 20  # bytes of it that are looked at
_NODE = struct.Struct("<III")  # first entry, end of the last, room; from the start of this header
_ENTRY = struct.Struct("<HHIHHH")  # where the data are, their length, -, lengths of entry and key, flags
_KEY: Final = 16  # bytes into an entry
_LAST: Final = 2  # flag of the entry that ends a node
_BIRTH: Final = ("birth_volume_id", "birth_object_id", "domain_id")


class Births:
    """What $ObjId says of the births of files, read when first asked for."""

    __slots__ = ("_by_file", "_volume")

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._by_file: dict[tuple[int, bytes], bytes] | None = None

    def of(self, reference: int, identifier: bytes) -> bytes:
        """Return the 48 bytes kept for a file, empty: none."""
        if self._by_file is None:
            self._by_file = {}
            for key, data in self._entries():
                if len(key) == 16 and len(data) >= 56:
                    self._by_file[int.from_bytes(data[:8], "little"), key] = data[8:56]
        return self._by_file.get((reference, identifier), b"")

    def _entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and data of all nodes that can be read, whether they count or not."""
        try:
            names = Index(self._volume, self._volume.file(_EXTEND)).names()
            found = next((n.number for n in names if not isinstance(n, str) and n.name == b"$ObjId"), -1)
            if found < 0:
                return
            file = self._volume.file(found)
            root = parts_of(file, INDEX_ROOT, _INDEX)
            yield from entries(self._volume.value(root, 1 << 16) if root else b"", 16)
            yield from self._allocated(file)
        except EvidenceError:
            return

    def _allocated(self, file: File) -> Iterator[tuple[bytes, bytes]]:
        parts = parts_of(file, INDEX_ALLOCATION, _INDEX)
        if not parts:
            return
        extents, size = self._volume.extents(parts), self._volume.index_block
        for at in range(0, min(extents.size, _INDEX_MAX) - size + 1, size):
            try:
                block = unfixed(extents.read(at, size), b"INDX", "index block", at // size)
            except EvidenceError:
                continue
            yield from entries(block, 24)


def identifiers(content: bytes, birth: bytes) -> dict[str, bytes]:
    """Return the identifiers of a file by name as GUIDs, those of zeros left out.

    ``birth`` is what the index says, used where the attribute itself has no more than its identifier.
    """
    if len(content) < 16:
        return {}
    rest = content[16:ID_MAX] if len(content) >= ID_MAX else birth
    found = {"object_id": content[:16]}
    found |= {name: rest[16 * n : 16 * n + 16] for n, name in enumerate(_BIRTH)}
    return {name: str(UUID(bytes_le=raw)).encode() for name, raw in found.items() if any(raw)}


def entries(node: bytes, header: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and data of a node whose header lies at ``header``, as far as they can be read."""
    if header + _NODE.size > len(node):
        return
    first, end, _ = _NODE.unpack_from(node, header)
    at, stop = header + first, min(header + end, len(node))
    while at + _KEY <= stop:
        data_at, data, _, length, key, flags = _ENTRY.unpack_from(node, at)
        if flags & _LAST or length < _KEY or at + length > stop:
            return
        if _KEY + key <= length and data_at + data <= length:
            yield node[at + _KEY : at + _KEY + key], node[at + data_at : at + data_at + data]
        at += length
