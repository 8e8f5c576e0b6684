"""From a plan to bytes: with ``pool`` and ``decoding`` the only place in the daemon that reads image data.

Non-blocking first: what the page cache or the block cache holds is answered at once; the rest goes
to pool threads.

Invariants: INV-4 exactly the planned length or an error, INV-7.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Final, cast

import trio

from imgfs import limits
from imgfs.block.decoding import Decoding, cut
from imgfs.block.enciphered import MARGIN, CipherMap
from imgfs.block.handover import Handover
from imgfs.block.hostfile import NotCached
from imgfs.block.native import NativeStrips
from imgfs.block.pieces import Bytes, Coded, Lost, Stored, Strip, Verified, Zeros
from imgfs.block.pool import Pool
from imgfs.block.statistics import FetchStatistics
from imgfs.block.uring import Ring
from imgfs.block.verifying import Verifying
from imgfs.errors import LostBytes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from imgfs.block.decoding import Buffer
    from imgfs.block.handover import Decoders
    from imgfs.block.pieces import ByteSource, Piece

_SCRATCH: Final = limits.READ_AHEAD_KIB * limits.KIB  # the largest request of the kernel

_ZEROS: Final = memoryview(bytes(_SCRATCH))


class Fetcher:
    """Brings the bytes of sources; owns the cache of decoded units.

    ``lost_zero`` fills lost ranges with zeros and counts them, instead of raising.
    """

    def __init__(
        self, nursery: trio.Nursery, *, cache_bytes: int = limits.CACHE_BYTES, lost_zero: bool = False
    ) -> None:
        """Decode in tasks of ``nursery``; see ``open_fetcher``."""
        self.lost_zero = lost_zero
        self._nursery = nursery
        self._pool = Pool()
        # Never zeros for lost stored bytes of a unit: what they decode to would be invented.
        self._decoding = Decoding(nursery, self._pool, cache_bytes, partial(self._bring, lost_zero=False))
        self._verifying = Verifying(
            self._pool, partial(self._fill, lost_zero=False), partial(self._bring, lost_zero=False)
        )
        self._scratch = memoryview(bytearray(_SCRATCH))
        self._plain = memoryview(b"")  # another for plaintext, which may be on its way into the first
        self._nowait = self._waited = self._stored = self._lost = 0

    def use(self, ring: Ring | None) -> None:
        """Read through a ring from now on where that is quicker."""
        if ring is not None:
            self._nursery.start_soon(ring.listen)
            self._pool.ring = ring

    def decode_natively(self) -> None:
        """Decode strips in threads of their own from now on, where there are decoders for that."""
        native = NativeStrips.open(self._decoding.spares)
        if native is not None:
            self._nursery.start_soon(native.listen)
            self._decoding.use(native)

    def hand_decoding_to(self, decoders: Decoders) -> None:
        """Let other processes decode strips from now on."""
        self._decoding.handover = Handover(decoders, self._pool, self._decoding.spares)

    def fetch_nowait(self, source: ByteSource, start: int, stop: int) -> Buffer:
        """Return bytes [start, stop) if that needs no waiting; they are valid until the caller's next await.

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
                data = self._room(piece.length)
                try:
                    piece.file.read_into_nowait(piece.offset, data)
                except NotCached:
                    raise trio.WouldBlock from None
                self._nowait += 1
                self._stored += piece.length
                return data
            if type(piece) is Verified:
                verified = self._verifying.at_hand(piece, self._scratch)
                self._nowait += 1
                return verified
            if type(piece) is Coded:
                held = self._at_hand(piece)
                self._decoding.given(piece)
                self._nowait += 1
                return held
        coded = [piece for piece in pieces if type(piece) is Coded and self._decoding.quick(piece) is None]
        if len(coded) == len(pieces) > 0:  # a read of an E01 across strips: joined, each byte copied once
            if not all(map(self._decoding.holds, coded)):
                raise trio.WouldBlock
            whole, at = self._room(stop - start), 0
            for piece in coded:
                whole[at : at + piece.length] = self._decoding.held(piece)
                self._decoding.given(piece)
                at += piece.length
            self._nowait += 1
            return whole
        room = self._room(stop - start)
        if self._fill(pieces, room, lost_zero=self.lost_zero):
            raise trio.WouldBlock
        for piece in pieces:
            if type(piece) is Coded:
                self._decoding.given(piece)
        self._nowait += 1
        return room

    async def fetch(self, source: ByteSource, start: int, stop: int) -> Buffer:
        """Return bytes [start, stop), waiting as needed; a checkpoint unless the kernel had them at once.

        Raises:
            LostBytes: the image cannot supply some of them.
            Truncated: a host file ends early.
            BadUnit: a unit does not decode.
            EvidenceError: a host file cannot be read.
            MediaChanged: a host file changed.
            WorkerError: the worker that produces some of them failed.
        """
        self._waited += 1
        pieces = source.plan(start, stop)
        if (
            len(pieces) == 1
            and type(only := pieces[0]) is Coded
            and (stored := self._decoding.quick(only)) is not None
        ):
            return await self._plaintext(only, stored)
        pieces = self._decoding.chosen(pieces)
        piece = pieces[0] if len(pieces) == 1 else None
        if isinstance(piece, Coded) and not isinstance(piece.unit, Strip):
            return cut(await self._decoding.one(piece.unit), piece)
        if isinstance(piece, Stored):  # that it is not cached is why we are here
            piece.file.check()
            data = bytearray(piece.length)
            await self._pool.read([(piece.file, piece.offset, memoryview(data))])
            self._stored += piece.length
            return data
        if isinstance(piece, Verified):
            return await self._verifying.verified_bytes(piece)
        every = [
            piece for piece in pieces if isinstance(piece, Coded) and self._decoding.quick(piece) is None
        ]
        if len(every) == len(pieces) > 0:
            parts = await self._decoding.parts(every)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        return await self._bring(pieces, lost_zero=self.lost_zero)

    def prefetch(self, source: ByteSource, start: int, stop: int) -> None:
        """Start to decode units, and to cache stored bytes, of [start, stop); never waits or raises.

        The range is cut to the source.
        """
        start, stop = max(start, 0), min(stop, source.size)
        if start >= stop:
            return
        pieces = source.plan(start, stop)
        below = [self._verifying.stored(piece) for piece in pieces if isinstance(piece, Verified)]
        pieces += chain.from_iterable(below)
        announced = [piece for piece in pieces if isinstance(piece, Stored)] + self._decoding.ahead(pieces)
        if announced:
            self._nursery.start_soon(self._pool.advise, announced)

    def statistics(self) -> FetchStatistics:
        """Return the counters."""
        decoding = self._decoding
        return FetchStatistics(
            nowait=self._nowait,
            waited=self._waited,
            pool_trips=self._pool.trips,
            ring_reads=self._pool.ringed,
            stored_bytes=self._stored + decoding.stored,
            decoded_units=decoding.decoded_units,
            decoded_bytes=decoding.decoded_bytes,
            inline_units=decoding.inline,
            foreign_units=decoding.foreign,
            lost_bytes=self._lost,
            cache=decoding.units.statistics(),
            strips=decoding.strips.statistics(),
        )

    def debug_check(self) -> None:
        """Assert INV-5 and INV-6."""
        self._decoding.units.debug_check()
        self._decoding.strips.debug_check()

    def _room(self, length: int) -> memoryview:
        """Return a buffer, the same for all: a new one of a megabyte is first filled with zeros."""
        return self._scratch[:length] if length <= _SCRATCH else memoryview(bytearray(length))

    def _at_hand(self, piece: Coded) -> Buffer:
        """Return the bytes of a piece that are held, or decrypted at once; valid until the next call.

        Raises:
            trio.WouldBlock: they are in no cache.
            MediaChanged: a host file changed.
        """
        source = piece.unit.source
        if type(source) is not CipherMap or (stored := self._decoding.quick(piece)) is None:
            return self._decoding.held(piece)
        needed = piece.length + MARGIN
        if needed > len(self._plain):
            self._plain = memoryview(bytearray(max(needed, _SCRATCH + MARGIN)))
        room = self._plain
        try:
            data = source.at_once(piece, stored, room)
        except NotCached:
            raise trio.WouldBlock from None
        self._stored += piece.length
        return data

    async def _plaintext(self, piece: Coded, stored: Stored) -> memoryview:
        """Read the sectors of a piece and decrypt them; nothing is kept but what the page cache does."""
        source = cast("CipherMap", piece.unit.source)
        file, offset, room = source.waiting(piece, stored)
        data = await self._pool.read_and(file, offset, room, partial(source.plain, piece, room))
        self._stored += piece.length
        return data

    async def _bring(self, pieces: Sequence[Piece], *, lost_zero: bool) -> bytearray:
        """Return the bytes of pieces, all that is missing at once."""
        out = bytearray(sum([piece.length for piece in pieces]))
        view = memoryview(out)
        missing = self._fill(pieces, view, lost_zero=lost_zero)
        stored = [(piece, at) for piece, at in missing if isinstance(piece, Stored)]
        enciphered = [
            (piece, at, below)
            for piece, at in missing
            if isinstance(piece, Coded) and (below := self._decoding.quick(piece)) is not None
        ]
        coded = [
            (piece, at)
            for piece, at in missing
            if isinstance(piece, Coded) and self._decoding.quick(piece) is None
        ]
        verified = [(piece, at) for piece, at in missing if isinstance(piece, Verified)]
        if stored and coded:  # start decoding before waiting for the disk
            self._decoding.ahead([piece for piece, _ in coded])
        if stored:
            await self._pool.read([(p.file, p.offset, view[at : at + p.length]) for p, at in stored])
            self._stored += sum([piece.length for piece, _ in stored])
        if enciphered:
            rooms = [cast("CipherMap", p.unit.source).waiting(p, below) for p, _, below in enciphered]
            await self._pool.read(rooms)
            for (one, at, _), (_, _, room) in zip(enciphered, rooms, strict=True):
                view[at : at + one.length] = cast("CipherMap", one.unit.source).plain(one, room)
                self._stored += one.length
        if coded:
            parts = await self._decoding.parts([piece for piece, _ in coded])
            for (piece, at), part in zip(coded, parts, strict=True):
                view[at : at + piece.length] = part
        for checked, at in verified:
            view[at : at + checked.length] = await self._verifying.verified_bytes(checked)
        if not missing:
            await trio.lowlevel.checkpoint()
        return out

    def _fill(
        self, pieces: Iterable[Piece], out: memoryview, *, lost_zero: bool
    ) -> list[tuple[Stored | Coded | Verified, int]]:
        """Write what is at hand; return what is missing, each with its place in ``out``."""
        missing: list[tuple[Stored | Coded | Verified, int]] = []
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
                case Coded():
                    try:
                        out[at:until] = self._at_hand(piece)
                    except trio.WouldBlock:
                        missing.append((piece, at))
                case Verified():
                    try:
                        held = self._verifying.at_hand(piece, out[at:until])
                        if held.obj is not out.obj:
                            out[at:until] = held
                    except trio.WouldBlock:
                        missing.append((piece, at))
                case Bytes(data, offset, length):
                    out[at:until] = memoryview(data)[offset : offset + length]
                case Lost(length, why):
                    if not lost_zero:
                        raise LostBytes(why)
                    lost += length
                    _clear(out, at, until)
                case Zeros():
                    _clear(out, at, until)
            at = until
        self._lost += lost
        return missing


def _clear(out: memoryview, at: int, until: int) -> None:
    """Write zeros: the buffer may have been used before."""
    while at < until:
        step = min(until - at, len(_ZEROS))
        out[at : at + step] = _ZEROS[:step]
        at += step


@asynccontextmanager
async def open_fetcher(
    *, cache_bytes: int = limits.CACHE_BYTES, lost_zero: bool = False
) -> AsyncIterator[Fetcher]:
    """Give a fetcher with a nursery of its own; decoding that is under way at the end is dropped."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            fetcher = Fetcher(nursery, cache_bytes=cache_bytes, lost_zero=lost_zero)
            fetcher.use(Ring.open())
            fetcher.decode_natively()
            yield fetcher
        except Exception as why:  # noqa: BLE001  # raised below: as itself, not in the nursery's group
            failure = why
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
