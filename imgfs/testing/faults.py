"""Faults to inject: a fetcher that fails, or brings too little, inside chosen ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.block.pieces import ByteSource
    from imgfs.errors import ImgfsError
    from imgfs.worker.blocks import Fetches


class FaultyFetcher:
    """A fetcher that raises ``faults[(start, stop)]`` for every read that touches [start, stop).

    ``asked`` holds the ranges in the order they came, for tests that count trips.
    """

    def __init__(
        self, fetcher: Fetches, faults: Sequence[tuple[int, int, ImgfsError]] = (), *, keep: int = 10_000
    ) -> None:
        self._fetcher = fetcher
        self._faults = tuple(faults)
        self._keep = keep
        self.asked: list[tuple[int, int]] = []

    async def fetch(self, source: ByteSource, start: int, stop: int) -> bytes | bytearray | memoryview:
        """Return the bytes, or raise the fault that lies in the range."""
        if len(self.asked) < self._keep:
            self.asked.append((start, stop))
        for first, last, why in self._faults:
            if start < last and first < stop:
                raise why
        return await self._fetcher.fetch(source, start, stop)
