"""Cue sheets: text that names the files of a compact disc and the tracks in them.

Everything in it is a claim; only files beside the sheet, or beneath its folder, are opened.

Source: CDRWIN User's Guide, appendix A, "Cue Sheet Commands".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from encodings import cp1252  # a worker cannot load what it meets
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._disc import SHAPES, Disc, Shape, Track
from imgfs.errors import Malformed, NotMine
from imgfs.model import beneath, plain

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import Media

_MAX_TEXT: Final = 1 * limits.MIB
_MAX_TRACKS: Final = 99
_BINARY: Final = ("BINARY", "MOTOROLA")  # others are audio by themselves: WAVE, AIFF, MP3
_FILE: Final = re.compile(r'FILE\s+(?:"([^"]*)"|(\S+))\s+(\w+)', re.IGNORECASE)
_TRACK: Final = re.compile(r"TRACK\s+(\d{1,3})\s+([\w/]+)", re.ASCII | re.IGNORECASE)
_TIME: Final = re.compile(
    r"(INDEX\s+(\d{1,2})|PREGAP|POSTGAP)\s+(\d{1,3}):(\d\d):(\d\d)", re.ASCII | re.IGNORECASE
)
_SAID: Final = re.compile(r'(CATALOG|TITLE|PERFORMER)\s+"?([^"]*)', re.IGNORECASE)
_SPLIT: Final = re.compile(r"[/\\]")


@dataclass(slots=True)
class _Track:
    """A track as the sheet has it. Units: sectors of its file; ``pregap``, ``postgap``: of no file."""

    number: int
    shape: Shape
    pregap: int = 0
    postgap: int = 0
    indexes: dict[int, int] = field(default_factory=dict)

    @property
    def begin(self) -> int:
        """Return where the track begins in its file, with the gap ahead of it."""
        return min(self.indexes.values())

    @property
    def start(self) -> int:
        """Return where its content begins."""
        return self.indexes.get(1, self.begin)


@dataclass(slots=True)
class _File:
    """A file and its tracks in order."""

    name: str
    kind: str
    tracks: list[_Track] = field(default_factory=list)


def open_cue(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Read the sheet and lay out what is at hand of its files.

    Raises:
        NotMine: it is no such text.
        NotSupported: all tracks are audio.
        Malformed: a track that is not known or has no place.
    """
    if reader.size > _MAX_TEXT:
        raise NotMine("cue")
    facts: dict[str, str] = {}
    files = _parse(_text(reader.read(0, reader.size)), facts)
    readers = (reader, *reader.others)
    disc = Disc(readers, "cue sheet", facts=facts)
    wants: list[str] = []
    base = 0  # number of a file's first sector on the disc
    for file in files:
        name = _name(file.name)
        if file.kind not in _BINARY:
            disc.notes.append(f"the file {file.name[:200]!r} holds audio ({file.kind}): it is not opened")
            ticket = -1
        elif not name:
            disc.notes.append(
                f"the file {file.name[:200]!r} is not opened: only one beneath its folder would be"
            )
            ticket = -1
        else:
            ticket = next((n for n, member in enumerate(readers[1:], 1) if member.name == name), -1)
            if ticket < 0:
                wants.append(name)
                disc.notes.append(f"the file {name[:200]!r} is no regular file beside the image")
        base = _lay(disc, file, ticket, name or file.name, base)
    disc.wants = tuple(dict.fromkeys(wants))
    return disc.media()


def _lay(disc: Disc, file: _File, ticket: int, name: str, base: int) -> int:
    """Add the tracks of a file, whose first sector is ``base`` of the disc; return that of the next file."""
    at = frame = 0
    shape = file.tracks[0].shape if file.tracks else SHAPES["AUDIO"]
    size = disc.readers[ticket].size if ticket >= 0 else 0
    for index, track in enumerate(file.tracks):
        if track.begin < frame or track.start < track.begin:
            raise Malformed(f"track {track.number} begins ahead of the one before it")
        at += (track.begin - frame) * shape.stride
        frame, shape = track.begin, track.shape
        base += track.pregap
        offset = at + (track.start - frame) * shape.stride
        if index + 1 < len(file.tracks):
            stop = file.tracks[index + 1].begin
        else:
            stop = track.start + max(0, -(-(size - offset) // shape.stride))
        disc.tracks.append(
            Track(
                number=track.number,
                shape=shape,
                start=base + track.start,
                sectors=max(0, stop - track.start),
                ticket=ticket,
                offset=offset,
                file=name,
            )
        )
        base += track.postgap
    if not file.tracks:
        return base
    last = disc.tracks[-1]
    return last.start + last.sectors + file.tracks[-1].postgap


def _name(said: str) -> str:
    """Return the name to ask for; a path of another machine is not followed, its last part may be here."""
    path = said.replace("\\", "/")
    if beneath(path):
        return path
    last = _SPLIT.split(said)[-1]
    return last if plain(last) else ""


def _text(raw: bytes) -> str:
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in raw:
        raise NotMine("cue: no text")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return cp1252.Codec().decode(raw, "replace")[0]


def _parse(text: str, facts: dict[str, str]) -> list[_File]:
    """Return the files of a sheet.

    Raises:
        NotMine: there is no file or no track in it.
        Malformed: a track of a mode that is not known, without a place, or too many of them.
    """
    files: list[_File] = []
    tracks: list[_Track] = []
    for line in map(str.strip, text.splitlines()):
        if match := _FILE.match(line):
            files.append(_File(match[1] if match[1] is not None else match[2], match[3].upper()))
        elif (match := _TRACK.match(line)) and files:
            shape = SHAPES.get(match[2].upper())
            if shape is None:
                raise Malformed(f"track {match[1]} is of mode {match[2][:40]}")
            if len(tracks) >= _MAX_TRACKS:
                raise Malformed(f"more than {_MAX_TRACKS} tracks")
            tracks.append(_Track(int(match[1]), shape))
            files[-1].tracks.append(tracks[-1])
        elif (match := _TIME.match(line)) and tracks:
            _place(match, tracks[-1], files)
        elif (match := _SAID.match(line)) and not tracks:
            facts[match[1].lower()] = match[2].strip()[:200]
    if not tracks:
        raise NotMine("cue: no track")
    for file in files:
        if missing := [track.number for track in file.tracks if not track.indexes]:
            raise Malformed(f"track {missing[0]} has no index")
    return files


def _place(match: re.Match[str], track: _Track, files: list[_File]) -> None:
    """Take a time of a track: minutes, seconds, frames of 1/75 second.

    Raises:
        Malformed: seconds or frames that cannot be.
    """
    minutes, seconds, frames = (int(match[n]) for n in (3, 4, 5))
    if seconds > 59 or frames > 74:
        raise Malformed(f"track {track.number}: a time of {match[3]}:{match[4]}:{match[5]}")
    time = (minutes * 60 + seconds) * 75 + frames
    word = match[1].upper()
    if word == "PREGAP":
        track.pregap = time
    elif word == "POSTGAP":
        track.postgap = time
    elif any(other is track for other in files[-1].tracks):
        track.indexes[int(match[2])] = time
    else:  # INDEX 00 stood at the end of the file before: the track's content is in this one
        for file in files[:-1]:
            file.tracks = [other for other in file.tracks if other is not track]
        files[-1].tracks.append(track)
        track.indexes = {int(match[2]): time}


BACKEND = Backend(
    name="cue",
    title="Cue sheet",
    role=Role.MEDIA,
    rank=60,
    signatures=(Signature(0, b'FILE "'), Signature(0, b'\xef\xbb\xbfFILE "')),
    by_name=r".*\.cue",
    open=open_cue,
    supports="data tracks of all modes in one file or several beside the sheet; audio stays in its file",
    truth=("peer", "composed"),
)
