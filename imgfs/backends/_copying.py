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
    from imgfs.backends._index import Section, Steps
    from imgfs.model import Layout

_MOST: Final = limits.TABLE_MAX // 4 // PACKED_ROW  # frames: 4 TiB
_UNKNOWN: Final = limits.MIB  # what stands, lost, for the rest of a disk whose size nobody knows


class Copy:
    """A copy that is being made. Units: bytes; ``size`` is how far it reaches."""

    def __init__(self, image: int) -> None:
        """``image`` bytes long is what is copied."""
        self.size = 0
        self.notes: list[str] = []
        self._lost: list[tuple[int, int, str]] = []
        self._words = array("Q")
        self._writer = Writer(0, image)
        self._frames = Frames()
        self._held = bytearray()

    def add(self, data: bytes) -> bytes:
        """Append decoded bytes; returns frames that are whole by now."""
        self.size += len(data)
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
        if start < self.size:
            self._lost.append((start, self.size, why))

    def ends_at(self, size: int, why: str) -> None:
        """Make what is not there lost; ``size``: of the disk, or less than there is, when nobody knows it.

        Then something lost stands for it: who reads to the end gets an error.
        """
        if size <= self.size:
            size = self.size + (-self.size % _UNKNOWN or _UNKNOWN)
        self.notes.append(why)
        self._lost.append((self.size, size, why))

    def end(self) -> Iterator[bytes]:
        """Yield the rest of the index."""
        if self._held:
            yield self._frame(bytes(self._held))
        size = max([self.size, *(stop for _, stop, _ in self._lost)])
        facts: dict[str, object] = {
            "size": size,
            "held": self.size,
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
    held = said.others.get("held")
    table = sections[0].table
    if not isinstance(held, int) or len(table) != PACKED_ROW * -(-held // FRAME) or held > said.size:
        raise Malformed("a copy of another size")
    if not held:
        raise Malformed("nothing in it can be decoded")
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
    if said.lost:
        layouts.append(Linear.of(said.size, *_kept(held, said.lost, tickets)))
    return Media(
        layouts=tuple(layouts),
        version=version,
        metadata={"read by": "a copy of what it holds", **facts},
        notes=said.notes,
        lost=said.lost,
    )


def _kept(
    held: int, lost: Sequence[tuple[int, int, str]], source: int
) -> tuple[list[tuple[int, int, int]], list[int]]:
    """Return runs of what is held and not lost."""
    runs: list[tuple[int, int, int]] = []
    at = 0
    for start, stop, _ in sorted(lost):
        if start > at:
            runs.append((at, min(start, held) - at, at))
        at = max(at, stop)
    if at < held:
        runs.append((at, held - at, at))
    runs = [run for run in runs if run[1] > 0]
    return runs, [source] * len(runs)


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


def steps_of(copy: Copy, work: Iterator[tuple[bytes, int]], total: int) -> Steps:
    """Yield the steps of a pass that decodes into ``copy``, and the rest of the index behind them."""
    yield from work
    for data in copy.end():
        yield data, total
