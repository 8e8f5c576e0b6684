"""Mirrors of the old kind: images beside each other, and a log of the regions that are alike.

Source: lvmraid(7) and lvconvert(8), segment type mirror; kernel documentation
admin-guide/device-mapper/dm-log.rst. The first image is what the others are made from.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends._lvm2_bodies import Body, joined, merged
from imgfs.backends._lvm2_content import Content
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgfs.backends._lvm2_bodies import Range, Run
    from imgfs.backends._lvm2_group import Segment
    from imgfs.backends._lvm2_volumes import Volumes

_LOG: Final = struct.Struct("<IIQ")
_MAGIC: Final = 0x4D69_5272
_BITS: Final = 1024  # where in the log they begin
_LOG_MAX: Final = 8 << 20
_IMAGES: Final = 64


def body(volumes: Volumes, name: str, segment: Segment) -> Body:
    """Return the first image, and where that is lost what others are known to have.

    Raises:
        EvidenceError: nothing can be said.
    """
    areas = segment.areas("mirrors")
    if len(areas) > _IMAGES:
        raise Malformed(f"{len(areas)} images")
    images = [volumes.area(area, segment.length) for area in areas]
    if not images[0].lost():
        return images[0]
    alike = _alike(volumes, name, segment)
    kept = [images[0], *(limited(image, alike) for image in images[1:])]
    volumes.say(name, "its first image is not whole: where the log says they are alike, another is read")
    return first_of(volumes, segment.length, kept)


def first_of(volumes: Volumes, size: int, images: Sequence[Body]) -> Body:
    """Return what the first image that has it holds, all through."""
    missing = [(0, size)]
    runs: list[Run] = []
    for image in images:
        lost = image.lost()
        for start, stop in _without(missing, lost):
            part = volumes.part(image, start, stop - start)
            runs += [(start + at, count, lower, target) for at, count, lower, target in part.runs]
        missing = _both(missing, lost)
    weight = sum(image.weight for image in images)
    return Body(size, joined(size, sorted(runs)), weight, tuple(missing))


def limited(image: Body, ranges: Sequence[Range]) -> Body:
    """Return an image of which only ``ranges`` can be trusted; for those who ask it for what is lost."""
    gone = _without([(0, image.size)], list(ranges))
    return Body(image.size, image.runs, image.weight, tuple(merged([*image.inner, *gone])))


def _alike(volumes: Volumes, name: str, segment: Segment) -> list[Range]:
    """Return the ranges in which the log says that all images are alike."""
    log = segment.text("mirror_log")
    region = segment.sectors("region_size")
    if not log:
        volumes.say(name, "its log was kept in memory: nothing says that its images are alike")
        return []
    content = Content(volumes.stack, volumes.body(log))
    try:
        magic, _version, _regions = _LOG.unpack(content.read(0, _LOG.size))
        count = -(-segment.length // region) if region else 0
        if magic != _MAGIC or not 0 < count <= 8 * _LOG_MAX:
            raise Malformed("no log of a mirror")
        bits = content.read(_BITS, -(-count // 8))
    except EvidenceError as why:
        volumes.say(name, f"its log cannot be read: {why}")
        return []
    found: list[Range] = []
    for number in range(count):
        if bits[number >> 3] >> (number & 7) & 1:
            stop = min((number + 1) * region, segment.length)
            if found and found[-1][1] == number * region:
                found[-1] = (found[-1][0], stop)
            else:
                found.append((number * region, stop))
    return found


def _without(ranges: list[Range], gone: Sequence[Range]) -> list[Range]:
    """Return what of ``ranges`` no range of ``gone`` covers; both in order."""
    found: list[Range] = []
    row = 0
    for start, stop in ranges:
        while row < len(gone) and gone[row][1] <= start:
            row += 1
        at, step = start, row
        while step < len(gone) and gone[step][0] < stop:
            if at < gone[step][0]:
                found.append((at, gone[step][0]))
            at = max(at, gone[step][1])
            step += 1
        if at < stop:
            found.append((at, stop))
    return found


def _both(ranges: list[Range], others: list[Range]) -> list[Range]:
    """Return what both cover."""
    return _without(ranges, _without([(0, ranges[-1][1])], others)) if ranges else []
