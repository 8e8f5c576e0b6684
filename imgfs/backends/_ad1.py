"""Items of an AD1 image: what stands at an address, and what is recorded of it.

Source: "AccessData Format (AD1)" documentation of pyad1, P.C. Bjelland, chapters "Image header", "Item";
"AD1 on-disk format" of ad1-forensic, chapters "Logical header" to "Chunk table".
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.errors import Malformed, NotMine, NotSupported

if TYPE_CHECKING:
    from imgfs.backends import Reader

MAGIC: Final = b"ADLOGICALIMAGE"
_HEADER: Final = struct.Struct("<16sI4xIQQI")
_ITEM: Final = struct.Struct("<QQQQQII")
_RECORD: Final = struct.Struct("<QIII")
_NAME: Final = 64 << 10
_RECORDS: Final = 256  # of one item; FTK Imager writes about twenty
_VALUE: Final = 4096
_WINDOW: Final = 4096
_STAMP: Final = re.compile(
    rb"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})(?:\.([0-9]{1,9}))?"
)
FOLDER: Final = 5

# Categories and keys. Of the times, pyad1 takes 8 for the modification and 9 for the creation, and puts a
# question mark; hence neither becomes a time of a file: all records are shown as they are.
HASHES: Final = 1
TIMES: Final = 5
MD5: Final = 0x5001
SHA1: Final = 0x5002
ACCESSED: Final = 7

Records = dict[tuple[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Header:
    """The image header. Units: ``unit`` bytes of a chunk; ``first`` is the address of the first item."""

    version: int
    unit: int
    first: int
    source: str


@dataclass(frozen=True, slots=True)
class Item:
    """An item header. ``after``, ``below``: addresses of the next item and of the first one in it, 0: none.

    Units: ``size`` bytes; ``told`` and ``table`` are addresses of its metadata and of its chunk table.
    """

    at: int
    after: int
    below: int
    told: int
    table: int
    size: int
    kind: int
    name: bytes
    parent: int

    @property
    def shown(self) -> bytes:
        """Return the name; dot names and empty ones are what no listing holds."""
        if self.name in {b".", b".."}:
            return self.name.replace(b".", b"%2E")
        return self.name[: 4 * limits.MAX_NAME]


def read_header(reader: Reader) -> Header:
    """Read the image header.

    Raises:
        NotMine: no signature.
        NotSupported: another version.
        Malformed: chunks of a size that cannot be.
    """
    if reader.size < _HEADER.size:
        raise NotMine("adlogical")
    magic, version, unit, _info, first, length = _HEADER.unpack(reader.read(0, _HEADER.size))
    if not magic.startswith(MAGIC):
        raise NotMine("adlogical")
    if version not in (3, 4):
        raise NotSupported(f"AD1 version {version}: known are 3 and 4")
    if not 0 < unit <= limits.MAX_UNIT:
        raise Malformed(f"chunks of {unit} bytes", start=24, stop=28)
    start = 92 if version == 4 else 48
    length = min(length, _VALUE, max(reader.size - start, 0))
    source = reader.read(start, length).decode("utf-8", "replace").rstrip("\0")
    return Header(version, unit, first, source)


def read_item(reader: Reader, at: int) -> Item:
    """Read an item header.

    Raises:
        Malformed: it is none.
    """
    if not 0 < at <= reader.size - _ITEM.size - 8:
        raise Malformed(f"an item at {at} of {reader.size}")
    after, below, told, table, size, kind, length = _ITEM.unpack(reader.read(at, _ITEM.size))
    start = at + _ITEM.size
    if length > _NAME or start + length + 8 > reader.size or kind > 0xFFFF or size > limits.MAX_SIZE:
        raise Malformed(f"item at {at}: kind {kind}, {size} bytes, a name of {length}", start=at, stop=start)
    if max(after, below, told, table) >= reader.size:
        raise Malformed(f"item at {at} leads outside the image", start=at, stop=start)
    raw = reader.read(start, length + 8)
    return Item(
        at, after, below, told, table, size, kind, raw[:length], int.from_bytes(raw[length:], "little")
    )


def read_records(reader: Reader, at: int) -> tuple[Records, str]:
    """Return the metadata records from address ``at`` on by category and key, and what is wrong with them."""
    found: Records = {}
    window, base = b"", 0
    for _ in range(_RECORDS):
        if not at:
            return found, ""
        if at + _RECORD.size > reader.size:
            return found, f"metadata at {at} of {reader.size}"
        if not base <= at <= at + _RECORD.size <= base + len(window):
            window, base = reader.read(at, min(_WINDOW, reader.size - at)), at
        following, category, key, length = _RECORD.unpack_from(window, at - base)
        start = at + _RECORD.size
        if start + length > reader.size:
            return found, f"metadata at {at}: a value of {length} bytes"
        kept = min(length, _VALUE)
        inside = window[start - base : start - base + kept]
        found.setdefault((category, key), inside if len(inside) == kept else reader.read(start, kept))
        at = following
    return found, "metadata without an end" if at else ""


def worded(records: Records) -> bytes:
    """Return all records, values that are no words in hexadecimal digits."""
    lines = []
    for (category, key), value in records.items():
        text = value.strip(b"\0")
        shown = text if text.isascii() and text.decode("ascii").isprintable() else value.hex().encode()
        lines.append(b"%d/%#x: %b" % (category, key, shown))
    return b"; ".join(lines)


def moment(value: bytes | None) -> int | None:
    """Return a time in nanoseconds since 1970; None: it is not recorded or cannot be."""
    match = _STAMP.fullmatch(value.strip(b"\0 Z")) if value else None
    if match is None:
        return None
    try:
        year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
        told = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    nanoseconds = int(told.timestamp()) * 10**9 + int((match[7] or b"0").ljust(9, b"0"))
    return nanoseconds if abs(nanoseconds) < 1 << 63 else None


def digest(value: bytes | None, length: int) -> bytes:
    """Return a stored digest of ``length`` bytes in hexadecimal digits; empty: there is none."""
    value = (value or b"").strip(b"\0 ").lower()
    return value if re.fullmatch(rb"[0-9a-f]{%d}" % (2 * length), value) and value.strip(b"0") else b""
