"""What a worker says is tested here before anything of it is stored (INV-9).

Decoding has proved the types; these functions prove meaning. All raise WorkerLied, and the caller kills
the process. Limits are the daemon's own; no number of a message is used before it is compared with one.
"""

from __future__ import annotations

import operator
import struct
from array import array
from itertools import islice
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.block.striped import Pattern
from imgfs.block.summed import check_summed
from imgfs.errors import Malformed, WorkerLied
from imgfs.model import (
    LINEAR_ROW,
    LOST,
    PACKED_ROW,
    RAGGED_ROW,
    Chunked,
    Enciphered,
    FilesInfo,
    Foreign,
    Indexing,
    Inline,
    Linear,
    Media,
    MountTable,
    Packed,
    Ragged,
    Striped,
    Summed,
    VolumeTable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from imgfs.model import Attr, Layout, Page, Protector, Slice
    from imgfs.worker.wire import OpenReply

NAME_MAX: Final = 4096  # bytes of a stored name: four times what the kernel shows
TEXT_MAX: Final = 64 * limits.KIB  # characters of labels, notes and examiners' words together
STREAM_MAX: Final = 0xFFFF_FFFF
INT64: Final = 1 << 63
_RUN: Final = struct.Struct("<qqq")  # logical, length, target of a single run


def check_page(page: Page, *, cursor: int, limit: int, tickets: Sequence[int]) -> None:
    """Accept a page of at most ``limit`` entries that leads on from ``cursor``.

    Names may hold any byte, also ``/`` and NUL: the tree escapes them. The cursor must advance, or a
    listing would never end.

    Raises:
        WorkerLied: it is not such a page.
    """
    entries = page.entries
    if len(entries) > limit:
        raise WorkerLied(f"page of {len(entries)} entries, {limit} were asked for")
    if page.next != -1 and not cursor < page.next < INT64:
        raise WorkerLied(f"cursor {page.next} after {cursor}")
    if len(page.damaged) > TEXT_MAX:
        raise WorkerLied("page with a damage text too long")
    for entry in entries:
        if len(entry.name) > NAME_MAX:
            raise WorkerLied(f"name of {len(entry.name)} bytes")
        if not 0 <= entry.stream <= STREAM_MAX:
            raise WorkerLied(f"stream {entry.stream}")
        check_attr(entry.attr)
        if entry.layout is not None:
            check_layouts(entry.layout, tickets)


def check_attr(attr: Attr) -> None:
    """Accept attributes whose numbers fit the C types they will meet (INV-12).

    Raises:
        WorkerLied: a number leaves its range.
    """
    # A negative or too large number leaves bits above the mask: one test for five numbers, because a page
    # holds a thousand of them.
    if (attr.size | attr.allocated | attr.inum | attr.generation | attr.rdev) >> 63:
        raise WorkerLied(f"inum {attr.inum}: size {attr.size}, allocated {attr.allocated}")
    if (attr.uid | attr.gid | attr.nlink) >> 32 or attr.mode >> 12:
        raise WorkerLied(f"inum {attr.inum}: owner {attr.uid}:{attr.gid}, mode {attr.mode:#o}")
    for time in (attr.m_ns, attr.a_ns, attr.c_ns, attr.b_ns):
        if time is not None and not -INT64 <= time < 2 * INT64:
            raise WorkerLied(f"inum {attr.inum}: time {time}")
    if attr.damaged and len(attr.damaged) > NAME_MAX:
        raise WorkerLied(f"inum {attr.inum}: damage text too long")


def check_layouts(layouts: Sequence[Layout], tickets: Sequence[int], *, table: int = -1) -> None:
    """Accept layouts in topological order over sources of the sizes ``tickets``.

    ``table`` is the length of the unit table in the memory file of the reply, -1: there is none.

    Raises:
        WorkerLied: none at all, columns of unequal length, runs that overlap, go backwards or leave their
            source, a lower source that does not exist.
    """
    first = layouts[0] if len(layouts) == 1 else None
    if type(first) is Linear and len(first.logical) == 8 and not first.rows and table < 0 and tickets:
        _check_linear(first, tickets)  # what most files of a page are
        return
    if not 0 < len(layouts) <= limits.MAX_SEGMENTS:
        raise WorkerLied(f"{len(layouts)} layouts")
    lowers = list(tickets)
    needed = 0  # bytes of the memory file
    for layout in layouts:
        match layout:
            case Inline():
                if len(layout.data) > limits.INLINE_MAX:
                    raise WorkerLied(f"inline content of {len(layout.data)} bytes")
            case Linear() if layout.rows:  # ``block.build`` looks at them
                needed += _check_rows(layout)
            case Linear():
                _check_linear(layout, lowers)
            case Chunked():
                needed += _check_units(layout, 4)
                _check_chunked(layout, lowers)
            case Packed():
                needed += _check_units(layout, PACKED_ROW)
                if not 0 <= layout.which < len(lowers):
                    raise WorkerLied("a lower source that does not exist")
            case Striped():
                _check_striped(layout, lowers)
            case Ragged():
                needed += _check_ragged(layout, len(lowers))
            case Foreign():
                if len(layout.why) > NAME_MAX:
                    raise WorkerLied("foreign layout with a reason too long")
            case Enciphered():
                if not 0 <= layout.which < len(lowers):
                    raise WorkerLied("a lower source that does not exist")
            case Summed():
                _check_summed(layout, lowers)
            case _:
                raise WorkerLied(f"a layout of kind {type(layout).__name__}")
        if not 0 <= layout.size <= limits.MAX_SIZE:
            raise WorkerLied(f"layout of {layout.size} bytes")
        lowers.append(layout.size)
    if needed != max(table, 0):
        raise WorkerLied(f"rows of {needed} bytes in a memory file of {table}")


def _check_rows(layout: Linear) -> int:
    """Return how many bytes of the memory file runs take that are not in the message."""
    if (
        not 0 < layout.rows <= limits.MAX_RUNS
        or layout.logical
        or layout.length
        or layout.target
        or layout.which
    ):
        raise WorkerLied(f"{layout.rows} runs in the memory file, and some in the message")
    return LINEAR_ROW * layout.rows


def _check_linear(layout: Linear, lowers: Sequence[int]) -> None:
    if len(layout.logical) == len(layout.length) == len(layout.target) == 8 and not layout.which and lowers:
        _check_run(layout, lowers[0])
        return
    logical, length, target = _int64(layout.logical), _int64(layout.length), _int64(layout.target)
    count = len(logical)
    if not (count == len(length) == len(target)) or count > limits.MAX_RUNS:
        raise WorkerLied(f"columns of {count}, {len(length)} and {len(target)} runs")
    which = _which(layout.which, count, len(lowers))
    if not 0 <= layout.size <= limits.MAX_SIZE:
        raise WorkerLied(f"layout of {layout.size} bytes")
    if not count:
        return
    ends = list(map(operator.add, logical, length))
    if min(length) <= 0 or logical[0] < 0 or ends[-1] > layout.size or min(target) < LOST:
        raise WorkerLied(f"runs leave the stream of {layout.size} bytes")
    if not all(map(operator.le, ends, islice(logical, 1, None))):
        raise WorkerLied("runs overlap or go backwards")
    smallest = min(lowers[w] for w in set(which)) if which else lowers[0]
    if max(map(operator.add, target, length)) <= smallest:
        return
    for row, at in enumerate(target):
        if at >= 0 and at + length[row] > lowers[which[row] if which else 0]:
            raise WorkerLied(f"run {row} [{at}, {at + length[row]}) leaves its source")


def _check_run(layout: Linear, lower: int) -> None:
    logical, length, target = _RUN.unpack(layout.logical + layout.length + layout.target)
    size = layout.size
    if length <= 0 or logical < 0 or logical + length > size or target < LOST or size > limits.MAX_SIZE:
        raise WorkerLied(f"run [{logical}, {logical + length}) leaves the stream of {size} bytes")
    if target >= 0 and target + length > lower:
        raise WorkerLied(f"run at {target} of {length} bytes leaves its source of {lower} bytes")


def _check_units(layout: Chunked | Packed, row: int) -> int:
    """Return how many bytes of the memory file a unit table takes."""
    if not 0 < layout.unit <= limits.MAX_UNIT or not 0 <= layout.size <= limits.MAX_SIZE:
        raise WorkerLied(f"units of {layout.unit} bytes in {layout.size}")
    units = -(-layout.size // layout.unit)
    if len(layout.table) not in (0, row * units):
        raise WorkerLied(f"table of {len(layout.table)} bytes for {units} units")
    return 0 if layout.table else row * units


def _check_ragged(layout: Ragged, lowers: int) -> int:
    """Return how many bytes of the memory file such units take; ``block.ragged`` looks at the rows."""
    if not 0 <= layout.rows <= limits.MAX_RUNS or bool(layout.rows) != bool(layout.size):
        raise WorkerLied(f"{layout.rows} units in {layout.size} bytes")
    if not 0 <= layout.which < lowers or not -1 <= layout.front < lowers:
        raise WorkerLied("a lower source that does not exist")
    held = len(layout.table) + len(layout.ahead)
    if held not in (0, layout.needed) or len(layout.table) not in (0, RAGGED_ROW * layout.rows):
        raise WorkerLied(f"tables of {held} bytes for {layout.rows} units")
    return 0 if held else layout.needed


def _check_chunked(layout: Chunked, lowers: Sequence[int]) -> None:
    units = -(-layout.size // layout.unit)
    first, base, ends = _int64(layout.first), _int64(layout.base), _int64(layout.ends)
    count = len(first)
    if not (count == len(base) == len(ends)):
        raise WorkerLied(f"columns of {count}, {len(base)} and {len(ends)} groups")
    which = _which(layout.which, count, len(lowers))
    if not units:
        return
    if not count or first[0] != 0 or first[-1] >= units:
        raise WorkerLied(f"{count} groups over {units} units")
    if not all(map(operator.lt, first, islice(first, 1, None))):
        raise WorkerLied("groups go backwards")
    for row, end in enumerate(ends):
        if not 0 <= base[row] <= end <= lowers[which[row] if which else 0]:
            raise WorkerLied(f"group {row} [{base[row]}, {end}) leaves its source")


def _check_striped(layout: Striped, lowers: Sequence[int]) -> None:
    try:
        Pattern.checked(layout, len(lowers), lowers.__getitem__)
    except Malformed as why:
        raise WorkerLied(str(why)) from None


def _check_summed(layout: Summed, lowers: Sequence[int]) -> None:
    try:
        check_summed(layout, lowers)
    except Malformed as why:
        raise WorkerLied(str(why)) from None


def _int64(column: bytes) -> array[int]:
    if len(column) % 8:
        raise WorkerLied(f"column of {len(column)} bytes")
    return array("q", column)


def _which(column: bytes, count: int, lowers: int) -> array[int]:
    if len(column) not in (0, 2 * count):
        raise WorkerLied(f"column of {len(column)} bytes for {count} rows")
    which = array("H", column)
    if count and (max(which) if which else 0) >= lowers:
        raise WorkerLied("a lower source that does not exist")
    return which


def check_link(target: bytes) -> None:
    """Accept the target of a symbolic link. Raises WorkerLied."""
    if len(target) > limits.MAX_LINK:
        raise WorkerLied(f"link of {len(target)} bytes")


def check_xattrs(xattrs: Mapping[bytes, bytes]) -> None:
    """Accept extended attributes. Raises WorkerLied."""
    if sum(len(name) + 1 for name in xattrs) > limits.MAX_XATTRS:
        raise WorkerLied("names of extended attributes too long")
    for name, value in xattrs.items():
        if not name or b"\0" in name or len(name) > 255 or len(value) > limits.MAX_XATTRS:
            raise WorkerLied(f"extended attribute {name[:255]!r} of {len(value)} bytes")


def check_bytes(data: bytes, length: int) -> None:
    """Accept exactly the bytes that were asked for. Raises WorkerLied."""
    if len(data) != length:
        raise WorkerLied(f"{len(data)} bytes, {length} were asked for")


def check_slice(piece: Slice, done: int, total: int) -> None:
    """Accept a step of indexing that went on from ``done`` of ``total`` stored bytes.

    Raises:
        WorkerLied: it went backwards or beyond, or found more than a step may.
    """
    if not done <= piece.done <= total or len(piece.data) > limits.INDEX_SLICE:
        raise WorkerLied(f"{len(piece.data)} bytes of an index at {piece.done} of {total}, {done} before")


def check_opened(reply: OpenReply, tickets: Sequence[int]) -> None:
    """Accept what opening gave, over sources of the sizes ``tickets``.

    Raises:
        WorkerLied: a range leaves its source, a count or a text passes its limit.
    """
    if not -1 <= reply.table <= limits.TABLE_MAX or len(reply.sandbox) > 32:
        raise WorkerLied(f"table of {reply.table} bytes")
    match reply.opened:
        case Media() as media:
            _check_media(media, tickets, reply.table)
        case VolumeTable() as table:
            _check_volumes(table, tickets, reply.table)
        case FilesInfo() as info:
            _check_files(info)
        case Indexing() as indexing:
            if not 0 < indexing.total < INT64 or not 0 < indexing.parts <= limits.MAX_PARTS:
                raise WorkerLied(f"an index of {indexing.total} bytes in {indexing.parts} parts")
            _check_texts(indexing.why)
        case MountTable() as mounts:
            paths = [path for row in mounts.rows for path in (row.where, *row.folders)]
            if len(mounts.rows) > limits.MAX_MOUNTS or len(paths) > 2 * limits.MAX_MOUNTS:
                raise WorkerLied(f"{len(mounts.rows)} mounts")
            if any(len(path) > NAME_MAX for path in paths):
                raise WorkerLied("a path of more bytes than any has")
            _check_texts(*mounts.notes, *(word for row in mounts.rows for word in (row.what, row.tree)))


def _check_media(media: Media, tickets: Sequence[int], table: int) -> None:
    check_layouts(media.layouts, tickets, table=table)
    size = media.layouts[-1].size
    if len(media.wants) > limits.MAX_WANTS or any(len(name) > limits.MAX_NAME for name in media.wants):
        raise WorkerLied(f"{len(media.wants)} further files")
    keys = {state.key for state in media.states}
    if len(media.states) > limits.MAX_STATES or len(keys) < len(media.states):
        raise WorkerLied(f"{len(media.states)} states")
    for state in media.states:  # keys become part of an address
        if not (state.key.isascii() and state.key.isalnum() and len(state.key) <= 16):
            raise WorkerLied(f"a state {state.key[:64]!r}")
        _check_texts(state.name)
    _check_sector(media.sector)
    _check_texts(media.version, media.files, *media.metadata, *media.metadata.values(), *media.notes)
    _check_texts(*media.digests, *media.digests.values(), *(why for _, _, why in media.lost))
    for start, stop, _ in media.lost:
        if not 0 <= start <= stop <= size:
            raise WorkerLied(f"lost range [{start}, {stop}) leaves the media of {size} bytes")


def _check_volumes(table: VolumeTable, tickets: Sequence[int], rows: int) -> None:
    _check_sector(table.sector)
    _check_texts(table.scheme, table.uuid, table.label, table.version, *table.notes)
    check_protectors(table.protectors)
    if table.layouts:
        check_layouts(table.layouts, tickets, table=rows)
    elif rows > 0:
        raise WorkerLied(f"rows of {rows} bytes for no layout")
    if len(table.volumes) > limits.MAX_SLOTS:
        raise WorkerLied(f"{len(table.volumes)} volumes")
    for volume in table.volumes:
        # A table may speak of more than a truncated media holds: the resolver clips and says so.
        if not 0 <= volume.start <= volume.stop <= limits.MAX_SIZE:
            raise WorkerLied(f"slot {volume.slot}: [{volume.start}, {volume.stop})")
        if volume.layout != -1:
            size = table.layouts[volume.layout].size if 0 <= volume.layout < len(table.layouts) else -1
            if (volume.start, volume.stop) != (0, size):
                raise WorkerLied(f"slot {volume.slot} is layout {volume.layout} of {len(table.layouts)}")
        if volume.created_ns is not None and not -INT64 <= volume.created_ns < INT64:
            raise WorkerLied(f"slot {volume.slot}: a time out of range")
        if not -1 <= volume.slot < INT64 or not 0 <= volume.flags < 2 * INT64:
            raise WorkerLied(f"slot {volume.slot}")
        _check_texts(volume.type_id, volume.type_name, volume.unique_id, volume.label)


def check_protectors(protectors: Sequence[Protector]) -> None:
    """Accept what can unlock a volume. Raises WorkerLied."""
    if len(protectors) > limits.MAX_PROTECTORS:
        raise WorkerLied(f"{len(protectors)} protectors")
    for one in protectors:
        _check_texts(one.slot, one.kind, one.id, one.cost)


def _check_files(info: FilesInfo) -> None:
    if not 0 < len(info.trees) <= limits.MAX_VOLUMES:
        raise WorkerLied(f"{len(info.trees)} trees")
    for tree in info.trees:
        if not 0 <= tree.root < INT64 or not tree.name:
            raise WorkerLied(f"tree {tree.name[:64]!r} with root {tree.root}")
    if not 0 <= info.block < INT64 or not 0 <= info.size < INT64:
        raise WorkerLied(f"file system of {info.size} bytes in blocks of {info.block}")
    _check_texts(info.type, info.label, info.uuid, info.version, *info.notes, *(t.name for t in info.trees))


def _check_sector(sector: int) -> None:
    if not 0 < sector <= limits.MIB:
        raise WorkerLied(f"sectors of {sector} bytes")


def _check_texts(*texts: str) -> None:
    # Notes of a badly damaged table are one a slot: the sum is what memory costs.
    if sum(map(len, texts)) > 16 * TEXT_MAX or any(len(t) > TEXT_MAX for t in texts):
        raise WorkerLied("texts too long")
