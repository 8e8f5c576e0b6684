"""Coded pieces to blocks: the caches of units and of strips, and the decoding that fills them.

Whoever reads on gets strips, decoded ahead as a whole; whoever jumps gets single units. Strips have a
cache of their own, so that reading a whole disk once does not displace what is read again and again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import trio

from imgfs import limits
from imgfs.block.batches import batches, decode_strip, decode_unit, span
from imgfs.block.cache import BlockCache
from imgfs.block.enciphered import CipherMap
from imgfs.block.foreign import ForeignSource
from imgfs.block.hostfile import NotCached
from imgfs.block.pieces import Block, Coded, ForeignUnit, Piece, Stored, StoredUnit, Strip
from imgfs.block.spares import Spares
from imgfs.block.worth import Worth
from imgfs.errors import BadUnit, EvidenceError, WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgfs.block.batches import Span
    from imgfs.block.handover import Handover
    from imgfs.block.native import NativeStrips
    from imgfs.block.pieces import Unit
    from imgfs.block.pool import Pool

Buffer = bytes | bytearray | memoryview
Bring = Callable[[Sequence[Piece]], Awaitable[Buffer]]

# A hop to a pool thread costs more than inflating this much; one such unit is decoded on the loop.
_INLINE: Final = 64 * limits.KIB
_PAGE: Final = 4 * limits.KIB
_COUNTED: Final = 1024  # strips of which it is remembered what was given


class Decoding:
    """Brings the blocks of coded pieces.

    ``bring`` returns the bytes of the pieces a unit is stored in.
    """

    def __init__(self, nursery: trio.Nursery, pool: Pool, cache_bytes: int, bring: Bring) -> None:
        share = cache_bytes // limits.STRIPS_SHARE
        self.units: BlockCache[Unit] = BlockCache(cache_bytes - share, self._decode, nursery)
        self.strips: BlockCache[Strip] = BlockCache(share, self._decode_strips, nursery)
        self.decoded_units = self.decoded_bytes = self.inline = self.foreign = self.stored = 0
        self._pool = pool
        self._bring = bring
        self._worth = Worth()
        self._given: dict[int, int] = {}  # pages given of strips, a bit each, by key
        self.spares = Spares()
        self.strips.recycle = self.spares.add
        self._native: NativeStrips | None = None  # None: strips of all codecs are handed over
        self.handover: Handover | None = None  # None: strips are decoded in pool threads

    def use(self, native: NativeStrips) -> None:
        """Decode strips natively from now on where they are of a kind for that."""
        self._native = native
        self.strips.at_once = self._natively

    def _natively(self, strip: Strip, landed: Callable[[Block | None], None]) -> bool:
        """Start to decode a strip natively; False: it cannot be."""
        native = self._native
        if native is None or not native.takes(strip):
            return False
        try:
            strip.stored.file.check()
        except EvidenceError:
            return False  # said by who decodes it in the usual way

        def done(block: bytearray | None) -> None:
            if block is not None:
                self.stored += strip.stored.length
                self.decoded_units += len(strip.flags)
                self.decoded_bytes += len(block)
            landed(block)

        native.start(strip, done)
        return True

    def held(self, piece: Coded) -> Buffer:
        """Return the bytes of a piece whose block is held.

        Raises:
            trio.WouldBlock: it is not.
        """
        unit = piece.unit
        block = (self.strips if type(unit) is Strip else self.units).held(unit.key)
        if block is None:
            if type(unit) is not Strip:
                raise trio.WouldBlock
            below = narrowed(piece)
            if not all(isinstance(one, Coded) for one in below):
                raise trio.WouldBlock
            parts = [self.held(one) for one in cast("list[Coded]", below)]
            return parts[0] if len(parts) == 1 else b"".join(parts)
        return block if piece.length == len(block) else cut(block, piece)

    def given(self, piece: Coded) -> None:
        """Take note that the bytes of a piece were returned.

        A strip of which every page was given is dropped: the kernel keeps them now, and its memory is warm
        for the next strip of a sequential reader.
        """
        strip = piece.unit
        if type(strip) is not Strip:
            return
        stop = piece.skip + piece.length
        pages = -(-strip.length // _PAGE)
        until = pages if stop == strip.length else stop // _PAGE
        given = self._given.pop(strip.key, 0) | (1 << until) - (1 << min(-(-piece.skip // _PAGE), until))
        if given == (1 << pages) - 1:
            self.strips.drop(strip.key)
            return
        self._given[strip.key] = given
        if len(self._given) > _COUNTED:
            del self._given[next(iter(self._given))]

    def holds(self, piece: Coded) -> bool:
        """Say whether ``held`` would return the bytes of a piece."""
        unit = piece.unit
        if type(unit) is not Strip:
            return self.units.holds(unit.key)
        if self.strips.holds(unit.key):
            return True
        return all(isinstance(one, Coded) and self.units.holds(one.unit.key) for one in narrowed(piece))

    def chosen(self, pieces: Iterable[Piece]) -> list[Piece]:
        """Put units in place of strips that are neither held, nor under way, nor worth decoding whole."""
        chosen: list[Piece] = []
        for piece in pieces:
            strip = piece.unit if isinstance(piece, Coded) else None
            if isinstance(piece, Coded) and isinstance(strip, Strip) and not self._at_hand(piece, strip):
                if not self._worth.now(strip, piece.length):
                    chosen += narrowed(piece)
                    continue
                self._follow(strip)
            chosen.append(piece)
        return chosen

    def _at_hand(self, piece: Coded, strip: Strip) -> bool:
        """Say whether there is nothing to choose: it is held, under way or decrypted when it is read."""
        return self.strips.has(strip) or quick(piece) is not None

    def _follow(self, strip: Strip) -> None:
        """Decode a strip, and the next one, too, for who came from the one before: a walk along a table."""
        self.strips.prefetch([strip])
        if self.strips.has_key(strip.key - 1):
            stop = strip.index * strip.source.unit + strip.length
            following = strip.source.plan(stop, min(stop + strip.length, strip.source.size))
            self.ahead(following)

    def ahead(self, pieces: Iterable[Piece]) -> list[Stored]:
        """Start to decode what pieces need; never waits, never raises. Returns what is to be announced."""
        units: dict[int, Unit] = {}
        strips: dict[int, Strip] = {}
        near: list[Stored] = []
        for piece in pieces:
            if not isinstance(piece, Coded):
                continue
            if (stored := quick(piece)) and not self._worth_ahead(piece):
                near.append(stored)  # decrypted when it is asked for, if only its ciphertext is there
            elif not isinstance(piece.unit, Strip):
                units[piece.unit.key] = piece.unit
            elif not self.strips.has(piece.unit):
                if self._worth.ahead(piece.unit, piece.length):
                    strips[piece.unit.key] = piece.unit
                else:
                    below = [one.unit for one in narrowed(piece) if isinstance(one, Coded)]
                    units |= {unit.key: unit for unit in below if not isinstance(unit, Strip)}
        groups = list(batches([unit for unit in units.values() if not self.units.has(unit)]))
        for strip in strips.values():
            self.strips.prefetch([strip])
        for group in groups:
            self.units.prefetch(group)
        places = [place for group in groups if (place := span(group)) is not None]
        near += [Stored(place.file, place.start, place.stop - place.start) for place in places]
        # What is decoded natively is announced there, without a trip for it.
        native = self._native
        return near + [strip.stored for strip in strips.values() if native is None or not native.takes(strip)]

    def _worth_ahead(self, piece: Coded) -> bool:
        """Say whether threads without the interpreter's lock should decrypt a strip ahead of its reader."""
        strip, native = piece.unit, self._native
        if native is None or not isinstance(strip, Strip) or not native.takes(strip):
            return False
        return self._worth.ahead(strip, piece.length)

    def quick(self, piece: Coded) -> Stored | None:
        """Return where ciphertext is stored that is decrypted at once; not what is held or under way."""
        unit = piece.unit
        return None if type(unit) is Strip and self.strips.has_key(unit.key) else quick(piece)

    async def one(self, unit: Unit) -> Block:
        """Return one block, decoded on the loop if it is small and its bytes are at hand."""
        if unit.length > _INLINE or self.units.has(unit) or self._suspected([unit]):
            return await self.units.get(unit)
        if (place := span([unit])) is not None:
            place.file.check()
            try:
                data = place.file.read_nowait(place.start, place.stop - place.start)
            except NotCached:
                return await self.units.get(unit)
            outcome = place.decode(memoryview(data))[0]
            if isinstance(outcome, Exception):
                raise outcome
            self.inline += 1
            self._count([outcome])
            self.units.put(unit, outcome)
            await trio.lowlevel.checkpoint()
            return outcome
        return await self.units.get(unit)

    def _suspected(self, units: Iterable[Unit]) -> bool:
        """Say whether decoding one of these has ended decoders."""
        return self.handover is not None and self.handover.suspected(units)

    async def parts(self, pieces: Sequence[Coded]) -> list[Buffer]:
        """Return the bytes of each piece, decoding all that is missing at once; whole blocks uncopied.

        Raises:
            EvidenceError: a unit cannot be read or does not decode.
        """
        units = {piece.unit.key: piece.unit for piece in pieces if not isinstance(piece.unit, Strip)}
        strips = {piece.unit.key: piece.unit for piece in pieces if isinstance(piece.unit, Strip)}
        groups = list(batches(units.values()))
        for group in groups:
            self.units.prefetch(group)
        wide = await self.strips.outcomes([strip] for strip in strips.values()) if strips else {}
        blocks = await self.units.get_all(groups) if groups else {}
        parts: list[Buffer] = []
        for piece in pieces:
            block = (wide if isinstance(piece.unit, Strip) else blocks)[piece.unit.key]
            if isinstance(block, EvidenceError):  # one of its units is bad, and perhaps not wanted
                parts.append(await self._bring(narrowed(piece)))
            elif isinstance(block, Exception):
                raise block.with_traceback(None)
            else:
                parts.append(block if piece.length == len(block) else cut(block, piece))
                self.given(piece)
        return parts

    async def _decode(self, units: Sequence[Unit]) -> Sequence[Block | Exception]:
        """Decode units that ``batches`` put together; called by the cache, in its nursery."""
        if (place := span(units)) is not None and not self._suspected(units):
            place.file.check()
            return self._count(await self._decode_span(place))
        outcomes: list[Block | Exception] = []
        for unit in units:
            try:
                outcomes.append(await self._decode_any(unit))
            except Exception as why:  # noqa: BLE001  # the outcome of this unit; its waiters raise it
                outcomes.append(why)
        return self._count(outcomes)

    async def _decode_span(self, place: Span) -> list[Block | Exception]:
        """Read and decode in one trip if the bytes are cached; else wait for the disk first."""
        small = sum([unit.length for unit in place.units]) <= _INLINE
        outcomes = None if small else await self._pool.compute(_decode_cached, place)
        if outcomes is None:
            data = memoryview(bytearray(place.stop - place.start))
            await self._pool.read([(place.file, place.start, data)])
            outcomes = place.decode(data) if small else await self._pool.compute(place.decode, data)
        self.stored += place.stop - place.start
        return outcomes

    async def _decode_any(self, unit: Unit) -> Block | Exception:
        """Decode a unit whose bytes are in pieces, in units below, or with a worker."""
        if isinstance(unit, ForeignUnit):
            source = unit.source
            assert isinstance(source, ForeignSource)  # noqa: S101  # only it makes such units
            self.foreign += 1
            data = await source.read(unit.index * source.unit, unit.length)
            if len(data) != unit.length:
                return BadUnit(f"a worker sent {len(data)} bytes, {unit.length} expected")
            return bytes(data)
        if self.handover is not None:
            self.handover.refuse(unit)
        stored = await self._bring(unit.pieces)
        return await self._pool.compute(partial(decode_unit, unit), memoryview(stored))

    async def _decode_strips(self, strips: Sequence[Strip]) -> Sequence[Block | Exception]:
        """Decode a strip, which is a batch of its own; called by the cache, in its nursery."""
        return [await self._decode_strip(strip) for strip in strips]

    async def _decode_strip(self, strip: Strip) -> Block | Exception:
        stored = strip.stored
        stored.file.check()
        outcome = await self._strip_elsewhere(strip)
        if outcome is None:
            outcome = await self._strip_in_pool(strip)
        self.stored += stored.length
        if not isinstance(outcome, Exception):
            self.decoded_units += len(strip.flags)
            self.decoded_bytes += len(outcome)
        elif isinstance(outcome, EvidenceError):
            self._worth.failed(strip)
        return outcome

    async def _strip_elsewhere(self, strip: Strip) -> Block | Exception | None:
        """Let a decoder do it; None: there is none. One that dies may have been killed: asked twice.

        Then its units are suspects, and where they are not guilty they are decoded one by one.
        """
        if self.handover is None or isinstance(strip.source, CipherMap):  # keys stay here
            return None
        outcome = await self.handover.strip(strip)
        if isinstance(outcome, WorkerError):
            outcome = await self.handover.strip(strip)
        if isinstance(outcome, WorkerError):
            pieces = narrowed(Coded(strip, 0, strip.length))
            units = [piece.unit for piece in pieces if isinstance(piece, Coded)]
            await self.handover.suspects([unit for unit in units if isinstance(unit, StoredUnit)])
            outcome = BadUnit(f"a decoder did not survive it: {outcome}")
        return outcome

    async def _strip_in_pool(self, strip: Strip) -> Block | Exception:
        """Read and decode in one trip if the bytes are cached; else wait for the disk first."""
        outcome = await self._pool.compute(_strip_cached, strip)
        if outcome is None:
            stored = strip.stored
            data = bytearray(stored.length)
            await self._pool.read([(stored.file, stored.offset, memoryview(data))])
            outcome = await self._pool.compute(partial(decode_strip, strip), memoryview(data))
        return outcome

    def _count(self, outcomes: list[Block | Exception]) -> list[Block | Exception]:
        for outcome in outcomes:
            if not isinstance(outcome, Exception):
                self.decoded_units += 1
                self.decoded_bytes += len(outcome)
        return outcomes


def quick(piece: Coded) -> Stored | None:
    """Return where ciphertext is stored that is decrypted on the loop: less is lost than by a trip."""
    unit = piece.unit
    source = unit.source
    if type(source) is not CipherMap or isinstance(unit, ForeignUnit):
        return None
    return source.quick(unit)


def narrowed(piece: Coded) -> list[Piece]:
    """Return a piece of a strip as pieces of its units, or of what is stored verbatim."""
    strip = piece.unit
    assert isinstance(strip, Strip)  # noqa: S101  # the callers looked
    start = strip.index * strip.source.unit + piece.skip
    return strip.source.units(start, start + piece.length)


def cut(block: Block, piece: Coded) -> memoryview:
    """Return what a piece wants of its block."""
    return memoryview(block)[piece.skip : piece.skip + piece.length]


def _decode_cached(place: Span) -> list[Block | Exception] | None:
    """Read and decode units if the page cache holds them. Runs in a pool thread."""
    try:
        data = place.file.read_nowait(place.start, place.stop - place.start)
    except NotCached:
        return None
    return place.decode(memoryview(data))


def _strip_cached(strip: Strip) -> Block | Exception | None:
    """Read and decode a strip if the page cache holds it. Runs in a pool thread."""
    stored = strip.stored
    try:
        data = stored.file.read_nowait(stored.offset, stored.length)
    except NotCached:
        return None
    return decode_strip(strip, memoryview(data))
