"""Where the bytes of a volume as it was are: in stores, newest first, and in the volume as it is.

Source: Joachim Metz, Volume Shadow Snapshot (VSS) format, "Reading snapshot data". Blocks that nothing used
when the newest copy was taken, and that are not kept, are shown as zeros, as libvshadow does: Windows leaves
open what it returns for them.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._vss import BLOCK, SECTOR, all_descriptors, bitmap
from imgfs.errors import Malformed
from imgfs.model import HOLE, LOST, Linear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._vss import Descriptors, Store

Row = tuple[int, int, int]  # logical, length, target
_SAME: Final = re.compile(rb"\x00+|\xff+|[^\x00\xff]+")


def layout(reader: Reader, chain: list[Store], size: int, said: list[str]) -> Linear:
    """Return the volume as it was when the first of ``chain`` was taken; later copies follow it.

    A long one goes to the memory file.

    Raises:
        Malformed: a store cannot be read to its end, or there are more pieces than a layout may have.
    """
    told = all_descriptors(reader, chain)
    free: Iterator[tuple[int, int]] = iter(())
    if len(chain) == 1:
        free = _flagged(_unused(reader, chain[0]), told[0], size)
    gone = [0]
    changed = _changed(told, size, reader.size, gone)
    logical, length, target = array("q"), array("q"), array("q")
    for row in _joined(_over(_base(free, size), changed)):
        logical.append(row[0])
        length.append(row[1])
        target.append(row[2])
        if len(logical) > limits.MAX_RUNS:
            raise Malformed(f"it is in more than {limits.MAX_RUNS} pieces")
    if gone[0]:
        said.append(f"{gone[0]} bytes are lost: what is said of them leads nowhere")
    columns = [logical.tobytes(), length.tobytes(), target.tobytes()]
    if sum(map(len, columns)) <= limits.TABLE_INLINE:
        return Linear(size=size, logical=columns[0], length=columns[1], target=columns[2])
    reader.write_table([*columns, bytes(2 * len(logical))])
    return Linear(size=size, logical=b"", length=b"", target=b"", rows=len(logical))


def _unused(reader: Reader, store: Store) -> bytes:
    """Return the bits of the blocks that were in use neither then nor in the copy before."""
    current = bitmap(reader, store.bitmap_at)
    if not store.before_at or not current:
        return current
    before = bitmap(reader, store.before_at)[: len(current)]
    count = len(before)
    both = int.from_bytes(current[:count], "little") & int.from_bytes(before, "little")
    return both.to_bytes(count, "little")


def _flagged(bits: bytes, told: Descriptors, size: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of flagged blocks that no forwarder leads to."""
    moved = sorted(told.moved)
    for start, stop in _runs(bits):
        at = start * BLOCK
        until = min(stop * BLOCK, size)
        for one in moved[bisect_left(moved, at) : bisect_left(moved, until)]:
            if at < one:
                yield at, one
            at = max(at, one + BLOCK)
        if at < until:
            yield at, until


def _runs(bits: bytes) -> Iterator[tuple[int, int]]:
    """Yield ranges of set bits, the lowest of a byte first."""
    begin = -1
    for found in _SAME.finditer(bits):
        kind = bits[found.start()]
        if kind in (0, 0xFF):
            if kind and begin < 0:
                begin = 8 * found.start()
            elif not kind and begin >= 0:
                yield begin, 8 * found.start()
                begin = -1
            continue
        for at in range(8 * found.start(), 8 * found.end()):
            if bits[at >> 3] >> (at & 7) & 1:
                begin = at if begin < 0 else begin
            elif begin >= 0:
                yield begin, at
                begin = -1
    if begin >= 0:
        yield begin, 8 * len(bits)


def _base(free: Iterator[tuple[int, int]], size: int) -> Iterator[Row]:
    """Yield the volume as it is, with its holes."""
    at = 0
    for start, stop in free:
        if at < start:
            yield at, start - at, at
        yield start, stop - start, HOLE
        at = stop
    if at < size:
        yield at, size - at, at


def _changed(told: list[Descriptors], size: int, stored: int, gone: list[int]) -> Iterator[Row]:
    """Yield what a store kept, in order; ``gone`` counts the bytes that lead nowhere."""
    keys = set().union(*(one.blocks.keys() for one in told), told[0].overlays.keys())
    for block in sorted(keys):
        end = min(BLOCK, size - block)
        if end <= 0:
            return
        if block % BLOCK:  # the format knows none: what it would cover is not known
            gone[0] += end
            continue
        kept = any(block in one.blocks for one in told)
        place = _found(told, 0, block)
        for skip, count, at in _pieces(told[0].overlays.get(block), place, end, kept=kept):
            inside = at >= 0 and at + count <= stored
            gone[0] += 0 if inside else count
            yield block + skip, count, at if inside else LOST


def _found(told: list[Descriptors], level: int, at: int) -> int:
    """Return where a block of a state is, on the volume as it is; -1: it cannot be said."""
    while level < len(told):
        held = told[level].blocks.get(at)
        level += 1
        if held is None:
            continue
        relative, offset, forwarder = held
        if not forwarder:
            return offset
        if relative % BLOCK:
            return -1
        at = relative
    return at


def _pieces(over: tuple[int, int] | None, place: int, end: int, *, kept: bool) -> Iterator[Row]:
    """Yield pieces of one block: sectors laid over it, and what is between them if that was ``kept``."""
    if over is None:
        yield 0, end, place
        return
    offset, bits = over
    at = 0
    while at < end:
        kind = bits >> at // SECTOR & 1
        stop = at
        while stop < end and (bits >> stop // SECTOR & 1) == kind:
            stop += SECTOR
        stop = min(stop, end)
        base = offset if kind else place
        if kind or kept:
            yield at, stop - at, base + at if base >= 0 else -1
        at = stop


def _over(base: Iterator[Row], changed: Iterator[Row]) -> Iterator[Row]:
    """Yield ``base`` with ``changed`` laid over it, both in order."""
    change = next(changed, None)
    for row in base:
        at, stop, target = row[0], row[0] + row[1], row[2]
        shift = target - at if target >= 0 else 0
        while at < stop:
            if change is None or change[0] >= stop:
                yield at, stop - at, at + shift if target >= 0 else target
                break
            if at < change[0]:
                yield at, change[0] - at, at + shift if target >= 0 else target
                at = change[0]
            count = min(change[1], stop - at)
            yield at, count, change[2]
            at += count
            rest = change[1] - count
            if rest:
                change = (at, rest, change[2] + count if change[2] >= 0 else change[2])
            else:
                change = next(changed, None)


def _joined(rows: Iterator[Row]) -> Iterator[Row]:
    """Yield rows, neighbours that say the same as one."""
    held: Row | None = None
    for row in rows:
        if held is not None:
            follows = held[2] + held[1] == row[2] if held[2] >= 0 else held[2] == row[2]
            if follows:
                held = (held[0], held[1] + row[1], held[2])
                continue
            yield held
        held = row
    if held is not None:
        yield held
