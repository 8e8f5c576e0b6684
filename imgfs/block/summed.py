"""Sectors with checksums that lie elsewhere. Pure arithmetic (INV-1, INV-2); ``verifying`` compares them."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final, Self

from imgfs import limits
from imgfs.block.extents import verbatim
from imgfs.block.pieces import Verified
from imgfs.block.sums import SUMS
from imgfs.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.block.pieces import ByteSource, Piece
    from imgfs.model import Summed

Data = bytes | bytearray | memoryview
_EIGHT: Final = 8  # sectors are summed in words


class SummedMap:
    """A ByteSource over sectors in one lower source, and the same in others; see ``model.Summed``."""

    __slots__ = ("_made", "_places", "_sums", "sector", "size", "spec", "ways", "width")

    def __init__(self, claim: Summed, places: Sequence[ByteSource], sums: ByteSource, spec: str) -> None:
        """Take over a checked claim; see ``checked``."""
        self.size = claim.size
        self.sector = claim.sector
        self.spec = spec
        self.ways = len(places)
        self._places = places
        self._sums = sums
        self.width, self._made = SUMS[claim.kind]

    @classmethod
    def checked(cls, claim: Summed, lowers: Sequence[ByteSource], spec: str) -> Self:
        """Accept a claim about sectors.

        Raises:
            Malformed: it contradicts itself, leaves its sources, or there is no such checksum.
        """
        also = check_summed(claim, [lower.size for lower in lowers], spec)
        return cls(claim, [lowers[one] for one in (claim.which, *also)], lowers[claim.sums], spec)

    @property
    def stored_only(self) -> bool:
        """Return whether sectors lie verbatim in host files."""
        return verbatim(self._places[0]) and verbatim(self._sums)

    def plan(self, start: int, stop: int) -> list[Piece]:
        """Say where bytes [start, stop) lie; see ``ByteSource``."""
        return [Verified(self, start, stop - start)] if stop > start else []

    def stored(self, start: int, stop: int, way: int) -> list[Piece]:
        """Say where sectors [start, stop) are stored; see ``SummedSource``. Units: bytes."""
        return self._places[way].plan(start, stop)

    def sums(self, start: int, stop: int) -> list[Piece]:
        """Say where the checksums of sectors [start, stop) are stored. Units: bytes of sectors."""
        return self._sums.plan(start // self.sector * self.width, stop // self.sector * self.width)

    def wrong(self, data: Data, sums: Data) -> list[int]:
        """Return the numbers of sectors in ``data`` whose checksum differs."""
        made = self._made(data, self.sector)
        if made == sums:
            return []
        width = self.width
        return [
            at // width for at in range(0, len(made), width) if made[at : at + width] != sums[at : at + width]
        ]


def check_summed(claim: Summed, sizes: Sequence[int], spec: str = "") -> array[int]:
    """Return the further sources of a claim over sources of these sizes.

    Raises:
        Malformed: as ``SummedMap.checked``.
    """
    if claim.kind not in SUMS:
        raise Malformed(f"no checksum is named {claim.kind[:40]!r}", spec=spec)
    if not 0 < claim.sector <= limits.MIB or claim.sector % _EIGHT:
        raise Malformed(f"sectors of {claim.sector} bytes", spec=spec)
    if not 0 <= claim.size <= limits.MAX_SIZE or claim.size % claim.sector or len(claim.also) % 2:
        raise Malformed(f"{claim.size} bytes in sectors of {claim.sector}", spec=spec)
    also = array("H", claim.also)
    for one in (claim.which, *also):
        if not 0 <= one < len(sizes) or sizes[one] < claim.size:
            raise Malformed(f"{claim.size} bytes in source {one} of {len(sizes)}", spec=spec)
    if (
        not 0 <= claim.sums < len(sizes)
        or sizes[claim.sums] < claim.size // claim.sector * SUMS[claim.kind][0]
    ):
        raise Malformed(f"checksums in source {claim.sums} of {len(sizes)}", spec=spec)
    return also
