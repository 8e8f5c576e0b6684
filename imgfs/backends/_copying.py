"""Streams without points of entry: one pass decodes all of it into frames that can be read one by one.

They are units of one size in the index, so that a copy is read like any other container of that kind.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._copy import FRAME, Frames
from imgfs.backends._index import Writer
from imgfs.backends._indexed import facts_of
from imgfs.backends._units_index import zeros
from imgfs.errors import Malformed
from imgfs.model import PACKED_CODED, PACKED_HOLE, PACKED_ROW, Codec, Linear, Media, Packed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgfs.backends import Reader
    from imgfs.backends._index import Section
    from imgfs.model import Layout

_MOST: Final = limits.TABLE_MAX // 4 // PACKED_ROW  # frames: 4 TiB
_RUNS: Final = 10_000  # pieces between damages
_UNKNOWN: Final = limits.MIB  # what stands, lost, for the rest of a disk whose size nobody knows


class Copy:
    """A copy that is being made. Units: bytes; ``size`` is how far the disk reaches that it is of."""

    def __init__(self, image: int) -> None:
        """``image`` bytes long is what is copied."""
        self.size = 0
        self.notes: list[str] = []
        self._lost: list[tuple[int, int, str]] = []
        self._runs: list[list[int]] = []  # first byte of the disk, bytes, where in the copy
        self._copied = 0
        self._fresh = True  # what comes next is a run of its own
        self._words = array("Q")
        self._writer = Writer(0, image)
        self._frames = Frames()
        self._held = bytearray()

    def add(self, data: bytes) -> bytes:
        """Append decoded bytes; returns frames that are whole by now.

        Raises:
            Malformed: it is more than a copy may be of, or in too many pieces.
        """
        if not data:
            return b""
        if self._fresh:
            if len(self._runs) >= _RUNS:
                raise Malformed(f"more than {_RUNS} damaged pieces")
            self._runs.append([self.size, 0, self._copied])
            self._fresh = False
        self._runs[-1][1] += len(data)
        self.size += len(data)
        self._copied += len(data)
        held = self._held
        held += data
        if len(held) < FRAME:
            return b""
        whole = len(held) - len(held) % FRAME
        out = b"".join([self._frame(bytes(held[at : at + FRAME])) for at in range(0, whole, FRAME)])
        del held[:whole]
        return out

    def lose(self, start: int, why: str) -> None:
        """Make everything from ``start`` on lost: it cannot be trusted."""
        self.notes.append(why)
        if start >= self.size:
            return
        self._lost.append((start, self.size, why))
        self._fresh = True
        while self._runs and self._runs[-1][0] >= start:
            self._runs.pop()
        if self._runs:
            first, length, _ = self._runs[-1]
            self._runs[-1][1] = min(length, start - first)

    def ends_at(self, size: int, why: str) -> bool:
        """Go on at ``size``: what is missing is lost; say whether that can be.

        A size below what there is, or beyond belief: nobody knows how much is missing. Then something lost
        stands for it, so that who reads to the end gets an error.
        """
        known = self.size < size <= limits.MAX_SIZE // 2
        if not known:
            size = self.size + (-self.size % _UNKNOWN or _UNKNOWN)
        self.notes.append(why)
        self._lost.append((self.size, size, why))
        self.size = size
        self._fresh = True
        return known

    def end(self) -> Iterator[bytes]:
        """Yield the rest of the index."""
        if self._held:
            yield self._frame(bytes(self._held))
        facts: dict[str, object] = {
            "size": self.size,
            "held": self._copied,
            "runs": self._runs,
            "notes": self.notes[:100],
            "lost": self._lost[:1000],
        }
        yield from self._writer.end(self._words.tobytes(), facts)

    def _frame(self, data: bytes) -> bytes:
        if len(self._words) >= 2 * _MOST:
            raise Malformed(f"it decodes to more than {self.size} bytes")
        if zeros(data):
            self._words.extend((0, PACKED_HOLE << 32))
            return b""
        place = self._writer.at
        frame = self._writer.blob(self._frames.frame(data))
        self._words.extend((place, len(frame) | PACKED_CODED << 32))
        return frame


def copied(reader: Reader, sections: Sequence[Section], *, version: str, facts: dict[str, str]) -> Media:
    """Lay out a container by the copy of what it holds.

    Raises:
        Malformed: there is nothing in it, or the index is no such.
    """
    said = facts_of(sections)
    held, table = said.others.get("held"), sections[0].table
    if not isinstance(held, int) or len(table) != PACKED_ROW * -(-held // FRAME):
        raise Malformed("a copy of another size")
    runs = _runs(said.others.get("runs"), said.size, held)
    tickets = 1 + len(reader.others)
    inline = len(table) <= limits.TABLE_INLINE
    layouts: list[Layout] = [
        Packed(
            size=held,
            unit=FRAME,
            codec=Codec("zstd"),
            table=table if inline else b"",
            which=tickets - 1,
        )
    ]
    if not inline:
        reader.write_table(table[at : at + limits.MIB] for at in range(0, len(table), limits.MIB))
    if runs != [(0, said.size, 0)] or held != said.size:
        layouts.append(Linear.of(said.size, runs, [tickets] * len(runs)))
    return Media(
        layouts=tuple(layouts),
        version=version,
        metadata={"read by": "a copy of what it holds", **facts},
        notes=said.notes,
        lost=said.lost,
    )


def _runs(rows: object, size: int, held: int) -> list[tuple[int, int, int]]:
    """Return the runs of a copy, checked.

    Raises:
        Malformed: they are none, or overlap.
    """
    found: list[tuple[int, int, int]] = []
    at = 0
    for row in rows if isinstance(rows, list) else ():
        start, length, target = row
        if not (at <= start < start + length <= size and 0 <= target < target + length <= held):
            raise Malformed("a copy whose runs leave it")
        found.append((start, length, target))
        at = start + length
    if not found:
        raise Malformed("nothing in it can be decoded")
    return found


class Input:
    """A range of a file, read from its start on; for decoders that want a file."""

    def __init__(self, reader: Reader, start: int, stop: int, step: int) -> None:
        """At most ``step`` bytes are given at a time."""
        self._reader = reader
        self.at = start
        self._stop = stop
        self._step = step

    def read(self, length: int = -1) -> bytes:
        """Return the next bytes; none at the end."""
        most = min(self._step, self._stop - self.at)
        count = most if length < 0 else min(most, length)
        data = self._reader.read(self.at, count) if count > 0 else b""
        self.at += len(data)
        return data
