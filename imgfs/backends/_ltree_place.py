"""Where the tree of logical evidence lies in its segments, and whether it is as it was written.

Source: Expert Witness Compression Format specification (EWF), Joachim Metz, chapter "Ltree section"; EWF2
specification, chapters "Section descriptor", "Single files data".
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.backends._ewf2 import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends import Reader
    from imgfs.backends._ewf import Segment
    from imgfs.backends._ewf2 import Segment as Segment2

_HEADER: Final = 48
_STEP: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes [start, stop) of a segment, and the MD5 of bytes [start, hashed); empty: none is stored."""

    reader: Reader
    start: int
    stop: int
    md5: bytes
    hashed: int

    def intact(self) -> bool:
        """Compare the stored MD5."""
        if not any(self.md5):
            return True
        digest = hashlib.md5(usedforsecurity=False)
        for at in range(self.start, self.hashed, _STEP):
            digest.update(self.reader.read(at, min(_STEP, self.hashed - at)))
        return digest.digest() == self.md5


def in_ewf(members: Sequence[Reader], segments: Sequence[Segment], notes: list[str]) -> Place | None:
    """Return where the tree of L01 segments lies; None: nowhere."""
    for segment in reversed(segments):
        where = segment.ltree
        if len(where) < _HEADER:
            continue
        reader = members[segment.ticket]
        raw = reader.read(where.start, _HEADER)
        if zlib.adler32(raw[:24] + bytes(4) + raw[28:]) != int.from_bytes(raw[24:28], "little"):
            notes.append(f"segment {segment.number}: checksum of the tree's header")
            return Place(reader, where.start + _HEADER, where.stop, b"", 0)
        stop = where.start + _HEADER + int.from_bytes(raw[16:24], "little")
        if stop > where.stop:
            notes.append(f"segment {segment.number}: the tree is cut short")
            return Place(reader, where.start + _HEADER, where.stop, b"", 0)
        return Place(reader, where.start + _HEADER, stop, raw[:16], stop)
    return None


def in_ewf2(segments: Sequence[Segment2]) -> Place | None:
    """Return where the tree of Lx01 segments lies; None: nowhere."""
    for segment in reversed(segments):
        for section in reversed(segment.sections):
            if section.kind == Kind.FILES:
                start, stop = section.start, section.stop - section.filling
                return Place(segment.reader, start, stop, section.md5, section.stop)
    return None
