"""What a container says beside its bytes, bounded to what a reply carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NOTES: Final = 1000
_RANGES: Final = 2000
_VALUE: Final = 16 << 10  # characters
_LINE: Final = 200

Range = tuple[int, int, str]


def notes(*groups: Iterable[str]) -> tuple[str, ...]:
    """Return remarks once each, and how many more there are."""
    found = list(dict.fromkeys(note[:_LINE] for group in groups for note in group))
    more = len(found) - _NOTES
    return (*found[:_NOTES], f"and {more} more remarks") if more > 0 else tuple(found)


def lost(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Return lost ranges in order; what is beyond the number that is told becomes one."""
    found = [(start, stop, why[:_LINE]) for start, stop, why in sorted(ranges)]
    if len(found) <= _RANGES:
        return tuple(found)
    rest = (found[_RANGES][0], found[-1][1], "much of this range is lost: too many parts to name")
    return (*found[:_RANGES], rest)


def metadata(values: Mapping[str, str]) -> dict[str, str]:
    """Return values; one that is very long is cut, and says so."""
    return {
        name: value if len(value) <= _VALUE else f"{value[:_VALUE]} [{len(value)} characters, cut]"
        for name, value in values.items()
    }
