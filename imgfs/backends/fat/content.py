"""What an entry shows: where its bytes lie, and its attributes. What no cluster holds is lost.

Source: exFAT specification, section 7.6.5 (valid data length).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends._layouts import initialised, linear
from imgfs.backends.fat.clusters import (
    NO_FIRST,
    REUSED,
    clusters_of,
    directory_clusters,
    recovered,
    released,
)
from imgfs.errors import Malformed
from imgfs.model import LOST, Attr, Inline, Kind

if TYPE_CHECKING:
    from imgfs.backends._layouts import Row
    from imgfs.backends.fat.clusters import Found, Run
    from imgfs.backends.fat.volume import Form, Item, Volume
    from imgfs.model import Layout

EMPTY: Final = (Inline(b""),)
_LOOKED_AT: Final = 9_000_000  # clusters attributes are computed from: 4 GiB in sectors
_RUNS: Final = 20_000  # and runs: what is beyond is only looked at when its bytes are asked for
_IN_LISTING: Final = 2  # runs of a layout that travels with its name

_READ_ONLY: Final = 0x01
_ATTRIBUTES: Final = {_READ_ONLY: b"read-only", 0x02: b"hidden", 0x04: b"system", 0x20: b"archive"}


def xattrs_of(item: Item) -> dict[bytes, bytes]:
    """Return the attributes of an entry in words, for file systems without extended ones."""
    said = [word for bit, word in _ATTRIBUTES.items() if item.attributes & bit]
    return {b"user.imgfs.fat.attributes": b" ".join(said)} if said else {}


def rows_of(volume: Volume, runs: list[Run], size: int) -> list[Row]:
    """Return runs in bytes, clipped to ``size``; what the source does not hold is LOST."""
    rows: list[Row] = []
    logical, cluster = 0, volume.cluster
    for start, count in runs:
        length = min(count * cluster, size - logical)
        if start < 0:
            rows.append((logical, length, LOST))
        else:
            target = volume.place(start)
            inside = min(length, max(volume.limit - target, 0))
            if inside:
                rows.append((logical, inside, target))
            if inside < length:
                rows.append((logical + inside, length - inside, LOST))
        logical += length
    return rows


def layout_of(volume: Volume, item: Item, *, deleted: bool) -> tuple[Layout, ...]:
    """Say where the content of an entry lies.

    Raises:
        Malformed: it has more runs than a layout may have.
    """
    if item.directory or not item.size:
        return EMPTY
    found = recovered(volume, item) if deleted else clusters_of(volume, item)
    return (_laid(volume, item, found),)


def _laid(volume: Volume, item: Item, found: Found) -> Layout:
    rows = rows_of(volume, found.runs, item.size)
    stop = rows[-1][0] + rows[-1][1] if rows else 0
    if item.valid < stop:  # never written, and zeros as far as there are clusters for it
        rows = initialised(rows, item.valid, stop)
    return linear(item.size, rows)


def described(
    volume: Volume, item: Item, inum: int, form: Form, *, deleted: bool
) -> tuple[Attr, tuple[Layout, ...] | None]:
    """Return the attributes of an entry, and its layout if that is short."""
    if item.directory:
        return _directory(volume, item, inum, form, deleted=deleted), None
    size, allocated, why = item.size, 0, ""
    layout: tuple[Layout, ...] | None = EMPTY
    target = volume.place(item.first) if 0 < size <= volume.cluster and volume.holds(item.first) else -1
    if not deleted and item.valid == size and 0 <= target <= volume.limit - size:
        allocated, layout = volume.cluster, (linear(size, [(0, size, target)]),)  # most files
    elif size:
        layout = None
        clusters = min(-(-size // volume.cluster), volume.stop - 2)  # it cannot have more
        allocated = clusters * volume.cluster
        if clusters <= _LOOKED_AT:
            try:
                found = (recovered if deleted else clusters_of)(volume, item, _RUNS)
            except Malformed:
                pass  # the bytes are looked for when somebody wants them
            else:
                allocated, why = found.clusters * volume.cluster, found.damaged
                if len(found.runs) <= _IN_LISTING:
                    layout = (_laid(volume, item, found),)
    attr = Attr(
        kind=Kind.REG,
        inum=inum,
        size=size,
        allocated=allocated,
        mode=0o555 if item.attributes & _READ_ONLY else 0o777,
        nlink=0 if deleted else 1,
        m_ns=item.m_ns,
        a_ns=item.a_ns,
        b_ns=item.b_ns,
        deleted=deleted,
        damaged=item.damaged or why,
    )
    return attr, layout


def _directory(volume: Volume, item: Item, inum: int, form: Form, *, deleted: bool) -> Attr:
    why = ""
    if deleted:
        clusters = sum(count for _, count in released(volume, item, form))
        if not clusters:
            why = REUSED if volume.holds(item.first) else NO_FIRST
    else:
        found = directory_clusters(volume, item, form)
        clusters, why = found.clusters, found.damaged
    return Attr(
        kind=Kind.DIR,
        inum=inum,
        size=clusters * volume.cluster,
        allocated=clusters * volume.cluster,
        mode=0o555 if item.attributes & _READ_ONLY else 0o777,
        nlink=0 if deleted else 1,
        m_ns=item.m_ns,
        a_ns=item.a_ns,
        b_ns=item.b_ns,
        deleted=deleted,
        damaged=item.damaged or why,
    )
