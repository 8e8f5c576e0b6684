"""Security descriptors as text.

Source: [MS-DTYP] 2.4.4 (ACE), 2.4.5 (ACL), 2.4.6 (SECURITY_DESCRIPTOR), 2.5.1 (SDDL).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.backends.ntfs.security import identifier
from imgfs.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = struct.Struct("<BBHIIII")  # revision, -, control, owner, group, SACL, DACL
_ACL = struct.Struct("<BBHHH")  # revision, -, size, entries, -
_ACE = struct.Struct("<BBHI")  # type, flags, size, rights
_ALIASES: Final = {
    "S-1-1-0": "WD",
    "S-1-3-0": "CO",
    "S-1-3-1": "CG",
    "S-1-5-2": "NU",
    "S-1-5-4": "IU",
    "S-1-5-6": "SU",
    "S-1-5-7": "AN",
    "S-1-5-10": "PS",
    "S-1-5-11": "AU",
    "S-1-5-12": "RC",
    "S-1-5-18": "SY",
    "S-1-5-19": "LS",
    "S-1-5-20": "NS",
    "S-1-5-32-544": "BA",
    "S-1-5-32-545": "BU",
    "S-1-5-32-546": "BG",
    "S-1-5-32-551": "BO",
    "S-1-16-4096": "LW",
    "S-1-16-8192": "ME",
    "S-1-16-12288": "HI",
    "S-1-16-16384": "SI",
}
_TYPES: Final = {0: "A", 1: "D", 2: "AU", 3: "AL", 5: "OA", 6: "OD", 7: "OU", 8: "OL", 17: "ML"}
_OBJECTS: Final = frozenset({5, 6, 7, 8})  # types that name objects before their SID
_FLAGS: Final = ((1, "OI"), (2, "CI"), (4, "NP"), (8, "IO"), (0x10, "ID"), (0x40, "SA"), (0x80, "FA"))
_RIGHTS: Final = {0x1F01FF: "FA", 0x120089: "FR", 0x120116: "FW", 0x1200A0: "FX"}
_LABEL_RIGHTS: Final = {1: "NW", 2: "NR", 4: "NX"}
_DACL, _SACL = 0x4, 0x10  # control: there is one
_CONTROL: Final = {
    _DACL: ((0x1000, "P"), (0x100, "AR"), (0x400, "AI")),
    _SACL: ((0x2000, "P"), (0x200, "AR"), (0x800, "AI")),
}


def sddl(descriptor: bytes) -> str:
    """Return a self-relative descriptor in the security descriptor definition language.

    Raises:
        Malformed: a list or an entry of one leaves the descriptor, or an entry has a type that SDDL has not.
    """
    if len(descriptor) < _HEADER.size:
        raise Malformed(f"security descriptor of {len(descriptor)} bytes")
    _, _, control, owner, group, sacl, dacl = _HEADER.unpack_from(descriptor)
    parts = [
        mark + _named(found)
        for mark, at in (("O:", owner), ("G:", group))
        if (found := identifier(descriptor, at))
    ]
    for mark, present, at in (("D:", _DACL, dacl), ("S:", _SACL, sacl)):
        if control & present:
            flags = "".join(word for bit, word in _CONTROL[present] if control & bit)
            parts.append(mark + flags + ("".join(_entries(descriptor, at)) if at else "NO_ACCESS_CONTROL"))
    return "".join(parts)


def _entries(descriptor: bytes, at: int) -> Iterator[str]:
    """Yield the entries of the list at an offset."""
    if at + _ACL.size > len(descriptor):
        raise Malformed(f"access control list at {at} of {len(descriptor)}")
    _, _, size, count, _ = _ACL.unpack_from(descriptor, at)
    stop = at + size
    if stop > len(descriptor):
        raise Malformed(f"access control list of {size} bytes at {at} of {len(descriptor)}")
    at += _ACL.size
    for _ in range(count):
        if at + _ACE.size > stop:
            raise Malformed(f"access control entry at {at} of {stop}")
        kind, flags, length, rights = _ACE.unpack_from(descriptor, at)
        if length < _ACE.size or at + length > stop or kind not in _TYPES:
            raise Malformed(f"access control entry of type {kind} and {length} bytes at {at} of {stop}")
        yield _entry(descriptor[: at + length], at, kind, flags, rights)
        at += length


def _entry(descriptor: bytes, at: int, kind: int, flags: int, rights: int) -> str:
    place = at + _ACE.size
    objects = ["", ""]
    if kind in _OBJECTS:
        (present,) = struct.unpack_from("<I", descriptor.ljust(place + 4, b"\0"), place)
        place += 4
        for index in range(2):
            if present & 1 << index:
                objects[index] = str(UUID(bytes_le=descriptor[place : place + 16].ljust(16, b"\0")))
                place += 16
    who = identifier(descriptor, place)
    if not who:
        raise Malformed(f"access control entry at {at} names nobody")
    words = "".join(word for bit, word in _FLAGS if flags & bit)
    names = _LABEL_RIGHTS if kind == 17 else _RIGHTS  # a mandatory label
    return f"({_TYPES[kind]};{words};{names.get(rights) or hex(rights)};{';'.join(objects)};{_named(who)})"


def _named(who: str) -> str:
    return _ALIASES.get(who, who)
