"""A volume group as its metadata text describes it: physical volumes, logical volumes, segments.

Values are checked here for their kind and range, not for what they refer to.

Source: libvslvm, "LVM format specification", Metadata; lvm2's man pages lvmraid(7), lvmthin(7), lvmcache(7)
and the text vgcfgbackup(8) writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._lvm2_label import SECTOR
from imgfs.backends._lvm2_text import parse
from imgfs.errors import Malformed

if TYPE_CHECKING:
    from imgfs.backends._lvm2_text import Section, Value

MAX_VOLUMES: Final = limits.MAX_SLOTS  # logical volumes, hidden ones too
MAX_MEMBERS: Final = 4096  # physical volumes; more than a few hundred are not practical
_EXTENT_MAX: Final = 1 << 42
_NAME_MAX: Final = 255
_NONE: Final[frozenset[str]] = frozenset()
_SEGMENT: Final = re.compile(r"segment[0-9]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Area:
    """Where a segment lies: ``name`` is a physical or a logical volume. Units: ``start`` bytes."""

    name: str
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Physical:
    """A physical volume of the group. Units: bytes; ``start`` is where its first extent lies."""

    name: str
    uuid: str
    start: int
    size: int
    extents: int
    missing: bool
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Part of a logical volume. Units: bytes. ``section`` holds what is particular to ``kind``."""

    start: int
    length: int
    kind: str
    extent: int
    section: Section = field(repr=False)

    def number(self, key: str, default: int = 0) -> int:
        """Return a number that is not negative; ``default`` if it is not given.

        Raises:
            Malformed: it is something else.
        """
        return _number(self.section, key, default)

    def sectors(self, key: str) -> int:
        """Return a number of sectors in bytes; see ``number``."""
        return _number(self.section, key, 0, limits.MAX_SIZE // SECTOR) * SECTOR

    def text(self, key: str) -> str:
        """Return a string; empty if it is not given."""
        return _text(self.section, key)

    def names(self, key: str) -> list[str]:
        """Return a list of names; see ``areas``."""
        found = self.section.get(key, [])
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise Malformed(f"{key} of a segment of type {self.kind}")
        return [name for name in found if isinstance(name, str)]

    def areas(self, key: str) -> list[Area]:
        """Return pairs of a name and an extent.

        Raises:
            Malformed: it is no such list.
        """
        found = self.section.get(key)
        if not isinstance(found, list) or not found or len(found) % 2:
            raise Malformed(f"{key} of a segment of type {self.kind}")
        areas = []
        for name, extent in zip(found[::2], found[1::2], strict=True):
            if not isinstance(name, str) or not isinstance(extent, int):
                raise Malformed(f"{key} of a segment of type {self.kind}")
            if not 0 <= extent <= limits.MAX_SIZE // self.extent:
                raise Malformed(f"{key}: extent {extent}")
            areas.append(Area(name, extent * self.extent))
        return areas


@dataclass(frozen=True, slots=True, kw_only=True)
class Logical:
    """A logical volume. ``broken`` says why its segments mean nothing. Units: ``size`` bytes."""

    name: str
    uuid: str
    size: int
    segments: tuple[Segment, ...]
    visible: bool
    created_ns: int | None
    host: str
    status: frozenset[str]
    broken: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A volume group. Units: ``extent`` bytes. ``snapshots`` maps a store to the segment that uses it."""

    name: str
    uuid: str
    seqno: int
    extent: int
    physical: dict[str, Physical]
    logical: dict[str, Logical]
    status: frozenset[str]
    host: str
    notes: tuple[str, ...]


def read_group(text: bytes) -> Group:
    """Read the one group of a metadata text.

    Raises:
        Malformed: the text, or what everything else of the group depends on.
    """
    root = parse(text)
    groups = [(name, body) for name, body in root.items() if isinstance(body, dict)]
    if len(groups) != 1 or root.get("contents", "Text Format Volume Group") != "Text Format Volume Group":
        raise Malformed(f"metadata of {len(groups)} volume groups")
    name, body = groups[0]
    extent = _number(body, "extent_size", 0, _EXTENT_MAX // SECTOR) * SECTOR
    if not extent:
        raise Malformed("extents without a size")
    physical, logical = _sections(body, "physical_volumes"), _sections(body, "logical_volumes")
    if not 0 < len(physical) <= MAX_MEMBERS or len(logical) > MAX_VOLUMES:
        raise Malformed(f"{len(physical)} physical and {len(logical)} logical volumes")
    notes: list[str] = []
    return Group(
        name=name[:_NAME_MAX],
        uuid=_text(body, "id"),
        seqno=_number(body, "seqno", 0, 1 << 32),
        extent=extent,
        physical={key: _physical(key, each, extent) for key, each in physical.items()},
        logical={key: _logical(key, each, extent) for key, each in logical.items()},
        status=_words(body, "status") | _words(body, "flags"),
        host=_text(root, "creation_host"),
        notes=tuple(notes),
    )


def _physical(name: str, body: Section, extent: int) -> Physical:
    count = _number(body, "pe_count", 0, limits.MAX_SIZE // extent)
    return Physical(
        name=name,
        uuid=_text(body, "id").replace("-", ""),
        start=_number(body, "pe_start", 0, limits.MAX_SIZE // SECTOR // 4) * SECTOR,
        size=_number(body, "dev_size", 0, limits.MAX_SIZE // SECTOR) * SECTOR,
        extents=count,
        missing="MISSING" in _words(body, "status") | _words(body, "flags"),
        device=_text(body, "device"),
    )


def _logical(name: str, body: Section, extent: int) -> Logical:
    broken = ""
    segments: tuple[Segment, ...] = ()
    try:
        segments = _segments(body, extent)
    except Malformed as why:
        broken = why.message
    status = _words(body, "status") | _words(body, "flags")
    created = body.get("creation_time")
    known = isinstance(created, int) and 0 < created < 1 << 33
    return Logical(
        name=name,
        uuid=_text(body, "id"),
        size=sum(segment.length for segment in segments),
        segments=segments,
        visible="VISIBLE" in status,
        created_ns=created * 1_000_000_000 if known and isinstance(created, int) else None,
        host=_text(body, "creation_host"),
        status=status,
        broken=broken,
    )


def _segments(body: Section, extent: int) -> tuple[Segment, ...]:
    """Return the segments of a volume in order, without gaps.

    Raises:
        Malformed: they are not so.
    """
    parts = [part for key, part in body.items() if _SEGMENT.fullmatch(key) and isinstance(part, dict)]
    segments = sorted((_segment(part, extent) for part in parts), key=lambda segment: segment.start)
    if len(segments) != _number(body, "segment_count", len(segments)):
        raise Malformed(f"{len(segments)} segments, {body.get('segment_count')} are declared")
    end = 0
    for segment in segments:
        if segment.start != end:
            raise Malformed(f"its segments do not meet at {end}")
        end += segment.length
    if not 0 < end <= limits.MAX_SIZE:
        raise Malformed(f"{end} bytes")
    return tuple(segments)


def _segment(body: Section, extent: int) -> Segment:
    most = limits.MAX_SIZE // extent
    start, count = _number(body, "start_extent", -1, most), _number(body, "extent_count", 0, most)
    if not count:
        raise Malformed("a segment without extents")
    kind = _text(body, "type").split("+", 1)[0]  # flags of later versions follow the type
    if kind.startswith("raid"):
        count -= _reserved(body, kind, most)
        if count <= 0:
            raise Malformed("a segment that is all reserved for reshaping")
    return Segment(start=start * extent, length=count * extent, kind=kind, extent=extent, section=body)


def _reserved(body: Section, kind: str, most: int) -> int:
    """Return the extents of a RAID segment that are kept free for reshaping: so many of each image."""
    images = _number(body, "device_count", 0, most)
    parity = 2 if kind.startswith("raid6") else 1 if kind.startswith(("raid4", "raid5")) else 0
    copies = max(_number(body, "data_copies", 1, most), 1) if kind.startswith("raid10") else 1
    return _number(body, "reshape_count", 0, most) * max(images - parity, 0) // copies


def _sections(body: Section, key: str) -> dict[str, Section]:
    """Return the sections within one; a name too long for a file system is none of the tools'."""
    found = body.get(key, {})
    if not isinstance(found, dict):
        raise Malformed(f"{key} is no section")
    if any(len(name) > _NAME_MAX for name in found):
        raise Malformed(f"{key}: a name of more than {_NAME_MAX} characters")
    return {name: each for name, each in found.items() if isinstance(each, dict)}


def _number(body: Section, key: str, default: int, most: int = 1 << 62) -> int:
    value: Value | Section = body.get(key, default)
    if not isinstance(value, int) or not 0 <= value <= most:
        raise Malformed(f"{key} is {str(value)[:64]!r}")
    return value


def _text(body: Section, key: str) -> str:
    value = body.get(key, "")
    return value[:_NAME_MAX] if isinstance(value, str) else ""


def _words(body: Section, key: str) -> frozenset[str]:
    value = body.get(key, [])
    return frozenset(word for word in value if isinstance(word, str)) if isinstance(value, list) else _NONE
