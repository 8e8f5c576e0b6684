"""Extended attributes of NTFS files, and what the Windows Subsystem for Linux keeps in them.

Source: [MS-FSCC] 2.4.16 (FileFullEaInformation); Microsoft, "File Permissions for WSL" ($LXUID, $LXGID,
$LXMOD; $LXDEV of devices).
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

EA: Final = 0xE0  # the type of their attribute
EA_MAX: Final = 65_535  # bytes of all of a file
_ENTRY = struct.Struct("<IBBH")  # to the next, flags, length of the name, length of the value
_MAJOR, _MINOR = 1 << 12, 1 << 20  # numbers of a device end below


class Posix(NamedTuple):
    """Owner, mode and device of a file, None: not recorded."""

    uid: int | None
    gid: int | None
    mode: int | None
    rdev: int


def attributes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield names and values.

    Raises:
        Malformed: one leaves the others.
    """
    at = 0
    while at + _ENTRY.size <= len(content):
        step, _, letters, length = _ENTRY.unpack_from(content, at)
        name_at = at + _ENTRY.size
        value_at = name_at + letters + 1
        stop = min(at + step, len(content)) if step else len(content)
        if value_at + length > stop:
            raise Malformed(f"extended attribute at {at} of {len(content)}")
        yield content[name_at : value_at - 1], content[value_at : value_at + length]
        if not step:
            return
        at += step


def posix(content: bytes) -> Posix:
    """Return what WSL keeps of a file. Raises Malformed as ``attributes`` does."""
    found = dict(attributes(content)) if b"$LX" in content else {}
    numbers = {
        name: int.from_bytes(value, "little")
        for name in (b"$LXUID", b"$LXGID", b"$LXMOD")
        if len(value := found.get(name, b"")) == 4
    }
    rdev = 0
    if len(device := found.get(b"$LXDEV", b"")) == 8:
        major, minor = struct.unpack("<II", device)
        if major >= _MAJOR or minor >= _MINOR:
            raise Malformed(f"device {major}:{minor}")
        rdev = os.makedev(major, minor)
    return Posix(numbers.get(b"$LXUID"), numbers.get(b"$LXGID"), numbers.get(b"$LXMOD"), rdev)
