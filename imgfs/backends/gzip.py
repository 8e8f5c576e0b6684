"""Disks compressed by gzip: in the blocks of bgzip, small enough to be one piece, or by an index.

A block of bgzip says how long it is; a plain member does not, and only decoding it tells where it ends.

Source: RFC 1952; SAM/BAM specification, section 4.1 (BGZF).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._gzip_index import MAGIC, Pass, body_of
from imgfs.backends._index import VERSION, Indexer, index_of
from imgfs.backends._indexed import facts_of
from imgfs.backends._pieces import LARGEST, Pieces, hosted
from imgfs.backends._units_index import media
from imgfs.backends._zran import library
from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.model import Codec

if TYPE_CHECKING:
    from imgfs.backends import Index, Options, Reader
    from imgfs.model import Media

_EXTRA: Final = 4  # flag: subfields follow
_HEADER: Final = 12  # bytes up to the subfields
_USUAL: Final = 18  # with the one of bgzip
_TAIL: Final = 8  # checksum and size
_LARGEST_BLOCK: Final = 65_536
_ADVICE: Final = "unpack it first"
_CHUNK: Final = 1 << 20


def open_gzip(reader: Reader, options: Options) -> Media | Index:  # noqa: ARG001  # the contract of `open`
    """Walk along the blocks, decode a small file once to see what is in it, or ask for an index.

    Raises:
        NotMine: no signature, or a file of the evidence: such data is plain content there.
        Malformed: nothing of it decodes.
    """
    hosted(reader, "gzip")
    if reader.size < _HEADER or reader.read(0, len(MAGIC)) != MAGIC:
        raise NotMine("gzip")
    notes: list[str] = []
    pieces = Pieces("gzip", "gzip", _ADVICE)
    if _length(reader, 0, reader.read(0, min(_USUAL, reader.size))):
        _blocks(reader, pieces, notes)
        return pieces.media(reader, notes, {})
    if _members(reader, pieces):
        return pieces.media(reader, notes, {})
    if not body_of(reader, 0):
        raise Malformed("no member at its start")
    if sections := index_of(reader):
        said = facts_of(sections)
        return media(
            reader,
            sections[0],
            said.size,
            Codec("deflate-window"),
            version="gzip",
            facts={"members": said.word("members")},
            notes=said.notes,
            lost=said.lost,
        )
    if library() is None:
        raise NotSupported("gzip: libz.so.1 is missing, which finds points of entry; install zlib")
    return Indexer(reader.size, lambda part: Pass(reader).steps(part))


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
    if len(head) < _USUAL or head[:3] != MAGIC or not head[3] & _EXTRA:
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


def _members(reader: Reader, pieces: Pieces) -> bool:
    """Decode what is small, member by member; False: it is not small, or not sound."""
    if reader.size > LARGEST:
        return False
    raw = b"".join(reader.read(at, min(_CHUNK, reader.size - at)) for at in range(0, reader.size, _CHUNK))
    at, room = 0, LARGEST
    found: list[tuple[int, int, int]] = []
    while raw.startswith(MAGIC, at):
        stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            size = len(stream.decompress(memoryview(raw)[at:], room + 1))
        except zlib.error:
            return False
        if size > room or not stream.eof:
            return False
        stop = reader.size - len(stream.unused_data)
        found.append((at, stop - at, size))
        at, room = stop, room - size
    if any(raw[at:]):
        return False  # what follows is to be said
    for row in found:
        pieces.add(*row)
    return True


BACKEND = Backend(
    name="gzip",
    title="gzip",
    role=Role.MEDIA,
    rank=70,
    signatures=(Signature(0, MAGIC),),
    open=open_gzip,
    imports=("zstandard",),
    index=VERSION,
    supports="any members, by an index made once; blocks of bgzip; damaged and cut files up to there",
    truth=("peer",),
)
