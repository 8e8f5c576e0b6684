"""Extents of a compressed file as layouts: runs, units of many clusters, units that files share."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.block.clusters import CLUSTER, PLAIN
from imgfs.limits import KIB, MIB
from imgfs.model import (
    LINEAR_ROW,
    LOST,
    PACKED_CODED,
    RAGGED_ROW,
    Codec,
    Foreign,
    Inline,
    Linear,
    Packed,
    Ragged,
)

if TYPE_CHECKING:
    from imgfs.backends.erofs.indexes import Extent
    from imgfs.model import Layout

_UNIT: Final = 128 * KIB  # decoded bytes of a unit: a few clusters of the usual 4 KiB each
_RUN: Final = 64 * KIB  # what is stored verbatim in fewer bytes is part of a unit
_TABLE: Final = 512 * KIB  # bytes of rows of clusters in one layout
_ROWS: Final = 12 * MIB  # of all tables: a message holds 16
_LAYOUTS: Final = 1000  # of one file: a fragment is a cluster or two
_PACKED: Final = struct.Struct("<QII")
_FRONT: Final = struct.Struct("<QIIII")
_RAGGED: Final = struct.Struct("<QQII")


class Builder:
    """The layouts of one file. Units: bytes."""

    def __init__(self, size: int, source: int) -> None:
        self._size = size
        self._source = source
        self._layouts: list[Layout] = []
        self._runs: list[tuple[int, int, int]] = []
        self._which: list[int] = []
        self._units: list[list[Extent]] = []  # of the table that is being made
        self._rows = 0
        self._foreign = 0

    def layouts(self, extents: list[Extent]) -> tuple[Layout, ...]:
        """Return the layouts; the last is the file."""
        unit: list[Extent] = []
        held = 0
        for extent, alone in _sorted(extents):
            follows = unit and unit[-1].place + unit[-1].stored == extent.place
            if unit and (alone or not follows or held + extent.length > _UNIT):
                self._unit(unit)
                unit, held = [], 0
            if alone:
                self._alone(extent)
            else:
                unit.append(extent)
                held += extent.length
        if unit:
            self._unit(unit)
        self._finish()
        tables = sum(len(x.table) + len(x.ahead) for x in self._layouts if isinstance(x, Ragged))
        if tables + CLUSTER.size * len(extents) + LINEAR_ROW * len(self._runs) > _ROWS:
            return (Foreign(size=self._size, why="tables too large to be handed over"),)
        order = sorted(range(len(self._runs)), key=self._runs.__getitem__)
        rows, which = [self._runs[index] for index in order], [self._which[index] for index in order]
        self._layouts.append(Linear.of(self._size, rows, which))
        return tuple(self._layouts)

    def _alone(self, extent: Extent) -> None:
        """Add what is no part of a unit: bytes stored verbatim, a unit that files share, what we decode."""
        start, length, place = extent.start, extent.length, extent.place
        if extent.algorithm == PLAIN and not extent.turn:
            place = place if place < 0 else place + extent.skip
            if place >= 0 and place + length > self._source:
                place = LOST
            self._run(start, length, place, 0)
        elif place + extent.stored > self._source:
            self._run(start, length, LOST, 0)
        elif extent.held and extent.whole and extent.algorithm != PLAIN and len(self._layouts) < _LAYOUTS:
            row = _PACKED.pack(place, extent.stored, PACKED_CODED)
            codec = Codec("clusters", {"algorithm": extent.algorithm})
            self._layouts.append(Packed(size=extent.held, unit=extent.held, codec=codec, table=row))
            self._run(start, length, extent.skip, len(self._layouts))
        else:
            if not self._foreign:
                self._layouts.append(Foreign(size=self._size, why="a cluster of which a part is wanted"))
                self._foreign = len(self._layouts)
            self._run(start, length, start, self._foreign)

    def _run(self, start: int, length: int, target: int, which: int) -> None:
        if self._runs and self._which[-1] == which:
            logical, before, last = self._runs[-1]
            joined = last == target if target < 0 else last >= 0 and last + before == target
            if joined and logical + before == start:
                self._runs[-1] = (logical, before + length, last)
                return
        self._runs.append((start, length, target))
        self._which.append(which)

    def _unit(self, unit: list[Extent]) -> None:
        stop = unit[-1].place + unit[-1].stored
        if stop > self._source:
            for extent in unit:
                self._alone(extent._replace(place=self._source) if extent.algorithm == PLAIN else extent)
            return
        self._units.append(unit)
        self._rows += len(unit)
        if self._rows * CLUSTER.size >= _TABLE:
            self._finish()

    def _finish(self) -> None:
        """Make layouts of the units so far: the rows of their clusters, and the units themselves."""
        if not self._units:
            return
        front, table, ahead = bytearray(), bytearray(), bytearray()
        at = 0
        number = len(self._layouts) + 2
        for unit in self._units:
            rows = b"".join(
                CLUSTER.pack(part.stored, part.length, part.algorithm, part.turn) for part in unit
            )
            stored = sum(part.stored for part in unit)
            length = sum(part.length for part in unit)
            table += _RAGGED.pack(at, unit[0].place, stored, PACKED_CODED)
            ahead += _FRONT.pack(len(front), len(rows), 0, 0, 0)
            front += rows
            self._run(unit[0].start, length, at, number)
            at += length
        rows_count = len(table) // RAGGED_ROW
        self._layouts.append(Inline(bytes(front)))
        self._layouts.append(
            Ragged(
                size=at,
                codec=Codec("clusters"),
                rows=rows_count,
                table=bytes(table),
                ahead=bytes(ahead),
                front=number - 1,
            )
        )
        self._units, self._rows = [], 0


def _sorted(extents: list[Extent]) -> list[tuple[Extent, bool]]:
    """Return extents, joined where they are stored verbatim in one piece, and whether each is alone."""
    joined: list[Extent] = []
    for extent in extents:
        if joined and extent.algorithm == PLAIN and not extent.turn:
            last = joined[-1]
            follows = (
                last.place + last.length == extent.place if extent.place >= 0 else last.place == extent.place
            )
            if last.algorithm == PLAIN and not last.turn and follows and not last.skip and not extent.skip:
                joined[-1] = last._replace(
                    length=last.length + extent.length, stored=last.stored + extent.stored
                )
                continue
        joined.append(extent)
    found = []
    for extent in joined:
        plain = extent.algorithm == PLAIN
        large = plain and not extent.turn and (extent.length >= _RUN or extent.place < 0)
        found.append((extent, large or bool(extent.held) or not extent.whole))
    return found
