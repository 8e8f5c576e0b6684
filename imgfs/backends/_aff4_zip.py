"""ZIP archives as volumes of AFF4: where their segments lie, and the small ones in memory.

Nothing is unpacked to look at it: sizes are compared before anything is read, and an inflated segment ends
at its limit. A damaged central directory is replaced by the local headers.

Source: APPNOTE.TXT - .ZIP File Format Specification 6.3.10, sections 4.3.7 to 4.3.16, 4.5.3 (ZIP64).
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs import limits
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

MAGIC: Final = b"PK\x03\x04"
STORED: Final = 0
DEFLATED: Final = 8
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_END: Final = struct.Struct("<4s4H2IH")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_LOCATOR: Final = struct.Struct("<4sIQI")
_CENTRAL_MAGIC: Final = b"PK\x01\x02"
_END_MAGIC: Final = b"PK\x05\x06"
_END64_MAGIC: Final = b"PK\x06\x06"
_LOCATOR_MAGIC: Final = b"PK\x06\x07"
_DESCRIPTOR_MAGIC: Final = b"PK\x07\x08"
_MAGICS: Final = (MAGIC, _CENTRAL_MAGIC, _END_MAGIC, _END64_MAGIC)  # what may follow a segment
_RATIO: Final = 1032  # no deflated byte holds more: sizes of 32 bits are no sizes of 64
_FULL: Final = 0xFFFF_FFFF  # the number is in the ZIP64 field
_ENCRYPTED: Final = 1  # flags
_DESCRIBED: Final = 8  # sizes follow the data
_COMMENT_MAX: Final = 0xFFFF
# A bevy of 64 MiB has two to seven segments: room for 16 TiB of them.
_MAX_SEGMENTS: Final = 1 << 21
_MAX_DIRECTORY: Final = 512 * limits.MIB
_MAX_SEARCHED: Final = 1 * limits.GIB  # bytes looked at for signatures when headers do not lead on
_STEP: Final = 1 * limits.MIB


class Segment(NamedTuple):
    """One file of an archive. Units: bytes; ``header`` is where its local header lies."""

    header: int
    stored: int
    size: int
    method: int
    crc: int
    flags: int


class Archive:
    """The segments of one archive by name, as far as they can be found."""

    __slots__ = ("_reader", "comment", "notes", "segments")

    def __init__(self, reader: Reader) -> None:
        """Read the directory, or the local headers when there is none.

        Raises:
            Malformed: there is neither.
        """
        self._reader = reader
        self.segments: dict[str, Segment] = {}
        self.comment = b""
        self.notes: list[str] = []
        try:
            self._directory()
        except EvidenceError as why:
            kept = dict(self.segments)
            found = self._scan()
            self.segments |= kept
            if not self.segments:
                raise
            self.notes.append(
                f"the central directory is damaged ({why}); {found} segments were found by their own headers"
            )

    def start(self, segment: Segment) -> int:
        """Return where the data of a segment begins.

        Raises:
            Malformed: there is no local header, or the data is encrypted.
        """
        raw = self._reader.read(segment.header, _LOCAL.size)
        if raw[:4] != MAGIC:
            raise Malformed("no local header", start=segment.header, stop=segment.header + _LOCAL.size)
        if segment.flags & _ENCRYPTED:
            raise Malformed("an encrypted segment")
        return segment.header + _LOCAL.size + int.from_bytes(raw[26:28], "little") + int.from_bytes(
            raw[28:30], "little"
        )  # fmt: skip

    def read(self, segment: Segment, limit: int) -> bytes:
        """Return a whole segment of at most ``limit`` bytes, after comparing its checksum.

        A checksum of 0 is one that was not recorded: some writers leave it.

        Raises:
            Malformed: it is larger, cannot be unpacked, or its checksum differs.
        """
        data = self.unchecked(segment, limit)
        if segment.crc and zlib.crc32(data) != segment.crc:
            raise Malformed("the checksum of a segment differs", start=segment.header)
        return data

    def unchecked(self, segment: Segment, limit: int) -> bytes:
        """Return a whole segment as ``read`` does, whatever its checksum."""
        if segment.size > limit:
            raise Malformed(
                f"a segment of {segment.size} bytes, at most {limit} are read", start=segment.header
            )
        start = self.start(segment)
        if segment.method == STORED:
            return self._reader.read(start, segment.size)
        if segment.method != DEFLATED:
            raise Malformed(f"compression method {segment.method} of ZIP", start=segment.header)
        stream = zlib.decompressobj(-zlib.MAX_WBITS)
        parts: list[bytes] = []
        left = segment.size
        try:
            for at in range(start, start + segment.stored, _STEP):
                raw = self._reader.read(at, min(_STEP, start + segment.stored - at))
                parts.append(stream.decompress(raw, left + 1))
                left -= len(parts[-1])
                if left < 0 or stream.eof:
                    break
        except zlib.error as why:
            raise Malformed(f"a segment does not inflate: {why}", start=segment.header) from why
        if left:
            raise Malformed("a segment inflates to another size than it says", start=segment.header)
        return b"".join(parts)

    def _directory(self) -> None:
        """Read the central directory. Raises EvidenceError."""
        size = self._reader.size
        tail_at = max(0, size - _COMMENT_MAX - _END.size)
        tail = self._reader.read(tail_at, size - tail_at)
        end_at = _last_end(tail)
        _, _, _, _, count, length, start, comment = _END.unpack_from(tail, end_at)
        self.comment = tail[end_at + _END.size :][:comment]
        if not count and end_at + _END.size + comment != len(tail):
            raise Malformed("no end record")
        stop = tail_at + end_at
        locator_at = stop - _LOCATOR.size
        if locator_at >= 0:
            magic, _, end64_at, _ = _LOCATOR.unpack(self._reader.read(locator_at, _LOCATOR.size))
            if magic == _LOCATOR_MAGIC:
                stop, count, length, start = self._end64(end64_at, locator_at)
        if not 0 <= length <= min(stop, _MAX_DIRECTORY) or count > _MAX_SEGMENTS:
            raise Malformed(f"a directory of {count} segments in {length} bytes")
        moved = 0  # something was put in front of the archive
        if count and (start + length > stop or self._reader.read(start, 4) != _CENTRAL_MAGIC):
            moved = stop - length - start
        self._central(start + moved, length, count, moved)

    def _end64(self, at: int, locator_at: int) -> tuple[int, int, int, int]:
        """Return where the ZIP64 end record lies, and its counts; it stands where it says, or just before."""
        for place in (at, locator_at - _END64.size):
            if 0 <= place <= locator_at - _END64.size:
                raw = self._reader.read(place, _END64.size)
                if raw[:4] == _END64_MAGIC:
                    _, _, _, _, _, _, _, count, length, start = _END64.unpack(raw)
                    return place, count, length, start
        raise Malformed("no ZIP64 end record", start=locator_at)

    def _central(self, start: int, length: int, count: int, moved: int) -> None:
        """Read ``count`` headers of the directory, a step at a time."""
        held, done, at, stop = b"", 0, start, start + length
        while done < count:
            if len(held) < _CENTRAL.size + 3 * _COMMENT_MAX and at < stop:
                more = min(_STEP, stop - at)
                held += self._reader.read(at, more)
                at += more
            place = 0
            while done < count and (
                at >= stop or place + _CENTRAL.size + 3 * _COMMENT_MAX <= len(held)
            ):  # a header is whole
                if place + _CENTRAL.size > len(held) or not held.startswith(_CENTRAL_MAGIC, place):
                    raise Malformed(f"the directory ends after {done} of {count} segments", start=start)
                fields = _CENTRAL.unpack_from(held, place)
                flags, method, crc, stored, size = fields[3], fields[4], fields[7], fields[8], fields[9]
                named, extra, comment, header = fields[10], fields[11], fields[12], fields[16]
                place += _CENTRAL.size
                name = held[place : place + named]
                if _FULL in (size, stored, header):
                    more_field = held[place + named : place + named + extra]
                    size, stored, header = _widened(more_field, (size, stored, header))
                place += named + extra + comment
                self._keep(name, Segment(header + moved, stored, size, method, crc, flags))
                done += 1
            held = held[place:]

    def _keep(self, name: bytes, segment: Segment) -> None:
        if segment.header + segment.stored > self._reader.size and self._room(segment) <= 0:
            shown = name.decode("utf-8", "backslashreplace")[:100]
            self.notes.append(f"segment {shown} lies beyond the end of the file")
            return
        self.segments[_text(name)] = segment

    def _room(self, segment: Segment) -> int:
        return self._reader.size - segment.header - _LOCAL.size

    def _scan(self) -> int:
        """Find segments by their local headers; returns how many."""
        at = found = searched = 0
        size = self._reader.size
        while at + _LOCAL.size <= size and found < _MAX_SEGMENTS and searched < _MAX_SEARCHED:
            try:
                raw = self._reader.read(at, _LOCAL.size)
                magic, _, flags, method, _, _, crc, stored, full, named, extra = _LOCAL.unpack(raw)
                if magic != MAGIC:
                    if magic in _MAGICS:
                        break
                    ahead, looked = self._search(MAGIC, at + 1)
                    searched += looked
                    if ahead < 0:
                        break
                    at = ahead
                    continue
                rest = self._reader.read(at + _LOCAL.size, named + extra)
            except EvidenceError:
                break
            start = at + _LOCAL.size + named + extra
            full, stored, _ = _widened(rest[named:], (full, stored, 0))
            if flags & _DESCRIBED and not stored:
                ended, looked = self._described(start)
                searched += looked
                if ended is None:
                    break
                crc, stored, full = ended
            self._keep(rest[:named], Segment(at, stored, full, method, crc, flags))
            found += 1
            at = start + stored
            if flags & _DESCRIBED:
                at = self._behind(at)
        return found

    def _behind(self, at: int) -> int:
        """Return where a descriptor at ``at`` ends: of either width, with and without a magic (4.3.9.3)."""
        for length in (16, 24, 12, 20):
            if at + length + 4 <= self._reader.size:
                magic = self._reader.read(at + length, 4)
                if magic in _MAGICS:
                    return at + length
        return at

    def _described(self, start: int) -> tuple[tuple[int, int, int] | None, int]:
        """Find the descriptor behind data of unknown length: (checksum, stored, size), bytes looked at."""
        at, looked = start, 0
        while looked < _MAX_SEARCHED:
            at, passed = self._search(_DESCRIPTOR_MAGIC, at)
            looked += passed
            if at < 0:
                break
            raw = self._reader.read(at, min(24, self._reader.size - at))
            for form in ("<4sI2Q", "<4s3I"):
                if len(raw) >= struct.calcsize(form):
                    _, crc, stored, size = struct.unpack_from(form, raw)
                    if stored == at - start and size <= _RATIO * stored + limits.KIB:
                        return (crc, stored, size), looked
            at += 1
        return None, looked

    def _search(self, magic: bytes, start: int) -> tuple[int, int]:
        """Return where ``magic`` is next found, -1: nowhere; and how many bytes were looked at."""
        for at, data in self._windows(start, len(magic) - 1):
            index = data.find(magic)
            if index >= 0:
                return at + index, at + index - start + 1
            if at - start > _MAX_SEARCHED:
                break
        return -1, self._reader.size - start

    def _windows(self, start: int, overlap: int) -> Iterator[tuple[int, bytes]]:
        for at in range(start, self._reader.size, _STEP):
            yield at, self._reader.read(at, min(_STEP + overlap, self._reader.size - at))


def _last_end(tail: bytes) -> int:
    """Return where the end record is whose comment ends with the file, else where the last one is.

    Raises:
        Malformed: there is none.
    """
    at = last = tail.rfind(_END_MAGIC, 0, max(len(tail) - _END.size + 4, 0))
    while at >= 0:
        if at + _END.size + int.from_bytes(tail[at + 20 : at + 22], "little") == len(tail):
            return at
        at = tail.rfind(_END_MAGIC, 0, at)
    if last < 0:
        raise Malformed("no end record")
    return last


def _widened(extra: bytes, fields: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return (size, stored, header) with those that did not fit taken from the ZIP64 field (4.5.3)."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = [int.from_bytes(extra[i : i + 8], "little") for i in range(at + 4, at + 4 + length - 7, 8)]
            wide.reverse()
            size, stored, header = (wide.pop() if field == _FULL and wide else field for field in fields)
            return size, stored, header
        at += 4 + length
    return fields


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
