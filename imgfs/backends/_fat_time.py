"""Local times of FAT: TSK turns them into seconds with the process's zone, we with the analyst's."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from imgfs.model import Attr

if TYPE_CHECKING:
    from collections.abc import Callable

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  # wall clock: the zone is what is being applied


def use_utc() -> None:
    """Make the library's local time UTC, so that its seconds are the wall clock's."""
    if time.tzname != ("UTC", "UTC"):
        os.environ["TZ"] = "UTC0"
        time.tzset()


def localiser(zone: str) -> tuple[Callable[[Attr, int], Attr], str]:
    """Return what turns wall-clock times into UTC, and a note when the zone is unknown."""
    if zone in {"", "UTC"}:
        return lambda attr, _meta: attr, ""
    try:
        info = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        return (
            lambda attr, _meta: attr,
            f"time zone {zone} is not known here: times are shown as if they were UTC",
        )

    def shift(nanoseconds: int | None) -> int | None:
        if nanoseconds is None:
            return None
        seconds, rest = divmod(nanoseconds, 10**9)
        wall = (_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=info)
        return int(wall.timestamp()) * 10**9 + rest

    def localise(attr: Attr, _meta: int) -> Attr:
        fields = {name: getattr(attr, name) for name in attr.__struct_fields__}
        fields |= {name: shift(fields[name]) for name in ("m_ns", "a_ns", "c_ns", "b_ns")}
        return Attr(**fields)

    return localise, ""
