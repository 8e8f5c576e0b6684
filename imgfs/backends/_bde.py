"""BitLocker's metadata: volume headers, three copies of the metadata, the entries in them.

Source: Joachim Metz, BitLocker Drive Encryption (BDE) format, "Volume header", "FVE metadata block". What it
leaves open was found in volumes of Windows 7 to 11: a size of a block counts units of 16 bytes from version 2
on; and behind the block follow u16 size, u16 version and the CRC-32 of the block.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.errors import EvidenceError, Malformed, NotMine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

MAGIC: Final = b"-FVE-FS-"
TO_GO: Final = b"MSWIN4.1"
GUID: Final = UUID("4967d63b-2e29-4ad8-8399-f6a339e3d001").bytes_le
GUID_EOW: Final = UUID("92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8").bytes_le  # encrypted when written to

_BLOCK: Final = struct.Struct("<8sHHHHQII4Q")  # 64 bytes
_HEADER: Final = struct.Struct("<IIII16sIIQ")  # 48 bytes
_ENTRY: Final = struct.Struct("<HHHH")
_AREA: Final = 65536  # bytes that a copy of the metadata has to itself
_AREA_VISTA: Final = 16384
_HEADER_VISTA: Final = 16 * 512  # sectors that Vista leaves as they are
_ENTRIES_MOST: Final = 1024
_OFFSET_MOST: Final = 1 << 62

DECRYPTED: Final = 1
STATES: Final = {
    DECRYPTED: "decrypted",
    2: "encryption is under way or paused",
    4: "encrypted",
    5: "decryption is under way or paused",
}

VMK, FVEK, DESCRIPTION, HEADER_BLOCK = 2, 3, 7, 15  # types of entries
KEY, TEXT, STRETCH, CCM, VALIDATION, PROTECTED, EXTERNAL = 1, 2, 3, 5, 7, 8, 9  # types of values
CLEAR, TPM, STARTUP, RECOVERY, PASSWORD = 0x0000, 0x0100, 0x0200, 0x0800, 0x2000  # what protects a VMK


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the metadata, or a property of one."""

    type: int
    value: int
    data: bytes

    def nested(self, skip: int) -> list[Entry]:
        """Return the entries in this one, behind ``skip`` bytes of its own."""
        return list(entries(self.data[skip:]))

    def text(self) -> str:
        """Return what it says, printable."""
        said = self.data.decode("utf-16-le", "replace").split("\0")[0]
        return "".join(letter if letter.isprintable() else "?" for letter in said)[:200]


@dataclass(frozen=True, slots=True, kw_only=True)
class Protector:
    """A copy of the volume master key, and what it is encrypted with: ``kind`` as the format counts."""

    id: str
    kind: int
    properties: list[Entry]

    def one(self, value: int) -> Entry | None:
        """Return its first property of a type of value."""
        return next((entry for entry in self.properties if entry.value == value), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What the first sector says. Units: ``sector`` bytes, ``at`` and ``eow`` bytes from the start."""

    kind: str
    sector: int
    raw: bytes
    at: tuple[int, ...]
    eow: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """One intact copy of the metadata.

    Units: bytes; ``at`` and ``header_at`` from the start of the volume. ``encrypted``: so much from the start
    on is encrypted, -1: all (Vista does not say). ``mirror``: what Vista's header has at 56.
    """

    version: int
    state: int
    encrypted: int
    at: tuple[int, ...]
    area: int
    header_at: int
    header: int
    mirror: int
    uuid: str
    method: int
    label: str
    entries: list[Entry]
    block: bytes  # what the validation is a digest of
    validation: bytes
    notes: list[str] = field(default_factory=list)

    def protectors(self) -> list[Protector]:
        """Return the copies of the volume master key."""
        found = []
        for entry in self.entries:
            if entry.type == VMK and entry.value == PROTECTED and len(entry.data) >= 28:
                (kind,) = struct.unpack_from("<H", entry.data, 26)
                identity = str(UUID(bytes_le=entry.data[:16]))
                found.append(Protector(id=identity, kind=kind, properties=entry.nested(28)))
        return found


def entries(data: bytes) -> Iterator[Entry]:
    """Yield entries that lie one behind the other, up to the first that is none."""
    at = 0
    for _ in range(_ENTRIES_MOST):
        if at + _ENTRY.size > len(data):
            return
        size, kind, value, _version = _ENTRY.unpack_from(data, at)
        if not _ENTRY.size <= size <= len(data) - at:
            return
        yield Entry(kind, value, data[at + _ENTRY.size : at + size])
        at += size


def read_boot(reader: Reader) -> Boot:
    """Read the first sector.

    Raises:
        NotMine: it is not BitLocker's.
        Malformed: it contradicts itself.
    """
    if reader.size < 512:
        raise NotMine("bitlocker")
    raw = reader.read(0, 512)
    (sector,) = struct.unpack_from("<H", raw, 11)
    if raw[3:11] == MAGIC and raw[160:176] in (GUID, GUID_EOW):
        eow = struct.unpack_from("<2Q", raw, 200) if raw[160:176] == GUID_EOW else ()
        boot = Boot(kind="7", sector=sector, raw=raw, at=struct.unpack_from("<3Q", raw, 176), eow=eow)
    elif raw[3:11] == MAGIC:
        (cluster,) = struct.unpack_from("<Q", raw, 56)
        boot = Boot(kind="Vista", sector=sector, raw=raw, at=(cluster * raw[13] * sector,))
    elif raw[424:440] == GUID:
        boot = Boot(kind="To Go", sector=sector, raw=raw, at=struct.unpack_from("<3Q", raw, 440))
    else:
        raise NotMine("bitlocker")
    if sector not in (512, 1024, 2048, 4096):
        raise Malformed(f"sectors of {sector} bytes", start=0, stop=512)
    return boot


def read_metadata(reader: Reader, boot: Boot) -> Metadata:
    """Return the first copy of the metadata that is intact; what is wrong with the others is noted.

    Raises:
        Malformed: there is none.
    """
    said: list[str] = []
    found: Metadata | None = None
    cut: Metadata | None = None
    places = list(dict.fromkeys(at for at in boot.at if at))
    if not places:
        raise Malformed("the header names no metadata", start=0, stop=512)
    for at in places:
        try:
            copy = _copy(reader, at)
        except EvidenceError as why:
            said.append(f"metadata at {at}: {why}")
            continue
        if copy.notes:
            cut = cut or copy
        elif found is None:
            found = copy
            places += [place for place in copy.at if place and place not in places][: 4 - len(places)]
        elif copy.block != found.block:
            said.append(f"metadata at {at} differs from the copy that is used")
    found = found or cut
    if found is None:
        raise Malformed("; ".join(said))
    found.notes.extend(said)
    return found


def _copy(reader: Reader, at: int) -> Metadata:
    if not 0 < at <= reader.size - _BLOCK.size - _HEADER.size:
        raise Malformed(f"the image of {reader.size} bytes ends before")
    data = reader.read(at, min(_AREA, reader.size - at))
    magic, size, version, state, _next, encrypted, _, sectors, first, second, third, header = (
        _BLOCK.unpack_from(data)
    )
    if magic != MAGIC or version not in (1, 2):
        raise Malformed(f"no metadata of a known version ({version})", start=at, stop=at + 64)
    length, _, begin, _, identity, _, method, _ = _HEADER.unpack_from(data, _BLOCK.size)
    if not _HEADER.size <= begin <= length <= len(data) - _BLOCK.size:
        raise Malformed(f"{length} bytes of entries behind {begin}", start=at, stop=at + len(data))
    size *= 16 if version > 1 else 1
    notes = []
    if length <= size - _BLOCK.size and size <= len(data) < size + 8 and at + len(data) == reader.size:
        block, validation = data[:size], b""
        notes.append(f"metadata at {at}: the image ends before its checksum does")
    else:
        block, validation = _checked(data, size, version, at)
    held = list(entries(data[_BLOCK.size + begin : _BLOCK.size + length]))
    if max(first, second, third, encrypted, header) >= _OFFSET_MOST:
        raise Malformed("an offset that no disk has", start=at, stop=at + 64)
    described = next((e.text() for e in held if e.type == DESCRIPTION and e.value == TEXT), "")
    header_at, header_size, mirror = 0, _HEADER_VISTA, header
    if version > 1:
        header_at, header_size, mirror = _relocated(held, header, sectors)
    return Metadata(
        version=version,
        state=state,
        encrypted=encrypted if version > 1 else -1,
        at=(first, second, third),
        area=_AREA if version > 1 else _AREA_VISTA,
        header_at=header_at,
        header=header_size,
        mirror=mirror,
        uuid=str(UUID(bytes_le=identity)),
        method=method & 0xFFFF,
        label=described,
        entries=held,
        block=block,
        validation=validation,
        notes=notes,
    )


def _relocated(held: list[Entry], header: int, sectors: int) -> tuple[int, int, int]:
    """Return where the first sectors of the volume are, how many bytes, and 0."""
    entry = next((e for e in held if e.type == HEADER_BLOCK and len(e.data) >= 16), None)
    if entry is None:
        return header, sectors * 512, 0
    place, size = struct.unpack_from("<2Q", entry.data)
    if not 0 < place < _OFFSET_MOST or not 0 < size < _OFFSET_MOST:
        raise Malformed(f"the first sectors are {size} bytes at {place}")
    return place, size, 0


def _checked(data: bytes, size: int, version: int, at: int) -> tuple[bytes, bytes]:
    """Return the block, and the entry behind it that holds its digest."""
    if size + 8 <= len(data) and size >= _BLOCK.size + _HEADER.size:
        length, _, stored = struct.unpack_from("<HHI", data, size)
        if zlib.crc32(data[:size]) == stored:
            return data[:size], data[size + 8 : size + max(length, 8)]
    if version > 1:
        raise Malformed("its checksum is wrong", start=at, stop=at + len(data))
    return data[:size], b""  # no volume of Vista with a checksum was at hand
