"""Sparse images of Mac OS: bands of one size, in the order they were first written to.

An index says for each band in the file which one of the media it is; a band that none names was never
written to, and is zeros. The first index is the file's header; further ones lie behind the bands of the one
before, which says where.

Source: libmodi, "Mac OS disk image types", sparse disk image; keramics, "Mac OS sparse image". Where they
have unknown values: 20, the place of the next index (64 bits); 28, the number of sectors (64 bits); a
further index has its own number at 4, the place of the next one at 12, and 1010 bands from 56 on. These four
are commonly described and were not seen in a real image; where they do not fit, bands are lost, not zeros.
"""

from __future__ import annotations

import struct
import sys
from array import array
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends import Backend, Role, Signature
from imgfs.backends._blockmap import Blocks, lay
from imgfs.backends._chain_reply import Reply
from imgfs.backends._chain_runs import MAX_RUNS
from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.model import Media

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

_MAGIC: Final = b"sprs"
_HEADER: Final = struct.Struct(">4sIIIIQQ")  # 36 bytes
_FURTHER: Final = struct.Struct(">4sIIQ")
_INDEX: Final = 4096
_BANDS_AT: Final = 64
_FURTHER_BANDS_AT: Final = 56
_SECTOR: Final = 512
_MAX_BANDS: Final = 4_000_000  # in the file: 4 TiB of the usual megabyte


def open_sparseimage(reader: Reader, options: Options) -> Media:  # noqa: ARG001  # the contract
    """Read all indexes.

    Raises:
        NotMine: no signature.
        Malformed: the header is cut short, or states impossible sizes.
    """
    if reader.size < _HEADER.size or reader.read(0, 4) != _MAGIC:
        raise NotMine("sparse image")
    if reader.size < _INDEX:
        raise Malformed(f"a header of {reader.size} bytes")
    head = reader.read(0, _INDEX)
    _, version, per_band, _, low, following, sectors = _HEADER.unpack_from(head)
    notes = [] if version == 3 else [f"version {version}: read as 3"]
    if sectors & 0xFFFF_FFFF != low:
        if sectors:
            notes.append(f"two numbers of sectors, {low} and {sectors}: the first one is taken")
        sectors = low
    band, size = per_band * _SECTOR, sectors * _SECTOR
    if not 0 < band <= limits.GIB or size > limits.MAX_SIZE:
        raise Malformed(f"{sectors} sectors in bands of {per_band}")
    held, whole = _bands(reader, head, following, band, notes)
    missing = -(-size // band)
    strange = repeated = 0
    known: list[tuple[int, int]] = []
    for number, at in held:
        if number > missing:
            strange += 1
        elif known and number == known[-1][0]:
            repeated += 1
        else:
            known.append((number, at))

    def fill(blocks: Blocks) -> None:
        for number, at in known:
            _absent(blocks, (number - 1) * band - blocks.at, whole)
            blocks.store(band, at)
        _absent(blocks, size - blocks.at, whole)

    runs = lay(size, reader.size, MAX_RUNS, fill, notes)
    if strange:
        notes.append(f"{strange} bands lie behind the end of the media")
    if repeated:
        notes.append(f"{repeated} bands are in the file twice: the first one is taken")
    if runs.unlisted:
        notes.append(f"{runs.unlisted} more ranges are lost than are named")
    reply = Reply(1 + len(reader.others), [runs])
    reply.lay(runs, size, 0, -1, None)
    reply.write(reader)
    return Media(
        layouts=tuple(reply.layouts),
        sector=_SECTOR,
        version=str(version),
        metadata={"band size": str(band), "bands": f"{len(held)} of {missing}"},
        lost=tuple(runs.lost),
        notes=tuple(notes),
    )


def _absent(blocks: Blocks, length: int, whole: bool) -> None:  # noqa: FBT001
    if whole:
        blocks.hole(length)
    else:
        blocks.lose(length, "an index that may name it cannot be read")


def _bands(
    reader: Reader, head: bytes, following: int, band: int, notes: list[str]
) -> tuple[list[tuple[int, int]], bool]:
    """Return (number in the media from 1 on, place in the file) of bands, in order; whether all are known."""
    found: list[tuple[int, int]] = []
    at, ids = 0, _ids(head[_BANDS_AT:])
    while True:
        found += [(number, at + _INDEX + slot * band) for slot, number in enumerate(ids) if number]
        if not following:
            return sorted(found), True
        try:
            if following < at + _INDEX or len(found) > _MAX_BANDS:
                raise Malformed(f"index at {following} behind the one at {at}, {len(found)} bands")
            raw = reader.read(following, _INDEX)
            magic, _, _, then = _FURTHER.unpack_from(raw)
            if magic != _MAGIC:
                raise Malformed(f"no index at {following}")
        except EvidenceError as why:
            notes.append(f"a further index cannot be read: {why.message}")
            return sorted(found), False
        at, following, ids = following, then, _ids(raw[_FURTHER_BANDS_AT:])


def _ids(raw: bytes) -> array[int]:
    ids = array("I", raw)
    if sys.byteorder == "little":
        ids.byteswap()
    return ids


BACKEND = Backend(
    name="sparseimage",
    title="Apple sparse image",
    role=Role.MEDIA,
    rank=20,
    signatures=(Signature(0, _MAGIC),),
    open=open_sparseimage,
    supports="bands of any size; one index or several",
    truth=("composed", "corpus"),
)
