"""Where TrueCrypt and VeraCrypt keep headers, and which bytes a header speaks of.

Source: VeraCrypt documentation, "VeraCrypt Volume Format Specification"; for volumes of TrueCrypt before 6.0,
whose header is 512 bytes, whose hidden header lies 1,536 before the end and which have no backups: images
made by it, looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends._tcrypt import HEADER, SECTOR, random, unreadable
from imgfs.backends._tcrypt_trials import Spot
from imgfs.errors import EvidenceError, Malformed
from imgfs.model import Enciphered, Linear

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends._tcrypt import Header
    from imgfs.model import Layout

_BOTH: Final = ("TrueCrypt", "VeraCrypt")
_AREA: Final = 65_536
_OLD_HIDDEN: Final = 1536
_OLD: Final = 4  # the first version of headers that says where the data lies
SYSTEM_AT: Final = 62 * SECTOR
_SIZE_MOST: Final = 1 << 62


def spots(reader: Reader, said: list[str]) -> tuple[list[Spot], list[Spot]]:
    """Return where headers may be, and where copies of them; what cannot be one is left out.

    A volume starts with random bytes. One that no longer does was overwritten: then only copies are left.
    """
    rows: list[tuple[int, str, tuple[str, ...]]] = [(0, "standard", _BOTH)]
    backups: list[tuple[int, str]] = []
    if reader.size >= 4 * _AREA:
        rows.append((_AREA, "hidden", _BOTH))
        backups = [(reader.size - 2 * _AREA, "standard"), (reader.size - _AREA, "hidden")]
    if reader.size >= HEADER + _OLD_HIDDEN:
        rows.append((reader.size - _OLD_HIDDEN, "hidden", ("TrueCrypt",)))
    first = [_spot(reader, at, what, programs, said) for at, what, programs in rows]
    copies = [_spot(reader, at, what, _BOTH, said) for at, what in backups]
    return [one for one in first if one and first[0]], [one for one in copies if one]


def system_spot(reader: Reader) -> Spot | None:
    """Return where the header of a system's disk may be; None: it is none."""
    return _spot(reader, SYSTEM_AT, "system", _BOTH, [])


def _spot(reader: Reader, at: int, what: str, programs: tuple[str, ...], said: list[str]) -> Spot | None:
    if not 0 <= at <= reader.size - HEADER:
        return None
    try:
        stored = reader.read(at, HEADER)
    except EvidenceError as why:
        said.append(unreadable(why, at))
        return None
    return Spot(at, stored, what, programs) if random(stored) else None


def data_area(header: Header, what: str, size: int) -> tuple[int, int]:
    """Return where the data starts and how much of it is encrypted.

    Raises:
        Malformed: that cannot be.
    """
    if header.version < _OLD:
        if what == "hidden":
            return size - header.hidden - _OLD_HIDDEN, header.hidden
        return HEADER, header.size or size - HEADER
    return header.start, header.length


def mapped(header: Header, what: str, reader: Reader, tickets: int) -> tuple[list[Layout], int]:
    """Return the layouts of a volume's plaintext, and its size.

    Raises:
        Malformed: the header puts it where there is nothing.
    """
    start, length = data_area(header, what, reader.size)
    size = max(header.size, length)
    if start < 0 or start % SECTOR or size > _SIZE_MOST or start >= reader.size:
        raise Malformed(f"data of {size} bytes at {start} of {reader.size}")
    there = min(length, reader.size - start) // SECTOR * SECTOR
    layouts = deciphered(header, start, there, tickets)
    if there != size:
        runs = [(0, there, 0)] if there else []
        layouts.append(Linear.of(size, runs, [tickets + len(layouts) - 1] * len(runs)))
    return layouts, size


def deciphered(header: Header, start: int, length: int, tickets: int) -> list[Layout]:
    """Return one cipher over the other, for ``length`` bytes from ``start`` on; sectors count from byte 0."""
    layouts: list[Layout] = []
    if not length:
        return layouts
    for codec in header.codecs():
        layouts.append(
            Enciphered(
                size=length,
                sector=SECTOR,
                codec=codec,
                first=start // SECTOR,
                step=1,
                base=0 if layouts else start,
                which=tickets + len(layouts) - 1 if layouts else 0,
            )
        )
    return layouts
