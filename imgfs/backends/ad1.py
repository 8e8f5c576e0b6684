"""AccessData logical image (AD1): the segments' contents, one behind the other, without their headers.

All addresses inside are offsets in that stream; the back-end ``adlogical`` reads the files in it.

Source: "AccessData Format (AD1)" documentation of pyad1, P.C. Bjelland, chapter "File margin"; "AD1 on-disk
format" of ad1-forensic, chapters "Logical addressing", "Segment header".
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature, _said
from imgfs.errors import Malformed, NotMine
from imgfs.model import LOST, Linear, Media

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

MAGIC: Final = b"ADSEGMENTEDFILE\0"
_HEADER: Final = struct.Struct("<16s8xIIHI")
_MARGIN: Final = 512
_PIECE: Final = 64 << 10  # bytes the size of a segment is counted in


def open_ad1(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Put segments one behind the other; ``reader.others`` may come in any order, with gaps.

    Raises:
        NotMine: no signature.
        Malformed: the header says nothing that can be.
    """
    notes: list[str] = []
    found, total, piece = _segments(reader, notes)
    if not 0 < total <= limits.MAX_SEGMENTS:
        raise Malformed(f"{total} segments", start=0, stop=_MARGIN)
    stride = _stride(found, total, piece, notes)
    runs: list[tuple[int, int, int]] = []
    which: list[int] = []
    lost: list[tuple[int, int, str]] = []
    size = stride * total
    for number in range(1, total + 1):
        at = stride * (number - 1)
        ticket, member = found.get(number, (0, None))
        held = max(member.size - _MARGIN, 0) if member is not None else 0
        held = held if number == total else min(held, stride)  # nothing follows the last one
        why = f"segment {number} is " + ("missing" if member is None else "cut short")
        if member is not None and number == total:
            size = at + held
        elif held < stride:
            lost.append((at + held, at + stride, why))
            notes.append(why)
        for start, length, target in ((at, held, _MARGIN), (at + held, stride - held, LOST)):
            if length and start < size:
                runs.append((start, length, target))
                which.append(ticket)
    if not size:
        raise Malformed("segments without contents", start=0, stop=_MARGIN)
    return Media(
        layouts=(Linear.of(size, runs, which),),
        version="AD1",
        lost=_said.lost(lost),
        notes=_said.notes(notes),
    )


def _segments(reader: Reader, notes: list[str]) -> tuple[dict[int, tuple[int, Reader]], int, int]:
    """Return tickets and segments by number, how many there should be, and how long each is, in pieces."""
    found: dict[int, tuple[int, Reader]] = {}
    twice: set[int] = set()
    first: tuple[int, int] | None = None
    for ticket, member in enumerate((reader, *reader.others)):
        magic, number, total, _, piece = _header(member)
        if magic != MAGIC:
            if first is None:
                raise NotMine("ad1")
            notes.append(f"{member.name or ticket}: no AD1 segment")
            continue
        first = first or (total, piece)
        if (total, piece) != first:
            notes.append(f"{member.name or ticket}: one of {total} segments, not of {first[0]}")
        elif number in found:  # nothing says which one is right
            notes.append(f"{member.name or ticket}: a second segment {number}; both are left out")
            twice.add(number)
        elif not 0 < number <= total:
            notes.append(f"{member.name or ticket}: segment {number} of {total}")
        else:
            found[number] = (ticket, member)
    if first is None:
        raise NotMine("ad1")
    return {number: kept for number, kept in found.items() if number not in twice}, *first


def _stride(found: dict[int, tuple[int, Reader]], total: int, piece: int, notes: list[str]) -> int:
    """Return how many bytes a segment that is whole holds.

    Raises:
        Malformed: nobody says.
    """
    stride = piece * _PIECE - _MARGIN
    whole = {member.size - _MARGIN for number, (_, member) in found.items() if number < total}
    longest = max(whole, default=0)
    if longest > stride and len(whole) == 1:  # what lies there is what was written
        notes.append(f"the header says that segments hold {max(stride, 0)} bytes: they hold {longest}")
        return longest
    if longest > stride > 0:
        notes.append(f"a segment is longer than the {stride} bytes that the header says")
    if stride <= 0 and total == 1:  # of a single segment all is there
        stride = max((member.size - _MARGIN for _, member in found.values()), default=0)
    if stride <= 0:
        raise Malformed(f"segments of {piece} pieces", start=0, stop=_MARGIN)
    return stride


def _header(member: Reader) -> tuple[bytes, int, int, int, int]:
    if member.size < _HEADER.size:
        return b"", 0, 0, 0, 0
    magic, number, total, filling, piece = _HEADER.unpack(member.read(0, _HEADER.size))
    return magic, number, total, filling, piece


def siblings(name: str) -> str:
    """Return the pattern of the other segments' names: ad1, ad2, ... ad10 and on."""
    match = re.fullmatch(r"(.+)\.[aA][dD][0-9]{1,5}", name)
    return rf"{re.escape(match[1])}\.[aA][dD][0-9]{{1,5}}" if match else ""


BACKEND = Backend(
    name="ad1",
    title="AccessData logical image (AD1)",
    role=Role.MEDIA,
    rank=14,
    signatures=(Signature(0, MAGIC),),
    siblings=siblings,
    open=open_ad1,
    supports="segments; missing segments",
    truth=("composed", "corpus"),
)
