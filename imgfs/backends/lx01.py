"""EnCase 7 logical evidence (Lx01): the data of files, one behind the other, in chunks as in Ex01.

What the files are stands in a section of its own, which the back-end ``logical`` reads.

Source: Expert Witness Compression Format version 2 (EWF2) specification, Joachim Metz, version 0.0.9.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.backends import Backend, Role, Signature, _said
from imgfs.backends._ewf2 import MAGIC_LOGICAL, number
from imgfs.backends._ltree import total
from imgfs.backends._ltree_place import in_ewf2
from imgfs.backends.ewf2 import chunks, collect, told_by
from imgfs.errors import Malformed, NotMine
from imgfs.model import Media

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader


def open_lx01(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Read the tables of all segments at hand; ``reader.others`` may come in any order, with gaps.

    Raises:
        NotMine: no signature.
        NotSupported: it is encrypted.
        Malformed: nobody says how long the data and its chunks are.
    """
    if reader.size < len(MAGIC_LOGICAL) or reader.read(0, len(MAGIC_LOGICAL)) != MAGIC_LOGICAL:
        raise NotMine("lx01")
    notes: list[str] = []
    segments = collect((reader, *reader.others), notes)
    told = told_by(segments)
    sector = number(told, "bp")
    unit = number(told, "sb") * sector
    tree = in_ewf2(segments)
    size = total(tree.reader, tree.start, tree.stop) if tree is not None else -1
    if size < 0:
        notes.append("no tree says how long the data is: the device information does")
        size = number(told, "ts") * sector
    if not 0 < unit <= limits.MAX_UNIT or not 0 <= size <= limits.MAX_SIZE:
        raise Malformed(f"{size} bytes in chunks of {unit}")
    metadata: dict[str, str] = {}
    digests: dict[str, str] = {}
    for segment in reversed(segments):  # the first one's words win
        metadata |= segment.metadata
        digests |= segment.digests
    layouts, lost = chunks(reader, segments, size, unit, notes)
    return Media(
        layouts=layouts,
        version="EWF2-Lx01",
        metadata=_said.metadata(metadata),
        digests=digests,
        lost=_said.lost((a * unit, min(b * unit, size), why) for a, b, why in lost),
        notes=_said.notes(notes, *(segment.notes for segment in segments)),
        files="logical",
    )


def siblings(name: str) -> str:
    """Return the pattern of the other segments' names: Lx01-Lx99, LxAA-LzZZ."""
    match = re.fullmatch(r"(.+)\.[lL][x-zX-Z](?:[0-9]{2}|[a-zA-Z]{2})", name)
    return rf"{re.escape(match[1])}\.[lL][x-zX-Z](?:[0-9]{{2}}|[a-zA-Z]{{2}})" if match else ""


BACKEND = Backend(
    name="lx01",
    title="EnCase logical evidence (Lx01)",
    role=Role.MEDIA,
    rank=13,
    signatures=(Signature(0, MAGIC_LOGICAL),),
    siblings=siblings,
    open=open_lx01,
    supports="the data of the files; missing segments; damaged tables; encrypted ones are named",
    truth=("peer", "composed"),
)
