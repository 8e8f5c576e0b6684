"""The file allocation table: which cluster follows, which are free, read in windows and kept.

Where a copy of the table cannot be read the next one is asked, by sectors; what none has counts as bad
clusters: no chain goes on there, and nothing there is free.

Source: Microsoft FAT specification 1.03, section 4 (FAT); exFAT specification, section 4.1.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from operator import ne, not_
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from imgfs.backends import Reader

SHIFT: Final = 13  # clusters of a window: 32 KiB of a FAT32
WINDOW: Final = 1 << SHIFT
_LOW: Final = WINDOW - 1
_KEPT: Final = 256  # windows with what is derived from them: 20 MiB
_SECTOR: Final = 512
_BAD: Final = {12: b"\xf7\x7f\xff", 16: b"\xf7\xff", 28: b"\xf7\xff\xff\x0f", 32: b"\xf7\xff\xff\xff"}


class _Window:
    """Entries of some clusters, and where among them a run of clusters ends."""

    __slots__ = ("breaks", "free", "values")

    def __init__(self, values: array[int]) -> None:
        self.values = values
        self.breaks: bytes | None = None  # 1 where the next cluster is not the following one
        self.free: bytes | None = None  # 1 where the cluster is free


class Table:
    """One table and its copies. ``bits`` are the valid bits of an entry, 32: exFAT.

    Units: ``length`` bytes, ``clusters`` numbered from 2.
    """

    __slots__ = ("_bits", "_copies", "_length", "_reader", "_windows", "stop")

    def __init__(
        self, reader: Reader, copies: tuple[int, ...], length: int, bits: int, clusters: int
    ) -> None:
        self._reader = reader
        self._copies = copies
        self._bits = bits
        self._length = min(length, -(-(clusters + 2) * (12 if bits == 12 else 16 if bits == 16 else 32) // 8))
        self._windows: OrderedDict[int, _Window] = OrderedDict()
        self.stop = clusters + 2

    def value(self, cluster: int) -> int:
        """Return the entry of a cluster, 1 (which means nothing) when the table has none."""
        values = self._window(cluster >> SHIFT).values
        index = cluster & _LOW
        return values[index] if index < len(values) else 1

    def is_free(self, cluster: int) -> bool:
        """Say whether a cluster belongs to nobody."""
        return self.value(cluster) == 0

    def free_map(self, index: int) -> bytes:
        """Return one byte a cluster of window ``index``, 1: free; shorter where the table ends."""
        window = self._window(index)
        if window.free is None:
            window.free = bytes(map(not_, window.values))
        return window.free

    def run(self, cluster: int, most: int) -> tuple[int, int]:
        """Return how many clusters follow each other from ``cluster`` on, and the one after them, 0: none.

        Looks at no more than ``most``; the second number is then of no use.
        """
        count = 0
        while True:
            window, at = self._window(cluster >> SHIFT), cluster & _LOW
            values = window.values
            if at >= len(values):
                return max(count, 1), 0
            following = values[at]
            if following != cluster + 1:  # how most runs end: files are small
                count += 1
                break
            if window.breaks is None:
                first = (cluster >> SHIFT << SHIFT) + 1
                window.breaks = bytes(map(ne, values, range(first, first + len(values))))
            end = window.breaks.find(1, at)
            end = len(values) - 1 if end < 0 else end
            following = values[end]
            count += end - at + 1
            cluster += end - at + 1
            if following != cluster or count >= most or cluster >= self.stop:
                break
        return min(count, most), following if 2 <= following < self.stop else 0

    def _window(self, index: int) -> _Window:
        window = self._windows.get(index)
        if window is None:
            if len(self._windows) >= _KEPT:
                self._windows.popitem(last=False)
            window = self._windows[index] = _Window(self._load(index))
        return window

    def _load(self, index: int) -> array[int]:
        if self._bits == 12:
            return self._load12(index)
        kind, width = ("H", 2) if self._bits == 16 else ("I", 4)
        data = self._bytes(index * WINDOW * width, WINDOW * width)
        values = array(kind, data[: len(data) // width * width])
        if self._bits == 28 and len(values) and max(values) > 0x0FFFFFFF:  # the upper bits are reserved
            values = array("I", [value & 0x0FFFFFFF for value in values])
        return values

    def _load12(self, index: int) -> array[int]:
        data = self._bytes(index * WINDOW * 3 // 2, WINDOW * 3 // 2)
        values = array("H")
        for at in range(0, len(data) - 2, 3):
            values.append(data[at] | (data[at + 1] & 0x0F) << 8)
            values.append(data[at + 1] >> 4 | data[at + 2] << 4)
        if len(data) % 3 == 2:
            values.append(data[-2] | (data[-1] & 0x0F) << 8)
        return values

    def _bytes(self, start: int, length: int) -> bytes:
        length = min(length, self._length - start)
        if length <= 0:
            return b""
        for copy in self._copies:
            try:
                return self._reader.read(copy + start, length)
            except EvidenceError:
                continue
        parts = [
            self._sector(at, min(_SECTOR, start + length - at)) for at in range(start, start + length, 512)
        ]
        return b"".join(parts)

    def _sector(self, start: int, length: int) -> bytes:
        for copy in self._copies:
            try:
                return self._reader.read(copy + start, length)
            except EvidenceError:
                continue
        pattern = _BAD[self._bits]
        skip = start % len(pattern)
        return (pattern * (length // len(pattern) + 2))[skip : skip + length]
