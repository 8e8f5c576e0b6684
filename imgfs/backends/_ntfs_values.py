"""What a file's MFT record says beyond TSK: kinds and targets of reparse points, xattrs, valid sizes."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from imgfs.backends._ntfs_record import DATA, FILE_NAME, REPARSE, SECURITY, STANDARD, Attribute, filetime
from imgfs.backends._ntfs_security import owner_and_group
from imgfs.backends._tsk_layout import read_attribute, size_of
from imgfs.errors import EvidenceError, Malformed
from imgfs.model import Kind

if TYPE_CHECKING:
    from imgfs.backends._ntfs_record import Mft
    from imgfs.backends._ntfs_security import Descriptors

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
    """Values of one volume, from its MFT."""

    __slots__ = ("_descriptors", "_mft")

    def __init__(self, mft: Mft, descriptors: Descriptors) -> None:
        self._mft = mft
        self._descriptors = descriptors

    def kind(self, file: Any, attributes: list[Any]) -> Kind | None:
        """Call a reparse point that names another file a symbolic link."""
        for attribute in attributes:
            if int(attribute.info.type) == REPARSE and _tag(file, attribute) in {
                _SYMLINK,
                _MOUNT_POINT,
                _LX_SYMLINK,
            }:
                return Kind.LNK
        return None

    def valid(self, inum: int, name: bytes | None) -> int | None:
        """Return the initialised size of a data attribute.

        Raises:
            Malformed: the record does not say it, so stale bytes could pass for content.
        """
        wanted = (name or b"").decode("utf-8", "replace")
        for attribute in self._mft.attributes(inum):
            if (
                attribute.type == DATA
                and not attribute.resident
                and not attribute.lowest
                and attribute.name == wanted
            ):
                return attribute.valid
        if self._mft.has_remote_list(inum):
            return None
        raise Malformed(f"MFT record {inum}: no first part of the data attribute {wanted!r}")

    def link(self, file: Any) -> bytes:
        """Return the target of a reparse point as stored: the printed name, else the substitute."""
        for attribute in file:
            if int(attribute.info.type) == REPARSE:
                printed, substitute = _targets(_reparse(file, attribute))
                return printed or substitute
        raise Malformed("no reparse point")

    def xattrs(self, file: Any) -> dict[bytes, bytes]:
        """Return owner, attributes and name times under ``user.imgfs.ntfs.``."""
        inum = int(file.info.meta.addr)
        found: dict[str, bytes] = {}
        try:
            attributes = self._mft.attributes(inum)
        except EvidenceError:
            return {}
        descriptor = b""
        names = []
        for attribute in attributes:
            if attribute.type == STANDARD and len(attribute.content) >= 48:
                (flags,) = struct.unpack_from("<I", attribute.content, 32)
                found["attributes"] = ",".join(word for bit, word in _FLAGS if flags & bit).encode()
                if len(attribute.content) >= 72:
                    descriptor = descriptor or self._shared(
                        struct.unpack_from("<I", attribute.content, 52)[0]
                    )
            elif attribute.type == SECURITY and attribute.resident:
                descriptor = attribute.content
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

    def _shared(self, number: int) -> bytes:
        try:
            return self._descriptors.get(number) if number else b""
        except (EvidenceError, OSError):
            return b""

    def _reparse_values(self, file: Any) -> dict[str, bytes]:
        for attribute in file:
            if int(attribute.info.type) == REPARSE:
                data = _reparse(file, attribute)
                found = {"reparse_tag": b"0x%08x" % _tag(file, attribute)}
                try:
                    found["substitute_name"] = _targets(data)[1]
                except Malformed:
                    found["reparse_data"] = data
                return found
        return {}


def _reparse(file: Any, attribute: Any) -> bytes:
    return read_attribute(file, attribute, 0, min(size_of(attribute), _REPARSE_MAX))


def _tag(file: Any, attribute: Any) -> int:
    head = read_attribute(file, attribute, 0, min(size_of(attribute), 4))
    return int.from_bytes(head, "little")


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
    text = data[at : at + (length & ~1)].decode("utf-16-le", "surrogatepass")
    return text.encode("utf-8", "surrogatepass")


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
