"""Snapshots of the old kind: an origin, and a store of the chunks that differ.

Whoever is shown as the snapshot is the store: its own bytes mean nothing to anybody else. A store that ran
full is marked so by the kernel, and what the snapshot was is lost.

Source: kernel documentation admin-guide/device-mapper/snapshot.rst, persistent stores; lvcreate(8); libvslvm,
"LVM format specification", Snapshots; field order by comparing what a kernel wrote.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._lvm2_bodies import Body, inherited, joined
from imgfs.backends._lvm2_content import Content
from imgfs.backends._lvm2_label import SECTOR
from imgfs.errors import EvidenceError, Malformed
from imgfs.layouts import LOST

if TYPE_CHECKING:
    from imgfs.backends._lvm2_bodies import Run
    from imgfs.backends._lvm2_group import Group, Segment
    from imgfs.backends._lvm2_volumes import Volumes

_HEADER: Final = struct.Struct("<4sIII")
_MAGIC: Final = b"SnAp"
_VERSION: Final = 1
_ENTRY: Final = 16
_EXCEPTIONS: Final = 2_000_000  # of one store: 8 GiB of changes in chunks of 4 KiB


def stores(group: Group) -> dict[str, Segment]:
    """Return the segments that make a snapshot, by the volume that is its store."""
    found: dict[str, Segment] = {}
    for logical in group.logical.values():
        for segment in logical.segments:
            if segment.kind == "snapshot":
                store = segment.text("cow_store") or segment.text("merging_store")
                found.setdefault(store, segment)
    return found


def body(volumes: Volumes, segment: Segment) -> Body:
    """Return the origin with the chunks of the store in their places.

    Raises:
        EvidenceError: nothing can be said of it.
    """
    store = segment.text("cow_store") or segment.text("merging_store")
    origin = volumes.body(segment.text("origin"))
    cow = volumes.body(store)
    content = Content(volumes.stack, cow)
    chunk = _chunk(volumes, store, content, segment)
    if not chunk:
        return volumes.part(origin, 0, segment.length)
    changed, why = _exceptions(content, chunk, segment.length)
    below, base = volumes.stack.lower(origin)
    above, at = volumes.stack.lower(cow)
    runs: list[Run] = []
    end = 0
    for old in sorted(changed):
        start = old * chunk
        if not why:
            runs.append((end, min(start, origin.size) - end, below, base + end))
        length = min(chunk, segment.length - start)
        new = changed[old]
        runs.append((start, length, above, at + new * chunk) if new >= 0 else (start, length, 0, LOST))
        end = start + length
    if not why:
        runs.append((end, min(segment.length, origin.size) - end, below, base + end))
    if why:
        volumes.say(store, f"{len(changed)} chunks are known to be in its store, the rest is lost: {why}")
    runs = joined(segment.length, runs)
    lost = inherited(runs, volumes.stack, (origin, cow))
    return Body(segment.length, runs, len(runs) + origin.laid(0) + cow.laid(len(changed) * chunk), lost)


def _chunk(volumes: Volumes, name: str, content: Content, segment: Segment) -> int:
    """Return the bytes of a chunk; 0: the store was never used.

    Raises:
        Malformed: it is none, or full.
    """
    magic, valid, version, sectors = _HEADER.unpack(content.read(0, _HEADER.size))
    if magic == bytes(4):
        volumes.say(name, "its store was never used: it is as its origin")
        return 0
    if magic != _MAGIC or version != _VERSION:
        raise Malformed(f"a store of kind {magic!r}, version {version}")
    if not valid:
        raise Malformed("its store ran full or was given up: what it was is gone")
    if sectors != segment.number("chunk_size", sectors):
        volumes.say(name, f"chunks of {sectors} sectors, the group says {segment.number('chunk_size')}")
    if not 0 < sectors <= limits.MIB // SECTOR * 16 or sectors & (sectors - 1):
        raise Malformed(f"chunks of {sectors} sectors")
    return int(sectors) * SECTOR


def _exceptions(content: Content, chunk: int, size: int) -> tuple[dict[int, int], str]:
    """Return where the store has which chunk, -1: two places; and why that may not be all.

    Tables of the width of a chunk lie at 1, and behind the chunks of each.
    """
    each = chunk // _ENTRY
    chunks, end = content.size // chunk, -(-size // chunk)
    found: dict[int, int] = {}
    table = 1
    if chunks <= table:
        return found, "it ends before its first table"
    while table < chunks:
        if len(found) + each > _EXCEPTIONS:
            return found, f"more than {_EXCEPTIONS} chunks"
        try:
            entries = array("Q", content.read(table * chunk, each * _ENTRY))
        except EvidenceError as why:
            return found, why.message
        for old, new in zip(entries[::2], entries[1::2], strict=True):
            if not new:
                return found, ""
            if old >= end or not 1 < new < chunks or (new - 1) % (each + 1) == 0:
                return found, f"chunk {old} at {new} of {chunks}"
            found[old] = new if old not in found else -1
        table += each + 1
    return found, ""
