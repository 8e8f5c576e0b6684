"""One expandable image of Parallels: its header and the table of its blocks. Little-endian.

Source: QEMU docs/interop/parallels.txt, "Header", "BAT".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._blockmap import MAX_ENTRIES, each, pages
from imgfs.backends._chain_runs import Runs, TooManyRuns
from imgfs.errors import Malformed, NotMine, NotSupported

if TYPE_CHECKING:
    from imgfs.backends import Reader

PLAIN: Final = b"WithoutFreeSpace"  # entries count sectors
EXTENDED: Final = b"WithouFreSpacExt"  # entries count blocks
SECTOR: Final = 512
_HEADER: Final = struct.Struct("<16sIIIIIQIIIQ")  # 64 bytes
_OPEN: Final = 0x746F_6E59
_STATES: Final = {0, _OPEN, 0x312E_3276}
_EMPTY: Final = 1
_PAGE: Final = 1 << 16  # entries looked at together


@dataclass(frozen=True, slots=True)
class Disk:
    """What an image says of its disk. Units: ``size`` and ``block`` bytes."""

    size: int
    block: int
    version: str
    runs: Runs
    notes: tuple[str, ...]


def is_disk(reader: Reader) -> bool:
    """Say whether a file is an expandable image."""
    return reader.size >= _HEADER.size and reader.read(0, 16) in (PLAIN, EXTENDED)


def read_disk(reader: Reader, most: int) -> Disk:
    """Read header and table; blocks that are not stored are left to what lies below.

    ``most`` is how many runs there may be.

    Raises:
        NotMine: no such image.
        NotSupported: another version.
        Malformed: sizes that cannot be.
    """
    if not is_disk(reader):
        raise NotMine("parallels")
    raw = reader.read(0, _HEADER.size)
    magic, version, _, _, tracks, entries, sectors, state, data, flags, _ = _HEADER.unpack(raw)
    if version != 2:
        raise NotSupported(f"Parallels disk version {version}: only version 2 is read")
    if magic == PLAIN:
        sectors &= 0xFFFF_FFFF
    size, block = sectors * SECTOR, tracks * SECTOR
    needed = -(-size // block) if block else 0
    if not 0 < size <= limits.MAX_SIZE or not block or needed > MAX_ENTRIES:
        raise Malformed(f"a disk of {size} bytes in blocks of {block}")
    notes: list[str] = []
    if state == _OPEN:
        notes.append("the image was open for writing, and not closed since")
    elif state not in _STATES:
        notes.append(f"the state of the image is {state:#x}, which means nothing")
    if flags & _EMPTY:
        notes.append("the image is marked as empty")
    if entries < needed:
        notes.append(f"the table has {entries} entries, the disk {needed} blocks")
    lowest = max(_HEADER.size + 4 * entries, data * SECTOR)
    runs = Runs(most)
    laying = _Laying(runs, size, block, reader.size, lowest, SECTOR if magic == PLAIN else block)
    try:
        laying.table(reader, min(needed, entries), tracks if magic == PLAIN else 1)
    except TooManyRuns as full:
        runs.give_up(full.at, size)
        notes.append(f"the disk is in more than {runs.limit - 1} pieces: what is beyond them is lost")
    return Disk(size, block, "1" if magic == PLAIN else "2", runs, tuple(notes))


class _Laying:
    """Lays blocks as the table names them. ``at`` is how far they reach."""

    __slots__ = ("_block", "_end", "_lowest", "_runs", "_size", "_unit", "at")

    def __init__(self, runs: Runs, size: int, block: int, end: int, lowest: int, unit: int) -> None:
        self._runs = runs
        self._size = size
        self._block = block
        self._end = end
        self._lowest = lowest
        self._unit = unit
        self.at = 0

    def table(self, reader: Reader, count: int, step: int) -> None:
        """Lay ``count`` blocks; a block that follows another has an entry ``step`` larger."""
        for page, number in pages(reader, _HEADER.size, 4, count, _PAGE):
            if page:
                each(page, "I", self, empty=_is_zero, step=step)
            else:
                length = min(number * self._block, self._size - self.at)
                self._runs.gone(self.at, length, "the table is cut short")
                self.at += length
        self._runs.gone(self.at, self._size - self.at, "the table has no entry for it")

    def __call__(self, entry: int, number: int) -> None:
        length = min(number * self._block, self._size - self.at)
        place = entry * self._unit
        if not entry:
            self._runs.below(self.at, length)
        elif place < self._lowest:
            self._runs.gone(self.at, length, "blocks that lie in the header or the table")
        else:
            self._runs.data(self.at, length, place, self._end)
        self.at += length


def _is_zero(entry: int) -> bool:
    return not entry
