"""Attributes of a file: what its ICB says, and its area of extended attributes.

Source: ECMA-167 3rd edition, 4/14.6.8 (flags), 4/14.9.5 (permissions), 4/14.10 (extended attributes), 4/14.16
(path components); OSTA UDF 2.60, 3.3.3 (permissions), 3.3.4 (extended attributes).
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from imgfs.backends.udf.icb import content, read_icb
from imgfs.backends.udf.structures import ATTRIBUTES, characters, kind_of
from imgfs.errors import EvidenceError, Malformed
from imgfs.limits import MAX_LINK
from imgfs.model import Attr, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.udf.icb import Icb
    from imgfs.backends.udf.structures import Clock
    from imgfs.backends.udf.volume import Volume

_NOBODY: Final = 0xFFFF_FFFF  # an owner that was not recorded
_OVERFLOW: Final = 65_534  # who nobody is where numbers must be (Linux: overflowuid)
_SIZED: Final = frozenset((Kind.REG, Kind.LNK, Kind.DIR))
_DEVICES: Final = frozenset((Kind.CHR, Kind.BLK))
_TIMES, _DEVICE = (5, 1), (12, 1)  # types and subtypes of extended attributes
_AREA: Final = 1 << 16  # bytes of extended attributes that are looked at
_LINK: Final = 16 * MAX_LINK  # bytes of a target as it is stored


def attr_of(volume: Volume, icb: Icb, clock: Clock) -> Attr:
    """Return the attributes of a file.

    Raises:
        EvidenceError: it is nothing a user sees.
    """
    kind, damaged = icb.kind, ""
    size, rdev = icb.size, 0
    modified, accessed, changed, born = icb.stamps
    if kind in _DEVICES or (not born and len(icb.attributes) > 24):
        for found, body in _attributes(volume, icb):
            if found == _DEVICE and len(body) >= 24:
                rdev = os.makedev(*(number & 0xFFFFF for number in struct.unpack_from("<II", body, 16)))
            elif found == _TIMES and len(body) >= 32 and body[16] & 1:
                born = body[20:32]
    if kind == Kind.LNK:
        try:
            size = len(target_of(volume, icb))
        except EvidenceError as why:
            damaged = why.message
    permissions = icb.permissions
    mode = permissions & 7 | permissions >> 2 & 0o70 | permissions >> 4 & 0o700
    mode |= (icb.flags & 0x40) << 5 | (icb.flags & 0x80) << 3 | (icb.flags & 0x100) << 1
    return Attr(
        kind=kind,
        inum=icb.number,
        size=size if kind in _SIZED else 0,
        allocated=min(icb.blocks, 1 << 50) * volume.block,
        mode=mode,
        uid=_OVERFLOW if icb.uid == _NOBODY else icb.uid,
        gid=_OVERFLOW if icb.gid == _NOBODY else icb.gid,
        nlink=icb.links + (kind == Kind.DIR),  # a directory's own name . is not stored
        m_ns=clock.moment(modified),
        a_ns=clock.moment(accessed),
        c_ns=clock.moment(changed),
        b_ns=clock.moment(born) if born else None,
        rdev=rdev,
        damaged=damaged,
    )


def _attributes(volume: Volume, icb: Icb) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Yield extended attributes, those of an ICB of their own after those beside the file's."""
    areas = [icb.attributes]
    if icb.more.length & 0x3FFF_FFFF:
        with suppress(EvidenceError):  # what they would add stays unsaid
            areas.append(content(volume, read_icb(volume, icb.more.ref, icb.more.block), _AREA))
    for area in areas:
        at = 24 if kind_of(area) == ATTRIBUTES else 0
        while at + 12 <= len(area):
            kind, subtype, length = struct.unpack_from("<IB3xI", area, at)
            if length < 12 or at + length > len(area):
                break
            yield (kind, subtype), area[at : at + length]
            at += length


def target_of(volume: Volume, icb: Icb) -> bytes:
    """Return the target of a symbolic link.

    Raises:
        EvidenceError: it cannot be read, or is longer than a path can be.
    """
    raw, at = content(volume, icb, _LINK), 0
    target = b""
    while at + 4 <= len(raw):
        kind, length = raw[at], raw[at + 1]
        if at + 4 + length > len(raw):
            raise Malformed(f"ICB {icb.block}: a link target that is cut short")
        if kind == 2 or (kind == 1 and not length):
            target = b"/"
        elif kind in (3, 4, 5):
            name = b".." if kind == 3 else b"." if kind == 4 else characters(raw[at + 4 : at + 4 + length])
            target += name if not target or target.endswith(b"/") else b"/" + name
        at += 4 + length
        if len(target) > MAX_LINK:
            raise Malformed(f"ICB {icb.block}: a link target of more than {MAX_LINK} bytes")
    return target
