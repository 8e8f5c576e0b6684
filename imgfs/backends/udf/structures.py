"""Small structures of UDF: descriptor tags, names, moments, addresses.

Source: ECMA-167 3rd edition, 1/7.3 (timestamp), 1/7.4 (regid), 3/7.2 and 4/7.2 (tag), 4/14.14 (allocation
descriptors); OSTA UDF 2.60, 2.1.1 (CS0), 2.1.4.1 (timestamp), 2.2.1 (descriptor tag), 6.4 (dstrings).
"""

from __future__ import annotations

import struct
from binascii import crc_hqx
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from imgfs.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Collection

PRIMARY, ANCHOR, POINTER, PARTITION, LOGICAL, TERMINATING, INTEGRITY = 1, 2, 3, 5, 6, 8, 9
FILE_SET, IDENTIFIER, CONTINUED, INDIRECT, FILE, ATTRIBUTES, EXTENDED_FILE = 256, 257, 258, 259, 261, 262, 266
TAG: Final = 16  # bytes
UNSPECIFIED: Final = -2047  # minutes: a time whose zone nobody recorded

_TAG: Final = struct.Struct("<HHBxHHHI")
_STAMP: Final = struct.Struct("<Hh8B")
_LONG: Final = struct.Struct("<IIH")
_KEPT: Final = 65_536  # stamps: the files of a directory share most of theirs
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Address(NamedTuple):
    """An extent of a partition map's space. Units: ``length`` bytes, ``block`` logical blocks."""

    length: int
    block: int
    ref: int


def fault(raw: bytes, kinds: Collection[int], location: int | None) -> str:
    """Say what is wrong with a descriptor, empty: nothing.

    ``kinds`` are the tags it may have, ``location`` the block it must name as its own; None: any.
    """
    if len(raw) < TAG:
        return "cut short"
    kind, _, total, _, crc, length, at = _TAG.unpack_from(raw)
    if (sum(raw[:TAG]) - total) & 0xFF != total:
        return "checksum of the tag"
    if kind not in kinds:
        return f"a descriptor of kind {kind}"
    if location is not None and at != location:
        return f"a descriptor of block {at}"
    if length > len(raw) - TAG:
        return f"checksum over {length} bytes"
    if crc_hqx(raw[TAG : TAG + length], 0) != crc:
        return "checksum of the content"
    return ""


def kind_of(raw: bytes) -> int:
    """Return the kind of a descriptor."""
    return int.from_bytes(raw[:2], "little")


def long_address(raw: bytes, at: int) -> Address:
    """Return a long allocation descriptor; its length keeps the two bits of the extent's type."""
    return Address(*_LONG.unpack_from(raw, at))


def characters(raw: bytes) -> bytes:
    """Return OSTA compressed Unicode as UTF-8. Unpaired surrogates stay as they are.

    Raises:
        Malformed: neither of its forms.
    """
    if not raw:
        return b""
    if raw[0] in (8, 254):  # 254 and 255: of deleted entries
        return raw[1:].decode("latin-1").encode()
    if raw[0] in (16, 255):
        even = raw[1 : 1 + (len(raw) - 1 & ~1)]
        return even.decode("utf-16-be", "surrogatepass").encode("utf-8", "surrogatepass")
    raise Malformed(f"characters of compression {raw[0]}")


def dstring(raw: bytes) -> str:
    """Return a field whose last byte says how much of it is used; characters nobody can tell are replaced."""
    try:
        return characters(raw[: min(raw[-1], len(raw) - 1)]).decode("utf-8", "replace").rstrip("\0")
    except Malformed:
        return ""


def identifier(raw: bytes) -> bytes:
    """Return the name in an entity identifier (regid)."""
    return raw[1:24].rstrip(b"\0")


class Clock:
    """Turns timestamps into nanoseconds since 1970 UTC."""

    __slots__ = ("_known", "_zone")

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._known: dict[bytes, int | None] = {}

    def moment(self, stamp: bytes) -> int | None:
        """Return what twelve bytes say, None: nothing is recorded, or there is no such moment."""
        try:
            return self._known[stamp]
        except KeyError:
            found = self._convert(stamp)
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[stamp] = found
        return found

    def _convert(self, stamp: bytes) -> int | None:
        if len(stamp) != _STAMP.size or not any(stamp[2:]):
            return None
        zoned, year, month, day, hour, minute, second, centis, hundreds, micros = _STAMP.unpack(stamp)
        kind, offset = zoned >> 12, (zoned & 0xFFF) - (zoned << 1 & 0x1000)
        known = kind == 1 and -1440 <= offset <= 1440
        try:
            zone = UTC if known or kind != 1 else self._zone
            wall = datetime(year, month, day, hour, minute, second, tzinfo=zone)
            since = wall - _EPOCH - timedelta(minutes=offset if known else 0)
        except (ValueError, OverflowError):
            return None
        seconds = since // timedelta(seconds=1)
        found = seconds * 10**9 + (centis * 10_000 + hundreds * 100 + micros) * 1000
        return found if -(1 << 63) <= found < 1 << 64 else None


def clock_of(zone: str) -> tuple[Clock, str]:
    """Return the clock for times without a zone, and a note when the analyst's is unknown."""
    try:
        return Clock(UTC if zone in {"", "UTC"} else ZoneInfo(zone)), ""
    except (ZoneInfoNotFoundError, OSError, ValueError):
        return Clock(UTC), f"time zone {zone} is not known here: times without a zone are shown as UTC"
