"""Extended attributes of EROFS: behind the inode, and shared ones in an area of their own.

Source: erofs.docs.kernel.org, Extended attributes; fs/erofs/erofs_fs.h of Linux (Apache-2.0).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError, Malformed
from imgfs.limits import MAX_XATTRS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgfs.backends.erofs.inode import Inode, Metadata
    from imgfs.backends.erofs.superblock import Superblock

_PREFIXES: Final = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    5: b"lustre.",
    6: b"security.",
}
_ENTRY: Final = struct.Struct("<BBH")
_LONG: Final = 0x80  # of the index of a name: it counts the table of long prefixes
_HEAD: Final = 12
_TOTAL: Final = 4 << 20  # bytes of all values of one file: a message holds 16 MiB
_DAMAGED: Final = b"user.imgfs.xattrs_damaged"

Stored = tuple[int, bytes, bytes]  # index, name, value


class Xattrs:
    """Extended attributes of one file system. ``packed`` reads bytes of the packed file."""

    __slots__ = ("_long", "_metadata", "_packed", "_superblock")

    def __init__(
        self, metadata: Metadata, superblock: Superblock, packed: Callable[[int, int], bytes]
    ) -> None:
        self._metadata = metadata
        self._superblock = superblock
        self._packed = packed
        self._long: list[bytes] | None = None

    def get(self, inode: Inode) -> dict[bytes, bytes]:
        """Return all attributes; what cannot be read is left out, and said."""
        found: dict[bytes, bytes] = {}
        total = names = 0
        try:
            for index, name, value in self._stored(inode):
                full = self._prefix(index) + name
                if full.startswith(b"user.imgfs."):
                    full = b"erofs." + full  # an image must not speak in our name
                total += len(value)
                names += len(full) + 1
                if len(full) > 255 or b"\0" in full or names > MAX_XATTRS // 2 or total > _TOTAL:
                    raise Malformed("extended attributes of too much")
                found.setdefault(full, value)
        except EvidenceError as why:
            found[_DAMAGED] = str(why)[:200].encode("utf-8", "replace")
        return found

    def _stored(self, inode: Inode) -> Iterator[Stored]:
        start, stop = inode.xattr_at, inode.behind
        if start < 0:
            return
        raw = self._metadata.read(start, stop - start)
        shared = raw[4]
        at = _HEAD + 4 * shared
        if at > len(raw):
            raise Malformed(f"{shared} shared attributes in {len(raw)} bytes", start=start, stop=stop)
        while at + _ENTRY.size <= len(raw):
            length, index, size = _ENTRY.unpack_from(raw, at)
            after = at + _ENTRY.size + length
            if after + size > len(raw):
                raise Malformed("an extended attribute leaves its inode", start=start, stop=stop)
            if length or index:  # what is left behind the last one is zeros
                yield index, raw[at + _ENTRY.size : after], raw[after : after + size]
            at = after + size + 3 & ~3
        for (number,) in struct.iter_unpack("<I", raw[_HEAD : _HEAD + 4 * shared]):
            place = self._superblock.xattr_at + 4 * number
            length, index, size = _ENTRY.unpack(self._metadata.read(place, _ENTRY.size))
            both = self._metadata.read(place + _ENTRY.size, length + size)
            yield index, both[:length], both[length:]

    def _prefix(self, index: int) -> bytes:
        if not index & _LONG:
            return _PREFIXES.get(index, b"erofs.%d." % index)
        if self._long is None:
            self._long = list(self._prefixes())
        number = index & ~_LONG
        if number >= len(self._long):
            raise Malformed(f"long prefix {number} of {len(self._long)}")
        return self._long[number]

    def _prefixes(self) -> Iterator[bytes]:
        read = self._packed if self._superblock.prefixes_packed else self._metadata.read
        at = self._superblock.prefixes_at
        for _ in range(self._superblock.prefixes):
            size = int.from_bytes(read(at, 2), "little")
            raw = read(at + 2, size)
            if not raw or size > 256:
                raise Malformed(f"a long prefix of {size} bytes", start=at, stop=at + 2)
            yield _PREFIXES.get(raw[0], b"erofs.%d." % raw[0]) + raw[1:]
            at += size + 2 + 3 & ~3
