"""What FAT and exFAT share: clusters and slots of a volume, and what one directory entry says.

A slot is 32 bytes of a directory. Slots have numbers as TSK gives them: from 3, in steps of one for every
32 bytes behind the tables, whether they hold an entry or not. An entry has the number of its slot, one of
several slots the number TSK knows it by; number 2 is the root.

Source: Microsoft FAT specification 1.03; exFAT specification; numbers as fls prints them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from imgfs.errors import Malformed, NotFound

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends.fat.table import Table

ROOT: Final = 2
FIRST: Final = 3  # number of the first slot
SLOT: Final = 32


class Item(NamedTuple):
    """A directory entry.

    ``slot`` counts from the beginning of the bytes it was found in. ``first`` is a cluster; ``contiguous``
    says that its followers are simply the next ones. ``valid`` are the bytes that were ever written.
    ``attributes`` are the bits both file systems share: read-only 1, hidden 2, system 4, archive 32.
    ``marked`` entries are marked deleted. Times are nanoseconds since 1970 UTC, None: not recorded.
    """

    slot: int
    name: bytes
    directory: bool
    attributes: int
    first: int
    size: int
    valid: int
    contiguous: bool
    m_ns: int | None
    a_ns: int | None
    b_ns: int | None
    marked: bool
    damaged: str = ""


class Parsed(NamedTuple):
    """Entries of a piece of a directory. Units: ``used`` bytes that need not be looked at again."""

    items: list[Item]
    used: int
    ended: bool  # an entry said that there are no more


class Form(Protocol):
    """How one file system writes its directories."""

    longest: int  # bytes of a directory

    def parse(self, data: bytes, room: int, *, final: bool, marked: bool, ended: bool = False) -> Parsed:
        """Return at most ``room`` entries from the beginning of ``data``.

        ``final``: no bytes follow these. ``marked``: with deleted entries. ``ended``: all of this lies
        behind the end of its directory, so that everything in it is deleted.
        """

    def entry(self, volume: Volume, at: int) -> Item:
        """Return the entry that has the number of the slot at byte ``at``. Raises NotFound."""

    def hits(self, data: bytes) -> list[tuple[int, int]]:
        """Return the ranges of free space that hold directory entries beyond doubt. Units: bytes."""

    def goes_on(self, volume: Volume, cluster: int) -> bool:
        """Say whether a released directory that filled a cluster goes on in ``cluster``."""


class Allocation(Protocol):
    """Which clusters are free."""

    def is_free(self, cluster: int) -> bool:
        """Say whether a cluster belongs to nobody."""

    def free_map(self, index: int) -> bytes:
        """Return one byte for each cluster of a window (``table.WINDOW``), 1: free."""


class Volume:
    """The clusters of one file system.

    Units: bytes; ``limit`` that can be read: the file system, or less when the source is shorter;
    ``stop`` is the cluster behind the last one.
    """

    __slots__ = ("_read", "allocation", "cluster", "data_at", "heap_at", "limit", "stop", "table")

    def __init__(
        self,
        reader: Reader,
        table: Table,
        allocation: Allocation,
        *,
        data_at: int,
        heap_at: int,
        cluster: int,
        size: int,
    ) -> None:
        self._read = reader.read
        self.table = table
        self.allocation = allocation
        self.data_at = data_at
        self.heap_at = heap_at
        self.cluster = cluster
        self.limit = min(size, reader.size)
        self.stop = table.stop

    def read(self, start: int, length: int) -> bytes:
        """Return bytes of the volume. Raises EvidenceError when it does not have them."""
        if not 0 <= start <= start + length <= self.limit:
            raise Malformed("outside the file system", start=start, stop=start + length)
        return self._read(start, length)

    def place(self, cluster: int) -> int:
        """Return where a cluster begins."""
        return self.heap_at + (cluster - 2) * self.cluster

    def holds(self, cluster: int) -> bool:
        """Say whether there is such a cluster."""
        return 2 <= cluster < self.stop

    def is_free(self, cluster: int) -> bool:
        """Say whether there is such a cluster and it belongs to nobody."""
        return 2 <= cluster < self.stop and self.allocation.is_free(cluster)

    def cluster_at(self, at: int) -> int:
        """Return the cluster byte ``at`` lies in, 0 or 1: none, it lies before the first."""
        return (at - self.heap_at) // self.cluster + 2 if at >= self.heap_at else 0

    def number(self, at: int) -> int:
        """Return the number of the slot at byte ``at``."""
        return FIRST + (at - self.data_at) // SLOT

    def slot(self, number: int) -> int:
        """Return where a slot lies. Raises NotFound when the volume has none of that number."""
        at = self.data_at + (number - FIRST) * SLOT
        if number < FIRST or at + SLOT > self.limit:
            raise NotFound(f"directory entry {number}")
        return at
