"""MFT records: what TSK knows of a file and does not hand out (initialised sizes, security, times).

Source: [MS-FSCC] for values; NTFS on-disk structures after the Linux-NTFS project's NTFS
documentation, sections "FILE record", "Standard and non-resident attribute header",
"$ATTRIBUTE_LIST", "$STANDARD_INFORMATION", "$FILE_NAME", "$Secure".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._tsk_layout import Row

STANDARD, ATTRIBUTE_LIST, FILE_NAME, SECURITY, VOLUME_NAME, DATA, REPARSE = (
    0x10,
    0x20,
    0x30,
    0x50,
    0x60,
    0x80,
    0xC0,
)
EPOCH: Final = 116_444_736_000_000_000  # 1970-01-01 in 100 ns since 1601-01-01
FIRST_TIME, LAST_TIME = EPOCH - (1 << 63) // 100, EPOCH + (1 << 63) // 100  # 1677 and 2262: 64 bits
_SECTOR: Final = 512  # stride of the update sequence array
_MAX_ATTRIBUTES: Final = 256  # a record of 4 KiB holds fewer
_NON_RESIDENT = struct.Struct("<QQHHIQQQ")
_UPDATES = struct.Struct("<HH")
_WINDOW: Final = 64 * 1024  # a multiple of every record size
_WINDOWS: Final = 64
REFERENCE: Final = (1 << 48) - 1


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a record. ``content`` is the value of a resident one.

    Units: ``size`` and ``valid`` bytes; ``lowest`` is a cluster number of the stream.
    """

    type: int
    name: str
    id: int
    resident: bool
    content: bytes
    lowest: int
    size: int
    valid: int


class Mft:
    """The master file table as records, read through the runs of its own data attribute."""

    __slots__ = ("_reader", "_record", "_rows", "_windows")

    def __init__(self, reader: Reader, rows: list[Row], record: int) -> None:
        self._reader = reader
        self._rows = rows
        self._record = record
        self._windows: dict[int, tuple[int, bytes]] = {}  # names come in another order than records

    def record(self, number: int) -> bytes:
        """Return a record with its sectors' last bytes put back.

        Raises:
            Malformed: outside the table, no FILE signature, or a torn sector.
        """
        return unfixed(self._raw(number * self._record), b"FILE", "MFT record", number)

    def _raw(self, at: int) -> bytes:
        key = at // _WINDOW
        start, window = self._windows.get(key, (0, b""))
        if not start <= at <= start + len(window) - self._record:
            start, window = self._fill(at, key)
        return window[at - start : at - start + self._record]

    def _fill(self, at: int, key: int) -> tuple[int, bytes]:
        for logical, length, target in self._rows:
            if logical <= at and at + self._record <= logical + length and target >= 0:
                start, stop = max(logical, key * _WINDOW), min(logical + length, (key + 1) * _WINDOW)
                if len(self._windows) >= _WINDOWS:
                    self._windows.pop(next(iter(self._windows)))  # the oldest
                filled = self._windows[key] = (
                    start,
                    self._reader.read(target + start - logical, stop - start),
                )
                return filled
        raise Malformed(f"MFT record at {at} is outside the table")

    def attributes(self, number: int) -> list[Attribute]:
        """Return the attributes of a record, those of its extension records too.

        Raises:
            Malformed: the record or its attribute list contradicts itself.
        """
        own = list(parse(self.record(number)))
        listed = next((a for a in own if a.type == ATTRIBUTE_LIST and a.resident), None)
        if listed is None:
            return own
        for other in sorted({reference for reference in _references(listed.content) if reference != number}):
            try:
                extension = self.record(other)
            except EvidenceError:
                continue  # the rest is still worth showing
            if struct.unpack_from("<Q", extension, 32)[0] & REFERENCE == number:
                own += parse(extension)
        return own

    def has_remote_list(self, number: int) -> bool:
        """Say whether the attribute list itself lies outside the record."""
        return any(a.type == ATTRIBUTE_LIST and not a.resident for a in parse(self.record(number)))


def unfixed(data: bytes, magic: bytes, what: str, number: int) -> bytes:
    """Return a record with its sectors' last bytes put back.

    Raises:
        Malformed: another signature, or a torn sector.

    Source: NTFS documentation of the Linux-NTFS project, "Fixup".
    """
    if data[:4] != magic:
        raise Malformed(f"{what} {number}: no {magic.decode()} signature")
    at, count = _UPDATES.unpack_from(data, 4)
    if count == 3 and len(data) == 1024 and at <= 1018:  # nearly every record there is
        stamp = data[at : at + 2]
        if data[510:512] == stamp == data[1022:]:
            return data[:510] + data[at + 2 : at + 4] + data[512:1022] + data[at + 4 : at + 6]
    return _unfixed(bytearray(data), at, count, f"{what} {number}")


def _unfixed(raw: bytearray, at: int, count: int, place: str) -> bytes:
    if count < 1 or at + 2 * count > len(raw) or (count - 1) * _SECTOR > len(raw):
        raise Malformed(f"{place}: update sequence of {count} at {at}")
    stamp = raw[at : at + 2]
    for end in range(_SECTOR, count * _SECTOR, _SECTOR):
        at += 2
        if raw[end - 2 : end] != stamp:
            raise Malformed(f"{place}: sector {end // _SECTOR} is torn")
        raw[end - 2 : end] = raw[at : at + 2]
    return bytes(raw)


def parse(record: bytes) -> Iterator[Attribute]:
    """Yield the attributes of one record.

    Raises:
        Malformed: an attribute leaves the record.
    """
    (at,) = struct.unpack_from("<H", record, 20)
    for _ in range(_MAX_ATTRIBUTES):
        if at + 16 > len(record):
            return
        kind, length, remote, name_length, name_at, _flags, number = struct.unpack_from(
            "<IIBBHHH", record, at
        )
        if kind == 0xFFFFFFFF:
            return
        if length < 24 or at + length > len(record):
            raise Malformed(f"attribute {kind:#x} of {length} bytes at {at} of its record")
        body = record[at : at + length]
        name = (
            body[name_at : name_at + 2 * name_length].decode("utf-16-le", "surrogatepass")
            if name_length
            else ""
        )
        if not remote:
            size, value_at = struct.unpack_from("<IH", body, 16)
            content = body[value_at : value_at + size]
            if len(content) == size:
                yield Attribute(kind, name, number, True, content, 0, size, size)
        elif length >= 64:
            lowest, _, _, _, _, _, size, valid = _NON_RESIDENT.unpack_from(body, 16)
            yield Attribute(kind, name, number, False, b"", lowest, size, valid)
        at += length


def _references(content: bytes) -> Iterator[int]:
    at = 0
    while at + 26 <= len(content):
        (length,) = struct.unpack_from("<H", content, at + 4)
        yield struct.unpack_from("<Q", content, at + 16)[0] & REFERENCE
        if length < 26:
            return
        at += length


def filetime(value: int) -> int | None:
    """Return nanoseconds since 1970 of a FILETIME; None: 0, or outside 64 bits."""
    return (value - EPOCH) * 100 if FIRST_TIME <= value < LAST_TIME else None
