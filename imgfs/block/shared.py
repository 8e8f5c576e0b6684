"""Units that several streams have in common, and that one decoding has to serve.

Small files lie many to a compressed unit. Maps of their own would decode it once for each file, because what
is decoded is remembered by map and unit.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from imgfs.block.packed import PackedMap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.block.pieces import ByteSource
    from imgfs.model import Packed

_KEPT: Final = 1024  # maps of one unit, about 1 KiB each


class SharedUnits:
    """The last maps of a single unit that streams of one file system were built from."""

    __slots__ = ("_kept", "_spec")

    def __init__(self, spec: str) -> None:
        self._spec = spec
        self._kept: OrderedDict[tuple[object, ...], PackedMap] = OrderedDict()

    def get(self, claim: Packed, lowers: Sequence[ByteSource]) -> PackedMap | None:
        """Return the map of a unit of the file system's own source, None: it is another kind of claim.

        Raises:
            Malformed: as ``PackedMap.checked``.
        """
        if claim.which or claim.size > claim.unit or not claim.table:
            return None
        codec = claim.codec
        key = claim.table, claim.size, claim.unit, codec.name, tuple(sorted(codec.parameters.items()))
        held = self._kept.get(key)
        if held is None:
            held = self._kept[key] = PackedMap.checked(claim, lowers, self._spec, claim.table)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return held
