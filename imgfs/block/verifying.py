"""Sectors and their checksums: read, compared, and taken from elsewhere where they differ.

Nothing of it is cached: what the kernel's page cache drops is read and compared again, which for CRC-32C
costs the tenth part of the copy.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from imgfs import limits
from imgfs.block.pieces import Zeros
from imgfs.errors import BadUnit, EvidenceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgfs.block.pieces import Coded, Piece, Stored, SummedSource, Verified
    from imgfs.block.pool import Pool

    Fill = Callable[[Sequence[Piece], memoryview], list[tuple[Stored | Coded | Verified, int]]]
    Bring = Callable[[Sequence[Piece]], Awaitable[bytearray]]

# Checksums of more are compared in the pool if they wait anyway; on the loop a MiB of CRC-32C takes 0.04 ms.
_INLINE: Final = 64 * limits.KIB
_QUICK: Final = frozenset((4,))  # bytes of a checksum that is compared on the loop however much it is


class Verifying:
    """Brings pieces whose checksums are right.

    ``fill`` writes what is at hand and returns what is missing, ``bring`` waits for it.
    """

    __slots__ = ("_bring", "_fill", "_pool", "elsewhere", "verified")

    def __init__(self, pool: Pool, fill: Fill, bring: Bring) -> None:
        self._pool = pool
        self._fill = fill
        self._bring = bring
        self.verified = 0  # bytes
        self.elsewhere = 0  # sectors that were bad, and good in another place

    def at_hand(self, piece: Verified, scratch: memoryview) -> memoryview:
        """Return the bytes of a piece if that needs no waiting; ``scratch`` may become their place.

        Raises:
            trio.WouldBlock: some are in no cache, they are much and slow to compare, or bad.
        """
        source = piece.source
        start, stop = _sectors(piece)
        length = stop - start
        if length > _INLINE and source.width not in _QUICK:
            raise trio.WouldBlock
        places, planned = source.stored(start, stop, 0), source.sums(start, stop)
        # Holes below are filled with nothing: their place must be new.
        used = length > len(scratch) or any(type(one) is Zeros for one in places)
        data = memoryview(bytearray(length)) if used else scratch[:length]
        sums = bytearray(sum([one.length for one in planned]))
        try:
            missing = self._fill(places, data) or self._fill(planned, memoryview(sums))
        except EvidenceError:
            raise trio.WouldBlock from None  # perhaps in another place
        if missing or source.wrong(data, sums):
            raise trio.WouldBlock
        self.verified += length
        return data[piece.start - start : piece.start - start + piece.length]

    def stored(self, piece: Verified) -> list[Piece]:
        """Return where the bytes of a piece are stored, for who announces reads."""
        return piece.source.stored(*_sectors(piece), 0)

    async def verified_bytes(self, piece: Verified) -> memoryview:
        """Return the bytes of a piece.

        Raises:
            BadUnit: no place has a sector that fits its checksum.
            EvidenceError: sectors or checksums cannot be read.
        """
        source = piece.source
        start, stop = _sectors(piece)
        sums = await self._bring(source.sums(start, stop))
        try:
            data = await self._bring(source.stored(start, stop, 0))
        except EvidenceError:
            if source.ways < 2:  # nowhere else to look
                raise
            data, wrong = bytearray(stop - start), list(range((stop - start) // source.sector))
        else:
            if stop - start > _INLINE:
                wrong = await self._pool.compute(partial(source.wrong, data), sums)
            else:
                wrong = source.wrong(data, sums)
        width = source.width
        for number in wrong:
            at = number * source.sector
            found = await self._sector(source, start + at, sums[number * width : (number + 1) * width])
            data[at : at + source.sector] = found
        self.verified += stop - start
        return memoryview(data)[piece.start - start : piece.start - start + piece.length]

    async def _sector(self, source: SummedSource, at: int, wanted: bytearray) -> bytearray:
        """Return one sector from wherever its checksum is right."""
        why = f"checksum of sector {at // source.sector}"
        for way in range(source.ways):
            try:
                data = await self._bring(source.stored(at, at + source.sector, way))
            except EvidenceError as failed:
                why = failed.message
                continue
            if not source.wrong(data, wanted):
                self.elsewhere += 1
                return data
        raise BadUnit(why, spec=source.spec, start=at, stop=at + source.sector)


def _sectors(piece: Verified) -> tuple[int, int]:
    sector = piece.source.sector
    return piece.start // sector * sector, -(-(piece.start + piece.length) // sector) * sector
