"""EnCase logical evidence (L01): the data of files, one behind the other, in chunks as in E01.

What the files are stands in a section of its own, which the back-end ``logical`` reads.

Source: Expert Witness Compression Format specification (EWF), Joachim Metz, version 0.0.83, "EnCase 5 to 7
(EWF-L01)".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.backends import Backend, Role, Signature, _said
from imgfs.backends._ewf import MAGIC_LOGICAL, NotUnderstood
from imgfs.backends._ewf_chunks import collect, layouts, place, sequence
from imgfs.backends._ltree import total
from imgfs.backends._ltree_place import in_ewf
from imgfs.errors import Malformed, NotSupported
from imgfs.model import Media

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader


def open_l01(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract of `open`
    """Read the tables of all segments at hand; ``reader.others`` may come in any order, with gaps.

    The volume section counts something else: how many bytes there are stands in the tree.

    Raises:
        NotMine: no signature.
        NotSupported: tables only libewf may know.
        Malformed: nobody says how long chunks are.
    """
    notes: list[str] = []
    members = (reader, *reader.others)
    try:
        segments = collect(members, notes, MAGIC_LOGICAL)
    except NotUnderstood as why:
        raise NotSupported(f"EWF-L01: {why}") from why
    geometry = next((s.geometry for s in segments if s.geometry is not None), None)
    if geometry is None or not 0 < geometry.unit <= limits.MAX_UNIT:
        raise Malformed("no readable volume section in any segment")
    unit, groups = geometry.unit, sequence(segments, notes)
    tree = in_ewf(members, segments, notes)
    size = total(tree.reader, tree.start, tree.stop) if tree is not None else -1
    known = size >= 0
    if not known:
        notes.append("no tree says how long the data is: the chunks are counted")
        size = unit * sum(max(group.count, 0) for group in groups)
    if not 0 <= size <= limits.MAX_SIZE:
        raise Malformed(f"{size} bytes of data")
    regions, lost = place(groups, -(-size // unit), notes, certain=known)
    metadata: dict[str, str] = {}
    digests: dict[str, str] = {}
    for segment in reversed(segments):  # the first one's words win
        notes += segment.notes
        metadata |= segment.metadata
        digests |= segment.digests
    return Media(
        layouts=layouts(regions, size, unit, reader),
        version="EWF-L01",
        metadata=_said.metadata(metadata),
        digests=digests,
        lost=_said.lost((a * unit, min(b * unit, size), why) for a, b, why in lost),
        notes=_said.notes(notes),
        files="logical",
    )


def siblings(name: str) -> str:
    """Return the pattern of the other segments' names: L01-L99, LAA-ZZZ."""
    match = re.fullmatch(r"(.+)\.[lL](?:[0-9]{2}|[a-zA-Z]{2})", name)
    return rf"{re.escape(match[1])}\.[l-zL-Z](?:[0-9]{{2}}|[a-zA-Z]{{2}})" if match else ""


BACKEND = Backend(
    name="l01",
    title="EnCase logical evidence (L01)",
    role=Role.MEDIA,
    rank=12,
    signatures=(Signature(0, MAGIC_LOGICAL),),
    siblings=siblings,
    open=open_l01,
    supports="the data of the files; missing segments; damaged tables",
    truth=("peer", "composed"),
)
