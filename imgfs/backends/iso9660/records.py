"""Directory records of ISO 9660 and what Rock Ridge writes behind them.

Source: ECMA-119 4th edition, sections 8.4.26.1, 9.1 (directory record); IEEE P1281 SUSP 1.12,
sections 5.1-5.3; IEEE P1282 RRIP 1.12, section 4.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.iso9660.zisofs import Zipped, zipped
from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

SECTOR: Final = 2048
DIRECTORY, ASSOCIATED, MORE = 0x02, 0x04, 0x80  # file flags
_CONTINUATIONS: Final = 256  # CE entries of one record
_NAME: Final = 4096  # bytes of the NM entries of one record
_ATTRIBUTES: Final = 1 << 20  # bytes of the AL entries of one record
_SLOTS: Final = (1, 2, 3, 0)  # which bit of TF is the time M, A, C, B
_NO_TIMES: Final = (None, None, None, None)
_RECORD: Final = struct.Struct("<xBI4xI4x7s3B4xB")  # up to the length of the identifier
_PX: Final = struct.Struct("<4xI4xI4xI4xI")
_SERIAL: Final = struct.Struct("<I")
_ZONES: Final = 52  # quarters of an hour from UTC at most
_KEPT: Final = 16_384  # stamps: the files of a directory share most of theirs
_EPOCH: Final = date(1970, 1, 1).toordinal()
_SET: Final = [tuple(bit for bit in range(7) if flags >> bit & 1) for flags in range(128)]

Times = tuple[int | None, int | None, int | None, int | None]


@dataclass(slots=True)
class RockRidge:
    """What the system use entries of one record say; None and empty: nothing."""

    name: bytes | None = None
    mode: int | None = None
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    serial: int = 0  # 0: none
    link: bytes | None = None
    times: Times = _NO_TIMES  # M, A, C, B
    child: int | None = None  # block of a directory moved elsewhere
    relocated: bool = False  # this is the place it was moved to
    rdev: tuple[int, int] = (0, 0)
    zipped: Zipped | None = None
    attributes: bytes = b""  # component areas of AL entries
    damaged: str = ""


class Record(NamedTuple):
    """One directory record. Units: ``at`` and ``stop`` bytes of the volume, ``extent`` logical blocks."""

    at: int
    stop: int
    extent: int
    size: int
    flags: int
    interleaved: int  # 0: it is not
    m_ns: int | None
    identifier: bytes
    use: bytes


def parse(raw: bytes, at: int, here: int) -> Record | None:
    """Return the record at ``raw[at:]``, whose volume position is ``here``; None: no record."""
    length = raw[at] if at < len(raw) else 0
    if length < 34 or at + length > len(raw):
        return None
    attributes, extent, size, stamp, flags, unit, gap, names = _RECORD.unpack_from(raw, at)
    if 33 + names > length:
        return None
    start = at + 33
    return Record(
        here,
        here + length,
        extent + attributes,
        size,
        flags,
        unit or gap,
        short_time(stamp),
        raw[start : start + names],
        raw[start + names + (not names & 1) : at + length],
    )


def records(reader: Reader, start: int, size: int) -> Iterator[Record | str]:
    """Yield the records of a directory; a string says what is missing."""
    at, stop = start, min(start + size, reader.size)
    if start + size > reader.size:
        yield f"directory at {start}: {start + size - reader.size} bytes lie behind the end"
    while at < stop:
        sector = reader.read(at, min(SECTOR, stop - at))
        inside = 0
        while inside < len(sector) and sector[inside]:
            record = parse(sector, inside, at + inside)
            if record is None:
                yield f"directory at {start}: broken record at {at + inside}"
                break
            yield record
            inside += sector[inside]
        at += SECTOR


def rock_ridge(reader: Reader, record: Record, skip: int, block: int) -> RockRidge:
    """Return what the system use area of a record and its continuations say."""
    found = RockRidge()
    names, held, joined = list[bytes](), list[bytes](), False
    link: bytearray | None = None
    seen: set[tuple[int, int]] | None = None
    area = record.use[skip:]
    while True:
        following = None
        at, end = 0, len(area) - 3
        while at < end:
            sign, length = area[at : at + 2], area[at + 2]
            if length < 4 or at + length > end + 3 or sign == b"ST":
                break
            body = area[at : at + length]
            at += length
            if sign == b"PX" and length >= 36:
                found.mode, found.nlink, found.uid, found.gid = _PX.unpack_from(body)
                if length >= 44:
                    (found.serial,) = _SERIAL.unpack_from(body, 36)
            elif sign == b"TF" and length >= 5:
                found.times = _times(body, found.times)
            elif sign == b"NM" and length >= 5:
                names.append(b"" if body[4] & 6 else body[5:])
            elif sign == b"CE" and length >= 28:
                following = struct.unpack_from("<I4xI4xI", body, 4)
            elif sign == b"SL" and length >= 5:
                link = bytearray() if link is None else link
                joined = _components(body[5:], link, joined=joined)
            elif sign == b"AL" and length >= 5:
                held.append(body[5:])
            else:
                _apply(found, sign, body)
        if following is None:
            break
        where, offset, length = following
        if seen is None:
            seen = set()
        if (where, offset) in seen or len(seen) >= _CONTINUATIONS:
            found.damaged = f"{len(seen)} continuations, which do not end"
            break
        seen.add((where, offset))
        try:
            area = reader.read(where * block + offset, min(length, 64 * 1024))
        except EvidenceError:
            found.damaged = f"continuation at block {where} cannot be read"
            break
    if names:
        name = b"".join(names)
        found.name = name[:_NAME]
        if len(name) > _NAME:
            found.damaged = found.damaged or f"its name has {len(name)} bytes"
    if link is not None:
        found.link = bytes(link)
    if held:
        found.attributes = b"".join(held)[:_ATTRIBUTES]
    return found


def _apply(found: RockRidge, sign: bytes, body: bytes) -> None:
    if sign == b"CL" and len(body) >= 12:
        (found.child,) = struct.unpack_from("<I", body, 4)
    elif sign == b"RE":
        found.relocated = True
    elif sign == b"PN" and len(body) >= 20:
        found.rdev = struct.unpack_from("<I4xI", body, 4)
    elif sign == b"ZF":
        found.zipped = zipped(body)
        if found.zipped is None:
            found.damaged = found.damaged or "compressed in a way that is not known: shown as it is stored"


@lru_cache(_KEPT)
def _times(body: bytes, before: Times) -> Times:
    """Return the times of a TF entry, and those of entries before it that it does not tell."""
    flags, at = body[4], 5
    width, value_of = (17, long_time) if flags & 0x80 else (7, short_time)
    known: dict[int, int] = {}
    for bit in _SET[flags & 0x7F]:
        value = value_of(body[at : at + width])
        at += width
        if value is not None:
            known[bit] = value
    modified, accessed, changed, created = _SLOTS
    m_ns, a_ns, c_ns, b_ns = before
    return (
        known.get(modified, m_ns),
        known.get(accessed, a_ns),
        known.get(changed, c_ns),
        known.get(created, b_ns),
    )


def _components(body: bytes, link: bytearray, *, joined: bool) -> bool:
    """Append the components of an SL entry; returns whether the last one goes on in the next entry."""
    at = 0
    while at + 2 <= len(body):
        flags, length = body[at], body[at + 1]
        text = {2: b".", 4: b"..", 8: b"/"}.get(flags & 14, body[at + 2 : at + 2 + length])
        if link and not joined and not link.endswith(b"/"):
            link += b"/"
        link += text
        joined = bool(flags & 1)
        at += 2 + length
    return joined


@lru_cache(_KEPT)
def short_time(stamp: bytes) -> int | None:
    """Return nanoseconds since 1970 of seven bytes (ECMA-119 9.1.5), None: not recorded."""
    if len(stamp) < 7 or not any(stamp[:6]):
        return None
    return _moment([1900 + stamp[0], *stamp[1:6]], 0, stamp[6])


@lru_cache(_KEPT)
def long_time(stamp: bytes) -> int | None:
    """Return nanoseconds since 1970 of seventeen bytes (ECMA-119 8.4.26.1), None: not recorded."""
    digits = stamp[:16]
    if len(stamp) < 17 or not digits.isdigit() or digits == b"0" * 16:
        return None
    parts = [int(digits[:4]), *(int(digits[at : at + 2]) for at in range(4, 16, 2))]
    return _moment(parts[:6], parts[6], stamp[16])


def _moment(parts: list[int], centis: int, zone: int) -> int | None:
    quarters = zone - 256 if zone > 127 else zone
    if not -_ZONES <= quarters <= _ZONES:
        quarters = 0  # no zone there is; programs have written such
    year, month, day, hour, minute, second = parts
    if hour > 23 or minute > 59 or second > 59:
        return None
    try:
        days = date(year, month, day).toordinal() - _EPOCH
    except ValueError:
        return None
    minutes = (days * 24 + hour) * 60 + minute - 15 * quarters
    found = (minutes * 60 + second) * 10**9 + centis * 10**7
    return found if -(1 << 63) <= found < 1 << 64 else None
