"""The logical address space: chunks on devices, read by the worker and described to the daemon.

A chunk in one piece is runs of its devices; a striped one is a layout of its own. Every way to read the same
bytes (copies, parity) is a further source, for when checksums say that the first is bad.

Source: btrfs.readthedocs.io, "On-disk format" (Chunk item, Sys chunk array).
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import repeat
from typing import TYPE_CHECKING, Final

from imgfs.backends.btrfs.profiles import DATA, Chunk, striped
from imgfs.block.galois import galois
from imgfs.errors import EvidenceError, LostBytes, Malformed
from imgfs.model import LOST, Linear

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgfs.backends import Reader
    from imgfs.model import Layout

_CHUNKS: Final = 1 << 20  # a PiB in chunks of 1 GiB

Range = tuple[int, int]  # logical address, length: bytes
Member = tuple[int, "Reader"]


class Stack:
    """Layouts of one reply, in their order; numbers count the tickets first."""

    __slots__ = ("_known", "_tickets", "layouts")

    def __init__(self, tickets: int) -> None:
        self.layouts: list[Layout] = []
        self._tickets = tickets
        self._known: dict[tuple[int, int], int] = {}

    def add(self, layout: Layout) -> int:
        """Return the number of a further layout."""
        self.layouts.append(layout)
        return self._tickets + len(self.layouts) - 1

    def striped(self, chunk: Chunk, tickets: dict[int, int], way: int) -> int:
        """Return the number of the layout of a striped chunk."""
        key = (chunk.start, way)
        if key not in self._known:
            self._known[key] = self.add(striped(chunk, tickets, way))
        return self._known[key]


class Space:
    """Chunks by address, and the devices that are there: ticket and reader by number and uuid."""

    __slots__ = ("_chunks", "_members", "_starts", "tickets", "unmapped")

    def __init__(self, members: Mapping[tuple[int, bytes], Member], tickets: int, *, unmapped: bool) -> None:
        self._chunks: list[Chunk] = []
        self._starts: list[int] = []
        self._members = members
        self.tickets = tickets
        self.unmapped = unmapped  # a stripe tree says where striped and copied data lies

    @property
    def chunks(self) -> list[Chunk]:
        """Return all chunks, ascending."""
        return self._chunks

    def fill(self, chunks: Iterable[Chunk]) -> None:
        """Take chunks; one that overlaps another is left out."""
        found = {chunk.start: chunk for chunk in self._chunks}
        for chunk in chunks:
            if len(found) >= _CHUNKS:
                raise Malformed(f"more than {_CHUNKS} chunks")
            found[chunk.start] = chunk
        kept: list[Chunk] = []
        for start in sorted(found):
            if not kept or kept[-1].start + kept[-1].length <= start:
                kept.append(found[start])
        self._chunks, self._starts = kept, [chunk.start for chunk in kept]

    def chunk(self, logical: int) -> Chunk | None:
        """Return the chunk that holds an address."""
        index = bisect_right(self._starts, logical) - 1
        if index < 0:
            return None
        chunk = self._chunks[index]
        return chunk if logical < chunk.start + chunk.length else None

    def ways(self, ranges: Iterable[Range]) -> int:
        """Return the most ways to read any of these."""
        most = 1
        for logical, length in ranges:
            for chunk, _, _ in self._parts(logical, length):
                if chunk is not None:
                    most = max(most, chunk.ways)
        return most

    def _there(self, chunk: Chunk) -> dict[int, Member]:
        """Return the members that hold the stripes of a chunk, and all of them."""
        depth = chunk.depth()
        found = {}
        for number, (device, offset, uuid) in enumerate(chunk.stripes):
            member = self._members.get((device, uuid))
            if member is not None and (chunk.linear or offset + depth <= member[1].size):
                found[number] = member
        return found

    def missing(self) -> list[str]:
        """Return profiles whose chunks cannot be read whole, with how many there are."""
        counts: dict[str, int] = {}
        known: dict[tuple[int, int, int, tuple[int, ...]], bool] = {}  # arrays have many chunks of one form
        for chunk in self._chunks:
            there = self._there(chunk)
            gone = [number for number in range(len(chunk.stripes)) if number not in there]
            if chunk.linear:
                lost = not there
            else:
                form = (chunk.profile, len(chunk.stripes), chunk.copies, tuple(gone))
                if form not in known:
                    known[form] = not chunk.whole(gone)
                lost = known[form]
            if lost:
                counts[chunk.name] = counts.get(chunk.name, 0) + 1
        return [f"{count} chunks ({name}) are not whole" for name, count in sorted(counts.items())]

    def _parts(self, logical: int, length: int) -> list[tuple[Chunk | None, int, int]]:
        """Return a range by chunks: (chunk or None, address, bytes)."""
        parts: list[tuple[Chunk | None, int, int]] = []
        stop = logical + length
        while logical < stop:
            index = bisect_right(self._starts, logical) - 1
            chunk = self._chunks[index] if index >= 0 else None
            if chunk is not None and logical < chunk.start + chunk.length:
                until = min(stop, chunk.start + chunk.length)
                parts.append((chunk, logical, until - logical))
            else:
                until = min(stop, self._starts[index + 1]) if index + 1 < len(self._starts) else stop
                parts.append((None, logical, until - logical))
            logical = until
        return parts

    # --- for the worker ------------------------------------------------------------------------------
    def read(self, logical: int, length: int, way: int) -> bytes:
        """Return bytes in one of the ways there are.

        Raises:
            LostBytes: no chunk holds them, or what would is missing.
            EvidenceError: they cannot be read.
        """
        found = []
        for chunk, at, size in self._parts(logical, length):
            if chunk is None:
                raise LostBytes(f"no chunk holds address {at}")
            found.append(self._read(chunk, at - chunk.start, size, way))
        return found[0] if len(found) == 1 else b"".join(found)

    def _read(self, chunk: Chunk, at: int, length: int, way: int) -> bytes:
        there = self._there(chunk)
        if chunk.linear:
            number = way % len(chunk.stripes)
            if number not in there:
                raise LostBytes(f"device {chunk.stripes[number][0]} is missing")
            return there[number][1].read(chunk.stripes[number][1] + at, length)
        rows, across = chunk.rows()
        gone = [number for number in range(len(chunk.stripes)) if number not in there]
        found = []
        while length:
            index, skip = divmod(at, chunk.chunk)
            row, number = divmod(index, across)
            take = min(length, chunk.chunk - skip)
            terms = chunk.terms(row % rows, number, way, gone)
            if not terms:
                raise LostBytes(f"address {chunk.start + at}: too many devices are missing")
            places = [(there[one][1], chunk.stripes[one][1] + row * chunk.chunk + skip) for one, _ in terms]
            data = b"".join([reader.read(place, take) for reader, place in places])
            factors = bytes([factor for _, factor in terms])
            found.append(data if len(terms) == 1 else _sum(memoryview(data), factors, take))
            at, length = at + take, length - take
        return b"".join(found)

    # --- for the daemon ------------------------------------------------------------------------------
    def layout(self, stack: Stack, ranges: Iterable[Range], ways: Iterable[int] = repeat(0)) -> Linear:
        """Return ranges of addresses, one behind the other, as one stream, each read in a way of its own.

        What has the address LOST is.
        """
        rows: list[list[int]] = []
        size = 0
        for (logical, length), way in zip(ranges, ways, strict=False):
            parts = self._parts(logical, length) if logical >= 0 else [(None, 0, length)]
            for chunk, at, part in parts:
                for target, which, taken in self._targets(stack, chunk, at, part, way):
                    if rows and rows[-1][3] == which and _joined(rows[-1], target):
                        rows[-1][1] += taken
                    else:
                        rows.append([size, taken, target, which])
                    size += taken
        return Linear.of(size, [(row[0], row[1], row[2]) for row in rows], [row[3] for row in rows])

    def _targets(
        self, stack: Stack, chunk: Chunk | None, at: int, length: int, way: int
    ) -> list[tuple[int, int, int]]:
        """Return (target, which, bytes) of a part of one chunk."""
        if chunk is None or (self.unmapped and chunk.type & DATA and chunk.profile):
            return [(LOST, 0, length)]
        there = self._there(chunk)
        skip = at - chunk.start
        if not chunk.linear:
            which = stack.striped(chunk, {number: member[0] for number, member in there.items()}, way)
            return [(skip, which, length)]
        if not there:
            return [(LOST, 0, length)]
        numbers = sorted(there)
        number = numbers[way % len(numbers)]
        ticket, reader = there[number]
        target = chunk.stripes[number][1] + skip
        inside = min(length, max(reader.size - target, 0))
        found = [(target, ticket, inside)] if inside else []
        return found + ([(LOST, 0, length - inside)] if inside < length else [])

    def read_any(self, logical: int, length: int) -> bytes:
        """Return bytes in the first way that can be read. Raises as ``read``."""
        chunk = self.chunk(logical)
        failed: EvidenceError = LostBytes(f"no chunk holds address {logical}")
        for way in range(chunk.ways if chunk else 1):
            try:
                return self.read(logical, length, way)
            except EvidenceError as why:
                failed = why
        raise failed


def _joined(last: list[int], target: int) -> bool:
    return target == last[2] if target < 0 else last[2] >= 0 and last[2] + last[1] == target


def _sum(terms: memoryview, factors: bytes, length: int) -> bytes:
    return bytes(galois(terms, True, length, {"factors": factors}))
