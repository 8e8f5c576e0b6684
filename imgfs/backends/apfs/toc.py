"""Tables of contents of B-tree nodes: in one call of the extension, or the same by the interpreter.

Source: Apple File System Reference (2020-06-22), "B-Trees": kvloc_t, kvoff_t.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Final

try:
    from imgfs.backends.apfs import _toc as _fast
except ImportError:  # no compiler where it was installed
    _fast = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterable

PLACE: Final = struct.Struct("=IIII")  # where key and value of an entry begin and end
_FIXED: Final = struct.Struct("<HH")
_FREE: Final = struct.Struct("<HHHH")
_HEAD: Final = struct.Struct("<Q")
_WORD: Final = (1 << 64) - 1


def entries(
    data: bytes, at: int, count: int, area: int, stop: int, least: int, wide: int, deep: int, turn: int
) -> tuple[bytes, bytes]:
    """Return the entries of a table of ``count`` at ``at`` that lie within [area, stop), and their numbers.

    An entry is a ``PLACE``. Keys are counted from ``area``, values back from ``stop``; of ``wide`` and
    ``deep`` bytes, or, where ``wide`` is 0, as long as the table says. A key has ``least`` bytes or more; its
    number, a native uint64, is its first eight rotated left by ``turn`` bits.

    Raises:
        ValueError: the table or the area leave ``data``.
    """
    if _fast is not None:
        return _fast.entries(data, at, count, area, stop, least, wide, deep, turn)
    step = _FIXED.size if wide else _FREE.size
    if not 0 <= at <= at + count * step <= len(data) or not 0 <= area <= stop <= len(data):
        raise ValueError("a table and an area within a node")
    raw, room = data[at : at + count * step], stop - area
    table: Iterable[tuple[int, ...]]
    if wide:
        table = ((key, wide, value, deep) for key, value in _FIXED.iter_unpack(raw))
    else:
        table = _FREE.iter_unpack(raw)
    places = [
        (area + key, area + key + length, stop - value, stop - value + held)
        for key, length, value, held in table
        if held <= value <= room and least <= length <= room - key
    ]
    heads = (head for place in places for (head,) in (_HEAD.unpack_from(data, place[0]),))
    numbers = array("Q", [(head << turn | head >> 64 - turn) & _WORD for head in heads])
    return b"".join([PLACE.pack(*place) for place in places]), numbers.tobytes()
