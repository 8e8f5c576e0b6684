"""Security descriptors of NTFS: where $Secure keeps them, and who they name.

Source: [MS-DTYP] 2.4.2 (SID), 2.4.6 (SECURITY_DESCRIPTOR); NTFS documentation, "$Secure".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_HEADER = struct.Struct("<IIQI")  # hash, security id, offset of itself, length
_MIRROR: Final = 256 * 1024  # every second block of this size repeats the one before
MAX_DESCRIPTOR: Final = 65_535


class Descriptors:
    """Descriptors by security id, read when the first one is asked for."""

    __slots__ = ("_by_id", "_read")

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._by_id: dict[int, bytes] | None = None

    def get(self, number: int) -> bytes:
        """Return the descriptor of a security id, empty: none."""
        if self._by_id is None:
            self._by_id = index(self._read())
        return self._by_id.get(number, b"")


def index(stream: bytes) -> dict[int, bytes]:
    """Return descriptors by id from the contents of $Secure:$SDS."""
    found: dict[int, bytes] = {}
    for block in range(0, len(stream), 2 * _MIRROR):
        at, stop = block, min(block + _MIRROR, len(stream))
        while at + _HEADER.size <= stop:
            _, number, where, length = _HEADER.unpack_from(stream, at)
            if where != at or not 0 < length - _HEADER.size <= MAX_DESCRIPTOR or at + length > stop:
                break
            found[number] = stream[at + _HEADER.size : at + length]
            at += length + 15 & ~15
    return found


def owner_and_group(descriptor: bytes) -> tuple[str, str]:
    """Return the two identifiers of a self-relative descriptor, empty: not there."""
    if len(descriptor) < 20:
        return "", ""
    owner, group = struct.unpack_from("<II", descriptor, 4)
    return identifier(descriptor, owner), identifier(descriptor, group)


def identifier(descriptor: bytes, at: int) -> str:
    """Return the SID at an offset in the S-1-... notation, empty: none or cut off."""
    if not 20 <= at <= len(descriptor) - 8:
        return ""
    revision, count = descriptor[at], descriptor[at + 1]
    if revision != 1 or count > 15 or at + 8 + 4 * count > len(descriptor):
        return ""
    authority = int.from_bytes(descriptor[at + 2 : at + 8], "big")
    parts = struct.unpack_from(f"<{count}I", descriptor, at + 8)
    return "-".join(["S", "1", str(authority), *map(str, parts)])
