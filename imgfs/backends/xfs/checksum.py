"""Checksums of metadata: CRC-32C of a block whose own checksum counts as zero.

Source: XFS Algorithms and Data Structures, 3rd edition, "Metadata Integrity".
"""

from __future__ import annotations

from array import array
from itertools import starmap
from operator import eq
from sys import byteorder

from imgfs.block.sums import records


def intact(block: bytes, at: int) -> bool:
    """Say whether a block has the CRC-32C that it states, little-endian, in byte ``at``."""
    found = records(block, len(block), b"", ((at, at + 4),))
    return found[0] == int.from_bytes(block[at : at + 4], "little")


def all_intact(blocks: bytes, size: int, at: int) -> list[bool]:
    """Say of each block of ``size`` bytes whether it has the CRC-32C that it states in byte ``at``.

    Units: ``size`` and ``at`` are multiples of 4.
    """
    stated = array("I", blocks)[at >> 2 :: size >> 2]
    if byteorder == "big":
        stated.byteswap()
    found = records(blocks, size, b"", ((at, at + 4),))
    return list(starmap(eq, zip(found, stated, strict=True)))
