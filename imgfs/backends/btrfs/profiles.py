"""How chunks lie on devices: their profiles, as patterns of terms that repeat.

Source: btrfs.readthedocs.io, "On-disk format" (Chunk item), mkfs.btrfs(8), "PROFILES"; md(4) and "The
mathematics of RAID-6", H. Peter Anvin, for parity, which turns from device to device with each row: chunk i
of row s lies on stripe (i + s) mod n, P and Q on the ones behind the data.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from itertools import accumulate, repeat
from typing import TYPE_CHECKING, Final

from imgfs.backends._parity import NONE, Stripe, solved
from imgfs.block.galois import product
from imgfs.errors import Malformed
from imgfs.model import Striped

if TYPE_CHECKING:
    from collections.abc import Collection

DATA: Final = 1
RAID0, RAID1, DUP, RAID10, RAID5, RAID6, RAID1C3, RAID1C4 = (1 << bit for bit in range(3, 11))
_PROFILES: Final = RAID0 | RAID1 | DUP | RAID10 | RAID5 | RAID6 | RAID1C3 | RAID1C4
_NAMES: Final = {
    0: "single",
    RAID0: "raid0",
    RAID1: "raid1",
    DUP: "dup",
    RAID10: "raid10",
    RAID5: "raid5",
    RAID6: "raid6",
    RAID1C3: "raid1c3",
    RAID1C4: "raid1c4",
}
_COPIED: Final = {RAID1: 2, DUP: 2, RAID1C3: 3, RAID1C4: 4}
_HEAD: Final = struct.Struct("<4Q3I2H")
_STRIPE: Final = struct.Struct("<QQ16s")
_SECTOR: Final = 512
_DEVICES: Final = 1024  # stripes of one chunk: more than an item of 64 KiB holds anyway
_PARITY: Final = 64  # ... with parity: rows, chunks and terms grow with the third power
_POWERS: Final = tuple(accumulate(repeat(2, 254), product, initial=1))

Terms = list[tuple[int, int]]  # stripe of the chunk, factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A range of logical addresses and where it lies: (device, offset, uuid of the device) of each stripe."""

    start: int
    length: int
    chunk: int  # bytes that lie on one device before the next
    type: int
    copies: int  # of RAID 10: stripes that hold the same
    stripes: tuple[tuple[int, int, bytes], ...]

    @property
    def profile(self) -> int:
        """Return the bit of the profile, 0: single."""
        return self.type & _PROFILES

    @property
    def name(self) -> str:
        """Return the name of the profile."""
        return _NAMES[self.profile]

    @property
    def linear(self) -> bool:
        """Say whether every copy is in one piece."""
        return self.profile in _COPIED or not self.profile or len(self.stripes) == 1

    @property
    def ways(self) -> int:
        """Return how many ways there are to read the same bytes."""
        if self.profile in (RAID5, RAID6):
            return 2 if self.profile == RAID5 else 3
        if self.profile == RAID10:
            return self.copies
        return len(self.stripes) if self.linear else 1

    def rows(self) -> tuple[int, int]:
        """Return how many rows repeat, and the chunks of data in each."""
        count = len(self.stripes)
        if self.profile in (RAID5, RAID6):
            return count, count - (1 if self.profile == RAID5 else 2)
        return 1, count // self.copies if self.profile == RAID10 else count

    def depth(self) -> int:
        """Return the bytes of one stripe on its device."""
        if self.linear:
            return self.length
        share = self.chunk * self.rows()[1]
        return -(-self.length // share) * self.chunk

    def whole(self, missing: Collection[int]) -> bool:
        """Say whether all of it can be read without some of its stripes."""
        rows, across = self.rows()
        return not missing or all(
            self.terms(row, number, 0, missing) for row in range(rows) for number in range(across)
        )

    def terms(self, row: int, number: int, way: int, missing: Collection[int]) -> Terms:
        """Return what chunk ``number`` of a row is the sum of; none: too much is missing.

        ``way`` 0 is the usual one; others rely on what the ones before did not.
        """
        count = len(self.stripes)
        if self.profile == RAID10:
            places = [number * self.copies + copy for copy in range(self.copies)]
            usable = [place for place in places if place not in missing]
            return [(usable[way % len(usable)], 1)] if usable else []
        if self.profile not in (RAID5, RAID6):
            return [] if number in missing else [(number, 1)]
        stripe = self._stripe(row % count)
        gone = set(missing)
        if way:
            gone.add(stripe.data[number])
        if way > 1:
            gone.add(stripe.p)
        return solved(stripe, number, gone)

    def _stripe(self, row: int) -> Stripe:
        count = len(self.stripes)
        if self.profile == RAID5:
            data = tuple([(i + row) % count for i in range(count - 1)])
            return Stripe(data, (count - 1 + row) % count, NONE)
        data = tuple([(i + row) % count for i in range(count - 2)])
        weights = tuple([_POWERS[i % 255] for i in range(count - 2)])
        return Stripe(data, (count - 2 + row) % count, (count - 1 + row) % count, weights)


def parsed(start: int, item: bytes) -> Chunk:
    """Return a chunk from its item; see ``Chunk``.

    Raises:
        Malformed: its numbers contradict each other.
    """
    if len(item) < _HEAD.size:
        raise Malformed(f"chunk {start}: an item of {len(item)} bytes")
    length, _, chunk, kind, _, _, _, count, copies = _HEAD.unpack_from(item)
    profile = kind & _PROFILES
    if profile not in _NAMES or not 0 < count <= _DEVICES or len(item) < _HEAD.size + count * _STRIPE.size:
        raise Malformed(f"chunk {start}: {count} stripes of type {kind:#x} in {len(item)} bytes")
    if not length or start + length >= 1 << 63 or not 0 < chunk <= 1 << 30 or chunk % _SECTOR:
        raise Malformed(f"chunk {start}: {length} bytes in pieces of {chunk}")
    least, most = {RAID5: (2, _PARITY), RAID6: (3, _PARITY)}.get(profile, (1, _DEVICES))
    if not least <= count <= most or (profile == RAID10 and (not 0 < copies <= count or count % copies)):
        raise Malformed(f"chunk {start}: {_NAMES[profile]} of {count} stripes")
    if profile == 0 and count != 1:
        raise Malformed(f"chunk {start}: {count} places and no profile")
    rows = range(_HEAD.size, _HEAD.size + count * _STRIPE.size, _STRIPE.size)
    stripes = tuple([_STRIPE.unpack_from(item, at) for at in rows])
    if max(offset + length for _, offset, _ in stripes) >= 1 << 63:
        raise Malformed(f"chunk {start}: a stripe beyond every device")
    return Chunk(start=start, length=length, chunk=chunk, type=kind, copies=max(copies, 1), stripes=stripes)


def item_length(item: bytes) -> int:
    """Return how long the chunk item at the start of ``item`` is."""
    count = _HEAD.unpack_from(item)[7] if len(item) >= _HEAD.size else 0
    return int(_HEAD.size + count * _STRIPE.size)


def striped(chunk: Chunk, tickets: dict[int, int], way: int) -> Striped:
    """Return a striped chunk as a layout, ``tickets`` being the sources of the stripes that are there."""
    rows, across = chunk.rows()
    shown = min(rows, max(chunk.depth() // chunk.chunk, 1))
    missing = [stripe for stripe in range(len(chunk.stripes)) if stripe not in tickets]
    ends, which, base, factors = array("I"), array("H"), array("q"), bytearray()
    for row in range(shown):
        for number in range(across):
            for stripe, factor in chunk.terms(row, number, way, missing):
                which.append(tickets[stripe])
                base.append(chunk.stripes[stripe][1] + row * chunk.chunk)
                factors.append(factor)
            ends.append(len(which))
    return Striped(
        size=chunk.length,
        chunk=chunk.chunk,
        stride=shown * chunk.chunk,
        ends=ends.tobytes(),
        which=which.tobytes(),
        base=base.tobytes(),
        factor=bytes(factors),
    )
