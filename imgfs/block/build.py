"""From the claims of a worker to a source that can be read (INV-9)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec.structs import replace

from imgfs import limits
from imgfs.block.chunks import ChunkMap
from imgfs.block.enciphered import CipherMap
from imgfs.block.extents import ExtentMap
from imgfs.block.foreign import ForeignSource
from imgfs.block.memory import Memory
from imgfs.block.packed import PackedMap
from imgfs.block.ragged import RaggedMap
from imgfs.block.striped import StripedMap, Takes
from imgfs.block.summed import SummedMap
from imgfs.errors import Malformed
from imgfs.model import (
    LINEAR_ROW,
    PACKED_ROW,
    RAGGED_ROW,
    Chunked,
    Enciphered,
    Foreign,
    Inline,
    Linear,
    Packed,
    Ragged,
    Striped,
    Summed,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from imgfs.block.pieces import ByteSource
    from imgfs.block.shared import SharedUnits
    from imgfs.model import Layout


def build(
    layouts: Sequence[Layout],
    tickets: Sequence[ByteSource],
    spec: str,
    *,
    table: memoryview | None = None,
    foreign: Callable[[int, int], Awaitable[bytes]] | None = None,
    shared: SharedUnits | None = None,
) -> ByteSource:
    """Return the source the last of ``layouts`` describes; see ``build_all``."""
    return build_all(layouts, tickets, spec, table=table, foreign=foreign, shared=shared)[-1]


def build_all(
    layouts: Sequence[Layout],
    tickets: Sequence[ByteSource],
    spec: str,
    *,
    table: memoryview | None = None,
    foreign: Callable[[int, int], Awaitable[bytes]] | None = None,
    shared: SharedUnits | None = None,
) -> list[ByteSource]:
    """Return the source that each of ``layouts`` describes, checked and flattened.

    ``table`` is the memory file of the reply: layouts without a table or columns of their own take
    their rows from it, one after the other. ``foreign`` reads (offset, length) of a Foreign layout.
    ``shared`` holds single units that other streams over the same tickets have, too.

    Raises:
        Malformed: a claim contradicts itself or leaves its sources.
    """
    if not 0 < len(layouts) <= limits.MAX_SEGMENTS:
        raise Malformed(f"a stream in {len(layouts)} layouts", spec=spec)
    sources = list(tickets)
    takes = Takes()
    ahead: bytes | memoryview
    rows_at = 0
    for layout in layouts:
        match layout:
            case Inline(data):
                if len(data) > limits.INLINE_MAX:
                    raise Malformed(f"{len(data)} bytes of inline content", spec=spec)
                sources.append(Memory(data))
            case Linear():
                claim = _filled(layout, table, rows_at) if layout.rows else layout
                rows_at += LINEAR_ROW * layout.rows
                sources.append(ExtentMap.checked(claim, sources, spec).compose())
            case Chunked() | Packed():
                rows: bytes | memoryview = layout.table
                if not rows and table is not None and layout.unit > 0 and layout.size > 0:
                    row = 4 if isinstance(layout, Chunked) else PACKED_ROW
                    length = row * -(-layout.size // layout.unit)
                    rows = table.cast("B")[rows_at : rows_at + length]
                    rows_at += length
                if isinstance(layout, Packed) and shared is not None and (one := shared.get(layout, sources)):
                    sources.append(one)
                elif isinstance(layout, Chunked):
                    sources.append(ChunkMap.checked(layout, sources, spec, rows))
                else:
                    sources.append(PackedMap.checked(layout, sources, spec, rows))
            case Striped():
                sources.append(StripedMap.checked(layout, sources, spec, takes))
            case Ragged():
                rows, ahead = layout.table, layout.ahead
                if not rows and table is not None and 0 < layout.rows <= limits.MAX_RUNS:
                    raw = table.cast("B")[rows_at : rows_at + layout.needed]
                    rows, ahead = raw[: RAGGED_ROW * layout.rows], raw[RAGGED_ROW * layout.rows :]
                    rows_at += layout.needed
                sources.append(RaggedMap.checked(layout, sources, spec, rows, ahead))
            case Foreign(size=size):
                if foreign is None or not 0 <= size <= limits.MAX_SIZE:
                    raise Malformed(f"{size} foreign bytes and no worker to read them", spec=spec)
                sources.append(ForeignSource(size, foreign))
            case Enciphered():
                sources.append(CipherMap.checked(layout, sources, spec))
            case Summed():
                sources.append(SummedMap.checked(layout, sources, spec))
            case _:
                raise Malformed(f"a layout of kind {type(layout).__name__}", spec=spec)
    return sources[len(tickets) :]


def _filled(layout: Linear, table: memoryview | None, at: int) -> Linear:
    """Return runs with their columns, which lie at ``at`` of the memory file.

    Raises:
        Malformed: they do not.
    """
    rows = layout.rows
    if not 0 < rows <= limits.MAX_RUNS or table is None or at + LINEAR_ROW * rows > table.nbytes:
        raise Malformed(f"{rows} runs in no memory file")
    raw = table.cast("B")
    cuts = [at, at + 8 * rows, at + 16 * rows, at + 24 * rows, at + 26 * rows]
    logical, length, target, which = (bytes(raw[a:b]) for a, b in pairwise(cuts))
    return replace(layout, logical=logical, length=length, target=target, which=which, rows=0)
