"""Directory records of ISO 9660 and what Rock Ridge writes behind them.

Source: ECMA-119 4th edition, sections 8.4.26.1, 9.1 (directory record); IEEE P1281 SUSP 1.12,
sections 5.1-5.3; IEEE P1282 RRIP 1.12, section 4.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from imgfs.backends.iso9660.zisofs import Zipped, zipped
from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

SECTOR: Final = 2048
DIRECTORY, ASSOCIATED, MORE = 0x02, 0x04, 0x80  # file flags
_CONTINUATIONS: Final = 64  # CE entries of one record; a cycle ends here
_SLOTS: Final = ((1, "m_ns"), (2, "a_ns"), (3, "c_ns"), (0, "b_ns"))
_ZONES: Final = 52  # quarters of an hour from UTC at most
_KEPT: Final = 16_384  # stamps: the files of a directory share most of theirs
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class RockRidge:
    """What the system use entries of one record say; None and empty: nothing."""

    name: bytes | None = None
    mode: int | None = None
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    link: bytes | None = None
    times: dict[str, int] = field(default_factory=dict)
    child: int | None = None  # block of a directory moved elsewhere
    relocated: bool = False  # this is the place it was moved to
    rdev: tuple[int, int] = (0, 0)
    zipped: Zipped | None = None
    damaged: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One directory record. Units: ``at`` and ``stop`` bytes of the volume, ``extent`` logical blocks."""

    at: int
    stop: int
    extent: int
    size: int
    flags: int
    interleaved: bool
    m_ns: int | None
    identifier: bytes
    use: bytes


def parse(raw: bytes, at: int, here: int) -> Record | None:
    """Return the record at ``raw[at:]``, whose volume position is ``here``; None: no record."""
    length = raw[at] if at < len(raw) else 0
    if length < 34 or at + length > len(raw):
        return None
    body = raw[at : at + length]
    names = body[32]
    if 33 + names > length:
        return None
    start = 33 + names + (not names & 1)
    return Record(
        at=here,
        stop=here + length,
        extent=struct.unpack_from("<I", body, 2)[0] + body[1],
        size=struct.unpack_from("<I", body, 10)[0],
        flags=body[25],
        interleaved=bool(body[26] or body[27]),
        m_ns=short_time(body[18:25]),
        identifier=body[33 : 33 + names],
        use=body[start:],
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
    name, link, joined = bytearray(), bytearray(), False
    area: bytes | None = record.use[skip:]
    for _ in range(_CONTINUATIONS):
        following = None
        for sign, body in _entries(area or b""):
            if sign == b"CE" and len(body) >= 28:
                following = struct.unpack_from("<I4xI4xI", body, 4)
            elif sign == b"NM" and len(body) >= 5:
                if not body[4] & 6:
                    name += body[5:]
                found.name = bytes(name)
            elif sign == b"SL" and len(body) >= 5:
                joined = _components(body[5:], link, joined=joined)
                found.link = bytes(link)
            else:
                _apply(found, sign, body)
        if following is None:
            break
        where, offset, length = following
        try:
            area = reader.read(where * block + offset, min(length, 64 * 1024))
        except EvidenceError:
            found.damaged = f"continuation at block {where} cannot be read"
            break
    return found


def _entries(area: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 4 <= len(area):
        sign, length = area[at : at + 2], area[at + 2]
        if length < 4 or at + length > len(area) or sign == b"ST":
            return
        yield sign, area[at : at + length]
        at += length


def _apply(found: RockRidge, sign: bytes, body: bytes) -> None:
    if sign == b"PX" and len(body) >= 36:
        found.mode, found.nlink, found.uid, found.gid = struct.unpack_from("<I4xI4xI4xI", body, 4)
    elif sign == b"TF" and len(body) >= 5:
        _times(found, body)
    elif sign == b"CL" and len(body) >= 12:
        (found.child,) = struct.unpack_from("<I", body, 4)
    elif sign == b"RE":
        found.relocated = True
    elif sign == b"PN" and len(body) >= 20:
        found.rdev = struct.unpack_from("<I4xI", body, 4)
    elif sign == b"ZF":
        found.zipped = zipped(body)
        if found.zipped is None:
            found.damaged = found.damaged or "compressed in a way that is not known: shown as it is stored"


def _times(found: RockRidge, body: bytes) -> None:
    flags, at = body[4], 5
    width = 17 if flags & 0x80 else 7
    for bit in range(7):
        if flags & 1 << bit:
            stamp = body[at : at + width]
            at += width
            value = long_time(stamp) if width == 17 else short_time(stamp)
            for slot, name in _SLOTS:
                if slot == bit and value is not None:
                    found.times[name] = value


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
    try:
        moment = datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]  # six of them
        moment -= timedelta(minutes=15 * quarters)
    except (ValueError, OverflowError):
        return None
    return (moment - _EPOCH) // timedelta(seconds=1) * 10**9 + centis * 10**7
