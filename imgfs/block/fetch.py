"""From a plan to bytes: the only place in the daemon that reads image data.

Non-blocking first: what the page cache or the block cache holds is answered at once; the rest goes
to pool threads, stored bytes and codecs under limiters of their own, so that a slow disk does not
starve decoding. Pool functions get host files and immutable values, nothing else.

Invariants: INV-4 exactly the planned length or an error, INV-7.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from imgfs import limits
from imgfs.block.batches import batches, decode_unit, span
from imgfs.block.cache import BlockCache
from imgfs.block.foreign import ForeignSource
from imgfs.block.hostfile import HostFile, NotCached
from imgfs.block.pieces import Bytes, Coded, ForeignUnit, Lost, Stored, Zeros
from imgfs.block.statistics import FetchStatistics
from imgfs.errors import BadUnit, LostBytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from imgfs.block.batches import Span
    from imgfs.block.pieces import ByteSource, Piece, Unit

Buffer = bytes | bytearray | memoryview
A = TypeVar("A")
R = TypeVar("R")

# A hop to a pool thread costs more than inflating this much; one such unit is decoded on the loop.
_INLINE: Final = 64 * limits.KIB
# A miss this long is the kernel reading ahead, hence a sequential reader: what follows is advised.
_SEQUENTIAL: Final = 64 * limits.KIB


class Fetcher:
    """Brings the bytes of sources; owns the cache of decoded units.

    ``lost_zero`` fills lost ranges with zeros and counts them, instead of raising.
    """

    def __init__(
        self, nursery: trio.Nursery, *, cache_bytes: int = limits.CACHE_BYTES, lost_zero: bool = False
    ) -> None:
        """Decode in tasks of ``nursery``; see ``open_fetcher``."""
        self.cache = BlockCache(cache_bytes, self._decode, nursery)
        self.lost_zero = lost_zero
        self._nursery = nursery
        self._reads = trio.CapacityLimiter(limits.BLOCKING_READS)
        # One more than cores: a job is ready while the loop hands out the next (E01: 260 to 320 MB/s).
        self._codecs = trio.CapacityLimiter(len(os.sched_getaffinity(0)) + 1)
        self._nowait = self._waited = self._trips = self._stored = 0
        self._units = self._unit_bytes = self._inline = self._foreign = self._lost = 0

    def fetch_nowait(self, source: ByteSource, start: int, stop: int) -> Buffer:
        """Return bytes [start, stop) if that needs no waiting.

        Raises:
            trio.WouldBlock: some bytes are in no cache.
            LostBytes: the image cannot supply some of them.
            MediaChanged: a host file changed.
        """
        pieces = source.plan(start, stop)
        if len(pieces) == 1:
            piece = pieces[0]
            if type(piece) is Stored:
                piece.file.check()
                try:
                    data = piece.file.read_nowait(piece.offset, piece.length)
                except NotCached:
                    raise trio.WouldBlock from None
                self._nowait += 1
                self._stored += piece.length
                return data
            if type(piece) is Coded:
                block = self.cache.get_nowait(piece.unit)
                self._nowait += 1
                if piece.length == len(block):
                    return block
                return memoryview(block)[piece.skip : piece.skip + piece.length]
        if all(type(piece) is Coded for piece in pieces):
            parts = []
            for piece in pieces:  # the usual read of an E01: joined, each byte is copied once
                block = self.cache.get_nowait(piece.unit)  # type: ignore[union-attr]  # all are Coded
                whole = piece.length == len(block)
                parts.append(block if whole else memoryview(block)[piece.skip : piece.skip + piece.length])  # type: ignore[union-attr]
            self._nowait += 1
            return b"".join(parts)
        out = bytearray(stop - start)
        if self._fill(pieces, memoryview(out), lost_zero=self.lost_zero):
            raise trio.WouldBlock
        self._nowait += 1
        return out

    async def fetch(self, source: ByteSource, start: int, stop: int) -> Buffer:
        """Return bytes [start, stop), waiting as needed; always a checkpoint.

        Raises:
            LostBytes: the image cannot supply some of them.
            Truncated: a host file ends early.
            BadUnit: a unit does not decode.
            EvidenceError: a host file cannot be read.
            MediaChanged: a host file changed.
            WorkerError: the worker that produces some of them failed.
        """
        pieces = source.plan(start, stop)
        if len(pieces) == 1 and type(piece := pieces[0]) is Coded:
            block = await self._one(piece.unit)
            return memoryview(block)[piece.skip : piece.skip + piece.length]
        return await self._bring(pieces, stop - start, lost_zero=self.lost_zero)

    def prefetch(self, source: ByteSource, start: int, stop: int) -> None:
        """Start to decode units, and to cache stored bytes, of [start, stop); never waits or raises.

        The range is cut to the source.
        """
        start, stop = max(start, 0), min(stop, source.size)
        if start >= stop:
            return
        pieces = source.plan(start, stop)
        units = {piece.unit.key: piece.unit for piece in pieces if isinstance(piece, Coded)}
        missing = [unit for unit in units.values() if not self.cache.has(unit)]
        stored = [piece for piece in pieces if isinstance(piece, Stored)]
        stored += [s for s in (_extent(batch) for batch in batches(missing)) if s is not None]
        if stored:
            self._nursery.start_soon(self._advise, stored)
        for batch in batches(missing):
            self.cache.prefetch(batch)

    def statistics(self) -> FetchStatistics:
        """Return the counters."""
        return FetchStatistics(
            nowait=self._nowait,
            waited=self._waited,
            pool_trips=self._trips,
            stored_bytes=self._stored,
            decoded_units=self._units,
            decoded_bytes=self._unit_bytes,
            inline_units=self._inline,
            foreign_units=self._foreign,
            lost_bytes=self._lost,
            cache=self.cache.statistics(),
        )

    async def _one(self, unit: Unit) -> bytes:
        """Return one block, decoded on the loop if it is small and its bytes are at hand."""
        self._waited += 1
        if unit.length <= _INLINE and not self.cache.has(unit) and (place := span([unit])) is not None:
            place.file.check()
            try:
                data = place.file.read_nowait(place.start, place.stop - place.start)
            except NotCached:
                return await self.cache.get(unit)
            outcome = place.decode(memoryview(data))[0]
            if isinstance(outcome, Exception):
                raise outcome
            self._inline += 1
            self._count([outcome])
            self.cache.put(unit, outcome)
            await trio.lowlevel.checkpoint()
            return outcome
        return await self.cache.get(unit)

    async def _bring(self, pieces: Sequence[Piece], length: int, *, lost_zero: bool) -> bytearray:
        """Return the bytes of pieces, all that is missing at once."""
        out = bytearray(length)
        view = memoryview(out)
        missing = self._fill(pieces, view, lost_zero=lost_zero)
        self._waited += 1
        stored = [(piece, at) for piece, at in missing if isinstance(piece, Stored)]
        coded = [(piece, at) for piece, at in missing if isinstance(piece, Coded)]
        groups = list(batches({piece.unit.key: piece.unit for piece, _ in coded}.values()))
        if stored and coded:  # start decoding before waiting for the disk
            for group in groups:
                self.cache.prefetch(group)
        if stored:
            await self._pool(_read_into, [(p.file, p.offset, view[at : at + p.length]) for p, at in stored])
            self._stored += sum(piece.length for piece, _ in stored)
        if coded:
            blocks = await self.cache.get_all(groups)
            for piece, at in coded:
                block = memoryview(blocks[piece.unit.key])
                view[at : at + piece.length] = block[piece.skip : piece.skip + piece.length]
        if not missing:
            await trio.lowlevel.checkpoint()
        return out

    def _fill(
        self, pieces: Iterable[Piece], out: memoryview, *, lost_zero: bool
    ) -> list[tuple[Stored | Coded, int]]:
        """Write what is at hand; return what is missing, each with its place in ``out``."""
        missing: list[tuple[Stored | Coded, int]] = []
        at = lost = 0
        for piece in pieces:
            until = at + piece.length
            match piece:
                case Stored(file, offset, _):
                    file.check()
                    try:
                        file.read_into_nowait(offset, out[at:until])
                        self._stored += piece.length
                    except NotCached:
                        missing.append((piece, at))
                case Coded(unit, skip, length):
                    try:
                        out[at:until] = memoryview(self.cache.get_nowait(unit))[skip : skip + length]
                    except trio.WouldBlock:
                        missing.append((piece, at))
                case Bytes(data, offset, length):
                    out[at:until] = memoryview(data)[offset : offset + length]
                case Lost(length, why):
                    if not lost_zero:
                        raise LostBytes(why)
                    lost += length
                case Zeros():
                    pass  # the buffer is new
            at = until
        self._lost += lost
        return missing

    async def _decode(self, units: Sequence[Unit]) -> Sequence[bytes | Exception]:
        """Decode units that ``batches`` put together; called by the cache, in its nursery."""
        if (place := span(units)) is not None:
            place.file.check()
            return self._count(await self._decode_span(place))
        outcomes: list[bytes | Exception] = []
        for unit in units:
            try:
                outcomes.append(await self._decode_any(unit))
            except Exception as why:  # noqa: BLE001  # the outcome of this unit; its waiters raise it
                outcomes.append(why)
        return self._count(outcomes)

    async def _decode_span(self, place: Span) -> list[bytes | Exception]:
        """Read and decode in one trip if the bytes are cached; else wait for the disk first."""
        outcomes = await self._codec(_decode_cached, place)
        if outcomes is None:
            data = bytearray(place.stop - place.start)
            await self._pool(_read_into, [(place.file, place.start, memoryview(data))])
            outcomes = await self._codec(place.decode, memoryview(data))
        self._stored += place.stop - place.start
        return outcomes

    async def _decode_any(self, unit: Unit) -> bytes | Exception:
        """Decode a unit whose bytes are in pieces, in units below, or with a worker."""
        if isinstance(unit, ForeignUnit):
            source = unit.source
            assert isinstance(source, ForeignSource)  # noqa: S101  # only it makes such units
            self._foreign += 1
            data = await source.read(unit.index * source.unit, unit.length)
            if len(data) != unit.length:
                return BadUnit(f"a worker sent {len(data)} bytes, {unit.length} expected")
            return bytes(data)
        length = sum(piece.length for piece in unit.pieces)
        # Never zeros for lost stored bytes: what they decode to would be invented.
        stored = await self._bring(unit.pieces, length, lost_zero=False)
        return await self._codec(partial(decode_unit, unit), memoryview(stored))

    def _count(self, outcomes: list[bytes | Exception]) -> list[bytes | Exception]:
        for outcome in outcomes:
            if isinstance(outcome, bytes):
                self._units += 1
                self._unit_bytes += len(outcome)
        return outcomes

    async def _advise(self, stored: Sequence[Stored]) -> None:
        await self._pool(_advise, stored)

    async def _pool(self, job: Callable[[A], R], argument: A) -> R:
        """Run what may wait for a disk in a pool thread."""
        self._trips += 1
        return await trio.to_thread.run_sync(job, argument, limiter=self._reads)

    async def _codec(self, job: Callable[[A], R], argument: A) -> R:
        """Run what computes in a pool thread."""
        self._trips += 1
        return await trio.to_thread.run_sync(job, argument, limiter=self._codecs)


@asynccontextmanager
async def open_fetcher(
    *, cache_bytes: int = limits.CACHE_BYTES, lost_zero: bool = False
) -> AsyncIterator[Fetcher]:
    """Give a fetcher with a nursery of its own; decoding that is under way at the end is dropped."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield Fetcher(nursery, cache_bytes=cache_bytes, lost_zero=lost_zero)
        except Exception as why:  # noqa: BLE001  # raised below: as itself, not in the nursery's group
            failure = why
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _extent(units: Sequence[Unit]) -> Stored | None:
    """Return where a batch is stored, for advice."""
    place = span(units)
    return Stored(place.file, place.start, place.stop - place.start) if place is not None else None


def _advise(stored: Sequence[Stored]) -> None:
    """Announce reads. Runs in a pool thread: the kernel may wait for room in the disk's queue."""
    for piece in stored:
        piece.file.advise(piece.offset, piece.length)


def _read_into(wanted: Sequence[tuple[HostFile, int, memoryview]]) -> None:
    """Read ranges into buffers. Runs in a pool thread."""
    if len(wanted) > 1:
        for file, offset, buffer in wanted:
            file.advise(offset, len(buffer))
    file, offset, buffer = wanted[-1]
    if len(buffer) >= _SEQUENTIAL:
        file.advise(offset + len(buffer), limits.BATCH_BYTES)
    for file, offset, buffer in wanted:
        file.read_into(offset, buffer)


def _decode_cached(place: Span) -> list[bytes | Exception] | None:
    """Read and decode units if the page cache holds them. Runs in a pool thread."""
    try:
        data = place.file.read_nowait(place.start, place.stop - place.start)
    except NotCached:
        return None
    return place.decode(memoryview(data))
