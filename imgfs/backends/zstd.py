"""Disks compressed by Zstandard in frames that can be decoded one by one.

The seekable format says in a table at the end where its frames are; other files are walked along, frame by
frame and block by block. A frame that does not say how much it holds has no place on the media.

Source: RFC 8878, section 3; Zstandard Seekable Format, version 0.1.0 (zstd/contrib/seekable_format).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._pieces import LARGEST, Pieces, hosted
from imgfs.errors import EvidenceError, Malformed, NotMine

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import Media

_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = 0x184D2A50  # to ...5F
_SEEK_TABLE: Final = 0x184D2A5E
_SEEK_MAGIC: Final = 0x8F92EAB1
_FOOTER: Final = struct.Struct("<IBI")  # frames, descriptor, magic
_CHECKSUMS: Final = 0x80  # of the descriptor
_AHEAD: Final = 18  # bytes of the longest head of a frame
_LAST, _RLE, _RESERVED = 1, 1, 3
_MAX_BLOCKS: Final = 4_000_000  # 500 GiB of full ones
_MAX_TABLE: Final = 64 * limits.MIB
_ADVICE: Final = (
    "unpack it first, or pack it in frames of a known size that can be read one by one (the seekable format)"
)


def open_zstd(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Read the table of frames, or walk along them.

    Raises:
        NotMine: no signature, or the file is not named so.
        NotSupported: a frame does not say how much it holds, or is too large to be decoded for each read.
        Malformed: the file is cut short, or the table contradicts it.
    """
    hosted(reader, "zstd")
    if reader.size < 8:
        raise NotMine("zstd")
    head = reader.read(0, 4)
    if head != _MAGIC and not _skippable(int.from_bytes(head, "little")):
        raise NotMine("zstd")
    pieces = Pieces("zstd", "Zstandard", _ADVICE)
    try:
        told = _told(reader, pieces)
    except EvidenceError as why:
        raise Malformed(f"the table of frames cannot be read: {why.message}") from why
    if not told:
        _walked(reader, pieces)
    return pieces.media(reader, [], {"table of frames": "yes" if told else "no"})


def _skippable(magic: int) -> bool:
    return magic & ~0xF == _SKIPPABLE


def _told(reader: Reader, pieces: Pieces) -> bool:
    """Take the frames from the table at the end; False: there is none."""
    if reader.size < 8 + _FOOTER.size:
        return False
    count, descriptor, magic = _FOOTER.unpack(reader.read(reader.size - _FOOTER.size, _FOOTER.size))
    if magic != _SEEK_MAGIC:
        return False
    width = 12 if descriptor & _CHECKSUMS else 8
    length = count * width
    at = reader.size - _FOOTER.size - length - 8
    if descriptor & 0x7C or at < 0 or length > _MAX_TABLE:
        raise Malformed(f"{count} frames, descriptor {descriptor:#x}")
    if struct.unpack("<II", reader.read(at, 8)) != (_SEEK_TABLE, length + _FOOTER.size):
        raise Malformed(f"no table at {at}")
    raw = b"".join(
        reader.read(at + 8 + done, min(limits.MIB, length - done)) for done in range(0, length, limits.MIB)
    )
    place = 0
    for row in struct.iter_unpack("<II4x" if width == 12 else "<II", raw):
        pieces.add(place, *row)
        place += row[0]
    if place != at:
        raise Malformed(f"frames of {place} bytes ahead of a table at {at}")
    return True


def _walked(reader: Reader, pieces: Pieces) -> None:
    """Find frames by walking along their blocks."""
    at, left = 0, _MAX_BLOCKS
    while at < reader.size:
        head = reader.read(at, min(_AHEAD, reader.size - at))
        magic = int.from_bytes(head[:4], "little")
        if _skippable(magic):
            if len(head) < 8:
                raise Malformed("it is cut short")
            at += 8 + int.from_bytes(head[4:8], "little")
            continue
        if head[:4] != _MAGIC or len(head) < 6:
            raise Malformed(f"no frame at {at}")
        start = at
        size, length, checksum = _frame(head)
        if size is None:
            raise pieces.unusable(f"the frame at {at} does not say how much it holds")
        if size > LARGEST:
            raise pieces.unusable(f"the frame at {at}, of {size} bytes, would be decoded whole for each read")
        at, left = _blocks(reader, at + length, left)
        at += checksum
        if at > reader.size:
            raise Malformed("it is cut short")
        pieces.add(start, at - start, size)
    if at > reader.size:
        raise Malformed("it is cut short")


def _frame(head: bytes) -> tuple[int | None, int, int]:
    """Return the size of a frame's content, the length of its head, and that of its checksum."""
    descriptor = head[4]
    single = descriptor & 0x20
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    size = None
    if width:
        if len(head) < at + width:
            raise Malformed("it is cut short")
        size = int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0)
    return size, at + width, 4 if descriptor & 4 else 0


def _blocks(reader: Reader, at: int, left: int) -> tuple[int, int]:
    """Return where the blocks of a frame end, and how many more may be walked along."""
    while True:
        if not left:
            raise Malformed(f"more than {_MAX_BLOCKS} blocks")
        left -= 1
        word = int.from_bytes(reader.read(at, 3), "little")
        kind, length = word >> 1 & 3, word >> 3
        if kind == _RESERVED:
            raise Malformed(f"no block at {at}")
        at += 3 + (1 if kind == _RLE else length)
        if word & _LAST:
            return at, left


BACKEND = Backend(
    name="zstd",
    title="Zstandard",
    role=Role.MEDIA,
    rank=70,
    signatures=(
        Signature(0, _MAGIC),
        *(Signature(0, bytes((0x50 + n, 0x2A, 0x4D, 0x18))) for n in range(16)),
    ),
    open=open_zstd,
    imports=("zstandard",),
    supports="frames of at most 32 MiB that say their size, seekable format; by the name",
    truth=("peer", "composed"),
)
