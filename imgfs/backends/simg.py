"""Android sparse images: what fastboot writes to a partition, in chunks of blocks. Little-endian.

A chunk holds its blocks verbatim, or names a word they are filled with, or says that nobody cares for them.
The last kind was never written: simg2img leaves such blocks as they are, which are zeros in a new file, so
they are holes here, and a note says so.

Source: Android Open Source Project, libsparse, sparse_format.h (BSD); kaitai.io, "Android sparse image".
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported
from imgfs.model import HOLE, LINEAR_ROW, LOST, PACKED_CODED, Codec, Linear, Media, Packed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader
    from imgfs.model import Layout

_MAGIC: Final = b"\x3a\xff\x26\xed"
_HEADER: Final = struct.Struct("<4sHHHHIIII")  # 28 bytes
_CHUNK: Final = struct.Struct("<HHII")  # kind, reserved, blocks of the media, bytes of the file
_RAW: Final = 0xCAC1
_FILL: Final = 0xCAC2
_DONT_CARE: Final = 0xCAC3
_CRC: Final = 0xCAC4
_WORD: Final = 4
_AHEAD: Final = 4096  # bytes read at a time: hundreds of chunks that are not verbatim
_UNIT: Final = limits.MIB  # of filled blocks that are made together, more when there are very many
_MOST: Final = limits.MAX_RUNS // 2  # runs of chunks, and again of fills in units
_LOST_SHOWN: Final = 1000


def open_simg(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Walk along the chunks.

    Raises:
        NotMine: no signature.
        NotSupported: a major version that is not 1.
        Malformed: sizes that cannot be.
    """
    if reader.size < _HEADER.size or reader.read(0, 4) != _MAGIC:
        raise NotMine("simg")
    _, major, minor, header, chunk, block, blocks, count, checksum = _HEADER.unpack(
        reader.read(0, _HEADER.size)
    )
    if major != 1:
        raise NotSupported(f"Android sparse image version {major}.{minor}: only versions 1.x are read")
    size = blocks * block
    if header < _HEADER.size or chunk < _CHUNK.size or not block or block % _WORD:
        raise Malformed(f"headers of {header} and {chunk} bytes, blocks of {block}")
    if size > limits.MAX_SIZE:
        raise Malformed(f"a media of {size} bytes")
    chunks = _Chunks(reader, size, block)
    chunks.walk(header, chunk, count)
    layouts = chunks.layouts(1 + len(reader.others))
    digests = {}
    if checksum:
        digests["crc32"] = f"{checksum:08x}"
    elif chunks.checksum is not None:
        if chunks.untold:
            chunks.notes.append(
                f"a checksum of {chunks.checksum:08x} is stored and not compared: by the format it counts"
                " what nobody cares for as zeros, and the usual writer leaves it out"
            )
        else:
            digests["crc32"] = f"{chunks.checksum:08x}"
    if chunks.untold:
        chunks.notes.append(f"{chunks.untold} bytes were not written (DONT_CARE): they read as zeros")
    return Media(
        layouts=layouts,
        version=f"{major}.{minor}",
        metadata={"block size": str(block), "chunks": str(count)},
        digests=digests,
        lost=tuple(chunks.lost),
        notes=tuple(chunks.notes),
    )


class _Chunks:
    """The chunks of an image as columns of runs; a run of a fill counts the word, not a place.

    ``untold`` bytes are DONT_CARE; ``checksum`` stands behind the last block.
    """

    def __init__(self, reader: Reader, size: int, block: int) -> None:
        self._reader = reader
        self._size = size
        self._block = block
        self._at = 0
        self._logical = array("q")
        self._length = array("q")
        self._target = array("q")
        self._fills = array("H")  # 1: of a fill
        self._words: dict[bytes, int] = {}  # numbers
        self._places = array("q")  # of words, by number
        self._filled = 0
        self._head = b""
        self._head_at = 0
        self.untold = 0
        self.checksum: int | None = None
        self.lost: list[tuple[int, int, str]] = []
        self.notes: list[str] = []

    def walk(self, at: int, header: int, count: int) -> None:
        """Read ``count`` chunks from ``at`` on, whose headers are of ``header`` bytes."""
        why = "no chunk says what it holds"
        for number in range(count):
            try:
                at = self._chunk(at, header)
            except EvidenceError as damage:
                why = f"chunk {number} cannot be read: {damage.message}"
                self.notes.append(why)
                break
        else:
            if at < self._reader.size:
                self.notes.append(f"{self._reader.size - at} bytes lie behind the last chunk")
        self._lose(self._size - self._at, why)

    def _chunk(self, at: int, header: int) -> int:
        """Take one chunk and return where the next one lies.

        Raises:
            Malformed: its length cannot be, so that what follows has no place.
        """
        kind, blocks, total = _chunk(self._ahead(at, _CHUNK.size))
        length, body = blocks * self._block, at + header
        if length > self._size - self._at:
            raise Malformed(f"{blocks} blocks at {self._at} of a media of {self._size}")
        if total < header:
            raise Malformed(f"a chunk of {total} bytes")
        held = total - header
        if kind == _RAW and held == length:
            inside = max(0, min(length, self._reader.size - body))
            self._add(inside, body)
            self._lose(length - inside, "the file ends before it")
            if inside < length:
                raise Malformed("the file ends in it")
        elif kind == _FILL and held == _WORD:
            self._fill(length, body)
        elif kind == _DONT_CARE and not held:
            self._add(length, HOLE)
            self.untold += length
        elif kind == _CRC and held == _WORD and not blocks:
            value = int.from_bytes(self._ahead(body, _WORD), "little")
            if self._at == self._size:
                self.checksum = value
        elif kind in (_RAW, _FILL, _DONT_CARE, _CRC):
            raise Malformed(f"{held} bytes for {blocks} blocks of kind {kind:#x}")
        else:
            self.notes.append(f"a chunk of unknown kind {kind:#x} at {at}: its blocks are lost")
            self._lose(length, f"a chunk of unknown kind {kind:#x}")
        return at + total

    def _fill(self, length: int, at: int) -> None:
        word = self._ahead(at, _WORD)
        if not any(word):
            self._add(length, HOLE)
            return
        number = self._words.setdefault(word, len(self._words))
        if number == len(self._places):
            self._places.append(at)
        self._add(length, number, fill=1)
        self._filled += length

    def _add(self, length: int, target: int, *, fill: int = 0) -> None:
        if not length:
            return
        if target < 0 and self._target and self._target[-1] == target:
            self._length[-1] += length
        elif len(self._target) >= _MOST:
            raise Malformed(f"more than {_MOST} chunks")
        else:
            self._logical.append(self._at)
            self._length.append(length)
            self._target.append(target)
            self._fills.append(fill)
        self._at += length

    def _lose(self, length: int, why: str) -> None:
        if length <= 0:
            return
        if len(self.lost) < _LOST_SHOWN:
            self.lost.append((self._at, self._at + length, why))
        if len(self._target) < _MOST:  # else what no run covers is lost, too
            self._add(length, LOST)
        else:
            self._at += length

    def _ahead(self, at: int, length: int) -> bytes:
        """Return bytes of a header: most are near the one before."""
        if not self._head_at <= at <= at + length <= self._head_at + len(self._head):
            room = max(length, min(_AHEAD, self._reader.size - at))
            self._head, self._head_at = self._reader.read(at, room), at
        at -= self._head_at
        return self._head[at : at + length]

    def layouts(self, tickets: int) -> tuple[Layout, ...]:
        """Return the media as runs of the file and of units, one for each word blocks are filled with."""
        unit = _UNIT
        while self._filled // unit > _MOST // 2 and unit < limits.MAX_UNIT:
            unit *= 2
        longest = max(
            (length for length, fill in zip(self._length, self._fills, strict=True) if fill), default=0
        )
        unit = min(unit, max(longest, self._block)) if longest else unit
        columns = self._columns(unit, tickets)
        table = b"".join(struct.pack("<QII", at, _WORD, PACKED_CODED) for at in self._places)
        rows = len(columns[0])
        inline = len(table) + LINEAR_ROW * rows <= limits.TABLE_INLINE
        if not inline:
            self._reader.write_table(_slices([table, *(column.tobytes() for column in columns)]))
        laid = [b""] * 4 if not inline else [column.tobytes() for column in columns]
        linear = Linear(
            size=self._size,
            logical=laid[0],
            length=laid[1],
            target=laid[2],
            which=laid[3],
            rows=0 if inline else rows,
        )
        if not self._places:
            return (linear,)
        size = unit * len(self._places)
        packed = Packed(size=size, unit=unit, codec=Codec("repeat"), table=table if inline else b"")
        return (packed, linear)

    def _columns(self, unit: int, packed: int) -> tuple[array[int], array[int], array[int], array[int]]:
        """Return the columns of the layout: longer fills are several runs of one unit."""
        if not self._places:
            return self._logical, self._length, self._target, array("H", bytes(2 * len(self._target)))
        logical, lengths, targets, which = array("q"), array("q"), array("q"), array("H")
        rows = zip(self._logical, self._length, self._target, self._fills, strict=True)
        for at, length, target, fill in rows:
            step = unit if fill else length
            if fill and len(logical) + length // unit > limits.MAX_RUNS - _MOST:
                self.notes.append(f"{length} filled bytes at {at} need too many runs: they are lost")
                if len(self.lost) < _LOST_SHOWN:
                    self.lost.append((at, at + length, "more filled blocks than a layout may have"))
                continue
            for start in range(at, at + length, step):
                logical.append(start)
                lengths.append(min(step, at + length - start))
                targets.append(target * unit if fill else target)
                which.append(packed if fill else 0)
        return logical, lengths, targets, which


def _chunk(raw: bytes) -> tuple[int, int, int]:
    """Return the kind of a chunk, its blocks of the media, and its bytes of the file."""
    kind, _, blocks, total = _CHUNK.unpack(raw)
    return kind, blocks, total


def _slices(tables: list[bytes]) -> Iterator[bytes]:
    for raw in tables:
        for at in range(0, len(raw), limits.MIB):
            yield raw[at : at + limits.MIB]


BACKEND = Backend(
    name="simg",
    title="Android sparse image",
    role=Role.MEDIA,
    rank=20,
    signatures=(Signature(0, _MAGIC),),
    open=open_simg,
    supports="versions 1.x: verbatim, filled and unwritten chunks, checksums; one file of a split image",
    truth=("peer", "composed"),
)
