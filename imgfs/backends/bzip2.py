"""Disks compressed by bzip2: its blocks are units, found once and kept in an index.

Source: bzip2 1.0.8, as documented in "BZIP2: Format Specification" (Joe Tsai), 2.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._bzip2_index import BLOCK_MAGIC, END, HEADER, PART, TRAILER, Blocks, steps
from imgfs.backends._index import VERSION, Indexer, Section, index_of
from imgfs.backends._pieces import hosted
from imgfs.backends._units_index import Rows, media
from imgfs.block.restarting import BZIP2_BLOCK
from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.model import Codec

if TYPE_CHECKING:
    from imgfs.backends import Index, Options, Reader
    from imgfs.model import Media

_LEVELS: Final = b"123456789"
_MAGICS: Final = (BZIP2_BLOCK.to_bytes(6, "big"), END.to_bytes(6, "big"))
_UNKNOWN: Final = limits.MIB  # what stands, lost, for the rest of a disk whose size nobody knows
_MOST_NOTES: Final = 100


def open_bzip2(reader: Reader, options: Options) -> Media | Index:  # noqa: ARG001  # the contract of `open`
    """Make the chain of blocks from the index, or ask for one.

    Raises:
        NotMine: no signature, or a file of the evidence: such data is plain content there.
        Malformed: there is nothing in it.
    """
    hosted(reader, "bzip2")
    head = reader.read(0, min(10, reader.size))
    if head[:3] != b"BZh" or head[3:4] not in _LEVELS or not head[3:4] or head[4:] not in _MAGICS:
        raise NotMine("bzip2")
    sections = index_of(reader)
    if not sections:
        parts = -(-reader.size // PART)
        return Indexer(reader.size, partial(steps, reader), parts=parts)
    return _Chain(reader, Blocks([section.table for section in sections])).media()


class _Chain:
    """The way from block to block."""

    def __init__(self, reader: Reader, blocks: Blocks) -> None:
        self._reader = reader
        self._blocks = blocks
        self._rows = Rows()
        self._notes: list[str] = []
        self._lost: list[tuple[int, int, str]] = []

    def media(self) -> Media:
        """Walk along it and lay out the disk.

        Raises:
            Malformed: there is nothing in it.
        """
        at, streams = 0, 0  # byte where a stream begins
        while (at := self._stream(at)) > 0:
            streams += 1
            head = self._reader.read(at, min(4, self._reader.size - at)) if at < self._reader.size else b""
            if not head:
                break
            if head[:3] != b"BZh" or head[3:4] not in _LEVELS or len(head) < 4:
                left = self._reader.size - at
                what = (
                    "zeros" if not any(self._reader.read(at, min(left, 4096))) else "bytes that are no stream"
                )
                self._notes.append(f"{left} bytes behind the last stream are ignored: {what}")
                break
        size = self._rows.size
        if not len(self._rows):
            raise Malformed("there is nothing in it")
        return media(
            self._reader,
            Section(0, 0, self._rows.table(), {}),
            size,
            Codec("bzip2-block"),
            version="bzip2",
            facts={"streams": str(streams)},
            notes=self._notes[:_MOST_NOTES],
            lost=self._lost,
        )

    def _stream(self, at: int) -> int:
        """Take the blocks of the stream at byte ``at``; return where it ends, 0: it does not."""
        bit = 8 * at + HEADER
        combined = 0
        while rows := self._blocks.at(bit):
            _, end, size, crc, *_ = rows[0]
            self._block(bit, end, size, [row[4:] for row in rows])
            combined = (combined << 1 | combined >> 31) & 0xFFFF_FFFF ^ crc
            bit = end
        if self._magic(bit) != END:
            self._gone(f"it is cut short or damaged at byte {bit // 8}: of what follows nothing is known")
            return 0
        byte = (bit + TRAILER + 7) // 8
        if byte > self._reader.size:
            self._notes.append("it is cut short: the last checksum is missing")
            return self._reader.size
        raw = int.from_bytes(self._reader.read(bit // 8, byte - bit // 8), "big")
        stored = raw >> 8 * byte - bit - TRAILER & 0xFFFF_FFFF
        if stored != combined:  # each block has a checksum of its own that is right, and none is missing
            self._notes.append(f"the checksum of the stream at byte {at} differs, those of its blocks do not")
        return byte

    def _block(self, bit: int, end: int, size: int, slices: list[tuple[int, ...]]) -> None:
        """Append what a block decodes to."""
        offset, stored = bit // 8, -(-end // 8) - bit // 8
        at = 0
        for start, length, check in slices:
            if not at <= start <= start + length <= size:
                raise Malformed("an index whose slices overlap")
            self._rows.zero(start - at)
            self._rows.unit(length, offset, stored, head=bit % 8, tail=-end % 8, skip=start, check=check)
            at = start + length
        self._rows.zero(size - at)

    def _magic(self, bit: int) -> int:
        start, stop = bit // 8, -(-(bit + BLOCK_MAGIC) // 8)
        if stop > self._reader.size:
            return 0
        try:
            raw = self._reader.read(start, stop - start)
        except EvidenceError:
            return 0
        return int.from_bytes(raw, "big") >> 8 * stop - bit - BLOCK_MAGIC & (1 << BLOCK_MAGIC) - 1

    def _gone(self, why: str) -> None:
        size = self._rows.size
        if not size:
            return
        unknown = -size % _UNKNOWN or _UNKNOWN
        self._notes.append(why)
        self._lost.append((size, size + unknown, why))
        self._rows.lose(unknown)


BACKEND = Backend(
    name="bzip2",
    title="bzip2",
    role=Role.MEDIA,
    rank=70,
    signatures=tuple(
        Signature(0, b"BZh" + struct.pack("B", level) + magic) for level in _LEVELS for magic in _MAGICS
    ),
    open=open_bzip2,
    index=VERSION,
    supports="one stream or several, by an index made once; damaged and cut files up to there",
    truth=("peer",),
)
