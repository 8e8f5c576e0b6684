"""TSK attributes as layouts: runs in blocks become runs in bytes, checked against the file system."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from imgfs.backends._layouts import initialised, linear
from imgfs.backends._tsk import (
    COMPRESSED,
    ENCRYPTED,
    NON_RESIDENT,
    RESIDENT,
    RUN_FILLER,
    RUN_SPARSE,
    clamp_size,
)
from imgfs.errors import Malformed, NotSupported
from imgfs.limits import INLINE_MAX, MAX_RUNS, READ_MAX
from imgfs.model import HOLE, LOST, Foreign, Inline, Layout

if TYPE_CHECKING:
    from imgfs.backends._layouts import Row


def rows_of(attribute: Any, size: int, block: int, volume: int) -> tuple[list[Row], int]:
    """Return the runs of an attribute clipped to ``size``, and the bytes it has allocated.

    A run that leaves the file system (``volume`` bytes) is LOST from where it leaves.

    Raises:
        Malformed: more runs than a file may have, or a run that goes backwards.
    """
    rows: list[Row] = []
    allocated, at = 0, 0
    for run in attribute:
        start, length, target, flags = run.offset * block, run.len * block, run.addr * block, int(run.flags)
        if flags & RUN_FILLER or target < 0:
            target = LOST
        elif flags & RUN_SPARSE:
            target = HOLE
        else:
            allocated += length
        stop = min(start + length, size)
        if length <= 0 or start >= size:
            continue
        if start < at:
            raise Malformed(f"run at {start} begins before {at}, where the one before it ends")
        if target >= 0 and target + (stop - start) > volume:
            inside = max(volume - target, 0)
            if inside:
                rows.append((start, inside, target))
            start, target = start + inside, LOST
        if start < stop:
            rows.append((start, stop - start, target))
        at = stop
        if len(rows) > MAX_RUNS:
            raise Malformed(f"more than {MAX_RUNS} runs")
    return _joined(rows), allocated


def _joined(rows: list[Row]) -> list[Row]:
    if len(rows) < 2:
        return rows
    joined = [rows[0]]
    for logical, length, target in rows[1:]:
        before, had, where = joined[-1]
        if before + had == logical and (
            target == where if target < 0 else where >= 0 and where + had == target
        ):
            joined[-1] = (before, had + length, where)
        else:
            joined.append((logical, length, target))
    return joined


def read_attribute(file: Any, attribute: Any, offset: int, length: int) -> bytes:
    """Return exactly ``length`` decoded bytes of an attribute.

    Raises:
        Malformed: the library gives fewer.
    """
    parts, kind, number = [], attribute.info.type, attribute.info.id
    while length > 0:
        part = file.read_random(offset, min(length, READ_MAX), kind, number)
        if not part:
            raise Malformed(f"attribute {int(kind)}-{number}: {length} bytes at {offset} are missing")
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def layout_of(
    file: Any,
    attribute: Any,
    size: int,
    block: int,
    volume: int,
    *,
    valid: int | None = None,
    holes: bool = True,
) -> tuple[Layout, int]:
    """Say where the bytes of an attribute lie, and how much it has allocated.

    ``valid`` is the initialised size where a format has one, None: all of it. ``holes`` says that an
    attribute without runs is one hole (NTFS), and not lost.

    Raises:
        NotSupported: encrypted.
        Malformed: the runs contradict themselves.
    """
    flags = int(attribute.info.flags)
    if flags & ENCRYPTED:
        raise NotSupported("EFS: the key is not in the image")
    if flags & COMPRESSED:
        _, allocated = rows_of(attribute, size, block, volume) if flags & NON_RESIDENT else ([], 0)
        return Foreign(size=size, why="LZNT1" if int(attribute.info.type) == 128 else "decmpfs"), allocated
    if flags & RESIDENT:
        if size > INLINE_MAX:
            return Foreign(size=size, why="resident"), 0
        return Inline(read_attribute(file, attribute, 0, size) if size else b""), 0
    rows, allocated = rows_of(attribute, size, block, volume)
    if not rows and size and holes:
        rows = [(0, size, HOLE)]
    if valid is not None and valid < size:
        rows = initialised(rows, valid, size)
    return linear(size, rows), allocated


def size_of(attribute: Any) -> int:
    """Return the size an attribute states."""
    return clamp_size(attribute.info.size)


RESIDENT_IN_LISTING: Final = 4096  # a page of such entries stays far below a message
