"""What a file's MFT record says beside its attributes: targets of reparse points, security, name times."""

from __future__ import annotations

import contextlib
import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from imgfs.backends.ntfs.extended import EA, EA_MAX, attributes
from imgfs.backends.ntfs.links import elsewhere, path, targets
from imgfs.backends.ntfs.objects import OBJECT_ID, Births, identifiers
from imgfs.backends.ntfs.record import (
    DATA,
    FILE_NAME,
    REPARSE,
    SECURITY,
    SHORT,
    STANDARD,
    Attribute,
    filetime,
    utf8,
)
from imgfs.backends.ntfs.reparse import REPARSE_MAX, name_of
from imgfs.backends.ntfs.sddl import sddl
from imgfs.backends.ntfs.security import MAX_DESCRIPTOR, Descriptors, owner_and_group
from imgfs.backends.ntfs.volume import parts_of
from imgfs.errors import EvidenceError, Malformed
from imgfs.limits import MAX_XATTRS

if TYPE_CHECKING:
    from imgfs.backends.ntfs.volume import File, Volume

_EA_NAME: Final = 200  # letters of an extended attribute's name that are shown: the kernel takes 255 in all
_EA_COUNT: Final = 200  # of a file that are shown: their names fit what the kernel takes
_LOGGED: Final = 0x100  # $LOGGED_UTILITY_STREAM
_SECURE: Final = 9  # the record of $Secure
_SDS_MAX: Final = 64 << 20  # bytes of $Secure:$SDS that are looked at
_FLAGS: Final = (  # [MS-FSCC] 2.6
    (0x1, "readonly"),
    (0x2, "hidden"),
    (0x4, "system"),
    (0x20, "archive"),
    (0x40, "device"),
    (0x80, "normal"),
    (0x100, "temporary"),
    (0x200, "sparse"),
    (0x400, "reparse"),
    (0x800, "compressed"),
    (0x1000, "offline"),
    (0x2000, "not_indexed"),
    (0x4000, "encrypted"),
    (0x8000, "integrity"),
    (0x20000, "no_scrub"),
    (0x40000, "recall_on_open"),
    (0x80000, "pinned"),
    (0x100000, "unpinned"),
    (0x400000, "recall_on_data_access"),
)
_SPACES: Final = ("posix", "win32", "dos", "win32+dos")


class Values:
    """Values of the files of one volume. The descriptors of $Secure are read when one is asked for."""

    __slots__ = ("_births", "_descriptors", "_volume")

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._births = Births(volume)
        self._descriptors = Descriptors(self._stored_descriptors)

    def link(self, number: int) -> bytes:
        """Return the target of a reparse point as a path from the root of the volume, or from the link.

        Raises:
            EvidenceError: there is none, or it names no file.
        """
        data = self._reparse(self._volume.file(number))
        if not data:
            raise Malformed("no reparse point")
        return path(data)

    def xattrs(self, number: int) -> dict[bytes, bytes]:
        """Return owner, attributes and name times under ``user.imgfs.ntfs.``."""
        try:
            file = self._volume.file(number)
        except EvidenceError:
            return {}
        found: dict[str, bytes] = {}
        names: list[Attribute] = []
        security = 0
        for attribute in file.attributes:
            if attribute.type == STANDARD and len(attribute.content) >= 48:
                (flags,) = struct.unpack_from("<I", attribute.content, 32)
                found["attributes"] = ",".join(word for bit, word in _FLAGS if flags & bit).encode()
                if len(attribute.content) >= 72:
                    (security,) = struct.unpack_from("<I", attribute.content, 52)
            elif attribute.type == FILE_NAME:
                names.append(attribute)
            elif attribute.type == _LOGGED and attribute.name == b"$EFS":
                found["efs"] = self._efs(file)
            elif attribute.type == OBJECT_ID and attribute.resident:
                content = attribute.content
                reference = file.state.sequence << 48 | number
                found |= identifiers(content, self._births.of(reference, content[:16]))
        found["fn_times"] = "\n".join(filter(None, map(_name_times, names))).encode()
        found["dos_name"] = b"\n".join(_name_of(name) for name in names if _space(name) == SHORT)
        found |= self._security(file, security)
        found = {"ntfs." + key: value for key, value in found.items()}
        found |= self._reparse_values(file) | self._extended_values(file)
        return _shown(found)

    def _stored_descriptors(self) -> bytes:
        parts = parts_of(self._volume.file(_SECURE), DATA, b"$SDS")
        return self._volume.value(parts, _SDS_MAX) if parts else b""

    def _efs(self, file: File) -> bytes:
        """Return the wrapped keys of an encrypted file, which whoever has a user's key can open it with."""
        try:
            return self._volume.value(parts_of(file, _LOGGED, b"$EFS"), MAX_XATTRS)
        except EvidenceError as why:
            return why.message.encode()

    def _security(self, file: File, number: int) -> dict[str, bytes]:
        """Return the descriptor of a file, its own or one that $Secure shares out, and what it says."""
        found: dict[str, bytes] = {}
        try:
            own = parts_of(file, SECURITY, b"")
            if own:
                descriptor = self._volume.value(own, MAX_DESCRIPTOR)
            else:
                descriptor = self._descriptors.get(number) if number else b""
            if descriptor:
                owner, group = owner_and_group(descriptor)
                found = {"owner_sid": owner.encode(), "group_sid": group.encode()}
                found["security_descriptor"] = descriptor
                found["sddl"] = sddl(descriptor).encode()
        except EvidenceError as why:
            found["security_damaged"] = why.message.encode()
        return found

    def _reparse(self, file: File) -> bytes:
        parts = parts_of(file, REPARSE, b"")
        return self._volume.value(parts, REPARSE_MAX) if parts else b""

    def _reparse_values(self, file: File) -> dict[str, bytes]:
        try:
            data = self._reparse(file)
        except EvidenceError:
            return {}
        if not data:
            return {}
        tag = int.from_bytes(data[:4], "little")
        found = {"ntfs.reparse_tag": b"0x%08x" % tag, "ntfs.reparse_name": name_of(tag).encode()}
        try:
            names = targets(data)
        except Malformed:
            return found | {"ntfs.reparse_data": data}
        found |= {"ntfs.substitute_name": names.substitute, "ntfs.print_name": names.printed}
        found["link"] = names.substitute or names.printed
        with contextlib.suppress(Malformed):
            found["ntfs.elsewhere"] = elsewhere(data).encode()
        return found

    def _extended_values(self, file: File) -> dict[str, bytes]:
        """Return extended attributes by their names."""
        found: dict[str, bytes] = {}
        try:
            parts = parts_of(file, EA, b"")
            content = self._volume.value(parts, EA_MAX) if parts else b""
            for name, value in attributes(content):
                text = name.decode("ascii", "backslashreplace").replace("\0", "\\x00")
                found["ntfs.ea." + text[:_EA_NAME]] = value
                if len(found) > _EA_COUNT:
                    raise Malformed(f"more than {_EA_COUNT} extended attributes")
        except EvidenceError as why:
            found["ntfs.ea_damaged"] = why.message.encode()
        return found


def _shown(found: dict[str, bytes]) -> dict[bytes, bytes]:
    """Return values under their names; text the kernel would not take ends with its last whole line."""
    shown: dict[bytes, bytes] = {}
    for key, value in found.items():
        if len(value) > MAX_XATTRS:
            value = value[: value.rfind(b"\n", 0, MAX_XATTRS) + 1] or b"more than the kernel takes"  # noqa: PLW2901
        if value:
            shown[b"user.imgfs." + key.encode()] = value
    return shown


def _space(attribute: Attribute) -> int:
    """Return the name space of a name, -1: it is cut off."""
    return attribute.content[65] & 3 if len(attribute.content) >= 66 else -1


def _name_of(attribute: Attribute) -> bytes:
    return utf8(attribute.content[66 : 66 + 2 * attribute.content[64]])


def _name_times(attribute: Attribute) -> str:
    """Return one line: name space, then modified, accessed, changed, born, then the name."""
    content = attribute.content
    if len(content) < 66:
        return ""
    born, modified, changed, accessed = struct.unpack_from("<4Q", content, 8)
    name = content[66 : 66 + 2 * content[64]].decode("utf-16-le", "replace")
    times = " ".join(_iso(value) for value in (modified, accessed, changed, born))
    return f"{_SPACES[content[65] & 3]} {times} {name}"


def _iso(value: int) -> str:
    """Return ISO 8601 with all seven digits of a FILETIME, ``-``: not recorded."""
    if filetime(value) is None or value >= 1 << 61:
        return "-"
    moment = datetime(1601, 1, 1, tzinfo=UTC) + timedelta(seconds=value // 10**7)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{value % 10**7:07d}Z"
