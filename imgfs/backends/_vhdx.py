"""Structures of VHDX: headers, region tables, metadata. Little-endian, most of them twice, with CRC-32C.

Source: [MS-VHDX] 2.2 "Header Section", 2.6 "Metadata Region".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs import limits
from imgfs.backends._crc32c import crc32c
from imgfs.errors import EvidenceError, Malformed, NotSupported

if TYPE_CHECKING:
    from imgfs.backends._blockmap import Source

_KIB: Final = limits.KIB
_HEADERS: Final = (64 * _KIB, 128 * _KIB)
_HEADER: Final = 4096
_REGION_TABLES: Final = (192 * _KIB, 256 * _KIB)
_TABLE: Final = 64 * _KIB
_ENTRIES_MAX: Final = 2047
_BAT: Final = UUID("2DC27766-F623-4200-9D64-115E9BFD4A08")
_METADATA: Final = UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E")
_PARAMETERS: Final = UUID("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
_DISK_SIZE: Final = UUID("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
_DISK_ID: Final = UUID("BECA12AB-B2E6-4523-93EF-C309E000C746")
_LOGICAL: Final = UUID("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
_PHYSICAL: Final = UUID("CDA348C7-445D-4471-9CC9-E9885251C556")
_LOCATOR: Final = UUID("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
_KNOWN: Final = {_PARAMETERS, _DISK_SIZE, _DISK_ID, _LOGICAL, _PHYSICAL, _LOCATOR}
_REQUIRED: Final = 4  # of a metadata entry
_LOCATOR_MAX: Final = 64 * _KIB
_LOCATOR_TYPE: Final = UUID("B04AEFB7-D19E-4A81-B789-25B8E9445913")
_LINKAGE: Final = ("parent_linkage", "parent_linkage2")
_PATHS: Final = ("relative_path", "volume_path", "absolute_win32_path")
DISK_MAX: Final = 64 << 40


@dataclass(frozen=True, slots=True)
class Header:
    """The current header. ``guid`` of zeros: the log is empty. Units: ``log`` and ``log_length`` bytes.

    ``data`` is the id of the last change to what the disk holds, which a child knows it by.
    """

    sequence: int
    guid: bytes
    log: int
    log_length: int
    data: str


@dataclass(frozen=True, slots=True)
class Region:
    """A range [start, stop) of the file."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Disk:
    """What the metadata says. Units: ``size``, ``block`` and ``sector`` bytes.

    ``linkage`` are ids the parent may have, ``paths`` where it was, in the order they are to be tried.
    """

    size: int
    block: int
    sector: int
    fixed: bool
    child: bool
    disk_id: str
    linkage: frozenset[str]
    paths: tuple[str, ...]


def read_header(source: Source, notes: list[str]) -> Header:
    """Return the valid header with the higher sequence number.

    Raises:
        Malformed: there is no valid one.
        NotSupported: another version of the format or of its log.
    """
    found: list[Header] = []
    for at in _HEADERS:
        try:
            raw = source.read(at, _HEADER)
        except EvidenceError:
            raw = b""
        if not raw.startswith(b"head") or not _sound(raw):
            notes.append(f"the header at {at} is damaged")
            continue
        (sequence,) = struct.unpack_from("<Q", raw, 8)
        log_version, version, length, log = struct.unpack_from("<HHIQ", raw, 64)
        if version != 1 or log_version:
            raise NotSupported(f"VHDX version {version}, log version {log_version}: imgfs cannot read it yet")
        found.append(Header(sequence, raw[48:64], log, length, str(UUID(bytes_le=raw[32:48]))))
    if not found:
        raise Malformed("no valid VHDX header")
    return max(found, key=lambda header: header.sequence)


def read_regions(source: Source, notes: list[str]) -> tuple[Region, Region]:
    """Return where the table of blocks and the metadata are.

    Raises:
        Malformed: no valid region table, or one without both.
        NotSupported: a region that must be understood and is not known.
    """
    for at in _REGION_TABLES:
        try:
            raw = source.read(at, _TABLE)
        except EvidenceError:
            raw = b""
        if raw.startswith(b"regi") and _sound(raw):
            break
        notes.append(f"the region table at {at} is damaged")
    else:
        raise Malformed("no valid VHDX region table")
    (count,) = struct.unpack_from("<I", raw, 8)
    found: dict[UUID, Region] = {}
    for number in range(min(count, _ENTRIES_MAX)):
        guid, start, length, required = struct.unpack_from("<16sQII", raw, 16 + 32 * number)
        name = UUID(bytes_le=guid)
        if name in {_BAT, _METADATA}:
            found.setdefault(name, Region(start, start + length))
        elif required & 1:
            raise NotSupported(f"VHDX region {name}: imgfs cannot read it yet")
    if len(found) < len({_BAT, _METADATA}):
        raise Malformed("the region table names no table of blocks or no metadata")
    return found[_BAT], found[_METADATA]


def read_metadata(source: Source, region: Region, notes: list[str]) -> Disk:
    """Read the metadata items.

    Raises:
        Malformed: an item is missing or says what cannot be.
        NotSupported: an item that must be understood and is not known.
    """
    table = source.read(region.start, _TABLE)
    if not table.startswith(b"metadata"):
        raise Malformed("no VHDX metadata table", start=region.start)
    (count,) = struct.unpack_from("<H", table, 10)
    items: dict[UUID, tuple[int, int]] = {}
    for number in range(min(count, _ENTRIES_MAX)):
        guid, offset, length, bits = struct.unpack_from("<16sIII", table, 32 + 32 * number)
        name = UUID(bytes_le=guid)
        if name in _KNOWN:
            items.setdefault(name, (offset, length))
        elif bits & _REQUIRED:
            raise NotSupported(f"VHDX metadata item {name}: imgfs cannot read it yet")

    def item(name: UUID, least: int, most: int) -> bytes:
        offset, length = items.get(name, (0, 0))
        if offset < _TABLE or length < least or region.start + offset + length > region.stop:
            raise Malformed(f"VHDX metadata item {name} is missing or damaged")
        return source.read(region.start + offset, min(length, most))

    block, bits = struct.unpack("<II", item(_PARAMETERS, 8, 8))
    (size,) = struct.unpack("<Q", item(_DISK_SIZE, 8, 8))
    (sector,) = struct.unpack("<I", item(_LOGICAL, 4, 4))
    if not limits.MIB <= block <= 256 * limits.MIB or block & (block - 1):
        raise Malformed(f"blocks of {block} bytes")
    if sector not in {512, 4096} or not 0 < size <= DISK_MAX or size % sector:
        raise Malformed(f"a disk of {size} bytes in sectors of {sector}")
    child = bool(bits & 2)
    disk_id = str(UUID(bytes_le=item(_DISK_ID, 16, 16))) if _DISK_ID in items else ""
    keys: dict[str, str] = {}
    if child:
        try:
            keys = _locator(item(_LOCATOR, 20, _LOCATOR_MAX))
        except EvidenceError:
            notes.append("the parent locator is missing or damaged")
    linkage = frozenset(filter(None, (_guid(keys.get(key, "")) for key in _LINKAGE)))
    paths = tuple(keys[key] for key in _PATHS if keys.get(key))
    return Disk(size, block, sector, bool(bits & 1) and not child, child, disk_id, linkage, paths)


def _locator(raw: bytes) -> dict[str, str]:
    """Return the keys and values of a parent locator.

    Raises:
        Malformed: it is of another type than the only one that is defined.

    Source: [MS-VHDX] 2.6.2.6.3 "VHDX Parent Locator": either linkage may be the parent's data write GUID;
    paths are tried in the order relative, volume, absolute.
    """
    if UUID(bytes_le=raw[:16]) != _LOCATOR_TYPE:
        raise Malformed("a parent locator of an unknown type")
    words: dict[str, str] = {}
    (count,) = struct.unpack_from("<H", raw, 18)
    for number in range(min(count, (len(raw) - 20) // 12)):
        key, value, key_length, value_length = struct.unpack_from("<IIHH", raw, 20 + 12 * number)
        name = raw[key : key + key_length].decode("utf-16-le", "replace")
        if name in _LINKAGE or name in _PATHS:
            words.setdefault(name, raw[value : value + value_length].decode("utf-16-le", "replace")[:4096])
    return words


def _guid(text: str) -> str:
    """Return an id as Python writes it; empty: it is none."""
    try:
        return str(UUID(text.strip("{}\0 ")))
    except ValueError:
        return ""


def _sound(raw: bytes) -> bool:
    """Compare the checksum at 4, which is zero while it is computed."""
    return int.from_bytes(raw[4:8], "little") == crc32c(raw[:4] + bytes(4) + raw[8:])
