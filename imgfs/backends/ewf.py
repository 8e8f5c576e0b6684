"""Expert Witness (EnCase E01, SMART S01): chunks of compressed media in segment files.

Only the tables are read here; chunks are decoded by the daemon. Variants that are not understood are
read by libewf, as foreign bytes.

Source: Expert Witness Compression Format specification (EWF), Joachim Metz, version 0.0.83.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._ewf import MAGIC, NotUnderstood
from imgfs.backends._ewf_chunks import collect, layouts, place, sequence
from imgfs.backends._yal import ReaderFile
from imgfs.errors import Malformed
from imgfs.model import Foreign, Media

if TYPE_CHECKING:
    from imgfs.backends import Bytes, Options, Reader


def open_ewf(reader: Reader, options: Options) -> Media | Bytes:  # noqa: ARG001  # the contract of `open`
    """Read the tables of all segments at hand; ``reader.others`` may come in any order, with gaps.

    Raises:
        NotMine: no EWF signature.
        Malformed: no segment says how large the media is.
    """
    notes: list[str] = []
    try:
        segments = collect((reader, *reader.others), notes)
    except NotUnderstood as why:
        return _Library(reader, str(why))
    geometry = next((s.geometry for s in segments if s.geometry is not None), None)
    if geometry is None:
        raise Malformed("no readable volume section in any segment")
    size, unit = geometry.size, geometry.unit
    if not 0 < unit <= limits.MAX_UNIT or not 0 < size <= limits.MAX_SIZE:
        raise Malformed(f"{size} bytes in chunks of {unit}")
    count = -(-size // unit)
    if geometry.chunks != count:
        notes.append(f"the volume section says {geometry.chunks} chunks, its sectors are {count}")
    regions, lost = place(sequence(segments, notes), count, notes, certain=geometry.chunks == count)
    lost_bytes = tuple((a * unit, min(b * unit, size), why) for a, b, why in lost)
    metadata: dict[str, str] = {}
    digests: dict[str, str] = {}
    for segment in reversed(segments):  # the first one's words win
        notes += segment.notes
        metadata |= segment.metadata
        digests |= segment.digests
    if geometry.set_id.strip(b"\0"):
        metadata["set"] = geometry.set_id.hex()
    return Media(
        layouts=layouts(regions, size, unit, reader),
        sector=geometry.sector,
        version="EWF-E01" if geometry.set_id else "EWF-S01",
        metadata=metadata,
        digests=digests,
        lost=lost_bytes,
        notes=tuple(notes),
    )


class _Library:
    """Media read by libewf: ``backends.Bytes``."""

    def __init__(self, reader: Reader, why: str) -> None:
        import pyewf

        self._files = [ReaderFile(member) for member in (reader, *reader.others)]
        self._handle = pyewf.handle()
        try:
            self._handle.open_file_objects(self._files)
            size = self._handle.get_media_size()
        except OSError as reason:
            raise Malformed(f"{why}; libewf: {reason}") from reason
        self.media = Media(layouts=(Foreign(size=size, why=why),), version="EWF", notes=(why,))

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes of the media.

        Raises:
            Malformed: libewf cannot read them.
        """
        try:
            data: bytes = self._handle.read_buffer_at_offset(length, offset)
        except OSError as why:
            raise Malformed(f"libewf: {why}", start=offset, stop=offset + length) from why
        if len(data) != length:
            raise Malformed(f"libewf reads {len(data)} bytes", start=offset, stop=offset + length)
        return data


def siblings(name: str) -> str:
    """Return the pattern of the other segments' names: E01-E99, EAA-ZZZ, and s01 likewise.

    Source: chapter "Segment file extensions".
    """
    match = re.fullmatch(r"(.+)\.([eEsS])(?:[0-9]{2}|[a-zA-Z]{2})", name)
    if match is None:
        return ""
    return rf"{re.escape(match[1])}\.[{match[2].lower()}-z{match[2].upper()}-Z](?:[0-9]{{2}}|[a-zA-Z]{{2}})"


BACKEND = Backend(
    name="ewf",
    title="Expert Witness (EnCase E01, SMART S01)",
    role=Role.MEDIA,
    rank=10,
    signatures=(Signature(0, MAGIC),),
    siblings=siblings,
    open=open_ewf,
    imports=("pyewf",),
    supports="EnCase 1-7, linen, FTK, SMART; missing segments; damaged tables; stored digests",
    truth=("peer", "corpus"),
)
