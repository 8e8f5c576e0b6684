"""Directory entries of FAT: short names with their long names, live, deleted, and in free space.

Source: Microsoft FAT specification 1.03, sections 6 (directory structure) and 7 (long directory
entries); bits 3 and 4 of byte 12, lower-case names, as Windows NT writes them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends.fat.volume import SLOT, Item, Parsed
from imgfs.errors import EvidenceError, NotFound

if TYPE_CHECKING:
    from imgfs.backends._fat_time import Clock
    from imgfs.backends.fat.volume import Volume

_SHORT: Final = struct.Struct("<11sBBBHHHHHHHI")
_PIECES: Final = struct.Struct("<1x10s3x12s2x4s")
_SLOTS: Final = 20  # of one long name: 255 characters
_LONG, _LABEL, _DIRECTORY = 0x0F, 0x08, 0x10
_LAST: Final = 0x40
_DELETED: Final = 0xE5
_DOTS: Final = {b".          ", b"..         "}
_ORDERS: Final = tuple(bytes([_LAST | n, *range(n - 1, 0, -1)]) if n else b"" for n in range(_SLOTS + 1))
_LONGS: Final = tuple(bytes([_LONG]) * n for n in range(_SLOTS + 1))
_SECTOR: Final = 512
# of the first byte of a sector: not a free slot; of an attribute byte: no reserved bits
_USED: Final = bytes([0, *[1] * 255])
_PLAUSIBLE: Final = bytes([1] * 64 + [0] * 192)


class FatForm:
    """Directories of one FAT volume. ``wide``: cluster numbers of 28 bits."""

    longest = 8 << 20  # the specification allows 2 MiB

    def __init__(self, codepage: str, clock: Clock, *, wide: bool) -> None:
        self._codepage = codepage
        self._clock = clock
        self._wide = wide

    def parse(self, data: bytes, room: int, *, final: bool, marked: bool, ended: bool = False) -> Parsed:
        """Return the entries at the beginning of ``data``; see ``volume.Form``."""
        items: list[Item] = []
        at = used = 0
        begin = -1  # of slots of a long name
        stop = len(data) // SLOT * SLOT
        item = self._item
        while at < stop:
            first = data[at]
            if data[at + 11] & 0x3F == _LONG and first:
                if begin < 0 or (first & _LAST and first != _DELETED) or at - begin >= _SLOTS * SLOT:
                    begin = at
                at += SLOT
                continue
            if not first:
                if not marked:
                    return Parsed(items, at, ended=True)
                ended = True
            elif first != _DELETED and not ended:
                if not data[at + 11] & _LABEL and data[at : at + 11] not in _DOTS:
                    items.append(item(data, at, begin if begin >= 0 else at))
            elif (
                marked
                and not data[at + 11] & _LABEL
                and is_entry(data, at)
                and data[at : at + 11] not in _DOTS
            ):
                items.append(self._deleted(data, at, begin if begin >= 0 else at))
            begin = -1
            at += SLOT
            used = at
            if len(items) >= room:
                return Parsed(items, used, ended=ended)
        return Parsed(items, stop if final or begin < 0 else begin, ended=ended)

    def entry(self, volume: Volume, at: int) -> Item:
        """Return the entry whose short name is the slot at ``at``, without its long name."""
        data = volume.read(at, SLOT)
        if not data[0] or data[11] & _LABEL or data[:11] in _DOTS:
            raise NotFound(f"no directory entry at byte {at}")
        return self._deleted(data, 0, 0) if data[0] == _DELETED else self._item(data, 0, 0)

    def hits(self, data: bytes) -> list[tuple[int, int]]:
        """Return the sectors of free space that look like those of a directory."""
        found: list[tuple[int, int]] = []
        count = len(data) // _SECTOR
        likely = int.from_bytes(data[: count * _SECTOR : _SECTOR].translate(_USED)) & int.from_bytes(
            data[11 : count * _SECTOR : _SECTOR].translate(_PLAUSIBLE)
        )
        places = likely.to_bytes(count)
        at = places.find(1)
        while at >= 0:
            if is_directory(data, at * _SECTOR):
                found.append((at * _SECTOR, at * _SECTOR + _SECTOR))
            at = places.find(1, at + 1)
        return found

    def goes_on(self, volume: Volume, cluster: int) -> bool:
        """Say whether the cluster before is full, and this one is free and begins like more of it."""
        if not volume.is_free(cluster):
            return False
        try:
            last = volume.read(volume.place(cluster) - SLOT, 1)
            sector = volume.read(volume.place(cluster), _SECTOR)
        except EvidenceError:
            return False
        return last != b"\0" and sector[:11] not in _DOTS and is_directory(sector, 0)

    def _item(self, data: bytes, at: int, begin: int) -> Item:
        raw, attributes, case, tenths, b_time, b_date, a_date, high, m_time, m_date, low, size = (
            _SHORT.unpack_from(data, at)
        )
        name = b""
        if begin < at:
            name = _long(data, begin, at, _checksum(raw))
        local = self._clock.local
        born = local(b_date << 16 | b_time) if b_date else None
        if born is not None and tenths < 200:
            born += tenths * 10_000_000
        return Item(
            at // SLOT,
            name or self._short(raw, case),
            attributes & _DIRECTORY != 0,
            attributes,
            low | high << 16 if self._wide else low,
            0 if attributes & _DIRECTORY else size,
            size,
            False,
            local(m_date << 16 | m_time) if m_date else None,
            local(a_date << 16) if a_date else None,
            born,
            raw[0] == _DELETED,
        )

    def _deleted(self, data: bytes, at: int, begin: int) -> Item:
        """Return an entry whose first character may be gone, with its long name if that can be its own."""
        item = self._item(data, at, at)
        raw = data[at : at + 11]
        if raw[0] != _DELETED:
            name = _long(data, begin, at, _checksum(raw)) if begin < at else b""
            return item._replace(name=name or item.name, marked=True)
        name = _long_deleted(data, begin, at, raw)
        return item._replace(name=name or self._short(b"_" + raw[1:], data[at + 12]))

    def _short(self, raw: bytes, case: int) -> bytes:
        base, extension = raw[:8].rstrip(b" "), raw[8:].rstrip(b" ")
        if base[:1] == b"\x05":  # stands for E5, which would mean deleted
            base = b"\xe5" + base[1:]
        if not (base + extension).isascii():
            base, extension = self._decoded(base, case & 0x08), self._decoded(extension, case & 0x10)
        elif case & 0x18:
            base = base.lower() if case & 0x08 else base
            extension = extension.lower() if case & 0x10 else extension
        return base + b"." + extension if extension else base

    def _decoded(self, raw: bytes, lower: int) -> bytes:
        text = raw.decode(self._codepage, "surrogateescape")
        if lower:  # a letter stays one letter
            text = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
        return text.encode("utf-8", "surrogateescape")


def _checksum(raw: bytes) -> int:
    total = 0
    for byte in raw:
        total = ((total & 1) << 7 | total >> 1) + byte & 0xFF
    return total


def _long(data: bytes, begin: int, at: int, checksum: int) -> bytes:
    """Return the long name in the slots [begin, at), empty: they are not whole, or another entry's."""
    count = (at - begin) // SLOT
    if (
        data[begin:at:SLOT] != _ORDERS[count]
        or data[begin + 13 : at : SLOT] != bytes([checksum]) * count
        or data[begin + 11 : at : SLOT] != _LONGS[count]
    ):
        return b""
    return _text(data, begin, at)


def _text(data: bytes, begin: int, at: int) -> bytes:
    unpack = _PIECES.unpack_from
    units = b"".join([b"".join(unpack(data, place)) for place in range(at - SLOT, begin - 1, -SLOT)])
    text = units.decode("utf-16-le", "surrogatepass")
    return text.partition("\0")[0].encode("utf-8", "surrogatepass")


def _long_deleted(data: bytes, begin: int, at: int, raw: bytes) -> bytes:
    """Return the long name before a deleted entry.

    Deleting wipes the order of the slots and the first character of the short name. The checksum they
    share gives that character back, and one that no short name has says that they are another's.
    """
    place = at - SLOT
    if place < begin:
        return b""
    checksum = data[place + 13]
    start = at
    while place >= begin and data[place] == _DELETED and data[place + 13] == checksum:
        start = place
        if b"\0\0" in (data[place + 30 : place + 32], data[place + 14 : place + 16]) or _terminated(
            data, place
        ):
            break
        place -= SLOT
    if start == at or not _first_character(raw, checksum):
        return b""
    return _text(data, start, at)


def _terminated(data: bytes, place: int) -> bool:
    """Say whether the name ends in a slot: the last one of a name lies first."""
    units = b"".join(_PIECES.unpack_from(data, place))
    return any(units[n : n + 2] in {b"\0\0", b"\xff\xff"} for n in range(0, 26, 2))


def _first_character(raw: bytes, checksum: int) -> bool:
    """Say whether a checksum belongs to a short name of which only the first character is gone.

    Each step of the checksum can be taken back.
    """
    for byte in reversed(raw[1:]):
        value = checksum - byte & 0xFF
        checksum = (value << 1 | value >> 7) & 0xFF
    return (
        (checksum > 0x20 or checksum == 0x05) and not 0x61 <= checksum <= 0x7A and chr(checksum) not in _NEVER
    )


_NEVER: Final = '"*+,./:;<=>?[\\]|\x7f'


def is_directory(data: bytes, start: int) -> bool:
    """Say whether every slot of a sector up to the first free one looks like an entry."""
    if not data[start]:
        return False
    for at in range(start, start + _SECTOR, SLOT):
        if not data[at]:
            return not any(data[at : start + _SECTOR])
        if not is_entry(data, at):
            return False
    return True


def is_entry(data: bytes, at: int) -> bool:
    """Say whether a slot can be an entry: no reserved bits, no control characters, times that exist."""
    attributes = data[at + 11]
    if attributes & 0xC0:
        return False
    if attributes & 0x3F == _LONG:
        return not data[at + 12] and not data[at + 26] and not data[at + 27]
    if attributes & 0x18 == 0x18 or min(data[at + 1 : at + 11]) < 0x20:
        return False
    date, clock = data[at + 24] | data[at + 25] << 8, data[at + 22] | data[at + 23] << 8
    if date and not (1 <= date >> 5 & 15 <= 12 and date & 31):
        return False
    return clock >> 11 < 24 and clock >> 5 & 63 < 60 and clock & 31 < 30
