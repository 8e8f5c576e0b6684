"""Times as attributes carry them: nanoseconds in 64 bits, signed before 1970."""

from __future__ import annotations

from typing import Final

EARLIEST: Final = -(1 << 63) // 10**9 + 5  # seconds, 1677; 32 bits of nanoseconds come on top
LATEST: Final = (1 << 64) // 10**9 - 5  # 2554
BEYOND: Final = "a time before 1677 or after 2554 is not shown"


def nanoseconds(seconds: int, rest: int) -> int | None:
    """Return a time since 1970, None: attributes cannot carry it."""
    return seconds * 10**9 + rest if EARLIEST <= seconds < LATEST else None
