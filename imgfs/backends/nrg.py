"""Disc images of Nero Burning ROM: tracks one behind the other, then chunks that describe them. Big-endian.

Discs that were written at once have a cue sheet and a list of tracks for each session; others one list of
tracks with their sectors.

Source: Wikipedia, "NRG (file format)".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._disc import Disc, Shape, Track, bcd
from imgfs.errors import EvidenceError, Malformed, NotMine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Options, Reader
    from imgfs.model import Media

_CHUNK: Final = struct.Struct(">4sI")
_MAX_CHUNK: Final = 1 * limits.MIB
_MAX_CHUNKS: Final = 1000
_MAX_TRACKS: Final = 99
_DAO_HEADER: Final = 22
_DAO: Final = {b"DAOI": struct.Struct(">12sHB3x3I"), b"DAOX": struct.Struct(">12sHB3x3Q")}
_TAO: Final = {b"ETNF": struct.Struct(">5I"), b"ETN2": struct.Struct(">QQIIQ")}
_CUE: Final = struct.Struct(">BBBBi")  # control, track and index in decimal digits, nothing, sector
_MODES: Final = {  # of tracks: what they hold, bytes of a sector, bytes ahead of its data
    0x00: ("MODE1", 2048, 0),
    0x02: ("MODE2", 2048, 0),
    0x03: ("MODE2", 2336, 8),
    0x05: ("MODE1", 2352, 16),
    0x06: ("MODE2", 2352, 24),
    0x07: ("AUDIO", 2352, -1),
    0x0F: ("MODE1", 2448, 16),
    0x10: ("AUDIO", 2448, -1),
    0x11: ("MODE2", 2448, 24),
}


def open_nrg(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Read the chunks and lay out the tracks they describe.

    Raises:
        NotMine: no signature.
        NotSupported: all tracks are audio.
        Malformed: chunks that cannot be read, or no track in them.
    """
    version, at = _footer(reader)
    disc = Disc((reader, *reader.others), f"Nero image, version {version}")
    starts: dict[int, int] = {}
    discontinued = ""
    sessions = 0
    try:
        for name, body in _chunks(reader, at):
            if name == b"CUEX":  # readers do not agree on what CUES, of version 1, counts in
                starts |= _cue(body)
            elif name in _DAO:
                sessions += 1
                _at_once(disc, body, name, starts)
            elif name in _TAO:
                sessions += 1
                _track_by_track(disc, body, name)
    except EvidenceError as why:
        discontinued = why.message
    if discontinued:
        if not disc.tracks:
            raise Malformed(f"the description of the disc cannot be read: {discontinued}")
        disc.notes.append(f"the description of the disc cannot be read further: {discontinued}")
    if not disc.tracks:
        raise Malformed("the description of the disc has no track")
    disc.facts["sessions"] = str(sessions)
    return disc.media()


def _footer(reader: Reader) -> tuple[int, int]:
    """Return the version and where the chunks start.

    Raises:
        NotMine: there is no footer.
    """
    tail = reader.read(max(0, reader.size - 12), min(12, reader.size))
    if len(tail) == 12 and tail[:4] == b"NER5":
        return 2, int.from_bytes(tail[4:], "big")
    if len(tail) == 12 and tail[4:8] == b"NERO":
        return 1, int.from_bytes(tail[8:], "big")
    raise NotMine("nrg")


def _chunks(reader: Reader, at: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and the content of each chunk but the last.

    Raises:
        EvidenceError: one leaves the file, is too long, or there is no end to them.
    """
    for _ in range(_MAX_CHUNKS):
        name, length = _CHUNK.unpack(reader.read(at, _CHUNK.size))
        if name == b"END!":
            return
        if length > _MAX_CHUNK:
            raise Malformed(f"a chunk of {length} bytes at {at}")
        yield name, reader.read(at + _CHUNK.size, length)
        at += _CHUNK.size + length
    raise Malformed(f"more than {_MAX_CHUNKS} chunks")


def _cue(body: bytes) -> dict[int, int]:
    """Return the first sector of each track, by its number."""
    starts: dict[int, int] = {}
    for _, number, index, _, sector in _CUE.iter_unpack(body[: len(body) // 8 * 8]):
        if bcd(index) == 1 and 1 <= bcd(number) <= _MAX_TRACKS:
            starts.setdefault(bcd(number), sector)
    return starts


def _at_once(disc: Disc, body: bytes, name: bytes, starts: dict[int, int]) -> None:
    """Add the tracks of a session: where the gap ahead of each starts, its content, and its end."""
    form = _DAO[name]
    if len(body) < _DAO_HEADER:
        raise Malformed(f"a list of tracks of {len(body)} bytes")
    number = body[20]
    for at in range(_DAO_HEADER, len(body) - form.size + 1, form.size):
        _, stride, mode, gap, begin, end = form.unpack_from(body, at)
        start = starts.get(number)
        if start is None and disc.tracks and stride and gap <= begin:
            start = _end(disc) + (begin - gap) // stride
        _add(disc, number, mode, stride, begin, end - begin, start)
        number += 1


def _end(disc: Disc) -> int:
    return disc.tracks[-1].start + disc.tracks[-1].sectors if disc.tracks else 0


def _track_by_track(disc: Disc, body: bytes, name: bytes) -> None:
    form = _TAO[name]
    for at in range(0, len(body) - form.size + 1, form.size):
        begin, length, mode, start, _ = form.unpack_from(body, at)
        _add(disc, len(disc.tracks) + 1, mode, 0, begin, length, start)


def _add(disc: Disc, number: int, mode: int, stride: int, begin: int, length: int, start: int | None) -> None:
    """Add a track of ``length`` bytes; what its sectors are is told by the mode and by their size."""
    if len(disc.tracks) >= _MAX_TRACKS:
        raise Malformed(f"more than {_MAX_TRACKS} tracks")
    if mode not in _MODES:
        raise Malformed(f"track {number} is of mode {mode:#x}")
    kind, usual, skip = _MODES[mode]
    stride = stride or usual
    if stride != usual:
        known = {size: ahead for what, size, ahead in _MODES.values() if what == kind}
        if stride not in known:
            raise Malformed(f"track {number} of mode {mode:#x} in sectors of {stride} bytes")
        skip = known[stride]
    if length < 0 or begin > limits.MAX_SIZE or length > limits.MAX_SIZE:
        raise Malformed(f"track {number} of {length} bytes at {begin}")
    if start is None or start < 0:
        start = _end(disc)
    disc.tracks.append(
        Track(
            number=number,
            shape=Shape(kind if skip < 0 else f"{kind}/{stride}", stride, skip),
            start=start,
            sectors=length // stride,
            ticket=0,
            offset=begin,
            file=disc.readers[0].name,
        )
    )


BACKEND = Backend(
    name="nrg",
    title="Nero disc image",
    role=Role.MEDIA,
    rank=40,  # its first track may start like raw sectors
    signatures=(Signature(-12, b"NER5"), Signature(-8, b"NERO")),
    open=open_nrg,
    supports="versions 1 and 2, tracks at once or one by one, all modes; audio stays in the file",
    truth=("peer", "composed", "corpus"),
)
