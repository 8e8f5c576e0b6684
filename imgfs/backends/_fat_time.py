"""Times of FAT and exFAT: wall clocks of a zone the analyst names, or of the offset an entry states.

Source: Microsoft FAT specification 1.03, section 6 (date and time formats); exFAT specification,
sections 7.4.8 (timestamps) and 7.4.10 (offsets from UTC).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_KEPT: Final = 65_536  # stamps: the files of a directory share most of theirs
_SECOND: Final = 10**9
_QUARTER: Final = 900 * _SECOND
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Clock:
    """Turns stamps, a date in the high and a time in the low 16 bits, into nanoseconds since 1970 UTC."""

    __slots__ = ("_known", "_zone")

    def __init__(self, zone: tzinfo) -> None:
        self._zone = zone
        self._known: dict[int, int | None] = {}

    def local(self, stamp: int) -> int | None:
        """Return a moment of the analyst's zone, None: none is recorded, or there is no such moment."""
        try:
            return self._known[stamp]
        except KeyError:
            found = self._convert(stamp, self._zone)
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[stamp] = found
        return found

    def offset(self, stamp: int, code: int) -> int | None:
        """Return a moment with the offset from UTC an exFAT entry states; without one it is local."""
        if not code & 0x80:
            return self.local(stamp)
        key = stamp | code << 32
        if key not in self._known:
            found = self._convert(stamp, UTC)
            if len(self._known) >= _KEPT:
                self._known.clear()
            quarters = (code & 0x7F) - (128 if code & 0x40 else 0)
            self._known[key] = None if found is None else found - quarters * _QUARTER
        return self._known[key]

    def _convert(self, stamp: int, zone: tzinfo) -> int | None:
        date, clock = stamp >> 16, stamp & 0xFFFF
        try:
            wall = datetime(
                1980 + (date >> 9),
                date >> 5 & 15,
                date & 31,
                clock >> 11,
                clock >> 5 & 63,
                (clock & 31) * 2,
                tzinfo=zone,
            )
            since = wall - _EPOCH
        except (ValueError, OverflowError):
            return None
        return since // timedelta(seconds=1) * _SECOND


def clock_of(zone: str) -> tuple[Clock, str]:
    """Return the clock of a zone by its IANA name, and a note when it is unknown."""
    if zone in {"", "UTC"}:
        return Clock(UTC), ""
    try:
        return Clock(ZoneInfo(zone)), ""
    except (ZoneInfoNotFoundError, OSError, ValueError):
        return Clock(UTC), f"time zone {zone} is not known here: times are shown as if they were UTC"
