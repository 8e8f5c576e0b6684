"""A logical volume: its blocks, and descriptors read from them.

Source: ECMA-167 3rd edition, 4/3 and 4/7; OSTA UDF 2.60, 2.2.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from imgfs.backends.udf.structures import fault
from imgfs.errors import EvidenceError, Malformed
from imgfs.model import LOST

if TYPE_CHECKING:
    from collections.abc import Collection

    from imgfs.backends import Reader
    from imgfs.backends.udf.partitions import Run, Space

_WINDOW: Final = 1 << 16  # bytes: ICBs of one directory lie next to each other
_KEPT: Final = 64  # windows


class Volume:
    """Logical blocks of all partition maps. Units: ``block`` bytes of a logical block."""

    __slots__ = ("_windows", "block", "reader", "spaces")

    def __init__(self, reader: Reader, block: int) -> None:
        self.reader = reader
        self.block = block
        self.spaces: list[Space | None] = []  # None: a map that cannot be used
        self._windows: OrderedDict[int, bytes] = OrderedDict()

    def space(self, ref: int) -> Space:
        """Return what a partition map maps. Raises Malformed: nothing."""
        space = self.spaces[ref] if ref < len(self.spaces) else None
        if space is None:
            raise Malformed(f"no partition map {ref}")
        return space

    def runs(self, ref: int, block: int, length: int, copy: int = 0) -> list[Run]:
        """Say where ``length`` bytes from a logical block on are stored."""
        space = self.space(ref)
        return space.runs(block, length, copy and min(copy, space.copies - 1))

    def descriptor(self, ref: int, block: int, kinds: Collection[int], length: int = 0) -> bytes:
        """Return a descriptor, from the mirror if there is one and the main one is damaged.

        Args:
            ref: partition map.
            block: logical block.
            kinds: what it may be.
            length: bytes of it, 0: a logical block.

        Raises:
            EvidenceError: no copy of it is whole.
        """
        why = ""
        for copy in range(self.space(ref).copies):
            try:
                raw = self.bytes_at(ref, block, min(length or self.block, self.block), copy)
            except EvidenceError as error:
                why = why or error.message
                continue
            wrong = fault(raw, kinds, block)
            if not wrong:
                return raw
            why = why or wrong
        raise Malformed(f"block {block} of partition {ref}: {why}")

    def bytes_at(self, ref: int, block: int, length: int, copy: int = 0) -> bytes:
        """Return bytes from a logical block on.

        Raises:
            EvidenceError: some of them are lost.
        """
        runs = self.runs(ref, block, length, copy)
        if len(runs) == 1 and runs[0][1] != LOST:
            return self.near(runs[0][1], runs[0][0])
        parts = []
        for size, target in runs:
            if target == LOST:
                raise Malformed(f"block {block} of partition {ref} is not on the volume")
            parts.append(self.near(target, size))
        return b"".join(parts)

    def near(self, at: int, length: int) -> bytes:
        """Return bytes of the volume, and keep those around them."""
        first = at - at % _WINDOW
        if at + length > first + _WINDOW:
            return self.reader.read(at, length)
        window = self._windows.get(first)
        if window is None:
            try:
                window = self.reader.read(first, min(_WINDOW, self.reader.size - first))
            except EvidenceError:
                return self.reader.read(at, length)
            self._windows[first] = window
            if len(self._windows) > _KEPT:
                self._windows.popitem(last=False)
        return window[at - first : at - first + length]
