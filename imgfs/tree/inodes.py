"""Inode numbers are addresses: what a number says without a table, and the table for what does not fit.

Layout of a number: bit 63 alias; bits 48..62 file system; bits 0..47 the number the evidence uses. File
system 0 holds the nodes imgfs makes itself. Atomic section: an alias is allocated and stored in one step.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from imgfs.model import Ino

ALIAS: Final = 1 << 63
SHIFT: Final = 48
LOW: Final = (1 << SHIFT) - 1
MAX_FILE_SYSTEMS: Final = (1 << 15) - 1


class Address(NamedTuple):
    """A node of a file system. ``position`` is the parent's number where the place in the tree matters.

    A directory or link met at a second place needs a number of its own there: the kernel keeps one
    place per directory, and a link's target is rewritten for the place it is read at. 0: first place.
    """

    fs: int
    tree: int
    inum: int
    stream: int = 0
    position: int = 0


def pack(address: Address) -> Ino | None:
    """Return the number that is the address, or None when it needs an alias."""
    if address.tree or address.stream or address.position or not 0 < address.inum <= LOW:
        return None
    return Ino(address.fs << SHIFT | address.inum)


def unpack(ino: Ino) -> tuple[int, int]:
    """Split a number that is no alias into (file system, number in the evidence)."""
    return ino >> SHIFT, ino & LOW


class Aliases:
    """Numbers for addresses that do not fit, freed when the kernel forgets them.

    Invariant: ``_number[_address[n]] == n`` for every n with a count above 0.
    """

    __slots__ = ("_address", "_count", "_next", "_number")

    def __init__(self) -> None:
        self._next = ALIAS | 1
        self._address: dict[int, Address] = {}
        self._number: dict[Address, int] = {}
        self._count: dict[int, int] = {}

    def number(self, address: Address) -> Ino:
        """Return the alias of an address, making one on first use; its count is not changed.

        The evidence's own number stays visible in the low 48 bits where it is free: the counter
        moves only when two addresses would share a number.
        """
        known = self._number.get(address)
        if known is not None:
            return Ino(known)
        number = ALIAS | (address.fs << SHIFT) | (address.inum & LOW)
        if number in self._address or not address.inum & LOW:
            number = self._fresh()
        self._address[number] = address
        self._number[address] = number
        return Ino(number)

    def _fresh(self) -> int:
        while self._next in self._address:
            self._next += 1
        self._next += 1
        return self._next - 1

    def address(self, ino: Ino) -> Address | None:
        """Return what an alias stands for, None when it is unknown."""
        return self._address.get(ino)

    def hold(self, ino: Ino) -> None:
        """Count one lookup that was answered with this alias."""
        self._count[ino] = self._count.get(ino, 0) + 1

    def forget(self, ino: Ino, lookups: int) -> Address | None:
        """Take lookups back; returns the address when the last one is gone."""
        left = self._count.get(ino, 0) - lookups
        if left > 0:
            self._count[ino] = left
            return None
        self._count.pop(ino, None)
        address = self._address.pop(ino, None)
        if address is not None:
            del self._number[address]
        return address

    def __len__(self) -> int:
        return len(self._address)
