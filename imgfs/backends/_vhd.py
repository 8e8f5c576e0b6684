"""Structures of VHD: footer, header of dynamic disks, locators of the parent. Big-endian.

Source: Microsoft, Virtual Hard Disk Image Format Specification, version 1.0 (October 11, 2006): "Hard Disk
Footer Format", "Dynamic Disk Header Format", "Implementing a Differencing Hard Disk".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote
from uuid import UUID

from imgfs import limits
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from imgfs.backends import Reader

COOKIE: Final = b"conectix"
_HEADER_COOKIE: Final = b"cxsparse"
SECTOR: Final = 512
FOOTER: Final = 512
OLD_FOOTER: Final = 511  # Virtual PC before 2004: the last byte, reserved, is not there
_HEADER: Final = 1024
_FOOTER_FORM: Final = struct.Struct(">8sIIQI4sI4sQQHBBII16s")
_HEADER_FORM: Final = struct.Struct(">8sQQIIII16sI")
_LOCATOR: Final = struct.Struct(">4sIIIQ")
_CHECKSUM_OF_FOOTER: Final = 64
_CHECKSUM_OF_HEADER: Final = 36
_LOCATOR_MAX: Final = 4096  # bytes of a path
_FORMS: Final = (b"W2ru", b"W2ku", b"MacX")  # a path relative to the child; absolute ones


class Kind(IntEnum):
    """Disk types that are read."""

    FIXED = 2
    DYNAMIC = 3
    DIFFERENCING = 4


@dataclass(frozen=True, slots=True)
class Footer:
    """The hard disk footer. Units: ``current`` and ``chs`` bytes; ``header`` is a position in the file.

    ``created`` is in seconds since 2000-01-01 UTC.
    """

    kind: Kind
    header: int
    creator: str
    current: int
    chs: int
    unique_id: UUID
    created: int


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a dynamic disk. Units: ``table`` and ``block`` bytes; ``entries`` blocks.

    ``parent`` is the unique id of the disk below, ``changed`` when that was last modified, in seconds since
    2000-01-01 UTC, ``paths`` where it was: relative to the child, absolute, its name alone.
    """

    table: int
    entries: int
    block: int
    valid: bool
    parent: UUID
    changed: int
    paths: tuple[str, ...]

    @property
    def bitmap(self) -> int:
        """Return the size of the sector bitmap ahead of each block, in bytes: whole sectors of it."""
        return -(-self.block // SECTOR // 8 // SECTOR) * SECTOR


def parse_footer(raw: bytes, *, twice: bool = False) -> Footer:
    """Read a footer of 512 or 511 bytes.

    ``twice``: its copy says the same, so a wrong checksum is its writer's mistake.

    Raises:
        Malformed: another cookie, a wrong checksum, a type or size that cannot be.
    """
    if len(raw) < OLD_FOOTER or not raw.startswith(COOKIE):
        raise Malformed("no VHD footer")
    fields = _FOOTER_FORM.unpack_from(raw)
    (
        _,
        _,
        version,
        header,
        created,
        creator,
        _,
        _,
        _,
        current,
        cylinders,
        heads,
        sectors,
        kind,
        checksum,
        uid,
    ) = fields
    if not twice and checksum != _sum(raw, _CHECKSUM_OF_FOOTER):
        raise Malformed("the checksum of the VHD footer is wrong")
    if version >> 16 != 1:
        raise Malformed(f"VHD version {version >> 16}.{version & 0xFFFF}")
    if kind not in list(Kind):
        raise Malformed(f"VHD of type {kind}")
    if not 0 < current <= limits.MAX_SIZE or current % SECTOR:
        raise Malformed(f"a VHD of {current} bytes")
    chs = cylinders * heads * sectors * SECTOR
    words = creator.decode("ascii", "replace").strip("\0 ")
    return Footer(Kind(kind), header, words, current, chs, UUID(bytes=uid), created)


def read_header(reader: Reader, at: int) -> Header:
    """Read the header of a dynamic or differencing disk.

    A wrong checksum is said and not refused: there is one copy, and writers are known that get it wrong.

    Raises:
        Malformed: another cookie, or a block size that cannot be.
        Truncated: it leaves the file.
    """
    raw = reader.read(at, _HEADER)
    cookie, _, table, version, entries, block, checksum, parent, changed = _HEADER_FORM.unpack_from(raw)
    if cookie != _HEADER_COOKIE:
        raise Malformed("no VHD dynamic disk header", start=at, stop=at + _HEADER)
    if version >> 16 != 1:
        raise Malformed(f"dynamic disk header version {version >> 16}.{version & 0xFFFF}")
    if block < SECTOR or block & (block - 1):
        raise Malformed(f"blocks of {block} bytes")
    valid = checksum == _sum(raw, _CHECKSUM_OF_HEADER)
    return Header(table, entries, block, valid, UUID(bytes=parent), changed, _paths(reader, raw))


def _paths(reader: Reader, raw: bytes) -> tuple[str, ...]:
    """Return where the parent was: the paths of the locators, the relative one first, and its name."""
    found: list[tuple[int, str]] = [(len(_FORMS), raw[64:576].decode("utf-16-be", "replace"))]
    for number in range(8):
        platform, _, length, _, at = _LOCATOR.unpack_from(raw, 576 + _LOCATOR.size * number)
        if platform not in _FORMS or not 0 < length <= _LOCATOR_MAX:
            continue
        try:
            text = reader.read(at, length)
        except EvidenceError:
            continue
        if platform == b"MacX":  # file://localhost/folder/parent.vhd
            path = unquote(text.decode("utf-8", "replace"))
            path = path.removeprefix("file://").removeprefix("localhost")
        else:
            path = text.decode("utf-16-le", "replace")
        found.append((_FORMS.index(platform), path))
    names = (path.partition("\0")[0] for _, path in sorted(found))
    return tuple(dict.fromkeys(filter(None, names)))


def _sum(raw: bytes, field: int) -> int:
    """Return the one's complement of the sum of all bytes without the checksum itself."""
    return ~(sum(raw) - sum(raw[field : field + 4])) & 0xFFFF_FFFF
