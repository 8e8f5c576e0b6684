"""Disks compressed by Zstandard in frames that can be decoded one by one.

The seekable format says in a table at the end where its frames are; other files are walked along, frame by
frame and block by block. A frame that does not say how much it holds has no place on the media: a copy of
such files is made.

Source: RFC 8878, section 3; Zstandard Seekable Format, version 0.1.0 (zstd/contrib/seekable_format).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._copying import copied
from imgfs.backends._index import VERSION, Indexer, index_of
from imgfs.backends._pieces import LARGEST, Pieces, hosted
from imgfs.backends._zstd_copy import steps
from imgfs.backends._zstd_frames import MAGIC, MAX_BLOCKS, Frame, frame_at, skippable, walk
from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported

if TYPE_CHECKING:
    from imgfs.backends import Index, Options, Reader
    from imgfs.model import Media

_SEEK_TABLE: Final = 0x184D2A5E
_SEEK_MAGIC: Final = 0x8F92EAB1
_FOOTER: Final = struct.Struct("<IBI")  # frames, descriptor, magic
_CHECKSUMS: Final = 0x80  # of the descriptor
_MAX_TABLE: Final = 64 * limits.MIB
_ADVICE: Final = "unpack it first"


def open_zstd(reader: Reader, options: Options) -> Media | Index:  # noqa: ARG001  # the contract of `open`
    """Read the table of frames, or walk along them; where they cannot be units, ask for a copy of them.

    Raises:
        NotMine: no signature, or a file of the evidence: such data is plain content there.
        Malformed: there is nothing in it.
    """
    hosted(reader, "zstd")
    if reader.size < 8:
        raise NotMine("zstd")
    head = reader.read(0, 4)
    if head != MAGIC and not skippable(int.from_bytes(head, "little")):
        raise NotMine("zstd")
    if sections := index_of(reader, copy=True):
        return copied(reader, sections, version="Zstandard", facts={})
    pieces = Pieces("zstd", "Zstandard", _ADVICE)
    try:
        if _told(reader, pieces):
            return pieces.media(reader, [], {"table of frames": "yes"})
        why = ""
    except NotSupported as refused:
        why = refused.message
    except EvidenceError as bad:
        why = f"the table of frames cannot be read: {bad.message}"
    if not why:
        why = _unfit(reader, 0)
    frames: list[Frame] = []
    if not why:
        frames, why = _walked(reader)
    if why:
        return Indexer(reader.size, lambda _: steps(reader), copy=True, why=why)
    pieces = Pieces("zstd", "Zstandard", _ADVICE)
    try:
        for frame in frames:
            pieces.add(frame.start, frame.stop - frame.start, frame.size)
    except NotSupported as refused:
        return Indexer(reader.size, lambda _: steps(reader), copy=True, why=refused.message)
    return pieces.media(reader, [], {"table of frames": "no"})


def _unfit(reader: Reader, at: int) -> str:
    """Say why the frame at ``at`` cannot be a unit; empty: it can, or there is none."""
    frame = frame_at(reader, at)
    if not isinstance(frame, Frame):
        return ""
    if frame.size < 0:
        return f"the frame at {at} does not say how much it holds"
    return (
        f"the frame at {at}, of {frame.size} bytes, cannot be decoded for each read"
        if frame.size > LARGEST
        else ""
    )


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


def _walked(reader: Reader) -> tuple[list[Frame], str]:
    """Walk along the blocks of frames; return these, and why they cannot be units, empty: they can."""
    found: list[Frame] = []
    at, left = 0, MAX_BLOCKS
    while at < reader.size:
        frame = frame_at(reader, at)
        if isinstance(frame, int):
            if not frame:
                return found, f"there is no frame at {at}"
            at = frame
            continue
        if why := _unfit(reader, at):
            return found, why
        try:
            end, left = walk(reader, frame, left)
        except EvidenceError as bad:
            return found, f"the frame at {at} is cut short or damaged: {bad.message}"
        found.append(Frame(at, end, frame.size))
        at = end
    return found, "it is cut short" if at > reader.size else ""


BACKEND = Backend(
    name="zstd",
    title="Zstandard",
    role=Role.MEDIA,
    rank=70,
    signatures=(
        Signature(0, MAGIC),
        *(Signature(0, bytes((0x50 + n, 0x2A, 0x4D, 0x18))) for n in range(16)),
    ),
    open=open_zstd,
    imports=("zstandard",),
    index=VERSION,
    supports="any frames, seekable format; large, unsized and damaged ones by a copy, made once",
    truth=("peer", "composed"),
)
