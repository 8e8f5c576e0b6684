"""Raw images in segments: name.001, name.002 … one after the other.

A raw image in one file needs no back-end. Nothing in the segments says how they belong together but
their names.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role
from imgfs.errors import Malformed, NotMine
from imgfs.model import Linear, Media

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

# The first segment as dd, FTK Imager, dc3dd, EnCase and split(1) number it.
_FIRST: Final = r".+\.(?:0{1,4}[01]|a{2,4}|A{2,4})"
_NUMBERED: Final = re.compile(r"(.+)\.([0-9]{1,5}|[a-zA-Z]{2,4})")


def open_raw(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Lay the segments in the order of their names.

    All segments but the last are as large as the first. A missing one is LOST with that size, if the
    sizes of the others allow it; the end cannot be known to be missing.

    Raises:
        NotMine: the name is not that of a first segment, or there is only one.
        Malformed: two members have the same number, or too many are missing.
    """
    if not re.fullmatch(_FIRST, reader.name) or not reader.others:
        raise NotMine("raw")
    stem, first = _position(reader.name)
    members: dict[int, tuple[int, Reader]] = {}
    notes: list[str] = []
    for ticket, member in enumerate((reader, *reader.others)):
        other, number = _position(member.name)
        if other != stem or number < first:
            notes.append(f"{member.name}: not a segment of {reader.name}")
        elif number in members:
            raise Malformed(f"{member.name}: a second segment {number}")
        else:
            members[number] = (ticket, member)
    last = max(members)
    if last - first >= limits.MAX_SEGMENTS:
        raise Malformed(f"segments {first} to {last}, {len(members)} of them at hand")
    runs: list[tuple[int, int, int]] = []
    which: list[int] = []
    lost: list[tuple[int, int, str]] = []
    at = 0
    for number in range(first, last + 1):
        if number not in members:
            why = f"segment {number} is missing"
            lost.append((at, at + reader.size, why))
            notes.append(f"{why}: taken to be of {reader.size} bytes, as the first is")
            at += reader.size
            continue
        ticket, member = members[number]
        if number != last and member.size != reader.size:
            notes.append(f"{member.name}: {member.size} bytes, the first segment has {reader.size}")
            if len(members) != last - first + 1:
                notes.append("the segments differ in size: what follows a missing one may be misplaced")
        if member.size:
            runs.append((at, member.size, 0))
            which.append(ticket)
            at += member.size
    return Media(layouts=(Linear.of(at, runs, which),), version="raw", lost=tuple(lost), notes=tuple(notes))


def _position(name: str) -> tuple[str, int]:
    """Return the stem of a segment's name, and its number; -1 for another kind of name."""
    match = _NUMBERED.fullmatch(name)
    if match is None:
        return "", -1
    if match[2].isdigit():
        return f"{match[1]}.0", int(match[2])
    number = 0
    for letter in match[2].lower():
        number = number * 26 + ord(letter) - ord("a")
    return f"{match[1]}.{'a' * len(match[2])}", number


def siblings(name: str) -> str:
    """Return the pattern of the other segments' names: more digits follow .999, letters stay as many."""
    match = _NUMBERED.fullmatch(name)
    if match is None:
        return ""
    width = len(match[2])
    if match[2].isdigit():
        return rf"{re.escape(match[1])}\.[0-9]{{{width},5}}"
    return rf"{re.escape(match[1])}\.{'[a-z]' if match[2].islower() else '[A-Z]'}{{{width}}}"


BACKEND = Backend(
    name="raw",
    title="Split raw image",
    role=Role.MEDIA,
    rank=90,  # names are weak evidence: after everything with a signature
    by_name=_FIRST,
    siblings=siblings,
    open=open_raw,
    supports="name.001, .000, .01, .aa, .aaa; missing segments",
    truth=("composed", "corpus"),
)
