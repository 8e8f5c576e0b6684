"""Directories: file identifier descriptors, one behind the other.

Source: ECMA-167 3rd edition, 4/8.6 and 4/14.4; OSTA UDF 2.60, 2.3.4.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.udf.icb import inline, rows_of
from imgfs.backends.udf.structures import IDENTIFIER, Address, characters, fault
from imgfs.errors import EvidenceError, Malformed
from imgfs.model import HOLE, LOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.udf.icb import Icb
    from imgfs.backends.udf.volume import Volume

DELETED, PARENT = 4, 8  # characteristics
_HEAD: Final = 38  # bytes before the implementation's own and the name
_LONGEST: Final = _HEAD + 65_535 + 255 + 3
_PIECE: Final = 1 << 20
_TRIES: Final = 10_000  # places that look like a descriptor, behind one that is damaged
_FID: Final = struct.Struct("<18xBBIIH6xH")
_START: Final = IDENTIFIER.to_bytes(2, "little")


class Name(NamedTuple):
    """A name in a directory and the ICB it stands for."""

    name: bytes
    characteristics: int
    icb: Address


def names(volume: Volume, icb: Icb) -> Iterator[Name | str]:
    """Yield the names that are not deleted; a string says what is missing."""
    data, final = b"", False
    pieces = _pieces(volume, icb)
    at = 0
    while True:
        while not final and len(data) - at < _LONGEST:
            piece = next(pieces, None)
            if piece is None:
                final = True
            elif isinstance(piece, str):
                yield piece
            else:
                data, at = data[at:] + piece, 0
        if at >= len(data):
            return
        wrong, length = _check(data, at)
        if wrong:
            following = _resume(data, at + 4)
            if any(data[at:following]):
                yield f"directory in block {icb.block}: {wrong}"
            at = following
            continue
        characteristics, size, bytes_, block, ref, own = _FID.unpack_from(data, at)
        if not characteristics & (DELETED | PARENT):
            start = at + _HEAD + own
            try:
                name = characters(data[start : start + size])
            except Malformed as why:
                yield f"directory in block {icb.block}: {why.message}"
            else:
                if name and bytes_ & 0x3FFF_FFFF:
                    yield Name(name, characteristics, Address(bytes_, block, ref))
        at += length


def _check(data: bytes, at: int) -> tuple[str, int]:
    """Say what is wrong with a descriptor, empty: nothing; and how long it is."""
    if at + _HEAD > len(data):
        return "a descriptor is cut short", 0
    size, own = data[at + 19], int.from_bytes(data[at + 36 : at + 38], "little")
    length = _HEAD + size + own + 3 & ~3
    if at + _HEAD + size + own > len(data):
        return "a descriptor is cut short", 0
    return fault(data[at : at + length], (IDENTIFIER,), None), length


def _resume(data: bytes, at: int) -> int:
    """Return where the next descriptor begins that is whole, the end: there is none."""
    for _ in range(_TRIES):
        at = data.find(_START, at)
        if at < 0:
            break
        if not _check(data, at)[0]:
            return at
        at += 1
    return len(data)


def _pieces(volume: Volume, icb: Icb) -> Iterator[bytes | str]:
    held = inline(icb)
    if held is not None:
        yield held
        return
    second: list[tuple[int, int, int]] | None = None
    for logical, length, target in rows_of(volume, icb):
        if target == HOLE:
            continue  # nothing was recorded: no names
        for start in range(0, length, _PIECE):
            take = min(_PIECE, length - start)
            try:
                if target == LOST:
                    raise Malformed(f"{take} bytes from {logical + start} on are lost")
                yield volume.near(target + start, take)
            except EvidenceError as why:
                second = rows_of(volume, icb, copy=1) if second is None else second
                yield from _again(volume, second, logical + start, take, why.message)


def _again(
    volume: Volume, rows: list[tuple[int, int, int]], at: int, length: int, why: str
) -> Iterator[bytes | str]:
    """Yield the same bytes from the mirror of the metadata, else what is missing."""
    for logical, size, target in rows:
        low, high = max(logical, at), min(logical + size, at + length)
        if low >= high:
            continue
        try:
            if target < 0:
                raise Malformed(why)
            yield volume.reader.read(target + low - logical, high - low)
        except EvidenceError:
            yield why
