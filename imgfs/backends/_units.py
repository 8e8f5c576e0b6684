"""Bytes that are decoded in units of one size, the last few of which are kept."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_KEPT: Final = 8


class Units:
    """The decoded units of one stream. Units: ``unit`` bytes, which the last one may fall short of."""

    __slots__ = ("_kept", "_unit")

    def __init__(self, unit: int) -> None:
        self._unit = unit
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def read(self, offset: int, length: int, decoded: Callable[[int], bytes]) -> bytes:
        """Return ``length`` bytes, of units that ``decoded`` returns by their number.

        The caller keeps within the stream; what ``decoded`` raises passes through, and keeps nothing.
        """
        stop = offset + length
        parts: list[bytes] = []
        for index in range(offset // self._unit, -(-stop // self._unit)):
            start = index * self._unit
            data = self._kept.get(index)
            if data is None:
                data = self._kept[index] = decoded(index)
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            parts.append(data[max(offset - start, 0) : stop - start])
        return b"".join(parts)
