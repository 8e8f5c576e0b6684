"""An index of a gzip file: where its deflated blocks begin, and what each point of entry refers back to.

One pass inflates everything. Behind every ``span`` bytes the next end of a block becomes a point of entry,
which takes the 32 KiB before it, compressed. Bytes of a block that goes on for too long are copied into the
index.

Source: RFC 1952, 2.2, 2.3; RFC 1951; the way is that of zlib's examples/zran.c.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._copy import Frames
from imgfs.backends._index import Writer
from imgfs.backends._units_index import Rows, checksum, zeros
from imgfs.backends._zran import Blocks
from imgfs.block.restarting import WINDOW, crc32

try:
    from deflate import zlib_compress
except ImportError:  # no wheel for this machine: slower, as good
    from zlib import compress as zlib_compress  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._index import Steps

MAGIC: Final = b"\x1f\x8b\x08"
_HEADER: Final = 10
_HCRC, _EXTRA, _NAME, _COMMENT, _RESERVED = 2, 4, 8, 16, 0xE0
_TRAILER: Final = 8  # checksum and size
_LONGEST_NAME: Final = 64 * limits.KIB
_LEAST_SPAN: Final = 1 * limits.MIB  # decoded bytes between two points of entry; what a random read decodes
_MOST_SPAN: Final = 4 * limits.MIB
_POINTS: Final = 4096  # of a file that does not compress; then the distance grows
# Decoded bytes of a unit: blocks of zlib hold 32,767 symbols of at most 258 bytes, others' twice as many.
_ROOM: Final = 22 * limits.MIB
_INPUT: Final = limits.SOURCE_READ_MAX
_UNKNOWN: Final = limits.MIB  # what stands, lost, for the rest of a disk whose size nobody knows


def _apart(told: bytes, size: int) -> int:
    """Return how far the size that a trailer tells, without its higher bits, is from ``size``."""
    return (int.from_bytes(told, "little") - size + (1 << 31) & 0xFFFF_FFFF) - (1 << 31)


class _Damaged(Exception):
    """What is read is no deflated stream from here on."""


class _Cut(Exception):
    """The file ends."""


def span_of(stored: int) -> int:
    """Return how many decoded bytes lie between two points of entry in a file of ``stored`` bytes."""
    span = _LEAST_SPAN
    while span < _MOST_SPAN and stored > span * _POINTS:
        span *= 2
    return span


def body_of(reader: Reader, at: int) -> int:
    """Return where the deflated stream of the member at ``at`` begins; 0: there is no member.

    Raises:
        EvidenceError: the file cannot be read.
    """
    if at + _HEADER > reader.size:
        return 0
    head = reader.read(at, _HEADER)
    flags = head[3]
    if head[:3] != MAGIC or flags & _RESERVED:
        return 0
    at += _HEADER
    if flags & _EXTRA:
        if at + 2 > reader.size:
            return 0
        at += 2 + int.from_bytes(reader.read(at, 2), "little")
    for flag in (_NAME, _COMMENT):
        if flags & flag:
            if at >= reader.size:
                return 0
            end = reader.read(at, min(_LONGEST_NAME, reader.size - at)).find(b"\0")
            if end < 0:
                return 0
            at += end + 1
    at += 2 if flags & _HCRC else 0
    return at if at < reader.size else 0


class Pass:
    """One pass over a file. ``steps`` makes its index."""

    def __init__(self, reader: Reader, *, span: int = 0, room: int = _ROOM) -> None:
        self._reader = reader
        self._span = span or span_of(reader.size)
        self._room = ctypes.create_string_buffer(WINDOW + room)
        self._view = memoryview(self._room).cast("B")
        self._blocks = Blocks(self._room)
        self._writer = Writer(0, reader.size)
        self._frames = Frames()
        self._rows = Rows()
        self._notes: list[str] = []
        self._lost: list[tuple[int, int, str]] = []
        self._data = b""
        self._base = self._off = 0  # where the data lies in the file, and how much of it was taken
        self._crc = 0
        self._from = self._to = 0  # the unit so far, in the room
        self._begins, self._head = 0, 0  # byte and bit of the file where it begins
        self._copying = False

    @property
    def _at(self) -> int:
        return self._base + self._off

    def steps(self, part: int) -> Steps:
        """Yield the index, and how much of the file was gone through."""
        del part
        members = 0
        while body := body_of(self._reader, self._at):
            members += 1
            first, start = len(self._rows), self._rows.size
            try:
                for data in self._member(body):
                    yield data, self._at
            except _Cut:
                yield self._flushed(partial=True), self._at
                if self._told(self._rows.size - start):
                    self._rows.drop(3, first)
                self._end(f"it is cut short in member {members}: of what follows nothing is known")
                break
            except _Damaged:
                lost = self._to - self._from
                self._rows.drop(1, first)  # what came shortly before may be wrong, too
                self._rows.lose(lost)
                self._end(f"member {members} does not decode behind {self._at}: what follows is lost")
                break
            if (length := self._verified(start)) >= 0:
                self._rows.spoil(first, length)
                why = f"member {members}: its checksum differs: nothing in it can be trusted"
                if length:
                    self._lost.append((start, self._rows.size, why))
                self._notes.append(why)
                if not length:
                    self._end(f"member {members} does not say how much it held: what follows has no place")
                    break
            yield b"", self._at
        else:
            self._trailing()
        facts: dict[str, object] = {
            "size": self._rows.size,
            "members": members,
            "notes": self._notes[:100],
            "lost": self._lost[:1000],
        }
        for data in self._writer.end(self._rows.table(), facts):
            yield data, self._reader.size

    def _member(self, body: int) -> Iterator[bytes]:
        """Inflate a member, yielding what goes in front of the tables.

        Raises:
            _Cut, _Damaged: not to its end.
        """
        self._seek(body)
        self._blocks.reset()
        self._crc = self._from = self._to = 0
        self._begins, self._head, self._copying = body, 0, False
        full = len(self._view)
        while True:
            if self._to == full:  # a block that does not end: copied as far as it goes
                self._copying = True
                yield self._copied()
            elif self._off == len(self._data):
                yield b""
                self._refill()
            moved = self._blocks.inflate(self._data, self._off, self._to, full)
            if moved is None:
                raise _Damaged
            took, gave = moved
            self._off += took
            self._to += gave
            if self._blocks.ended:
                yield self._flushed()
                return
            if self._blocks.boundary and (self._copying or self._to - self._from >= self._span):
                yield self._flushed()

    def _flushed(self, *, partial: bool = False) -> bytes:
        """End a unit where the stream is; return what of it goes in front of the tables."""
        if self._copying:
            data = self._copied()
        else:
            data = self._entered(0 if partial or self._blocks.ended else self._blocks.unused)
        unused = self._blocks.unused
        self._begins = self._at - (1 if unused else 0)
        self._head = 8 - unused if unused else 0
        self._copying = False
        return data

    def _entered(self, tail: int) -> bytes:
        """Make what was inflated a unit with a point of entry."""
        data = bytes(self._view[self._from : self._to])
        self._crc = crc32(data, self._crc)
        blob = b""
        if zeros(data):
            self._rows.zero(len(data))
        else:
            place = self._writer.at
            window = bytes(self._view[max(self._from - WINDOW, 0) : self._from])
            if window:
                blob = self._writer.blob(bytes(zlib_compress(window, 1)))
            self._rows.unit(
                len(data),
                self._begins,
                self._at - self._begins,
                head=self._head,
                tail=tail,
                front=(place, len(blob)),
                check=checksum(data),
            )
        self._slide()
        return blob

    def _copied(self) -> bytes:
        """Copy what was inflated."""
        data = bytes(self._view[self._from : self._to])
        self._crc = crc32(data, self._crc)
        self._slide()
        return self._frames.add(data, self._rows, self._writer)

    def _slide(self) -> None:
        kept = min(self._to, WINDOW)
        self._view[:kept] = bytes(self._view[self._to - kept : self._to])
        self._from = self._to = kept

    def _verified(self, start: int) -> int:
        """Compare the trailer of a member that begins at ``start`` of the disk; -1: it is right, or missing.

        Returns how much the member held that is not what was inflated, 0: nobody knows.
        """
        at, size = self._at, self._rows.size - start
        if at + _TRAILER > self._reader.size:
            self._notes.append("it is cut short: the last checksum is missing")
            self._seek(self._reader.size)
            return -1
        raw = self._reader.read(at, _TRAILER)
        self._seek(at + _TRAILER)
        right = int.from_bytes(raw[:4], "little") == self._crc
        apart = _apart(raw[4:], size)
        if right and apart:
            self._notes.append(
                f"the size behind a member is not that of its {size} bytes; its checksum is right"
            )
        if right:
            return -1
        return size + apart if abs(apart) <= size // 8 + limits.KIB else 0

    def _told(self, size: int) -> bool:
        """Say whether the file ends with about the size that was inflated: then it is whole, and damaged."""
        return abs(_apart(self._reader.read(self._reader.size - 4, 4), size)) <= size // 8 + limits.KIB

    def _end(self, why: str) -> None:
        """Let something lost stand for what nobody knows: a reader that comes to the end gets an error."""
        if not self._rows.size:
            return
        unknown = -self._rows.size % _UNKNOWN or _UNKNOWN
        self._lost.append((self._rows.size, self._rows.size + unknown, why))
        self._notes.append(why)
        self._rows.lose(unknown)

    def _trailing(self) -> None:
        left = self._reader.size - self._at
        if left > 0:
            head = self._reader.read(self._at, min(left, 4096))
            what = "zeros" if not any(head) else "bytes that are no member"
            self._notes.append(f"{left} bytes behind the last member are ignored: {what}")

    def _seek(self, at: int) -> None:
        if self._base <= at <= self._base + len(self._data):
            self._off = at - self._base
        else:
            self._base, self._off, self._data = at, 0, b""

    def _refill(self) -> None:
        self._base += len(self._data)
        self._off = 0
        self._data = self._reader.read(self._base, min(_INPUT, self._reader.size - self._base))
        if not self._data:
            raise _Cut
