"""Which strips are worth decoding as a whole: one memory for all readers, pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from imgfs.block.pieces import Strip

# Read-ahead decodes a strip as a whole if it wants this part of it: the edges of a file's extents.
_AHEAD_SHARE: Final = 4
# A read does if it wants this part of it.
_READ_SHARE: Final = 2
# Or if another read of the last this many did, too: who walks tables of metadata comes back soon.
_TOUCHED: Final = 32
_SPOILT: Final = 10_000  # strips remembered as not worth trying again


class Worth:
    """Remembers what was wanted of strips, and which of them did not decode."""

    __slots__ = ("_spoilt", "_touched")

    def __init__(self) -> None:
        self._spoilt: dict[int, None] = {}  # keys, oldest first
        self._touched: dict[int, None] = {}

    def ahead(self, strip: Strip, length: int) -> bool:
        """Say whether to decode a strip of which read-ahead wants ``length`` bytes."""
        return length * _AHEAD_SHARE >= strip.length and strip.key not in self._spoilt

    def now(self, strip: Strip, length: int) -> bool:
        """Say whether to decode a strip of which a read wants ``length`` bytes."""
        if strip.key in self._spoilt:
            return False
        if length * _READ_SHARE >= strip.length:
            return True
        if strip.key in self._touched:
            del self._touched[strip.key]
            return True
        _add(self._touched, strip.key, _TOUCHED)
        return False

    def failed(self, strip: Strip) -> None:
        """Take note that a strip did not decode: its units stand for it from now on."""
        _add(self._spoilt, strip.key, _SPOILT)


def _add(keys: dict[int, None], key: int, most: int) -> None:
    keys[key] = None
    if len(keys) > most:
        del keys[next(iter(keys))]
