"""Disks compressed by LZ4: runs of blocks are units, found once and kept in an index.

Source: LZ4 Frame Format Description 1.6.4 (lz4/doc/lz4_Frame_format.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._index import VERSION, Indexer, index_of
from imgfs.backends._indexed import facts_of
from imgfs.backends._lz4_index import LEGACY, MAGIC, Frame, Pass, frame_at
from imgfs.backends._pieces import hosted
from imgfs.backends._units_index import media
from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.model import Codec

if TYPE_CHECKING:
    from imgfs.backends import Index, Options, Reader
    from imgfs.model import Media


def open_lz4(reader: Reader, options: Options) -> Media | Index:  # noqa: ARG001  # the contract of `open`
    """Lay out the units of the index, or ask for one.

    Raises:
        NotMine: no signature, or a file of the evidence: such data is plain content there.
        NotSupported: frames whose blocks are stored in different ways.
        Malformed: there is nothing in it.
    """
    hosted(reader, "lz4")
    if reader.size < 7 or int.from_bytes(reader.read(0, 4), "little") not in (MAGIC, LEGACY):
        raise NotMine("lz4")
    if not isinstance(frame_at(reader, 0), Frame):
        raise Malformed("the head of a frame is damaged")
    sections = index_of(reader)
    if not sections:
        return Indexer(reader.size, lambda part: Pass(reader).steps(part))
    said = facts_of(sections)
    kinds = said.others.get("kinds")
    if not isinstance(kinds, list) or not kinds:
        raise Malformed("there is nothing in it")
    linked, checked, legacy = (any(row[2][column] for row in kinds) for column in range(3))
    if any(row[2] != kinds[0][2] for row in kinds):
        raise NotSupported("LZ4: frames whose blocks are stored in different ways; unpack it first")
    parameters = {"linked": int(linked), "checked": int(checked), "legacy": int(legacy)}
    return media(
        reader,
        sections[0],
        said.size,
        Codec("lz4-blocks", {name: value for name, value in parameters.items() if value}),
        version="LZ4 legacy" if legacy else "LZ4",
        facts={"frames": said.word("frames"), "blocks": "linked" if linked else "independent"},
        notes=said.notes,
        lost=said.lost,
    )


BACKEND = Backend(
    name="lz4",
    title="LZ4",
    role=Role.MEDIA,
    rank=70,
    signatures=tuple(Signature(0, magic.to_bytes(4, "little")) for magic in (MAGIC, LEGACY)),
    open=open_lz4,
    imports=("lz4.block", "lz4.frame"),
    index=VERSION,
    supports="frames of any blocks, legacy frames, by an index made once; damaged and cut files up to there",
    truth=("peer",),
)
