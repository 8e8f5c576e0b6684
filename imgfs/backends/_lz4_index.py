"""An index of LZ4 files: which blocks are units, and what linked ones refer back to.

One pass decodes everything, which tells how much each block holds, and compares all checksums.

Source: LZ4 Frame Format Description 1.6.4 (lz4/doc/lz4_Frame_format.md), general structure, frame descriptor,
data blocks, skippable frames, legacy frame.
"""

from __future__ import annotations

import importlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._index import Writer
from imgfs.backends._units_index import Rows, checksum, zeros
from imgfs.block.restarting import HISTORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._index import Steps

MAGIC: Final = 0x184D2204
LEGACY: Final = 0x184C2102
SKIPPABLE: Final = 0x184D2A50  # to ...5F
_LEGACY_BLOCK: Final = 8 * limits.MIB
_PLAIN: Final = 0x8000_0000  # of a block's size
_SPAN: Final = 1 * limits.MIB  # decoded bytes of a unit
_LINKED_SPAN: Final = 4 * limits.MIB  # each takes up to 64 KiB of history into the index
_UNKNOWN: Final = limits.MIB  # what stands, lost, for the rest of a disk whose size nobody knows


@dataclass(frozen=True, slots=True)
class Frame:
    """The head of a frame. Units: bytes; ``size`` of its content, -1: it does not say."""

    start: int
    body: int
    block: int
    linked: bool
    checked: bool  # a checksum behind each block
    ends: bool  # one behind the content
    size: int
    legacy: bool = False

    @property
    def kind(self) -> tuple[bool, bool, bool]:
        """Return what is the same in all units of one layout."""
        return self.linked, self.checked, self.legacy


class Damaged(Exception):
    """It does not decode from here on."""


class _Unsound(Exception):
    """A frame is whole, and not what it was made of."""


class Cut(Exception):
    """The file ends."""


def frame_at(reader: Reader, at: int) -> Frame | int:
    """Return the head of the frame at ``at``, or where a skippable one ends; 0: there is none."""
    if at + 7 > reader.size:
        return 0
    head = reader.read(at, min(19, reader.size - at))
    magic = int.from_bytes(head[:4], "little")
    if magic & ~0xF == SKIPPABLE and len(head) >= 8:
        return at + 8 + int.from_bytes(head[4:8], "little")
    if magic == LEGACY:
        return Frame(at, at + 4, _LEGACY_BLOCK, linked=False, checked=False, ends=False, size=-1, legacy=True)
    if magic != MAGIC:
        return 0
    flags, sizes = head[4], head[5]
    length = 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)
    known = flags >> 6 == 1 and not flags & 2 and not sizes & 0x8F and sizes >> 4 >= 4
    if not known or len(head) < length:
        return 0
    return Frame(
        at,
        at + length,
        1 << 8 + 2 * (sizes >> 4),
        linked=not flags & 0x20,
        checked=bool(flags & 0x10),
        ends=bool(flags & 4),
        size=int.from_bytes(head[6:14], "little") if flags & 8 else -1,
    )


class Pass:
    """One pass over a file. ``steps`` makes its index."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._rows = Rows()
        self._writer = Writer(0, reader.size)
        self._notes: list[str] = []
        self._lost: list[tuple[int, int, str]] = []
        self._kinds: list[
            tuple[int, int, tuple[bool, bool, bool]]
        ] = []  # bytes [start, stop) and what they are
        self._at = 0

    def steps(self, part: int) -> Steps:
        """Yield the index, and how much of the file was gone through."""
        del part
        frames = 0
        while found := frame_at(self._reader, self._at):
            if isinstance(found, int):
                self._at = min(found, self._reader.size)
                continue
            frames += 1
            first, start = len(self._rows), self._rows.size
            try:
                for data in self._frame(found):
                    yield data, self._at
            except Cut:
                self._end(found, start, f"it is cut short in frame {frames}")
                break
            except _Unsound:
                self._spoiled(found, frames, first, start)
                if found.size < 0 and self._at < self._reader.size:
                    self._end(
                        found,
                        start,
                        f"frame {frames} does not say how much it held: what follows has no place",
                    )
                    break
            except Damaged as why:
                if not found.checked:
                    self._rows.drop(1, first)  # what came shortly before may be wrong, too
                self._end(found, start, f"frame {frames} does not decode at {self._at}: {why}")
                break
            finally:
                if self._rows.size > start:
                    self._kinds.append((start, self._rows.size, found.kind))
        else:
            self._trailing()
        facts: dict[str, object] = {
            "size": self._rows.size,
            "frames": frames,
            "kinds": self._kinds[:1000],
            "notes": self._notes[:100],
            "lost": self._lost[:1000],
        }
        for data in self._writer.end(self._rows.table(), facts):
            yield data, self._reader.size

    def _frame(self, frame: Frame) -> Iterator[bytes]:
        """Take the units of a frame.

        Raises:
            Cut, Damaged: not to its end.
        """
        start = self._rows.size
        decoder = _Legacy(frame.block) if frame.legacy else _Blocks(frame.block)
        decoder.begin(self._reader.read(frame.start, frame.body - frame.start))
        self._at = frame.body
        span = _LINKED_SPAN if frame.linked else _SPAN
        begins, held, history = self._at, bytearray(), b""
        while True:
            try:
                raw = self._block(frame)
                data = decoder.block(raw) if raw else b""
            except (Cut, Damaged):
                yield self._unit(begins, self._at, held, history)
                raise
            if not raw:
                break
            held += data
            self._at += len(raw)
            if len(held) >= span or len(held) + frame.block > limits.MAX_UNIT:
                yield self._unit(begins, self._at, held, history)
                history = (history + bytes(held))[-HISTORY:] if frame.linked else b""
                begins, held = self._at, bytearray()
        yield self._unit(begins, self._at, held, history)
        if frame.legacy:
            return
        end = self._reader.read(self._at, min(4 + (4 if frame.ends else 0), self._reader.size - self._at))
        if len(end) < 4 + (4 if frame.ends else 0):
            raise Cut
        try:
            decoder.block(end)
        except Damaged as why:
            self._at += len(end)
            raise _Unsound from why
        self._at += len(end)
        if 0 <= frame.size != self._rows.size - start:
            raise _Unsound

    def _spoiled(self, frame: Frame, number: int, first: int, start: int) -> None:
        """Make a frame lost whose checksum differs, or which holds another number of bytes than it says."""
        known = 0 <= frame.size <= limits.MAX_SIZE // 2
        self._rows.spoil(first, frame.size if known else -1)
        why = f"the checksum of frame {number} differs, or its size: nothing in it can be trusted"
        self._notes.append(why)
        if self._rows.size > start:
            self._lost.append((start, self._rows.size, why))

    def _block(self, frame: Frame) -> bytes:
        """Return the next block with its size and checksum; empty: there is none.

        Raises:
            Cut: it is not whole.
            Damaged: it is larger than a block of this frame may be.
        """
        left = self._reader.size - self._at
        if frame.legacy and not left:
            return b""
        if left < 4:
            raise Cut
        word = int.from_bytes(self._reader.read(self._at, 4), "little")
        if frame.legacy and (word in (MAGIC, LEGACY) or word & ~0xF == SKIPPABLE):
            return b""
        if not word and not frame.legacy:
            return b""
        size = word if frame.legacy else word & ~_PLAIN
        if not size or size > frame.block + frame.block // 255 + 16:
            raise Damaged(f"a block of {size} bytes")
        length = 4 + size + (4 if frame.checked else 0)
        if length > left:
            raise Cut
        return b"".join(
            self._reader.read(self._at + done, min(limits.SOURCE_READ_MAX, length - done))
            for done in range(0, length, limits.SOURCE_READ_MAX)
        )

    def _unit(self, begins: int, ends: int, held: bytearray, history: bytes) -> bytes:
        if not held:
            return b""
        if zeros(held):
            self._rows.zero(len(held))
            return b""
        place = self._writer.at
        blob = self._writer.blob(zlib.compress(history, 1)) if history else b""
        front = (place, len(blob))
        self._rows.unit(len(held), begins, ends - begins, front=front, check=checksum(held))
        return blob

    def _end(self, frame: Frame, start: int, why: str) -> None:
        """Make the rest of a frame lost; of one that does not say its size, something for it."""
        size = self._rows.size
        if not size:
            return
        end = start + frame.size if 0 <= frame.size <= limits.MAX_SIZE // 2 else -1
        if end <= size:
            end = size + (-size % _UNKNOWN or _UNKNOWN)
            why += ": of what follows nothing is known"
        self._notes.append(why)
        self._lost.append((size, end, why))
        self._rows.lose(end - size)

    def _trailing(self) -> None:
        left = self._reader.size - self._at
        if left > 0:
            what = (
                "zeros"
                if not any(self._reader.read(self._at, min(left, 4096)))
                else "bytes that are no frame"
            )
            self._notes.append(f"{left} bytes behind the last frame are ignored: {what}")


class _Blocks:
    """Decodes a frame block by block, all its checksums compared."""

    def __init__(self, block: int) -> None:
        self._decoder = importlib.import_module("lz4.frame").LZ4FrameDecompressor()
        self._block = block

    def begin(self, head: bytes) -> None:
        """Take the head of the frame; raises Damaged."""
        self.block(head)

    def block(self, raw: bytes) -> bytes:
        """Return what a block holds; raises Damaged."""
        try:
            data: bytes = self._decoder.decompress(raw, max_length=self._block)  # in one piece only with room
        except (RuntimeError, EOFError, ValueError) as why:
            raise Damaged(str(why)[:100]) from why
        return data


class _Legacy:
    """Decodes the blocks of a legacy frame, which has no checksums."""

    def __init__(self, block: int) -> None:
        self._library = importlib.import_module("lz4.block")
        self._block = block

    def begin(self, head: bytes) -> None:
        """Have nothing to look at."""

    def block(self, raw: bytes) -> bytes:
        """Return what a block holds; raises Damaged."""
        try:
            data: bytes = self._library.decompress(raw[4:], uncompressed_size=self._block)
        except (self._library.LZ4BlockError, ValueError) as why:
            raise Damaged(str(why)[:100]) from why
        return data
