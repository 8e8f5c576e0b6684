"""Extended attributes and ACLs of Rock Ridge discs, as xorriso writes them.

Source: Arbitrary Attribute Interchange Protocol 2.0 (libburnia, 2009): the AL entry, namespaces, the binary
form of ACLs. ACLs are shown in the kernel's form: version 2, then tag, permissions and number of each entry.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.errors import Malformed
from imgfs.limits import MAX_XATTRS

if TYPE_CHECKING:
    from collections.abc import Iterator

_SPACES: Final = {1: b"", 2: b"system.", 3: b"user.", 4: b"isofs.", 5: b"trusted.", 6: b"security."}
_TAGS: Final = {1: 0x01, 10: 0x02, 3: 0x04, 12: 0x08, 5: 0x10, 6: 0x20}  # type: the kernel's tag
_SWITCH: Final = 8  # to the default ACL
_QUALIFIED: Final = 8  # of an entry's flags: a number follows
_NOBODY: Final = 0xFFFFFFFF
_ACL: Final = (b"system.posix_acl_access", b"system.posix_acl_default")
_TOTAL: Final = 4 << 20  # bytes of all values of one file
_DAMAGED: Final = b"user.imgfs.xattrs_damaged"


def attributes_of(area: bytes) -> dict[bytes, bytes]:
    """Return the attributes in the component areas of a file's AL entries.

    What cannot be read is left out, and ``user.imgfs.xattrs_damaged`` says why.
    """
    damaged = ""
    found: dict[bytes, bytes] = {}
    total = names = 0
    try:
        for full, value in _pairs(area):
            total += len(value)
            names += len(full) + 1
            if names > MAX_XATTRS // 2 or total > _TOTAL:
                damaged = "extended attributes of too much"
                break
            if len(full) > 255 or b"\0" in full or len(value) > MAX_XATTRS:
                damaged = (
                    f"an extended attribute with a name of {len(full)} and a value of {len(value)} bytes"
                )
            else:
                found.setdefault(full, value)
    except Malformed as why:
        damaged = why.message
    if damaged:
        found[_DAMAGED] = damaged[:200].encode("utf-8", "replace")
    return found


def _pairs(area: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield full names and values. Raises Malformed: what follows cannot be read."""
    components = _components(area)
    for name in components:
        value = next(components, None)
        if value is None:
            raise Malformed("extended attributes: a name without a value")
        if name:
            yield _full(name), value
        else:
            yield from _lists(value)


def _components(area: bytes) -> Iterator[bytes]:
    """Yield names and values in turn: records of flags and a length, joined while they go on."""
    at, joined = 0, bytearray()
    while at < len(area):
        flags, length = area[at], area[at + 1] if at + 1 < len(area) else 0
        at += 2
        if at + length > len(area):
            raise Malformed("extended attributes: a component leaves its entries")
        joined += area[at : at + length]
        at += length
        if not flags & 1:
            yield bytes(joined)
            joined.clear()
    if joined:
        raise Malformed("extended attributes: a component has no end")


def _full(name: bytes) -> bytes:
    space = _SPACES.get(name[0])
    full = name if space is None else space + name[1:]
    return b"iso9660." + full if full.startswith(b"user.imgfs.") else full  # an image does not speak for us


def _lists(value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the ACLs of a value in the kernel's form and order."""
    rows: tuple[list[tuple[int, int, int]], ...] = ([], [])
    which = at = 0
    while at < len(value):
        flags, number = value[at], _NOBODY
        at += 1
        if flags & _QUALIFIED:
            at, number = _number(value, at)
        kind = flags >> 4
        if kind == _SWITCH:
            which = 1
        elif kind in _TAGS:
            rows[which].append((_TAGS[kind], number, flags & 7))
    for name, entries in zip(_ACL, rows, strict=True):
        if entries:
            body = b"".join(struct.pack("<HHI", tag, bits, number) for tag, number, bits in sorted(entries))
            yield name, struct.pack("<I", 2) + body


def _number(value: bytes, at: int) -> tuple[int, int]:
    """Return where a qualifier ends, and its number: most significant byte first, in records."""
    number, more = bytearray(), True
    while more:
        if at >= len(value) or at + 1 + (value[at] & 0x7F) > len(value):
            raise Malformed("an ACL leaves its attribute")
        more, length = bool(value[at] & 0x80), value[at] & 0x7F
        number += value[at + 1 : at + 1 + length]
        at += 1 + length
    return at, int.from_bytes(number[-4:])
