"""Tracks of a compact disc as one media: the user data of the data tracks, in sectors of 2048 bytes.

A sector of the media is one of the disc, from the first data track on, so that sector numbers in a file
system keep their meaning. Audio has no such sectors: where it lies between data tracks the media is lost, as
a drive refuses to read it as data; the file of the host holds it as it is, and a note says where.

Sectors with a frame around their data (sync pattern, header, checksums, subchannel) are units of a few
sectors, out of which the daemon cuts the data: 330,000 runs of 2048 bytes read at a sixth of the speed when
the file is not cached, because the file is wanted in one piece.

Source: ECMA-130 (CD-ROM), section 14: the sector, its address and mode; System Description CD-ROM XA (Philips
and Sony, 1991): the subheader of mode 2.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.errors import EvidenceError, Malformed, NotSupported
from imgfs.model import PACKED_CODED, Codec, Linear, Media, Packed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Reader
    from imgfs.model import Layout

SYNC: Final = b"\0" + b"\xff" * 10 + b"\0"
SECTOR: Final = 2048
PREGAP: Final = 150  # sectors ahead of the one with number 0: two seconds
MODE_AT: Final = 15
_HEADER: Final = 24  # bytes: sync pattern, address and mode, two copies of the subheader of mode 2
_SKIP: Final = {1: 16, 2: 24}  # bytes ahead of the data, by the mode
_FORM2: Final = 0x20  # of the submode
_UNIT: Final = 16  # sectors
_ROWS: Final = 400_000  # units of all tracks: 6 MiB of a reply
_LOOKED_AT: Final = 64  # sectors of a track whose form is looked at
_MOST: Final = limits.MAX_SIZE // 4096  # sectors


@dataclass(frozen=True, slots=True)
class Shape:
    """How sectors lie in a file. Units: bytes; from one to the next, ahead of the data.

    A ``skip`` below 0: audio.
    """

    name: str
    stride: int
    skip: int

    @property
    def framed(self) -> bool:
        """Say whether sectors have their sync pattern and header with them."""
        return self.skip >= _SKIP[1] and self.stride >= 2352


SHAPES: Final = {
    name: Shape(name, stride, skip)
    for name, stride, skip in (
        ("MODE1/2048", 2048, 0),
        ("MODE1/2352", 2352, 16),
        ("MODE1/2448", 2448, 16),
        ("MODE2/2048", 2048, 0),
        ("MODE2/2324", 2324, 0),
        ("MODE2/2336", 2336, 8),
        ("MODE2/2352", 2352, 24),
        ("MODE2/2448", 2448, 24),
        ("CDI/2336", 2336, 8),
        ("CDI/2352", 2352, 24),
        ("AUDIO", 2352, -1),
        ("CDG", 2448, -1),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """Sectors ``start`` to ``start + sectors`` of a disc, from ``offset`` of the member ``ticket`` on.

    A ticket of -1: no member holds them; ``file`` is its name. Units: sectors; ``offset`` bytes.
    """

    number: int
    shape: Shape
    start: int
    sectors: int
    ticket: int
    offset: int
    file: str = ""


def bcd(raw: int) -> int:
    """Return a number of two decimal digits; -1: it is none."""
    return raw // 16 * 10 + raw % 16 if raw < 0xA0 and raw % 16 < 10 else -1


def address(header: bytes) -> int:
    """Return the number of a sector by its header (minute, second, frame behind the sync pattern)."""
    minute, second, frame = (bcd(raw) for raw in header[12:15])
    if min(minute, second, frame) < 0 or second > 59 or frame > 74:
        return -1 - PREGAP
    return (minute * 60 + second) * 75 + frame - PREGAP


@dataclass(slots=True)
class Disc:
    """Tracks on their way to a media. ``wants`` are names of further files, ``facts`` metadata."""

    readers: Sequence[Reader]
    version: str
    tracks: list[Track] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    wants: tuple[str, ...] = ()

    def media(self) -> Media:
        """Lay the data tracks out.

        Raises:
            NotSupported: there is none: a disc of audio.
            Malformed: the disc is larger than can be.
        """
        data = [self._checked(track) for track in self.tracks if track.shape.skip >= 0]
        self._tell_audio()
        if not data:
            raise NotSupported(f"{self.version} of audio only: there is no data track to show")
        data = self._ordered(data)
        base, end = data[0].start, data[-1].start + data[-1].sectors
        if end - base > _MOST:
            raise Malformed(f"a disc of {end - base} sectors")
        if base > 0:
            self.notes.append(
                f"the media starts with sector {base} of the disc: file systems may count from its start"
            )
        size = (end - base) * SECTOR
        layouts, lost = self._laid(data, base, size)
        self.facts["tracks"] = ", ".join(f"{track.number} {track.shape.name}" for track in self.tracks)[:1000]
        return Media(
            layouts=layouts,
            sector=SECTOR,
            version=self.version,
            metadata=self.facts,
            lost=tuple(lost),
            notes=tuple(self.notes),
            wants=self.wants,
        )

    def _tell_audio(self) -> None:
        for track in self.tracks:
            if track.shape.skip < 0 and track.ticket >= 0:
                stop = track.offset + track.sectors * track.shape.stride
                name = self.readers[track.ticket].name or "the image"
                self.notes.append(
                    f"track {track.number} is audio, no part of the media: bytes [{track.offset}, {stop})"
                    f" of {name[:200]}"
                )

    def _checked(self, track: Track) -> Track:
        """Believe the header of the first sector where it differs from what is said of the track."""
        if track.ticket < 0 or not track.sectors or not track.shape.framed:
            return track
        try:
            head = self.readers[track.ticket].read(track.offset, _HEADER)
        except EvidenceError:
            return track
        if not head.startswith(SYNC):
            self.notes.append(f"track {track.number}: its first sector has no sync pattern")
            return track
        shape, start, mode = track.shape, track.start, head[MODE_AT]
        if mode in _SKIP and shape.skip != _SKIP[mode]:
            shape = Shape(f"MODE{mode}/{shape.stride}", shape.stride, _SKIP[mode])
            self.notes.append(
                f"track {track.number} is said to be {track.shape.name}: its first sector is of mode {mode}"
            )
        said = address(head)
        if said >= 0 and said != start:
            self.notes.append(f"track {track.number} starts with sector {said} by its header, not {start}")
            start = said
        found = Track(
            number=track.number,
            shape=shape,
            start=start,
            sectors=track.sectors,
            ticket=track.ticket,
            offset=track.offset,
            file=track.file,
        )
        if mode == 2 and self._form2(found):
            self.notes.append(
                f"track {track.number} has sectors of form 2 (2324 bytes): the first 2048 of each are shown"
            )
        return found

    def _form2(self, track: Track) -> bool:
        """Say whether some of the sectors that are looked at are of form 2."""
        reader, stride = self.readers[track.ticket], track.shape.stride
        for index in range(0, track.sectors, max(1, track.sectors // _LOOKED_AT)):
            try:
                head = reader.read(track.offset + index * stride, _HEADER)
            except EvidenceError:
                return False
            if head.startswith(SYNC) and head[16:20] == head[20:24] and head[18] & _FORM2:
                return True
        return False

    def _ordered(self, data: list[Track]) -> list[Track]:
        """Return the data tracks by their place; of two at one place the first is kept."""
        kept: list[Track] = []
        for track in sorted(data, key=lambda track: track.start):
            if not track.sectors and kept:
                continue
            if kept and track.start < kept[-1].start + kept[-1].sectors:
                self.notes.append(f"track {track.number} lies on track {kept[-1].number}: it is left out")
            else:
                kept.append(track)
        return kept

    def _laid(
        self, data: list[Track], base: int, size: int
    ) -> tuple[tuple[Layout, ...], list[tuple[int, int, str]]]:
        layouts: list[Layout] = []
        rows: list[tuple[int, int, int]] = []
        which: list[int] = []
        lost: list[tuple[int, int, str]] = []
        at = 0
        for track in data:
            start, length = (track.start - base) * SECTOR, track.sectors * SECTOR
            if start > at:
                lost.append((at, start, "no data track covers it"))
            at = start + length
            whole, rest = self._inside(track)
            if whole:
                if track.shape.stride == SECTOR:
                    which.append(track.ticket)
                    rows.append((start, whole * SECTOR, track.offset))
                else:
                    which.append(len(self.readers) + len(layouts))
                    rows.append((start, whole * SECTOR, 0))
                    layouts.append(_units(track, whole, _ROWS // len(data)))
            if rest:  # of a sector that is cut short
                which.append(track.ticket)
                rows.append(
                    (
                        start + whole * SECTOR,
                        rest,
                        track.offset + whole * track.shape.stride + track.shape.skip,
                    )
                )
            held = start + whole * SECTOR + rest
            if held < at:
                why = "ends before it" if track.ticket >= 0 else "is not beside the image"
                lost.append((held, at, f"track {track.number}: the file {track.file[:200]!r} {why}"))
        layouts.append(Linear.of(size, rows, which))
        return tuple(layouts), lost

    def _inside(self, track: Track) -> tuple[int, int]:
        """Return how many sectors of a track are at hand with all their data, and the bytes of one more."""
        if track.ticket < 0:
            return 0, 0
        shape = track.shape
        room = self.readers[track.ticket].size - track.offset
        whole = max(0, min(track.sectors, (room - shape.skip - SECTOR) // shape.stride + 1))
        rest = 0
        if whole < track.sectors:
            rest = max(0, min(SECTOR, room - whole * shape.stride - shape.skip))
        return whole, rest


def _units(track: Track, sectors: int, most: int) -> Packed:
    """Return the data of a track's sectors in units, at most ``most`` of them.

    Raises:
        Malformed: there are more.
    """
    shape, per = track.shape, _UNIT
    while sectors > most * per:
        per *= 2
    if per * SECTOR > limits.MAX_UNIT:
        raise Malformed(f"a track of {sectors} sectors")
    count = -(-sectors // per)
    step = per * shape.stride
    words = array("Q", bytes(16 * count))
    words[::2] = array("Q", range(track.offset, track.offset + count * step, step))
    words[1::2] = array("Q", [PACKED_CODED << 32 | step]) * count
    last = (sectors - (count - 1) * per - 1) * shape.stride + shape.skip + SECTOR
    words[2 * count - 1] = PACKED_CODED << 32 | last
    codec = Codec("sectors", {"stride": shape.stride, "skip": shape.skip, "data": SECTOR})
    return Packed(
        size=sectors * SECTOR, unit=per * SECTOR, codec=codec, table=words.tobytes(), which=track.ticket
    )
