"""Counters of the block layer, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStatistics:
    """What the cache of decoded units did. Units: ``used`` and ``capacity`` bytes."""

    hits: int
    misses: int
    joined: int
    evicted: int
    failed: int
    blocks: int
    used: int
    capacity: int
    in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchStatistics:
    """What fetching did. Units: ``*_bytes`` bytes.

    ``nowait`` counts reads answered without waiting, ``waited`` the others; ``pool_trips`` hops to a pool
    thread, ``ring_reads`` waits through io_uring; ``inline_units`` were decoded on the loop because a hop
    would have cost more; ``foreign_units`` came from workers; ``cache`` holds units, ``strips`` what
    sequential readers had decoded ahead.
    """

    nowait: int
    waited: int
    pool_trips: int
    ring_reads: int
    stored_bytes: int
    decoded_units: int
    decoded_bytes: int
    inline_units: int
    foreign_units: int
    lost_bytes: int
    cache: CacheStatistics
    strips: CacheStatistics
