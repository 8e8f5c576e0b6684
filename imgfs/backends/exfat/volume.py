"""The boot sector of exFAT, and what its root says of the volume: label and allocation bitmap.

Source: Microsoft exFAT file system specification, sections 3.1 (boot sector), 7.1 (allocation bitmap),
7.3 (volume label).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.fat.clusters import chain
from imgfs.backends.fat.content import rows_of
from imgfs.backends.fat.table import WINDOW
from imgfs.errors import EvidenceError, Malformed, NotMine

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends._layouts import Row
    from imgfs.backends.fat.volume import Volume

_ROOT_MAX: Final = 4 << 20  # bytes of the root in which label and bitmap are looked for
_SLOT: Final = 32
_BITMAP, _LABEL = 0x81, 0x83
_LETTERS: Final = 15  # a label has 11, and room for no more
_KEPT: Final = 512  # windows of the bitmap: 4 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class ExfatBoot:
    """Geometry of an exFAT volume.

    ``active`` is the number of the table and bitmap in use, ``tables`` where the tables begin, the active
    one first. Units: bytes.
    """

    sector: int
    cluster: int
    size: int
    serial: int
    fats: int
    active: int
    table_at: int
    table_length: int
    tables: tuple[int, ...]
    heap_at: int
    clusters: int
    root_cluster: int


class Map(NamedTuple):
    """An allocation bitmap as the root names it. Units: ``size`` bytes."""

    number: int
    first: int
    size: int


def parse_exfat(boot: bytes) -> ExfatBoot:
    """Read an exFAT boot sector.

    Raises:
        NotMine: it is none.
        Malformed: a field has a value that the specification excludes.
    """
    if boot[3:11] != b"EXFAT   ":
        raise NotMine("exfat")
    (sectors,) = struct.unpack_from("<Q", boot, 72)
    table, table_length, heap, clusters, root, serial, _, flags = struct.unpack_from("<6IHH", boot, 80)
    sector_shift, cluster_shift, fats = boot[108], boot[109], boot[110]
    if not 9 <= sector_shift <= 12 or cluster_shift > 25 - sector_shift:
        raise Malformed(
            f"sectors of 2^{sector_shift}, clusters of 2^{cluster_shift} sectors", start=108, stop=110
        )
    if not 1 <= fats <= 2 or not table or not table_length or heap < table + fats * table_length:
        raise Malformed(
            f"{fats} tables of {table_length} sectors at {table}, clusters at {heap}", start=80, stop=111
        )
    if not clusters or clusters > 0xFFFFFFF5 or heap + (clusters << cluster_shift) > sectors:
        raise Malformed(f"{clusters} clusters in {sectors} sectors", start=72, stop=96)
    tables = tuple(table + number * table_length << sector_shift for number in range(fats))
    active = flags & 1 if fats == 2 else 0
    return ExfatBoot(
        sector=1 << sector_shift,
        cluster=1 << sector_shift + cluster_shift,
        size=sectors << sector_shift,
        serial=serial,
        fats=fats,
        active=active,
        table_at=tables[0],
        table_length=table_length << sector_shift,
        tables=(tables[active],),
        heap_at=heap << sector_shift,
        clusters=clusters,
        root_cluster=root,
    )


def read_root(reader: Reader, volume: Volume, boot: ExfatBoot) -> tuple[str, list[Map]]:
    """Return the label and the allocation bitmaps: their entries may stand in any cluster of the root."""
    label, maps = "", list[Map]()
    most = max(_ROOT_MAX // boot.cluster, 1)
    for start, count in chain(volume, boot.root_cluster, most).runs:
        for number in islice(range(start, start + count), most):
            try:
                data = reader.read(volume.place(number), min(boot.cluster, _ROOT_MAX))
            except EvidenceError:
                continue
            for at in range(0, len(data) - _SLOT + 1, _SLOT):
                kind = data[at]
                if kind == _LABEL and data[at + 1] <= _LETTERS and not label:
                    units = data[at + 2 : at + 2 + 2 * min(data[at + 1], 11)]
                    label = units.decode("utf-16-le", "replace")
                elif kind == _BITMAP:
                    first, size = struct.unpack_from("<IQ", data, at + 20)
                    maps.append(Map(data[at + 1] & 1, first, size))
                elif not kind:
                    return label, maps
    return label, maps


class Bitmap:
    """Which clusters are free. What is not known counts as in use: nobody's bytes are given away."""

    __slots__ = ("_clusters", "_reader", "_rows", "_windows")

    def __init__(self, reader: Reader, boot: ExfatBoot) -> None:
        self._reader = reader
        self._clusters = boot.clusters
        self._rows: list[Row] = []
        self._windows: dict[int, bytes] = {}

    def use(self, volume: Volume, maps: list[Map], active: int) -> tuple[str, ...]:
        """Take the bitmap in use from what the root names; returns a note when there is none."""
        length = -(-self._clusters // 8)
        for found in sorted(maps, key=lambda one: one.number != active):
            if found.size >= length and volume.holds(found.first):
                clusters = chain(volume, found.first, -(-length // volume.cluster))
                self._rows = rows_of(volume, clusters.runs, length)
                return ()
        return ("no allocation bitmap: nothing counts as free",)

    def is_free(self, cluster: int) -> bool:
        """Say whether a cluster belongs to nobody."""
        window, at = self.free_map(cluster // WINDOW), cluster % WINDOW
        return at < len(window) and window[at] == 1

    def free_map(self, index: int) -> bytes:
        """Return one byte for each cluster of a window, 1: free."""
        found = self._windows.get(index)
        if found is None:
            if len(self._windows) >= _KEPT:
                del self._windows[next(iter(self._windows))]
            found = self._windows[index] = self._load(index)
        return found

    def _load(self, index: int) -> bytes:
        """Spread the bits of a window. Bit 0 of the bitmap is cluster 2."""
        first = index * WINDOW
        stop = min(first + WINDOW, self._clusters + 2)
        if stop <= max(first, 2):
            return b""
        skip = 2 if not index else 0  # bits before cluster 2 do not exist
        begin, end = (first + skip - 2) // 8, (stop - 2 + 7) // 8
        spread = _spread()
        bits = b"".join([spread[byte] for byte in self._read(begin, end - begin)])
        at = first + skip - 2 - begin * 8
        return bytes(skip) + bits[at : at + stop - first - skip]

    def _read(self, start: int, length: int) -> bytes:
        """Return bytes of the bitmap, ones where it cannot be read."""
        data = bytearray(b"\xff" * length)
        for logical, run, target in self._rows:
            low, high = max(start, logical), min(start + length, logical + run)
            if low >= high or target < 0:
                continue
            try:
                data[low - start : high - start] = self._reader.read(target + low - logical, high - low)
            except EvidenceError:
                continue
        return bytes(data)


@cache
def _spread() -> tuple[bytes, ...]:
    """Return for each byte its eight bits, lowest first, as bytes that are 1 where the bit is not set."""
    return tuple(bytes(1 - (byte >> bit & 1) for bit in range(8)) for byte in range(256))
