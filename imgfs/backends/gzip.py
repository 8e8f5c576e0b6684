"""Disks compressed by gzip: in the blocks of bgzip, or small enough to be one piece.

A block of bgzip says how long it is; a plain member does not, and only decoding it tells where it ends.

Source: RFC 1952; SAM/BAM specification, section 4.1 (BGZF).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._pieces import LARGEST, Pieces, named
from imgfs.errors import Malformed, NotMine

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import Media

_MAGIC: Final = b"\x1f\x8b\x08"
_EXTRA: Final = 4  # flag: subfields follow
_HEADER: Final = 12  # bytes up to the subfields
_USUAL: Final = 18  # with the one of bgzip
_TAIL: Final = 8  # checksum and size
_LARGEST_BLOCK: Final = 65_536
_ADVICE: Final = "unpack it first, or pack it in blocks that can be read one by one: bgzip"


def open_gzip(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Walk along the blocks, or decode a small file once to see what is in it.

    Raises:
        NotMine: no signature, or the file is not named so.
        NotSupported: a larger file without blocks.
        Malformed: it does not decode, or is cut short.
    """
    named(reader, ".gz", ".bgz")
    if reader.size < _HEADER or reader.read(0, len(_MAGIC)) != _MAGIC:
        raise NotMine("gzip")
    notes: list[str] = []
    pieces = Pieces("gzip", "gzip", _ADVICE)
    if _length(reader, 0, reader.read(0, min(_USUAL, reader.size))):
        _blocks(reader, pieces, notes)
    else:
        _members(reader, pieces)
    return pieces.media(reader, notes, {})


def _blocks(reader: Reader, pieces: Pieces, notes: list[str]) -> None:
    at, size, head = 0, 1, reader.read(0, min(_USUAL, reader.size))
    while at < reader.size:
        length = _length(reader, at, head)
        if not length or at + length > reader.size:
            notes.append(f"no whole block at {at}: what follows it is not shown")
            return
        end = at + length
        raw = reader.read(end - 4, 4 + min(_USUAL, reader.size - end))  # and the head of the next one
        size = int.from_bytes(raw[:4], "little")
        if size > _LARGEST_BLOCK:
            notes.append(f"a block of {size} bytes at {at}: what follows it is not shown")
            return
        pieces.add(at, length, size)
        at, head = end, raw[4:]
    if size:
        notes.append("no empty block at the end, as bgzip writes it: the file may be cut short")


def _length(reader: Reader, at: int, head: bytes) -> int:
    """Return the length of a block by its subfield; 0: it has none."""
    if len(head) < _USUAL or head[:3] != _MAGIC or not head[3] & _EXTRA:
        return 0
    extra = int.from_bytes(head[10:12], "little")
    if head[12:16] == b"BC\2\0" and extra >= 6:
        return _counted(head[16:18], extra)
    if at + _HEADER + extra > reader.size:
        return 0
    fields = reader.read(at + _HEADER, extra)
    place = 0
    while place + 4 <= extra:
        length = int.from_bytes(fields[place + 2 : place + 4], "little")
        if fields[place : place + 2] == b"BC" and length == 2 and place + 6 <= extra:
            return _counted(fields[place + 4 : place + 6], extra)
        place += 4 + length
    return 0


def _counted(raw: bytes, extra: int) -> int:
    length = int.from_bytes(raw, "little") + 1
    return length if length > _HEADER + extra + _TAIL else 0


def _members(reader: Reader, pieces: Pieces) -> None:
    """Decode what is small, member by member.

    Raises:
        NotSupported: it is not small.
        Malformed: it does not decode.
    """
    if reader.size > LARGEST:
        raise pieces.unusable("a stream without blocks, too large to be decoded for each read")
    raw = b"".join(reader.read(at, min(1 << 20, reader.size - at)) for at in range(0, reader.size, 1 << 20))
    at, room = 0, LARGEST
    while raw.startswith(_MAGIC, at):
        stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            size = len(stream.decompress(memoryview(raw)[at:], room + 1))
        except zlib.error as why:
            raise Malformed(f"it does not decode: {why}") from why
        if size > room:
            raise pieces.unusable("a stream without blocks, too large to be decoded for each read")
        if not stream.eof:
            raise Malformed("it is cut short")
        stop = reader.size - len(stream.unused_data)
        pieces.add(at, stop - at, size)
        at, room = stop, room - size


BACKEND = Backend(
    name="gzip",
    title="gzip",
    role=Role.MEDIA,
    rank=70,
    signatures=(Signature(0, _MAGIC),),
    open=open_gzip,
    supports="blocks of bgzip; other files up to 32 MiB; by the name",
    truth=("peer",),
)
