"""What no slot of a table covers: gaps are volumes too. And what of a table can be shown at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs import limits
from imgfs.model import SlotKind, Volume

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def gaps(volumes: Iterable[Volume], size: int) -> list[Volume]:
    """Return the ranges of [0, size) that no allocated volume covers, in order.

    Metadata covers nothing: an extended slot spans its volumes and what lies between them.
    Overlapping volumes are as an attacker or a hybrid table made them; what any of them covers is no gap.
    """
    found: list[Volume] = []
    end = 0
    allocated = ((v.start, v.stop) for v in volumes if v.kind is SlotKind.ALLOCATED and v.start < v.stop)
    for start, stop in sorted(allocated):
        if start >= size:
            break
        if start > end:
            found.append(_gap(end, start))
        end = max(end, stop)
    if end < size:
        found.append(_gap(end, size))
    return found


def _gap(start: int, stop: int) -> Volume:
    return Volume(slot=-1, kind=SlotKind.UNALLOCATED, start=start, stop=stop)


def bounded(
    volumes: Sequence[Volume], size: int, limit: int = limits.MAX_VOLUMES
) -> tuple[list[Volume], Volume | None, list[str]]:
    """Return the volumes to show, the remainder as one volume, and what has to be said.

    Ranges are clipped to the media: a truncated image keeps the beginning of its volumes.
    """
    said: list[str] = []
    shown: list[Volume] = []
    for volume in volumes:
        if volume.kind is not SlotKind.ALLOCATED:
            continue
        start, stop = max(volume.start, 0), min(volume.stop, size)
        if start >= stop:
            said.append(
                f"slot {volume.slot}: [{volume.start}, {volume.stop}) lies outside the media of {size} bytes"
            )
            continue
        if (start, stop) != (volume.start, volume.stop):
            said.append(f"slot {volume.slot}: ends at {volume.stop}, the media at {size}: its end is missing")
        shown.append(
            Volume(
                **{name: getattr(volume, name) for name in volume.__struct_fields__}
                | {"start": start, "stop": stop}
            )
        )
    if len(shown) <= limit:
        return shown, None, said
    rest = shown[limit:]
    said.append(f"{len(shown)} volumes: the first {limit} are shown, the other {len(rest)} as one remainder")
    start, stop = min(v.start for v in rest), max(v.stop for v in rest)
    return shown[:limit], Volume(slot=limit + 1, kind=SlotKind.ALLOCATED, start=start, stop=stop), said
