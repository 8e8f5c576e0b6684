"""Disks compressed by xz: the index at the end of each stream says where its blocks are.

Source: The .xz File Format, version 1.2.1 (tukaani.org): 2 streams, 4 index, 1.2 multibyte integers.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._copying import copied
from imgfs.backends._index import VERSION, Indexer, index_of
from imgfs.backends._pieces import LARGEST, Pieces, hosted
from imgfs.backends._xz_copy import Block, steps
from imgfs.errors import Malformed, NotMine

if TYPE_CHECKING:
    from imgfs.backends import Index, Options, Reader
    from imgfs.model import Media

_MAGIC: Final = b"\xfd7zXZ\0"
_END: Final = b"YZ"
_HEADER: Final = 12  # bytes, of the footer too
_CHECKS: Final = {0: "no checksums", 1: "CRC32", 4: "CRC64", 10: "SHA-256"}
_MAX_INDEX: Final = 8 * limits.MIB
_MAX_STREAMS: Final = 4096
_ADVICE: Final = "unpack it first"

_Block = tuple[int, int]  # stored bytes without padding, decoded bytes


def open_xz(reader: Reader, options: Options) -> Media | Index:  # noqa: ARG001  # the contract of `open`
    """Read the indexes of all streams, from the end; where blocks are too large, ask for a copy of them.

    Raises:
        NotMine: no signature, or a file of the evidence: such data is plain content there.
        Malformed: there is nothing in it.
    """
    hosted(reader, "xz")
    if reader.size < 2 * _HEADER or reader.read(0, len(_MAGIC)) != _MAGIC:
        raise NotMine("xz")
    if sections := index_of(reader, copy=True):
        return copied(reader, sections, version="xz", facts={})
    try:
        streams = _streams(reader)
    except Malformed as why:
        return _copy(reader, [], f"its blocks must be walked along: {why.message}")
    blocks: list[Block] = []
    for begin, check, rows in streams:
        at = begin + _HEADER
        for stored, size in rows:
            blocks.append(Block(at, at + stored + -stored % 4, size, check))
            at = blocks[-1].stop
    largest = max((block.size for block in blocks), default=0)
    if largest > LARGEST:
        return _copy(reader, blocks, f"blocks of up to {largest} bytes cannot be decoded for each read")
    pieces = Pieces("xz-block", "xz", _ADVICE)
    for block, stored in zip(blocks, (row[0] for _, _, rows in streams for row in rows), strict=True):
        padding = -stored % 4
        pieces.add(block.start, stored + 2 * padding, block.size, check=block.check)  # see the codec
    checks = sorted({_CHECKS.get(check, f"check {check}") for _, check, _ in streams})
    return pieces.media(reader, [], {"checksums": ", ".join(checks)})


def _copy(reader: Reader, blocks: list[Block], why: str) -> Index:
    return Indexer(reader.size, lambda _: steps(reader, blocks), copy=True, why=why)


def _streams(reader: Reader) -> list[tuple[int, int, list[_Block]]]:
    """Return (start, kind of checksum, blocks) of all streams, in order.

    Raises:
        Malformed: the end of one is damaged, or not there.
    """
    streams: list[tuple[int, int, list[_Block]]] = []
    end = _unpadded(reader, reader.size)
    while end:
        if len(streams) >= _MAX_STREAMS:
            raise Malformed(f"more than {_MAX_STREAMS} streams")
        start, check, blocks = _stream(reader, end)
        streams.append((start, check, blocks))
        end = _unpadded(reader, start)
    return streams[::-1]


def _unpadded(reader: Reader, end: int) -> int:
    """Return where the padding behind a stream begins: zeros, four at a time."""
    while end >= 4:
        start = max(0, end - 4096)
        raw = reader.read(start, end - start).rstrip(b"\0")
        if raw:
            return min(end, start + len(raw) + -(start + len(raw) - end) % 4)
        end = start
    return end


def _stream(reader: Reader, end: int) -> tuple[int, int, list[_Block]]:
    """Read the footer and the index of the stream that ends at ``end``.

    Raises:
        Malformed: they are damaged, or there are none.
    """
    if end < 2 * _HEADER:
        raise Malformed(f"no stream in {end} bytes")
    raw = reader.read(end - _HEADER, _HEADER)
    if raw[10:] != _END or zlib.crc32(raw[4:10]) != int.from_bytes(raw[:4], "little"):
        raise Malformed("no end of a stream: the file is cut short, or damaged")
    length = 4 * (int.from_bytes(raw[4:8], "little") + 1)
    flags = raw[8:10]
    at = end - _HEADER - length
    if length > _MAX_INDEX or at < _HEADER:
        raise Malformed(f"an index of {length} bytes ahead of {end}")
    index = b"".join(
        reader.read(start, min(limits.MIB, at + length - start))
        for start in range(at, at + length, limits.MIB)
    )
    if zlib.crc32(index[:-4]) != int.from_bytes(index[-4:], "little"):
        raise Malformed("the checksum of an index differs")
    blocks = _records(index[:-4])
    start = at - sum(stored + -stored % 4 for stored, _ in blocks) - _HEADER
    if start < 0:
        raise Malformed("an index tells of more than there is")
    head = reader.read(start, _HEADER)
    if head[:6] != _MAGIC or head[6:8] != flags or flags[0] or flags[1] > 15:
        raise Malformed(f"no head of a stream at {start}")
    return start, flags[1], blocks


def _records(index: bytes) -> list[_Block]:
    if index[0]:
        raise Malformed("no index")
    numbers: list[int] = []
    at, value, shift = 1, 0, 0
    wanted = 1  # the number of records, then two numbers for each
    while len(numbers) < wanted:
        if at >= len(index) or shift > 56:
            raise Malformed("an index is cut short")
        byte = index[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte & 0x80:
            continue
        if not numbers:
            wanted = 1 + 2 * value
            if wanted > len(index):
                raise Malformed(f"an index of {value} records in {len(index)} bytes")
        numbers.append(value)
        value = shift = 0
    return list(zip(numbers[1::2], numbers[2::2], strict=True))


BACKEND = Backend(
    name="xz",
    title="xz",
    role=Role.MEDIA,
    rank=70,
    signatures=(Signature(0, _MAGIC),),
    open=open_xz,
    imports=("zstandard",),
    index=VERSION,
    supports="any streams; those with blocks above 32 MiB and damaged ones by a copy, made once",
    truth=("peer",),
)
