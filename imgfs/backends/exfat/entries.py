"""Directory entry sets of exFAT: a file entry, a stream extension, and the name in pieces.

Source: Microsoft exFAT file system specification, sections 6 (directory structure), 7.1 (allocation
bitmap), 7.2 (up-case table), 7.4 (file), 7.6 (stream extension), 7.7 (file name).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends.fat.volume import SLOT, Item, Parsed
from imgfs.block.sums import exfat
from imgfs.errors import EvidenceError, NotFound
from imgfs.limits import MAX_SIZE

if TYPE_CHECKING:
    from imgfs.backends._fat_time import Clock
    from imgfs.backends.fat.volume import Volume

_FILE_ENTRY: Final = struct.Struct("<BBHHxxIIIBBBBB")
_STREAM: Final = struct.Struct("<BBxBHxxQxxxxIQ")
_TABLE: Final = struct.Struct("<IQ")  # from byte 20 of the bitmap and the up-case table
_IN_USE: Final = 0x80
_FILE, _EXTENSION, _NAME = 0x85, 0xC0, 0xC1
_SPECIAL: Final = {0x81: b"$ALLOC_BITMAP", 0x82: b"$UPCASE_TABLE"}  # as TSK names them
_DIRECTORY: Final = 0x10
_NO_CHAIN: Final = 0x02
_SECONDARIES: Final = 18
_LONGEST: Final = (_SECONDARIES + 1) * SLOT
_CHECKSUM: Final = "the checksum of the entry is wrong"
_PRIMARY: Final = bytes(1 if byte & 0x7F == _FILE & 0x7F else 0 for byte in range(256))
_SECONDARY: Final = bytes(1 if byte & 0x7F == _EXTENSION & 0x7F else 0 for byte in range(256))


class ExfatForm:
    """Directories of one exFAT volume."""

    longest = 256 << 20  # specification, section 7.4

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def parse(self, data: bytes, room: int, *, final: bool, marked: bool, ended: bool = False) -> Parsed:
        """Return the entries at the beginning of ``data``; see ``volume.Form``."""
        items: list[Item] = []
        at, stop = 0, len(data) // SLOT * SLOT
        while at < stop and len(items) < room:
            kind = data[at]
            if not kind:
                if not marked:
                    return Parsed(items, at, ended=True)
                ended = True
                at = _skip(data, at, stop)
                continue
            live = kind & _IN_USE and not ended
            if kind & 0x7F == _FILE & 0x7F and (live or marked):
                length = _set_length(data, at)
                if at + length > stop:
                    if not final:
                        break
                    length = 0
                if length and data[at + SLOT] & 0x7F == _EXTENSION & 0x7F:
                    whole = sum(
                        data[place] & 0x7F == _NAME & 0x7F for place in range(at + 64, at + length, SLOT)
                    )
                    item = self._item(data, at, length)
                    if live or whole * SLOT + 64 == length:
                        items.append(item if live else item._replace(marked=True))
                    at += length
                    continue
            elif live and kind in _SPECIAL:
                items.append(_special(data, at))
            at += SLOT
        return Parsed(items, at, ended=ended)

    def entry(self, volume: Volume, at: int) -> Item:
        """Return the entry set that begins at ``at``; what it needs beyond its cluster is looked for."""
        cluster = volume.cluster_at(at)
        stop = volume.place(cluster + 1) if cluster >= 2 else at + SLOT
        data = volume.read(at, min(_LONGEST, stop - at, volume.limit - at))
        if data[0] in _SPECIAL:
            return _special(data, 0)
        if data[0] & 0x7F != _FILE & 0x7F:
            raise NotFound(f"no directory entry at byte {at}")
        length = _set_length(data, 0)
        if length > len(data):
            data = self._continued(volume, cluster, data, length)
        if length > len(data) or data[SLOT] & 0x7F != _EXTENSION & 0x7F:
            raise NotFound(f"no directory entry at byte {at}")
        return self._item(data, 0, length)

    def _continued(self, volume: Volume, cluster: int, data: bytes, length: int) -> bytes:
        """Return a set that goes on in another cluster: the one whose bytes fit the checksum."""
        best = data
        for following in (volume.table.value(cluster), cluster + 1):
            if not volume.holds(following):
                continue
            try:
                rest = volume.read(volume.place(following), min(length - len(data), volume.cluster))
            except EvidenceError:
                continue
            whole = data + rest
            if _is_whole(whole, 0, length):
                return whole
            best = best if len(best) > len(data) else whole
        return best

    def hits(self, data: bytes) -> list[tuple[int, int]]:
        """Return the sets in free space whose checksum is right."""
        found: list[tuple[int, int]] = []
        count = len(data) // SLOT
        first = data[: count * SLOT : SLOT].translate(_PRIMARY)
        second = data[SLOT : count * SLOT : SLOT].translate(_SECONDARY) + b"\0"
        places = (int.from_bytes(first) & int.from_bytes(second)).to_bytes(count)
        at = places.find(1)
        while at >= 0:
            length = _set_length(data, at * SLOT)
            if _is_whole(data, at * SLOT, length):
                found.append((at * SLOT, at * SLOT + length))
            at = places.find(1, at + 1)
        return found

    def goes_on(self, volume: Volume, cluster: int) -> bool:
        """Say no: a directory of exFAT has a size."""
        del volume, cluster
        return False

    def _item(self, data: bytes, at: int, length: int) -> Item:
        kind, _, checksum, attributes, born, changed, used, b_tens, m_tens, b_zone, m_zone, a_zone = (
            _FILE_ENTRY.unpack_from(data, at)
        )
        _, flags, letters, _, valid, first, size = _STREAM.unpack_from(data, at + SLOT)
        name = b"".join([data[place + 2 : place + SLOT] for place in range(at + 64, at + length, SLOT)])
        text = name[: 2 * letters].decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass")
        damaged = "" if _sum(data, at, length) == checksum else _CHECKSUM
        if size > MAX_SIZE:
            size, damaged = 0, damaged or f"a size of {size} bytes"
        moment = self._clock.offset
        b_ns, m_ns = moment(born, b_zone), moment(changed, m_zone)
        directory = attributes & _DIRECTORY != 0
        return Item(
            at // SLOT,
            text,
            directory,
            attributes,
            first,
            size,
            size if directory else min(valid, size),
            flags & _NO_CHAIN != 0,
            m_ns if m_ns is None or m_tens >= 200 else m_ns + m_tens * 10_000_000,
            moment(used, a_zone),
            b_ns if b_ns is None or b_tens >= 200 else b_ns + b_tens * 10_000_000,
            not kind & _IN_USE,
            damaged,
        )


def _special(data: bytes, at: int) -> Item:
    first, size = _TABLE.unpack_from(data, at + 20)
    size = min(size, MAX_SIZE)
    name = _SPECIAL[data[at]]
    return Item(at // SLOT, name, False, 0, first, size, size, False, None, None, None, False)


def _set_length(data: bytes, at: int) -> int:
    """Return the bytes of a set, 0: there is none of that many entries."""
    count = data[at + 1]
    return (count + 1) * SLOT if 2 <= count <= _SECONDARIES else 0


def _skip(data: bytes, at: int, stop: int) -> int:
    """Return the next slot behind the one at ``at`` that is not all zeros."""
    at += SLOT
    rest = data[at:stop].lstrip(b"\0")
    return max((stop - len(rest)) // SLOT * SLOT, at) if rest else stop


def _sum(data: bytes, at: int, length: int) -> int:
    """Return the checksum of a set as it was before anything in it was marked deleted."""
    marked = bytearray(data[at : at + length])
    if not marked[0] & _IN_USE:
        marked[::SLOT] = bytes(byte | _IN_USE for byte in marked[::SLOT])
    del marked[2:4]  # the checksum itself
    return exfat(marked)


def _is_whole(data: bytes, at: int, length: int) -> bool:
    return (
        length > 0
        and at + length <= len(data)
        and data[at + SLOT] & 0x7F == _EXTENSION & 0x7F
        and _sum(data, at, length) == int.from_bytes(data[at + 2 : at + 4], "little")
    )
