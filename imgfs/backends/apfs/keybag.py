"""Keybags: the wrapped keys of a container's volumes, and what opens them.

Sources: Apple File System Reference (2020-06-22), "Encryption", kb_locker_t; libfsapfs, "Apple File System
(APFS)", "Key bag", and Sylve, "APFS Advent Challenge", 2022, days 15 and 16, for how keys are packed (DER).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.backends.apfs.objects import fletcher
from imgfs.errors import EvidenceError, Malformed
from imgfs.model import Codec, Protector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.apfs.container import Container

VOLUME_KEY, UNLOCK_RECORDS, HINT = 2, 3, 4
CONTAINER, VOLUME = 0x6B657973, 0x72656373  # types of the objects
SECTOR: Final = 512
_LOCKER: Final = struct.Struct("<HHI8x")
_ENTRY: Final = struct.Struct("<16sHH4x")
_PLACE: Final = struct.Struct("<QQ")
_VERSION: Final = 2
_BAG_MOST: Final = 1 << 20  # bytes
_ENTRIES_MOST: Final = 1024
_SEQUENCE, _INNER = 0x30, 0xA3
_PERSONAL: Final = UUID("ebc6c064-0000-11aa-aa11-00306543ecac").bytes
_OTHERS: Final = {
    UUID("c064ebc6-0000-11aa-aa11-00306543ecac").bytes: "institutional",
    UUID("2fa31400-baff-4de7-ae2a-c3aa6e1fd340").bytes: "institutional",
    UUID("64c0c6eb-0000-11aa-aa11-00306543ecac").bytes: "icloud",
    UUID("ec1c2ad9-b618-4ed6-bd8d-50f361c27507").bytes: "icloud",
}


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A key that another one wraps; with ``rounds`` that is derived from what somebody knows."""

    uuid: bytes
    key: bytes
    rounds: int
    salt: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who can open a volume."""

    uuid: bytes
    wrapped: Wrapped
    hint: str

    @property
    def kind(self) -> str:
        """Return the kind of key that it takes."""
        return "recovery" if self.uuid == _PERSONAL else _OTHERS.get(self.uuid, "password")

    def protector(self, slot: str) -> Protector:
        """Return what it is to the analyst."""
        hint = f", hint: {self.hint[:100]}" if self.hint else ""
        cost = f"pbkdf2-sha256, {self.wrapped.rounds} iterations{hint}"
        return Protector(slot, self.kind, str(UUID(bytes=self.uuid)), cost)


@dataclass(frozen=True, slots=True)
class Keys:
    """What a container holds of one volume: its wrapped key, and who can unwrap it."""

    key: Wrapped | None
    users: tuple[User, ...]


def keys_of(container: Container, volume: bytes, notes: list[str]) -> Keys:
    """Return the keys of a volume, by its identifier; what cannot be read is noted."""
    head = container.head
    key: Wrapped | None = None
    users: list[User] = []
    try:
        for uuid, tag, data in _entries(container, head.keybag, head.uuid, CONTAINER):
            if uuid != volume:
                continue
            if tag == VOLUME_KEY:
                key = unpacked(data)
            elif tag == UNLOCK_RECORDS and len(data) >= _PLACE.size:
                users += _users(container, _PLACE.unpack_from(data), volume, notes)
    except EvidenceError as why:
        notes.append(f"keybag: {why.message}")
    return Keys(key, tuple(users))


def _users(container: Container, place: tuple[int, int], volume: bytes, notes: list[str]) -> list[User]:
    found: dict[bytes, Wrapped] = {}
    hints: dict[bytes, str] = {}
    try:
        for uuid, tag, data in _entries(container, place, volume, VOLUME):
            if tag == UNLOCK_RECORDS:
                found.setdefault(uuid, unpacked(data))
            elif tag == HINT:
                hints[uuid] = data.split(b"\0")[0].decode("utf-8", "replace")
    except EvidenceError as why:
        notes.append(f"keybag of a volume: {why.message}")
    return [User(uuid=uuid, wrapped=one, hint=hints.get(uuid, "")) for uuid, one in found.items()]


def _entries(
    container: Container, place: tuple[int, int], uuid: bytes, kind: int
) -> Iterator[tuple[bytes, int, bytes]]:
    """Yield identifier, tag and data of the entries of a keybag, which is encrypted with an identifier.

    Raises:
        EvidenceError: it cannot be read, or is none.
    """
    blocks = container.blocks
    at, count = place
    size = count * blocks.block
    if not at or not 0 < size <= _BAG_MOST:
        raise Malformed(f"{count} blocks from block {at} on")
    cipher = Codec("aes-xts", {"key": 2 * uuid, "iv": b"plain64"})
    data = deciphered(cipher, blocks.block, at, blocks.read(at, size))
    if fletcher(data) != data[:8] or int.from_bytes(data[24:28], "little") != kind:
        raise Malformed(f"none in block {at}, or its checksum differs")
    version, entries, length = _LOCKER.unpack_from(data, 32)
    if version != _VERSION or entries > _ENTRIES_MOST or 32 + length > size:
        raise Malformed(f"in block {at}: version {version}, {entries} entries in {length} bytes")
    at = 32 + _LOCKER.size
    for _ in range(entries):
        if at + _ENTRY.size > size:
            return
        owner, tag, held = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        if at + held > size:
            return
        yield owner, tag, data[at : at + held]
        at += held + -(_ENTRY.size + held) % 16


def deciphered(codec: Codec, block: int, at: int, data: bytes) -> bytes:
    """Return the plaintext of what is stored from block ``at`` on; sectors count from the start."""
    from imgfs.block import ciphers

    plain = bytearray(data)
    ciphers.decrypt(codec, SECTOR, at * (block // SECTOR), 1, plain)
    return bytes(plain)


def unpacked(data: bytes) -> Wrapped:
    """Read a packed key.

    Raises:
        Malformed: it is none.
    """
    outer = dict(_values(data))
    held = dict(_values(outer.get(_SEQUENCE, b"")))
    inner = dict(_values(held.get(_INNER, b"")))
    uuid, key = inner.get(0x81, b""), inner.get(0x83, b"")
    if len(uuid) != 16 or not key:
        raise Malformed("a packed key that holds none")
    rounds = int.from_bytes(inner.get(0x84, b"")[:8], "big")
    return Wrapped(uuid, key, rounds, inner.get(0x85, b""))


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tags and values of a sequence in DER, as far as they lie within it."""
    at = 0
    while at + 2 <= len(data):
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:
            more = length & 0x7F
            length = int.from_bytes(data[at : at + more], "big")
            at += more
        if at + length > len(data):
            return
        yield tag, data[at : at + length]
        at += length
