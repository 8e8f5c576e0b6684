"""What a file's MFT record says beside its attributes: targets of reparse points, security, name times."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from imgfs.backends.ntfs.record import (
    DATA,
    FILE_NAME,
    REPARSE,
    SECURITY,
    STANDARD,
    Attribute,
    filetime,
    utf8,
)
from imgfs.backends.ntfs.security import MAX_DESCRIPTOR, Descriptors, owner_and_group
from imgfs.backends.ntfs.volume import parts_of
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from imgfs.backends.ntfs.volume import File, Volume

_SECURE: Final = 9  # the record of $Secure
_SDS_MAX: Final = 64 << 20  # bytes of $Secure:$SDS that are looked at
_SYMLINK, _MOUNT_POINT, _LX_SYMLINK = 0xA000000C, 0xA0000003, 0xA000001D  # [MS-FSCC] 2.1.2.1
_REPARSE_MAX: Final = 16 * 1024  # [MS-FSCC] 2.1.2: a reparse point is at most 16 KiB
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
)
_SPACES: Final = ("posix", "win32", "dos", "win32+dos")


class Values:
    """Values of the files of one volume. The descriptors of $Secure are read when one is asked for."""

    __slots__ = ("_descriptors", "_volume")

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._descriptors = Descriptors(self._stored_descriptors)

    def link(self, number: int) -> bytes:
        """Return the target of a reparse point as stored: the printed name, else the substitute.

        Raises:
            EvidenceError: there is none, or it names no file.
        """
        data = self._reparse(self._volume.file(number))
        if not data:
            raise Malformed("no reparse point")
        printed, substitute = _targets(data)
        return printed or substitute

    def xattrs(self, number: int) -> dict[bytes, bytes]:
        """Return owner, attributes and name times under ``user.imgfs.ntfs.``."""
        try:
            file = self._volume.file(number)
        except EvidenceError:
            return {}
        found: dict[str, bytes] = {}
        descriptor = b""
        names = []
        for attribute in file.attributes:
            if attribute.type == STANDARD and len(attribute.content) >= 48:
                (flags,) = struct.unpack_from("<I", attribute.content, 32)
                found["attributes"] = ",".join(word for bit, word in _FLAGS if flags & bit).encode()
                if len(attribute.content) >= 72:
                    descriptor = descriptor or self._shared(
                        struct.unpack_from("<I", attribute.content, 52)[0]
                    )
            elif attribute.type == SECURITY and not attribute.lowest:
                descriptor = self._own(file) or descriptor
            elif attribute.type == FILE_NAME:
                names.append(_name_times(attribute))
        if names:
            found["fn_times"] = "\n".join(filter(None, names)).encode()
        if descriptor:
            owner, group = owner_and_group(descriptor)
            found |= {
                "owner_sid": owner.encode(),
                "group_sid": group.encode(),
                "security_descriptor": descriptor,
            }
        found |= self._reparse_values(file)
        return {b"user.imgfs.ntfs." + key.encode(): value for key, value in found.items() if value}

    def _stored_descriptors(self) -> bytes:
        parts = parts_of(self._volume.file(_SECURE), DATA, b"$SDS")
        return self._volume.value(parts, _SDS_MAX) if parts else b""

    def _shared(self, number: int) -> bytes:
        try:
            return self._descriptors.get(number) if number else b""
        except EvidenceError:
            return b""

    def _own(self, file: File) -> bytes:
        try:
            parts = parts_of(file, SECURITY, b"")
            return self._volume.value(parts, MAX_DESCRIPTOR) if parts else b""
        except EvidenceError:
            return b""

    def _reparse(self, file: File) -> bytes:
        parts = parts_of(file, REPARSE, b"")
        return self._volume.value(parts, _REPARSE_MAX) if parts else b""

    def _reparse_values(self, file: File) -> dict[str, bytes]:
        try:
            data = self._reparse(file)
        except EvidenceError:
            return {}
        if not data:
            return {}
        found = {"reparse_tag": b"0x%08x" % int.from_bytes(data[:4], "little")}
        try:
            found["substitute_name"] = _targets(data)[1]
        except Malformed:
            found["reparse_data"] = data
        return found


def _targets(data: bytes) -> tuple[bytes, bytes]:
    """Return printed and substitute name of a reparse buffer in UTF-8.

    Raises:
        Malformed: another tag, or names that leave the buffer.

    Source: [MS-FSCC] 2.1.2.4 (symbolic link), 2.1.2.5 (mount point).
    """
    if len(data) < 8:
        raise Malformed("reparse point of less than 8 bytes")
    (tag,) = struct.unpack_from("<I", data)
    if tag == _LX_SYMLINK:
        return data[12:], data[12:]  # behind the header stands a version, then UTF-8
    if tag not in {_SYMLINK, _MOUNT_POINT}:
        raise Malformed(f"reparse tag {tag:#x} names no file")
    start = 20 if tag == _SYMLINK else 16
    if len(data) < start:
        raise Malformed(f"reparse point of {len(data)} bytes")
    substitute_at, substitute, printed_at, printed = struct.unpack_from("<4H", data, 8)
    if max(substitute_at + substitute, printed_at + printed) + start > len(data):
        raise Malformed("a name of a reparse point leaves it")
    return _utf8(data, start + printed_at, printed), _utf8(data, start + substitute_at, substitute)


def _utf8(data: bytes, at: int, length: int) -> bytes:
    return utf8(data[at : at + (length & ~1)])


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
