"""Security descriptors of NTFS: where $Secure keeps them, and who they name.

Source: [MS-DTYP] 2.4.2 (SID), 2.4.6 (SECURITY_DESCRIPTOR); NTFS documentation, "$Secure".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

_HEADER = struct.Struct("<IIQI")  # hash, security id, offset of itself, length
_MIRROR: Final = 256 * 1024  # bytes; every second block of this size repeats the one before
MAX_DESCRIPTOR: Final = 65_535


class Descriptors:
    """Descriptors by security id, read when the first one is asked for."""

    __slots__ = ("_bad", "_by_id", "_read")

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._by_id: dict[int, bytes] | None = None
        self._bad: set[int] = set()

    def get(self, number: int) -> bytes:
        """Return the descriptor of a security id, empty: none.

        Raises:
            Malformed: no copy of it has the checksum that is stored with it.
        """
        if self._by_id is None:
            self._by_id, self._bad = index(self._read())
        if number in self._bad:
            raise Malformed(f"the checksum of security descriptor {number} is wrong")
        return self._by_id.get(number, b"")


def index(stream: bytes) -> tuple[dict[int, bytes], set[int]]:
    """Return descriptors by id from the contents of $Secure:$SDS, and the ids of which no copy is good."""
    found: dict[int, bytes] = {}
    bad: set[int] = set()
    for block in range(0, len(stream), _MIRROR):
        at, stop = block, min(block + _MIRROR, len(stream))
        copy = block // _MIRROR % 2 * _MIRROR  # an entry of a copy says where the first one lies
        while at + _HEADER.size <= stop:
            stored, number, where, length = _HEADER.unpack_from(stream, at)
            if where != at - copy or not 0 < length - _HEADER.size <= MAX_DESCRIPTOR or at + length > stop:
                break
            if number not in found:
                descriptor = stream[at + _HEADER.size : at + length]
                if checksum(descriptor) == stored:
                    found[number] = descriptor
                    bad.discard(number)
                else:
                    bad.add(number)
            at += length + 15 & ~15
    return found, bad


def checksum(descriptor: bytes) -> int:
    """Return the hash of a descriptor: words are added to what was turned left by three bits.

    Source: NTFS documentation, "$Secure" (hash of the security descriptor).
    """
    total = 0
    for word in struct.unpack_from(f"<{len(descriptor) // 4}I", descriptor):
        total = (total << 3 | total >> 29) + word & 0xFFFFFFFF
    return total


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
