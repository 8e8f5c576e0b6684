"""Two levels of tables to runs: QCOW2 with and without subclusters, and QCOW.

A second table is taken in whole, and clusters that continue each other are found in it without a Python
object for each: an image of a terabyte has sixteen million.

Source: QEMU docs/interop/qcow2.txt, "Cluster mapping", "Extended L2 Entries".
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from operator import add
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._chain_runs import TooManyRuns
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Reader
    from imgfs.backends._chain_runs import Runs

_OFFSET: Final = 0x00FF_FFFF_FFFF_FE00
_COPIED: Final = 1 << 63
_CODED: Final = 1 << 62
_RESERVED: Final = 0x3F00_0000_0000_01FE
_ZERO: Final = 1
_SECTOR: Final = 512
_SUBCLUSTERS: Final = 32
_ALL: Final = 0xFFFF_FFFF

MAX_L1: Final = 32 * limits.MIB  # bytes, as QEMU has it
# Bytes of second tables that are read: 8 TiB of disk in clusters of 64 KiB, and about ten seconds.
MAX_L2: Final = 1 * limits.GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Where the tables of an image are, and what their entries mean.

    ``data_size`` is the size of the file that holds the clusters, -1: it is not at hand; ``extern`` says
    that it is a file of its own. Units: bytes but for ``l1_entries`` and ``l2_entries``.
    """

    size: int
    cluster: int
    l1_at: int
    l1_entries: int
    l2_entries: int
    data_size: int
    extern: bool = False
    zeros: bool = True  # version 3: entries may say zeros
    one: bool = False  # QCOW: the first version, where entries are plain offsets
    extended: bool = False

    def over(self, data_size: int) -> Tables:
        """Return the tables of an image whose clusters lie in a data file of ``data_size`` bytes."""
        return replace(self, data_size=data_size, extern=True)


Take = Callable[[int, "array[int]"], None]


def walk(reader: Reader, tables: Tables, runs: Runs) -> list[str]:
    """Append what the tables say of the whole disk; returns remarks. Damage costs its range only.

    Raises:
        Malformed: the first table is larger than any writer makes it.
    """
    span = tables.cluster * tables.l2_entries
    needed = -(-tables.size // span)
    if 8 * needed > MAX_L1:
        raise Malformed(f"a first table of {needed} entries")
    notes: list[str] = []
    held = min(needed, tables.l1_entries, max(0, reader.size - tables.l1_at) // 8)
    if held < needed:
        notes.append(f"the first table has {held} entries at hand, the disk takes {needed}")
    taker = _Taker(tables, runs)
    take = taker.first if tables.one else taker.extended if tables.extended else taker.standard
    try:
        _walk(reader, tables, runs, _words(reader.read(tables.l1_at, 8 * held) if held else b""), take)
        at = held * span
        runs.gone(at, tables.size - at, "no first table for these clusters")
    except TooManyRuns as full:
        runs.give_up(full.at, tables.size)
        notes.append(f"the disk is in more than {runs.limit - 1} pieces: what is beyond them is lost")
    return notes


def _walk(reader: Reader, tables: Tables, runs: Runs, first: array[int], take: Take) -> None:
    width = 8 * tables.l2_entries * (2 if tables.extended else 1)
    span = tables.cluster * tables.l2_entries
    zeros = bytes(width)
    seen: set[int] = set()
    budget = MAX_L2
    expected = 0
    for index in [number for number, entry in enumerate(first) if entry]:
        runs.below(expected * span, (index - expected) * span)
        expected = index + 1
        at = index * span
        length = min(span, tables.size - at)
        offset = first[index] if tables.one else first[index] & _OFFSET
        if not offset:
            runs.below(at, length)
        elif offset % (_SECTOR if tables.one else tables.cluster) or offset + width > reader.size:
            runs.gone(at, length, "their second table is not in the file")
        elif offset in seen:  # nobody shares them; a loop would never end
            runs.gone(at, length, "their second table serves other clusters")
        elif budget < width:
            runs.gone(at, length, f"more than {MAX_L2} bytes of second tables")
        else:
            seen.add(offset)
            try:
                raw = reader.read(offset, width)
            except EvidenceError:
                runs.gone(at, length, "their second table cannot be read")
                continue
            if raw == zeros:
                runs.below(at, length)
                continue
            budget -= width
            take(at, _words(raw))
    at = expected * span
    runs.below(at, min(len(first) * span, tables.size) - at)


class _Taker:
    """Appends what one second table says."""

    __slots__ = ("_cluster", "_runs", "_size", "_tables")

    def __init__(self, tables: Tables, runs: Runs) -> None:
        self._tables = tables
        self._runs = runs
        self._cluster = tables.cluster
        self._size = tables.size

    def standard(self, at: int, entries: array[int]) -> None:
        """Take entries of eight bytes."""
        cluster, runs, size = self._cluster, self._runs, self._size
        pairs = enumerate(zip(entries, islice(entries, 1, None), strict=False), 1)
        cuts = [
            i
            for i, (a, b) in pairs
            if (not b & _CODED if a & _CODED else b - a != (cluster if a else 0) or b & _CODED)
        ]
        cuts.append(len(entries))
        first = 0
        for stop in cuts:
            entry, start = entries[first], at + first * cluster
            length = min(at + stop * cluster, size) - start
            group, first = entries[first:stop], stop
            if length <= 0:
                return
            if not entry:
                runs.below(start, length)
            elif entry & _CODED:
                self._coded(group[: -(-length // cluster)], start, length)
            elif entry & _RESERVED or (entry & _ZERO and not self._tables.zeros):
                runs.gone(start, length, "entries with reserved bits")
            elif entry & _ZERO:
                runs.zero(start, length)
            else:
                self._plain(entry, start, length)

    def extended(self, at: int, entries: array[int]) -> None:
        """Take entries of sixteen bytes: the second word says what each of 32 subclusters is."""
        cluster, runs, size = self._cluster, self._runs, self._size
        part = cluster // _SUBCLUSTERS
        for start, entry, bits in zip(range(at, size, cluster), entries[::2], entries[1::2], strict=False):
            length = min(cluster, size - start)
            if not entry and not bits:
                runs.below(start, length)
            elif entry & _CODED:
                self._coded([entry], start, length)
            elif entry & (_RESERVED | _ZERO):
                runs.gone(start, length, "entries with reserved bits")
            elif bits == _ALL:
                self._plain(entry, start, length)
            else:
                for number in range(-(-length // part)):
                    begin = start + number * part
                    held = min(part, size - begin)
                    stored, zero = bits >> number & 1, bits >> number + 32 & 1
                    if stored and zero:
                        runs.gone(begin, held, "subclusters that are stored and zero")
                    elif zero:
                        runs.zero(begin, held)
                    elif stored:
                        self._plain(entry, begin, held, number * part)
                    else:
                        runs.below(begin, held)

    def first(self, at: int, entries: array[int]) -> None:
        """Take entries of QCOW: an offset, or in the highest bit that the cluster is compressed."""
        cluster, runs, size = self._cluster, self._runs, self._size
        shift = 63 - (cluster.bit_length() - 1)
        for start, entry in zip(range(at, size, cluster), entries, strict=False):
            length = min(cluster, size - start)
            if not entry:
                runs.below(start, length)
            elif entry & _COPIED:
                offset = entry & (1 << shift) - 1
                self._packed(offset, entry >> shift & cluster - 1, start, length)
            elif entry % _SECTOR:
                runs.gone(start, length, "clusters at odd places")
            else:
                runs.data(start, length, entry, self._tables.data_size)

    def _plain(self, entry: int, start: int, length: int, skip: int = 0) -> None:
        offset, tables = entry & _OFFSET, self._tables
        if not offset and not (tables.extern and entry & _COPIED):
            if tables.extended:
                self._runs.gone(start, length, "subclusters of no cluster")
            else:
                self._runs.below(start, length)
        elif offset % tables.cluster:
            self._runs.gone(start, length, "clusters at odd places")
        elif tables.data_size < 0:
            self._runs.gone(start, length, "the data file is missing")
        else:
            self._runs.data(start, length, offset + skip, tables.data_size)

    def _coded(self, entries: Sequence[int], start: int, length: int) -> None:
        """Take compressed clusters: where each starts, to the byte, and its further sectors."""
        if self._tables.extern:
            self._runs.gone(start, length, "compressed clusters beside a data file")
            return
        cluster = self._cluster
        shift = 62 - (cluster.bit_length() - 1 - 8)
        mask = (1 << shift) - 1
        offsets = [entry & mask for entry in entries]
        stored = [((entry & _CODED - 1) >> shift) + 1 << 9 for entry in entries]
        stored = [count - (offset & _SECTOR - 1) for count, offset in zip(stored, offsets, strict=True)]
        if max(map(add, offsets, stored)) <= self._tables.data_size:
            self._runs.coded_all(start, length, cluster, offsets, stored)
            return
        stop = start + length
        for offset, count in zip(offsets, stored, strict=True):
            self._packed(offset, count, start, min(cluster, stop - start))
            start += cluster

    def _packed(self, offset: int, stored: int, start: int, length: int) -> None:
        stored = min(stored, self._tables.data_size - offset)  # the last sector may be cut short
        if stored <= 0:
            self._runs.gone(start, length, "clusters beyond the end of the file")
        else:
            self._runs.coded(start, length, self._cluster, offset, stored)


def _words(raw: bytes) -> array[int]:
    words = array("Q", raw)
    if sys.byteorder == "little":
        words.byteswap()
    return words
