"""Runs of a stream as a layout, for every back-end that reads a file system."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from imgfs.model import HOLE, Linear

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = tuple[int, int, int]  # logical, length, target
_ONE = struct.Struct("=q")


def initialised(rows: Iterable[Row], valid: int, size: int) -> list[Row]:
    """Declare everything from ``valid`` to ``size`` a hole: written as such, whatever the blocks hold.

    Source: NTFS valid data length ([MS-FSA] 2.1.1.5 ValidDataLength); exFAT specification 7.6.5.
    """
    kept = [
        (logical, min(length, valid - logical), target) for logical, length, target in rows if logical < valid
    ]
    if valid < size:
        kept.append((valid, size - valid, HOLE))
    return kept


def linear(size: int, rows: list[Row]) -> Linear:
    """Build the columns; the single run of most files without the general machinery."""
    if len(rows) == 1:
        logical, length, target = rows[0]
        return Linear(
            size=size, logical=_ONE.pack(logical), length=_ONE.pack(length), target=_ONE.pack(target)
        )
    return Linear.of(size, rows)
