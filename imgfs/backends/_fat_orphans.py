"""Which numbers of a FAT may be directory entries: TSK has one for every 32 bytes of the volume.

Source: Microsoft FAT specification 1.03, section 6 (directory structure); exFAT specification,
sections 6.3 (entry sets), 7.4 (file directory entry).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from imgfs.backends import Reader

_FIRST: Final = 3  # TSK's number of the first slot behind the tables
_SLOT: Final = 32
_WINDOW: Final = 64 * 1024
_LONG_NAME: Final = 0x0F


class Slots:
    """The area in which TSK counts slots, read in windows."""

    __slots__ = ("_at", "_data", "_exfat", "_reader", "_start", "sector")

    def __init__(self, reader: Reader, start: int, sector: int, *, exfat: bool) -> None:
        self._reader = reader
        self._start = start
        self.sector = sector
        self._exfat = exfat
        self._at = -1
        self._data = b""

    def next_orphan(self, number: int) -> int:
        """Return ``number`` if its slot can be an entry, else the next number worth a look."""
        at = self._start + (number - _FIRST) * _SLOT
        if number < _FIRST or at + _SLOT > self._reader.size:
            return number
        sector_at = at - (at - self._start) % self.sector
        if self._exfat:
            return number if _is_set(self._bytes(at, 19 * _SLOT)) else number + 1
        sector = self._bytes(sector_at, self.sector)
        if not _is_directory(sector):
            return number + (sector_at + self.sector - at) // _SLOT
        slot = sector[at - sector_at : at - sector_at + _SLOT]
        dots = slot[:8] in {b".       ", b"..      "}
        return number + 1 if dots or slot[11] & 0x3F == _LONG_NAME or not slot[0] else number

    def _bytes(self, at: int, length: int) -> bytes:
        if self._at < 0 or not self._at <= at <= at + length <= self._at + len(self._data):
            try:
                self._data = self._reader.read(at, min(_WINDOW, self._reader.size - at))
            except EvidenceError:
                self._data = bytes(length)
            self._at = at
        return self._data[at - self._at : at - self._at + length]


def _is_directory(sector: bytes) -> bool:
    """Say whether every slot up to the first free one looks like an entry."""
    if not sector or not sector[0]:
        return False
    for at in range(0, len(sector) - _SLOT + 1, _SLOT):
        if not sector[at]:
            return not any(sector[at:])
        if not _is_entry(sector[at : at + _SLOT]):
            return False
    return True


def _is_entry(slot: bytes) -> bool:
    attributes = slot[11]
    if attributes & 0xC0:
        return False
    if attributes & 0x3F == _LONG_NAME:
        return not slot[12] and not slot[26] and not slot[27]
    if any(byte < 0x20 and at for at, byte in enumerate(slot[:11])) or attributes & 0x18 == 0x18:
        return False
    date, clock = int.from_bytes(slot[24:26], "little"), int.from_bytes(slot[22:24], "little")
    good_date = not date or (1 <= date >> 5 & 15 <= 12 and date & 31)
    return bool(good_date) and clock >> 11 < 24 and clock >> 5 & 63 < 60 and clock & 31 < 30


def _is_set(data: bytes) -> bool:
    """Say whether an exFAT entry set, in use or not, starts here: types and checksum agree."""
    if len(data) < 3 * _SLOT or data[0] & 0x7F != 0x05 or data[_SLOT] & 0x7F != 0x40:
        return False
    length = (data[1] + 1) * _SLOT
    if not 2 <= data[1] <= 18 or length > len(data):
        return False
    checksum = 0
    for at in range(length):
        if at in {2, 3}:
            continue
        byte = data[at] | 0x80 if not at % _SLOT else data[at]  # as it was before deletion
        checksum = ((checksum << 15 | checksum >> 1) + byte) & 0xFFFF
    return checksum == int.from_bytes(data[2:4], "little")
