"""The superblock of EROFS.

Source: erofs.docs.kernel.org, Core on-disk format, Superblock; fs/erofs/erofs_fs.h of Linux (Apache-2.0) for
the names of features and the table of devices.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.backends._crc32c import crc32c
from imgfs.backends._times import nanoseconds
from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported

if TYPE_CHECKING:
    from imgfs.backends import Reader

AT: Final = 1024
MAGIC: Final = b"\xe2\xe1\xf5\xe0"
_FORM: Final = struct.Struct("<4sIIBBHQQIIII16s16sIHHHBBIQ")
_CHECKED: Final = 0x1  # compatible feature: the superblock has a checksum
_PLAIN_PREFIXES: Final = 0x10  # compatible feature: long prefixes lie beside the metadata
PADDED, CONFIGURED, CHUNKED, DEVICES = 0x1, 0x2, 0x4, 0x8
TAILS, FRAGMENTS, PREFIXES = 0x10, 0x20, 0x40
_READ: Final = PADDED | CONFIGURED | CHUNKED | DEVICES | TAILS | FRAGMENTS | PREFIXES
_NAMED: Final = {0x80: "48-bit block addresses", 0x100: "metabox"}
_SLOT: Final = 128  # bytes of a row of the table of devices
_MANY: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What the superblock says. Units: ``block``, ``size`` and ``*_at`` bytes; ``made_ns`` as in Attr."""

    block: int
    folder_block: int
    root: int
    made_ns: int | None
    size: int
    meta_at: int
    xattr_at: int
    incompat: int
    prefixes: int
    prefixes_at: int
    prefixes_packed: bool
    packed: int
    uuid: str
    label: str
    notes: tuple[str, ...]


def read_superblock(reader: Reader) -> Superblock:
    """Read the superblock.

    Raises:
        NotMine: there is none.
        NotSupported: it has features that change where things lie.
        Malformed: it contradicts itself.
    """
    if reader.size < AT + _FORM.size:
        raise NotMine("erofs")
    raw = reader.read(AT, 128)
    (
        magic, checksum, compat, bits, _, root, _, seconds, rest, blocks, meta, xattr, unique, label,
        incompat, _, devices, slot, folder_bits, prefixes, prefixes_at, packed,
    ) = _FORM.unpack_from(raw)  # fmt: skip
    if magic != MAGIC:
        raise NotMine("erofs")
    if incompat & ~_READ:
        names = [_NAMED.get(1 << bit, f"{1 << bit:#x}") for bit in range(32) if incompat & ~_READ & 1 << bit]
        raise NotSupported(f"EROFS with features that are not read: {', '.join(names)}")
    if not 9 <= bits <= 16 or folder_bits > 4:
        raise Malformed(
            f"erofs: blocks of 2^{bits} bytes, 2^{folder_bits} in a directory's", start=AT, stop=AT + 128
        )
    block = 1 << bits
    notes = []
    if compat & _CHECKED and _checksum(reader, block) != checksum:
        notes.append("the checksum of the superblock is wrong")
    if reader.size < blocks * block:
        notes.append(f"the volume has {reader.size} bytes, the file system {blocks * block}")
    if devices:
        notes.append(_devices(reader, devices, slot))
    return Superblock(
        block=block,
        folder_block=block << folder_bits,
        root=root,
        made_ns=nanoseconds(seconds, rest % 10**9),
        size=blocks * block,
        meta_at=meta * block,
        xattr_at=xattr * block,
        incompat=incompat,
        prefixes=prefixes,
        prefixes_at=4 * prefixes_at,
        prefixes_packed=bool(incompat & FRAGMENTS and packed) and not compat & _PLAIN_PREFIXES,
        packed=packed if incompat & FRAGMENTS else 0,
        uuid=str(UUID(bytes=unique)) if any(unique) else "",
        label=label.split(b"\0")[0].decode("utf-8", "replace"),
        notes=tuple(notes),
    )


def _checksum(reader: Reader, block: int) -> int:
    """Return the checksum of the block of the superblock, with zeros in its own place."""
    length = block - AT if block > AT else block
    try:
        data = bytearray(reader.read(AT, length))
    except EvidenceError:
        return -1
    data[4:8] = bytes(4)
    return crc32c(bytes(data)) ^ 0xFFFF_FFFF  # EROFS leaves out the last step


def _devices(reader: Reader, count: int, slot: int) -> str:
    """Say on which further devices data lie."""
    tags = []
    for number in range(min(count, _MANY)):
        try:
            tag = reader.read((slot + number) * _SLOT, 64).split(b"\0")[0]
        except EvidenceError:
            break
        tags.append(tag.decode("ascii", "replace") or "without a name")
    return f"some data lie on {count} further devices ({', '.join(tags)[:500]}), which are not read: lost"
