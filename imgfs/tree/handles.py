"""Open files and directories, and the layouts that outlive both and the worker that gave them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.block.extents import ExtentMap, verbatim
from imgfs.block.readahead import Readahead

if TYPE_CHECKING:
    from imgfs.block.fetch import Fetcher
    from imgfs.block.pieces import ByteSource
    from imgfs.tree.nodes import Node

    Key = tuple[int, int, int, int]

_ROW_BYTES = 32  # four int64 columns per run
_BASE_BYTES = 1024  # objects around them


@dataclass(frozen=True, slots=True)
class LayoutStatistics:
    """Units: ``used`` and ``capacity`` bytes (estimated)."""

    layouts: int
    used: int
    capacity: int
    hits: int
    misses: int


class LayoutCache:
    """Resolved sources by (file system, tree, inum, stream), oldest dropped first."""

    __slots__ = ("_capacity", "_hits", "_misses", "_sources", "_used")

    def __init__(self, capacity: int = limits.LAYOUT_CACHE_BYTES) -> None:
        self._capacity = capacity
        self._sources: OrderedDict[Key, tuple[ByteSource, int]] = OrderedDict()
        self._used = 0
        self._hits = 0
        self._misses = 0

    def get(self, key: Key) -> ByteSource | None:
        """Return a source resolved before."""
        pair = self._sources.get(key)
        if pair is None:
            self._misses += 1
            return None
        self._hits += 1
        self._sources.move_to_end(key)
        return pair[0]

    def put(self, key: Key, source: ByteSource) -> None:
        """Keep a source."""
        weight = _BASE_BYTES + (_ROW_BYTES * source.run_count if isinstance(source, ExtentMap) else 0)
        self._sources[key] = (source, weight)
        self._used += weight
        while self._used > self._capacity and len(self._sources) > 1:
            _, (_, gone) = self._sources.popitem(last=False)
            self._used -= gone

    def statistics(self) -> LayoutStatistics:
        """Count what is held."""
        return LayoutStatistics(len(self._sources), self._used, self._capacity, self._hits, self._misses)


class OpenFile:
    """A resolved source being read. No parser takes part in it, so none can take it away."""

    __slots__ = ("_ahead", "_fetcher", "_readahead", "node", "size", "source")

    def __init__(self, node: Node, source: ByteSource, fetcher: Fetcher) -> None:
        self.node = node
        self.source = source
        self.size = source.size
        self._fetcher = fetcher
        # Verbatim bytes that are in the host's page cache need no help: announced from the first miss on.
        self._ahead = not verbatim(source)
        self._readahead = Readahead()

    def read_nowait(self, offset: int, length: int, *, ahead: bool = True) -> bytes | bytearray | memoryview:
        """Return bytes [offset, offset + length) clipped to the size; valid until the next await.

        ``ahead`` False: nothing is decoded that was not asked for.

        Raises:
            trio.WouldBlock: something has to be waited for.
            EvidenceError: as ``fetch``.
        """
        stop = min(offset + length, self.size)
        if offset >= stop:
            return b""
        if self._ahead and ahead and (wanted := self._readahead.observe(offset, stop)) is not None:
            self._fetcher.prefetch(self.source, *wanted)
        return self._fetcher.fetch_nowait(self.source, offset, stop)

    async def read(self, offset: int, length: int) -> bytes | bytearray | memoryview:
        """Return bytes [offset, offset + length) clipped to the size.

        Raises:
            EvidenceError: LostBytes, Truncated, BadUnit, with the place.
            MediaChanged: the host file is not what was opened.
        """
        stop = min(offset + length, self.size)
        if offset >= stop:
            return b""
        self._ahead = True
        return await self._fetcher.fetch(self.source, offset, stop)
