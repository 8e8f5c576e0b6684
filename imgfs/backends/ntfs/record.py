"""MFT records and their attributes, as they are stored.

Source: NTFS documentation of the Linux-NTFS project, "FILE record", "Standard and non-resident
attribute header", "Fixup", "File reference".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.errors import LostBytes, Malformed
from imgfs.limits import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.ntfs.runs import Extents

STANDARD, ATTRIBUTE_LIST, FILE_NAME, SECURITY, VOLUME_NAME, DATA, REPARSE = (
    0x10,
    0x20,
    0x30,
    0x50,
    0x60,
    0x80,
    0xC0,
)
INDEX_ROOT, INDEX_ALLOCATION, BITMAP = 0x90, 0xA0, 0xB0
IN_USE, DIRECTORY = 1, 2  # flags of a record
COMPRESSED, ENCRYPTED, SPARSE = 0x00FF, 0x4000, 0x8000  # flags of an attribute
REFERENCE: Final = (1 << 48) - 1  # of a file reference: the number; above it the sequence
SHORT: Final = 2  # the name space of 8.3 names
EPOCH: Final = 116_444_736_000_000_000  # 1970-01-01 in 100 ns since 1601-01-01
FIRST_TIME, LAST_TIME = EPOCH - (1 << 63) // 100, EPOCH + (1 << 64) // 100  # 1677 and 2554: 64 bits
MAX_RECORDS: Final = 1 << 26  # of one table: 64 GiB of it; NTFS allows 2^32
_SECTOR: Final = 512  # stride of the update sequence array
_MAX_ATTRIBUTES: Final = 4096  # a record of 64 KiB holds fewer
_HEAD = struct.Struct("<IIBBHHH")  # type, length, non-resident, letters, name, flags, id
_VALUE = struct.Struct("<IH")  # from byte 16 of a resident attribute
_REMOTE = struct.Struct("<QQHHIQQQ")  # from byte 16: lowest, highest, runs, unit, -, room, size, valid
_STATE = struct.Struct("<HHHHIIQ")  # from byte 16: sequence, links, attributes, flags, used, room, base
_UPDATES = struct.Struct("<HH")
_END: Final = 0xFFFFFFFF
_WINDOW: Final = 64 * 1024  # a multiple of every record size
_WINDOWS: Final = 64


class Attribute(NamedTuple):
    """One attribute of a record: ``content`` of a resident one, else one part of its mapping pairs.

    Units: ``size``, ``valid`` and ``allocated`` bytes of the whole stream, in its first part; ``lowest``
    and ``highest`` cluster numbers of the stream; ``unit`` log2 of clusters per compression unit.
    """

    type: int
    name: bytes
    id: int
    form: int
    resident: bool
    content: bytes
    lowest: int = 0
    highest: int = 0
    unit: int = 0
    allocated: int = 0
    size: int = 0
    valid: int = 0


class State(NamedTuple):
    """The head of a record. ``base`` is the reference of the record it extends, 0: none."""

    sequence: int
    links: int
    attributes: int
    flags: int
    used: int
    room: int
    base: int


class Mft:
    """The master file table as records. Units: ``record`` bytes, ``count`` records."""

    __slots__ = ("_extents", "_windows", "count", "record_size")

    def __init__(self, extents: Extents, record: int, count: int) -> None:
        self._extents = extents
        self.record_size = record
        self.count = min(count, MAX_RECORDS)
        self._windows: dict[int, tuple[int, bytes]] = {}  # names come in another order than records

    def record(self, number: int) -> bytes:
        """Return a record with its sectors' last bytes put back.

        Raises:
            Malformed: outside the table, no FILE signature, or a torn sector.
        """
        return unfixed(self._raw(number), b"FILE", "MFT record", number)

    def window(self, number: int, count: int) -> bytes:
        """Return ``count`` records as stored, fewer at the end of a run, none where they lie nowhere."""
        at, size = number * self.record_size, self.record_size
        stored = min(self._extents.stored(at) // size, count)
        return self._extents.read(at, stored * size) if stored else b""

    def _raw(self, number: int) -> bytes:
        size = self.record_size
        at = number * size
        key = at // _WINDOW
        start, window = self._windows.get(key, (0, b""))
        if not start <= at <= start + len(window) - size:
            if not 0 <= number < self.count:
                raise Malformed(f"MFT record {number} is outside the table")
            start, window = self._fill(at, key)
        return window[at - start : at - start + size]

    def _fill(self, at: int, key: int) -> tuple[int, bytes]:
        extents = self._extents
        stop = min((key + 1) * _WINDOW, at + extents.stored(at))
        if stop - at < self.record_size:  # in two runs, or in none
            try:
                return at, extents.read(at, self.record_size)
            except LostBytes:
                raise Malformed(f"MFT record at {at} lies nowhere") from None
        start = key * _WINDOW
        if start < at and extents.stored(start) < stop - start:
            start = at
        if len(self._windows) >= _WINDOWS:
            self._windows.pop(next(iter(self._windows)))  # the oldest
        filled = self._windows[key] = start, extents.read(start, stop - start)
        return filled


def state_of(record: bytes) -> State:
    """Return the head of a record."""
    return State._make(_STATE.unpack_from(record, 16))


def next_sequence(sequence: int) -> int:
    """Return the sequence number a record gets when it is released; 0 is never one."""
    return sequence + 1 if sequence < 0xFFFF else 1


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
        Malformed: an attribute leaves the record, or itself.
    """
    (at,) = struct.unpack_from("<H", record, 20)
    for _ in range(_MAX_ATTRIBUTES):
        if at + 16 > len(record):
            return
        kind, length, remote, letters, name_at, form, number = _HEAD.unpack_from(record, at)
        if kind == _END:
            return
        if length < 24 or at + length > len(record):
            raise Malformed(f"attribute {kind:#x} of {length} bytes at {at} of its record")
        if letters and name_at + 2 * letters > length:
            raise Malformed(f"the name of attribute {kind:#x} at {at} leaves it")
        name = utf8(record[at + name_at : at + name_at + 2 * letters]) if letters else b""
        if not remote:
            size, value_at = _VALUE.unpack_from(record, at + 16)
            if value_at + size > length:
                raise Malformed(f"the value of attribute {kind:#x} at {at} leaves it")
            content = record[at + value_at : at + value_at + size]
            yield Attribute(kind, name, number, form, True, content, size=size, valid=size)
        elif length >= 64:
            yield _remote(record, at, length, kind, name, number, form)
        else:
            raise Malformed(f"attribute {kind:#x} of {length} bytes at {at} of its record")
        at += length


def _remote(record: bytes, at: int, length: int, kind: int, name: bytes, number: int, form: int) -> Attribute:
    lowest, highest, runs_at, unit, _, room, size, valid = _REMOTE.unpack_from(record, at + 16)
    if not 64 <= runs_at <= length:
        raise Malformed(f"the runs of attribute {kind:#x} at {at} leave it")
    if form & (COMPRESSED | SPARSE) and runs_at >= 72:
        (room,) = struct.unpack_from("<Q", record, at + 64)
    return Attribute(
        kind,
        name,
        number,
        form,
        False,
        record[at + runs_at : at + length],
        lowest,
        highest,
        unit,
        min(room, MAX_SIZE),
        min(size, MAX_SIZE),
        min(valid, MAX_SIZE),
    )


def utf8(text: bytes) -> bytes:
    """Return UTF-16 as UTF-8; a lone surrogate stays one."""
    return text.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass")


def filetime(value: int) -> int | None:
    """Return nanoseconds since 1970 of a FILETIME; None: 0, or outside 64 bits."""
    return (value - EPOCH) * 100 if FIRST_TIME <= value < LAST_TIME else None
