"""Blocks of xz that are too large to be units, or whose indexes are damaged: found, and copied.

Where the indexes of a file cannot be read, the chunks of its blocks are walked along: their heads say how
long they are, stored and decoded.

Source: The .xz File Format, version 1.2.1 (tukaani.org), 2, 3; LZMA2 chunks as in xz-embedded's
xz_dec_lzma2.c (public domain), the comment above dec_lzma2's control byte.
"""

from __future__ import annotations

import lzma
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._copying import Copy, Input
from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from imgfs.backends import Reader
    from imgfs.backends._index import Steps

MAGIC: Final = b"\xfd7zXZ\0"
HEADER: Final = 12  # bytes of the head of a stream
_CHECK_SIZES: Final = (0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64)
_MEMORY: Final = 512 * limits.MIB  # what a decoder may ask for; xz -9 needs 65 MiB
_INPUT: Final = 64 * limits.KIB
_OUTPUT: Final = 1 * limits.MIB
_CHUNK: Final = (
    4 * limits.MIB
)  # decoded; a chunk of LZMA2 holds 2 MiB at most, and its end tells that it is bad


@dataclass(frozen=True, slots=True)
class Block:
    """Where a block lies with padding and checksum, and what it decodes to; ``size`` -1: nobody knows."""

    start: int
    stop: int
    size: int
    check: int


def walk(reader: Reader, found: list[Block]) -> Generator[int, None, str]:
    """Find blocks from the start of the file on, yielding how far it came; return why there are no more."""
    at = 0
    while at + HEADER <= reader.size:
        head = reader.read(at, HEADER)
        if head[:6] != MAGIC or head[6] or head[7] > 15 or _crc(head[6:8]) != head[8:]:
            return f"there is no stream at {at}"
        check = head[7]
        at += HEADER
        while at < reader.size:
            length = 4 * (reader.read(at, 1)[0] + 1)
            if length == 4:  # the index: the stream has no more blocks
                break
            stop, size = yield from _block(reader, at, length)
            if stop < 0:
                found.append(Block(at, reader.size, -1, check))
                return f"it is cut short or damaged in the block at {at}"
            stop = min(stop + -(stop - at) % 4 + _CHECK_SIZES[check], reader.size)
            found.append(Block(at, stop, size, check))
            at = stop
        at = _behind_index(reader, at)
        if at < 0:
            return "it is cut short, or the end of a stream is damaged"
    return "" if at >= reader.size else "it is cut short"


def _block(reader: Reader, at: int, length: int) -> Generator[int, None, tuple[int, int]]:
    """Walk along the chunks of a block; return where they end, -1: they do not, and what they decode to."""
    if at + length > reader.size:
        return -1, -1
    head = reader.read(at, length)
    if _crc(head[:-4]) != head[-4:]:
        return -1, -1
    at += length
    size = 0
    while at < reader.size:
        yield at
        raw = reader.read(at, min(6, reader.size - at))
        control = raw[0]
        if not control:
            return at + 1, size
        if len(raw) < 6 or 2 < control < 0x80:
            return -1, -1
        if control < 0x80:
            count = int.from_bytes(raw[1:3], "big") + 1
            size += count
            at += 3 + count
        else:
            size += ((control & 0x1F) << 16 | int.from_bytes(raw[1:3], "big")) + 1
            at += 5 + (control >= 0xC0) + int.from_bytes(raw[3:5], "big") + 1
    return -1, -1


def _behind_index(reader: Reader, at: int) -> int:
    """Return where the stream ends whose index is at ``at``, and its padding; -1: it does not."""
    index = at
    at += 1
    left = -1
    while left:
        value = shift = 0
        while True:
            if at >= reader.size or shift > 56:
                return -1
            byte = reader.read(at, 1)[0]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        left = 2 * value if left < 0 else left - 1
        if left > reader.size:
            return -1
    at += -(at - index) % 4 + 4 + HEADER
    if at > reader.size:
        return -1
    while at + 4 <= reader.size and reader.read(at, 4) == bytes(4):
        at += 4
    return at


def steps(reader: Reader, blocks: Sequence[Block]) -> Steps:
    """Yield an index that is a copy of all blocks; without any they are looked for first."""
    copy = Copy(reader.size)
    why, before = "", 0
    if not blocks:
        before = reader.size
        found: list[Block] = []
        way = walk(reader, found)
        while True:
            try:
                yield b"", next(way) // 2
            except StopIteration as end:
                why = end.value
                break
        blocks = found
    done = before // 2
    for number, block in enumerate(blocks, 1):
        start = copy.size
        failures: list[str] = []
        for data, at in _decoded(reader, block, copy, failures):
            done = max(done, (before + at) // (2 if before else 1))
            yield data, done
        made = copy.size - start
        if failures and made == block.size:
            copy.lose(start, f"block {number} at {block.start}: its checksum differs")
        elif failures:
            copy.lose(max(start, copy.size - _CHUNK), f"block {number} at {block.start} does not decode")
        if before and (failures or made != block.size):  # sizes that were walked along may be wrong, too
            why = why or f"block {number} at {block.start} is damaged"
            break
        early = f"block {number} at {block.start} ends early"
        if made < block.size and not copy.ends_at(start + block.size, early):
            break
    if why:
        copy.ends_at(0, f"{why}: of what follows nothing is known")
    for piece in copy.end():
        yield piece, reader.size


def _decoded(reader: Reader, block: Block, copy: Copy, failures: list[str]) -> Iterator[tuple[bytes, int]]:
    """Decode a block into the copy; what is wrong with it goes into ``failures``."""
    flags = bytes((0, block.check))
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
    source = Input(reader, block.start, block.stop, _INPUT)
    start = copy.size
    try:
        decoder.decompress(MAGIC + flags + _crc(flags))
        while True:
            data = source.read() if decoder.needs_input else b""
            if decoder.needs_input and not data:
                return
            out = decoder.decompress(data, _OUTPUT)
            if block.size >= 0 and copy.size - start + len(out) > block.size:
                failures.append("it holds more than it says")
                return
            yield copy.add(out), source.at
    except lzma.LZMAError as why:
        failures.append(str(why))
    except EvidenceError as why:
        failures.append(why.message)


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")
