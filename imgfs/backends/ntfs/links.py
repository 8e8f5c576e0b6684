"""Targets of reparse points: as they are stored, and as paths from the root of this volume.

Source: [MS-FSCC] 2.1.2.4 (symbolic link), 2.1.2.5 (mount point). What the Windows Subsystem for Linux writes
is taken from what ntfs-3g writes in its place.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from imgfs.backends.ntfs.record import utf8
from imgfs.errors import Malformed

MOUNT_POINT, SYMLINK, LX_SYMLINK = 0xA0000003, 0xA000000C, 0xA000001D
_NAMES = struct.Struct("<4H")  # substitute name and length, printed name and length
_LX_AT: Final = 12  # behind the header stands a version, then UTF-8
_OBJECTS: Final = re.compile(rb"\\(\?\?|\\[?.]|DosDevices|GLOBAL\?\?)\\", re.IGNORECASE)  # not of a volume
_DRIVE: Final = re.compile(rb"[A-Za-z]:(?=\\|\Z)")


class Targets(NamedTuple):
    """The names in a reparse point, in UTF-8: what Windows follows, and what it prints."""

    substitute: bytes
    printed: bytes


def targets(point: bytes) -> Targets:
    """Return the names a reparse point holds.

    Raises:
        Malformed: another tag, or names that leave the buffer.
    """
    if len(point) < 8:
        raise Malformed("reparse point of less than 8 bytes")
    (tag,) = struct.unpack_from("<I", point)
    if tag == LX_SYMLINK:
        return Targets(point[_LX_AT:], b"")
    if tag not in {SYMLINK, MOUNT_POINT}:
        raise Malformed(f"reparse tag {tag:#x} names no file")
    start = 20 if tag == SYMLINK else 16
    if len(point) < start:
        raise Malformed(f"reparse point of {len(point)} bytes")
    substitute_at, substitute, printed_at, printed = _NAMES.unpack_from(point, 8)
    if max(substitute_at + substitute, printed_at + printed) + start > len(point):
        raise Malformed("a name of a reparse point leaves it")
    return Targets(_name(point, start + substitute_at, substitute), _name(point, start + printed_at, printed))


def path(point: bytes) -> bytes:
    """Return the target of a reparse point with ``/`` between its names.

    A letter of a drive is taken for this volume. What names another volume or a share keeps its whole
    name behind ``/??/``, where nothing is.

    Raises:
        Malformed: as ``targets`` does, or it holds no name.
    """
    found = targets(point)
    target = found.substitute or found.printed
    if not target:
        raise Malformed("a reparse point with an empty name")
    if int.from_bytes(point[:4], "little") == LX_SYMLINK:
        return target
    if begins := _OBJECTS.match(target):
        rest = target[begins.end() :]
        target = rest[2:] or b"\\" if _DRIVE.match(rest) else b"\\??\\" + rest
    elif target.startswith(b"\\\\"):
        target = b"\\??\\UNC" + target[1:]
    elif _DRIVE.match(target):
        target = target[2:] or b"\\"
    return target.replace(b"\\", b"/")


def elsewhere(point: bytes) -> str:
    """Return what is known of a target that is not on this volume, empty: it is."""
    where = path(point)
    if not where.startswith(b"/??/") or int.from_bytes(point[:4], "little") == LX_SYMLINK:
        return ""
    return ("another volume: " if where[4:10].lower() == b"volume" else "elsewhere: ") + where[4:].decode(
        "utf-8", "replace"
    )


def _name(point: bytes, at: int, length: int) -> bytes:
    return utf8(point[at : at + (length & ~1)])
