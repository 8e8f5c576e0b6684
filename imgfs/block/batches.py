"""Units that are decoded together: neighbours in a host file share a read and a trip to the pool."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, repeat
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.block.codecs import DECODERS, decode
from imgfs.block.enciphered import CipherMap
from imgfs.block.pieces import Bytes, Stored, StoredUnit
from imgfs.block.ragged import RaggedMap
from imgfs.block.units import UnitMap
from imgfs.errors import EvidenceError
from imgfs.model import PACKED_CODED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imgfs.block.hostfile import HostFile
    from imgfs.block.pieces import Block, Strip, Unit

# Bytes between two units that are rather read than skipped: a checksum, alignment.
_GAP: Final = 4 * limits.KIB
# Decoded bytes of one trip: enough to make its 0.1 ms a small part, few enough for two cores to
# share one window of read-ahead, and a bound on what a batch of highly compressed units expands to.
_DECODED: Final = 1 * limits.MIB


@dataclass(frozen=True, slots=True)
class Span:
    """Units that lie in one range of one host file."""

    file: HostFile
    start: int
    stop: int
    units: tuple[StoredUnit, ...]

    def decode(self, data: memoryview) -> list[Block | Exception]:
        """Return the block or the failure of each unit; ``data`` is the range. Runs in a pool thread."""
        outcomes: list[Block | Exception] = []
        for unit in self.units:
            *front, piece = unit.pieces
            assert isinstance(piece, Stored)  # noqa: S101  # what ``span`` made sure of
            at = piece.offset - self.start
            body = data[at : at + piece.length]
            if front:
                held = [part.data[part.offset : part.offset + part.length] for part in front]  # type: ignore[union-attr]  # as above
                body = memoryview(b"".join((*held, body)))
            outcomes.append(decode_unit(unit, body))
        return outcomes


def decode_strip(strip: Strip, data: memoryview) -> Block | Exception:
    """Return the block of a strip, or the failure of its first bad unit; ``data`` is what is stored."""
    source = strip.source
    if isinstance(source, CipherMap):
        return source.decrypt(strip.index, data, ours=True)  # who decodes a strip has just read it
    decoder, parameters = DECODERS[source.codec.name], source.codec.parameters
    lengths = chain(repeat(source.unit, len(strip.flags) - 1), (strip.length % source.unit or source.unit,))
    cuts = zip(strip.starts, strip.ends, strip.flags, lengths, strict=True)
    try:
        parts = [
            decoder(data[a:b], flags == PACKED_CODED, length, parameters) if flags else data[a : a + length]
            for a, b, flags, length in cuts
        ]
    except EvidenceError as why:
        return why
    return b"".join(parts)


def decode_unit(unit: StoredUnit, stored: memoryview) -> Block | Exception:
    """Return the block of a unit, or its failure."""
    if isinstance(unit.source, CipherMap):
        return unit.source.decrypt(unit.index, stored)
    try:
        return decode(unit.codec, stored, unit.coded, unit.length)
    except EvidenceError as why:
        if isinstance(unit.source, (UnitMap, RaggedMap)):
            why.spec, why.start = unit.source.spec, unit.source.start_of(unit.index)
            why.stop = why.start + unit.length
        return why


def batches(units: Iterable[Unit]) -> Iterator[list[Unit]]:
    """Split units, in order, into what is decoded together; see ``span``."""
    batch: list[Unit] = []
    start = stop = decoded = 0
    file: HostFile | None = None
    for unit in units:
        piece = _single(unit)
        if (
            batch
            and piece is not None
            and piece.file is file
            and start <= piece.offset <= stop + _GAP  # units rounded up to sectors overlap
            and piece.offset + piece.length - start <= limits.BATCH_BYTES
            and decoded + unit.length <= _DECODED
        ):
            batch.append(unit)
        else:
            if batch:
                yield batch
            batch, decoded = [unit], 0
            file = piece.file if piece is not None else None
            start = stop = piece.offset if piece is not None else 0
        decoded += unit.length
        stop = max(stop, piece.offset + piece.length) if piece is not None else 0
    if batch:
        yield batch


def span(units: Sequence[Unit]) -> Span | None:
    """Return the range that holds all units; None: they are not plain neighbours in one host file."""
    kept: list[StoredUnit] = []
    pieces: list[Stored] = []
    for unit in units:
        piece = _single(unit)
        if piece is None or not isinstance(unit, StoredUnit):
            return None
        kept.append(unit)
        pieces.append(piece)
    start = min(piece.offset for piece in pieces)
    stop = max(piece.offset + piece.length for piece in pieces)
    if stop - start > 2 * limits.MAX_UNIT or any(piece.file is not pieces[0].file for piece in pieces):
        return None
    return Span(pieces[0].file, start, stop, tuple(kept))


def _single(unit: Unit) -> Stored | None:
    """Return the one piece a unit is stored in, which may follow what is at hand."""
    if isinstance(unit, StoredUnit):
        *front, piece = unit.pieces
        if isinstance(piece, Stored) and (not front or all(type(part) is Bytes for part in front)):
            return piece
    return None
