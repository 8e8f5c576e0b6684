"""Frames of Zstandard: their heads, and the way along their blocks.

Source: RFC 8878, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.errors import Malformed

if TYPE_CHECKING:
    from imgfs.backends import Reader

MAGIC: Final = b"\x28\xb5\x2f\xfd"
MAX_BLOCKS: Final = 4_000_000  # 500 GiB of full ones
_SKIPPABLE: Final = 0x184D2A50  # to ...5F
_AHEAD: Final = 18  # bytes of the longest head of a frame
_LAST, _RLE, _RESERVED = 1, 1, 3


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame. Units: bytes; ``stop``: behind it, or behind its head alone; ``size`` -1: it does not say."""

    start: int
    stop: int
    size: int
    checksum: bool = False


def skippable(magic: int) -> bool:
    """Say whether a magic number is that of a frame to be passed over."""
    return magic & ~0xF == _SKIPPABLE


def frame_at(reader: Reader, at: int) -> Frame | int:
    """Return the frame at ``at``, of which only the head was read, or where a skippable one ends; 0: none."""
    head = reader.read(at, min(_AHEAD, reader.size - at))
    if len(head) >= 8 and skippable(int.from_bytes(head[:4], "little")):
        return at + 8 + int.from_bytes(head[4:8], "little")
    if head[:4] != MAGIC or len(head) < 6:
        return 0
    size, length, checksum = _frame(head)
    return Frame(at, at + length, -1 if size is None else size, checksum)


def walk(reader: Reader, frame: Frame, left: int) -> tuple[int, int]:
    """Return where a frame ends, and how many more blocks may be walked along.

    Raises:
        EvidenceError: it does not.
    """
    at, left = _blocks(reader, frame.stop, left)
    at += 4 if frame.checksum else 0
    if at > reader.size:
        raise Malformed("it is cut short")
    return at, left


def _frame(head: bytes) -> tuple[int | None, int, bool]:
    """Return the size of a frame's content, the length of its head, and whether it has a checksum."""
    descriptor = head[4]
    single = descriptor & 0x20
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    size = None
    if width:
        if len(head) < at + width:
            raise Malformed("it is cut short")
        size = int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0)
    return size, at + width, bool(descriptor & 4)


def _blocks(reader: Reader, at: int, left: int) -> tuple[int, int]:
    """Return where the blocks of a frame end, and how many more may be walked along."""
    while True:
        if not left:
            raise Malformed(f"more than {MAX_BLOCKS} blocks")
        left -= 1
        word = int.from_bytes(reader.read(at, 3), "little")
        kind, length = word >> 1 & 3, word >> 3
        if kind == _RESERVED:
            raise Malformed(f"no block at {at}")
        at += 3 + (1 if kind == _RLE else length)
        if word & _LAST:
            return at, left
