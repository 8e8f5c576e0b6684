"""Logical volumes as bodies: each segment by its type, volumes within volumes, what is missing as lost.

Source: lvm2's man pages lvmraid(7), lvmthin(7), lvmcache(7), lvcreate(8); kernel documentation
admin-guide/device-mapper (linear, striped, dm-raid, snapshot, thin-provisioning, cache).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends import (
    _lvm2_cache,
    _lvm2_mirror,
    _lvm2_raid,
    _lvm2_snapshot,
    _lvm2_thin,
    _lvm2_writecache,
)
from imgfs.backends._lvm2_bodies import Body, hole_body, joined, lost_body, merged
from imgfs.backends._stripes import Disk, deal, plain
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from imgfs.backends._lvm2_bodies import Run, Stack
    from imgfs.backends._lvm2_group import Area, Group, Logical, Segment

DEPTH: Final = 16  # a snapshot of a cached volume on a RAID on a pool's data has eight
_STRIPES: Final = 128


class Volumes:
    """The bodies of a group. ``present`` maps physical volumes to tickets."""

    __slots__ = ("_bodies", "_deepest", "_open", "group", "notes", "pools", "present", "stack", "stores")

    def __init__(self, group: Group, present: Mapping[str, int], stack: Stack) -> None:
        self.group = group
        self.present = present
        self.stack = stack
        self.notes: list[str] = []
        self.pools: dict[str, _lvm2_thin.Pool | None] = {}
        self.stores = _lvm2_snapshot.stores(group)
        self._bodies: dict[str, Body] = {}
        self._open: list[str] = []
        self._deepest: list[int] = []  # of what the open ones lie upon

    def say(self, name: str, why: str) -> None:
        """Remark something about a volume."""
        self.notes.append(f"{name}: {why}")

    def body(self, name: str) -> Body:
        """Return the bytes of a logical volume; what its damage costs is lost, and said.

        Raises:
            Malformed: there is no such volume, or it holds itself.
        """
        body = self._bodies.get(name) or self._new(name)
        if self._deepest:
            self._deepest[-1] = max(self._deepest[-1], body.depth)
        return body

    def _new(self, name: str) -> Body:
        volume = self.group.logical.get(name)
        if volume is None:
            raise Malformed(f"no volume {name!r} in the group")
        if name in self._open or len(self._open) >= DEPTH:
            raise Malformed(f"{name}: volumes within each other, {len(self._open)} deep")
        self._open.append(name)
        self._deepest.append(0)
        try:
            body = self._made(volume)
        finally:
            self._open.pop()
            depth = self._deepest.pop() + 1
        if depth >= DEPTH:
            self.say(name, f"volumes within each other, {depth} deep")
            body = lost_body(body.size)
        body.depth = max(body.depth, depth)
        self._bodies[name] = body
        return body

    def shown(self, volume: Logical) -> Body:
        """Return what a visible volume reads as: a snapshot's store is shown as the snapshot."""
        segment = self.stores.get(volume.name)
        if segment is not None:
            return self._snapshot(volume.name, segment)
        return self.merging(volume)

    def merging(self, volume: Logical) -> Body:
        """Return a volume with the snapshot that is being merged into it, as the kernel shows it."""
        for segment in self.stores.values():
            if segment.text("origin") == volume.name and segment.text("merging_store"):
                self.say(volume.name, f"snapshot {segment.text('merging_store')} is being merged into it")
                return self._snapshot(volume.name, segment)
        return self.body(volume.name)

    def runs_of(self, areas: Iterable[tuple[int, int, Body]]) -> list[Run]:
        """Return the start of each body where it is to lie: (logical, length, body)."""
        found: list[Run] = []
        for at, length, body in areas:
            if len(body.runs) > 1 and body.weight > 64:
                which, base = self.stack.lower(body)
                inside = min(length, body.size)
                found += [(at, inside, which, base)]
            else:
                cut = body.cut(0, length)
                found += [(at + start, count, lower, place) for start, count, lower, place in cut]
        return found

    def area(self, area: Area, length: int) -> Body:
        """Return ``length`` bytes of what an area of a segment names."""
        physical = self.group.physical.get(area.name)
        if physical is None:
            inner = self.body(area.name)
            if area.start + length > inner.size:
                used = f"[{area.start}, {area.start + length})"
                self.say(area.name, f"{used} of its {inner.size} bytes are used")
            return self.part(inner, area.start, length)
        ticket = self.present.get(area.name)
        if ticket is None:
            return lost_body(length)
        start = physical.start + area.start
        until = min(self.stack.tickets[ticket].size, physical.start + physical.extents * self.group.extent)
        inside = max(0, min(length, until - start))
        return Body(length, joined(length, [(0, inside, ticket, start)]), 2)

    def part(self, inner: Body, start: int, length: int) -> Body:
        """Return a range of a body; many runs are referred to and not repeated."""
        if not start and length == inner.size:
            return inner
        if len(inner.runs) <= 64:
            runs = joined(length, inner.cut(start, length))
        else:
            which, base = self.stack.lower(inner)
            inside = max(0, min(length, inner.size - start))
            runs = joined(length, [(0, inside, which, base + start)])
        lost = [(max(a, start) - start, min(b, start + length) - start) for a, b in inner.inner]
        return Body(length, runs, inner.weight, tuple((a, b) for a, b in lost if a < b))

    def _snapshot(self, name: str, segment: Segment) -> Body:
        """Return a snapshot; lost, and said, if its store is damaged."""
        try:
            return _lvm2_snapshot.body(self, segment)
        except EvidenceError as why:
            return self._gone(name, segment, why)

    def _gone(self, name: str, segment: Segment, why: EvidenceError) -> Body:
        self.say(name, f"[{segment.start}, {segment.start + segment.length}) is lost: {why}")
        return lost_body(segment.length)

    def _made(self, volume: Logical) -> Body:
        if volume.broken:
            self.say(volume.name, volume.broken)
            return lost_body(0)
        parts: list[tuple[Segment, Body]] = []
        for segment in volume.segments:
            try:
                parts.append((segment, self._segment(volume, segment)))
            except EvidenceError as why:
                parts.append((segment, self._gone(volume.name, segment, why)))
        if len(parts) == 1 and parts[0][1].size == volume.size:
            return parts[0][1]
        runs = joined(volume.size, self.runs_of((s.start, s.length, body) for s, body in parts))
        inner = [(a + s.start, b + s.start) for s, body in parts for a, b in body.inner]
        return Body(volume.size, runs, sum(body.weight for _, body in parts), tuple(merged(inner)))

    def _segment(self, volume: Logical, segment: Segment) -> Body:
        """Return the bytes of one segment.

        Raises:
            EvidenceError: they are lost.
        """
        match segment.kind:
            case "striped" | "linear":
                return self._striped(segment)
            case "mirror":
                return _lvm2_mirror.body(self, volume.name, segment)
            case "zero":
                return hole_body(segment.length)
            case "error":
                self.say(volume.name, "a segment of type error")
                return lost_body(segment.length)
            case "thin":
                return _lvm2_thin.body(self, volume, segment)
            case "thin-pool":
                return self._inner(segment, "pool")
            case "cache":
                return _lvm2_cache.body(self, volume, segment)
            case "writecache":
                return _lvm2_writecache.body(self, volume, segment)
            case "cache-pool":
                return self._inner(segment, "data")
            case "integrity":
                self.say(volume.name, "its integrity journal is not replayed, its checksums are not compared")
                return self._inner(segment, "origin")
            case kind if kind.startswith("raid"):
                return _lvm2_raid.body(self, volume.name, segment)
            case kind:
                raise Malformed(f"a segment of type {kind!r}, which imgfs cannot read")

    def _inner(self, segment: Segment, key: str) -> Body:
        return self.part(self.body(segment.text(key)), 0, segment.length)

    def _striped(self, segment: Segment) -> Body:
        areas = segment.areas("stripes")
        count = segment.number("stripe_count", len(areas))
        if count != len(areas) or not 0 < count <= _STRIPES:
            raise Malformed(f"{count} stripes in {len(areas)} areas")
        if count == 1:
            return self.area(areas[0], segment.length)
        if segment.length % count:
            raise Malformed(f"{segment.length} bytes in {count} stripes")
        share = segment.length // count
        disks = [self.disk(self.area(area, share)) for area in areas]
        return deal(self.stack, segment.length, segment.sectors("stripe_size"), disks, plain(count))

    def disk(self, body: Body) -> Disk | None:
        """Return a body as a member of stripes; None: nobody has any of it."""
        lost = body.lost()
        if lost == [(0, body.size)]:
            return None
        first = body.runs[0]
        if len(body.runs) == 2 and first[3] >= 0 and body.runs[1][3] < -1:  # the disk ends early
            return Disk(which=first[2], base=first[3], size=first[1], lost=body.inner)
        which, base = self.stack.lower(body)
        return Disk(which=which, base=base, size=body.size, lost=tuple(lost))
