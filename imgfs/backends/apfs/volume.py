"""A volume: its superblock, and the trees it names, now and in the state of a snapshot.

Source: Apple File System Reference (2020-06-22), "Volumes", apfs_superblock_t; "Sealed Volumes"; "Snapshot
Metadata".
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.backends.apfs.objects import FS, INTEGRITY_META, checked, head_of
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.backends.apfs.container import Container
    from imgfs.backends.apfs.omap import ObjectMap

MAGIC: Final = b"APSB"
_SUPER: Final = struct.Struct("<4sI6Q8x20sIII6Q8Q16sQQ")  # behind the header, up to the flags
_STAMP: Final = struct.Struct("<32sQQ")
_STAMPS_AT, _STAMPS = 272, 9
_LATER: Final = struct.Struct("<256sIHH5Q16sQQII")
_LATER_AT: Final = 704
SUPER: Final = 1056
_SEAL: Final = struct.Struct("<IIIIQ")
_SEAL_BROKEN: Final = 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

UNENCRYPTED, ONEKEY = 1, 8
CASE_INSENSITIVE, DATALESS_SNAPS, ENC_ROLLED, NORMALIZATION_INSENSITIVE = 1, 2, 4, 8
INCOMPLETE_RESTORE, SEALED = 16, 32
_KNOWN: Final = 0x7F
FLAGS: Final = {4: "spilled over", 5: "spillover cleaner", 6: "extents are checked"}
_ROLES: Final = {
    0: "",
    1: "system",
    2: "user",
    4: "recovery",
    8: "vm",
    16: "preboot",
    32: "installer",
    1 << 6: "data",
    2 << 6: "baseband",
    3 << 6: "update",
    4 << 6: "xart",
    5 << 6: "hardware",
    6 << 6: "backup",
    7 << 6: "reserved 7",
    8 << 6: "reserved 8",
    9 << 6: "enterprise",
    10 << 6: "reserved 10",
    11 << 6: "prelogin",
}
_DIGESTS: Final[dict[int, tuple[int, Callable[[bytes], bytes]]]] = {
    1: (32, lambda data: hashlib.sha256(data).digest()),
    2: (32, lambda data: hashlib.new("sha512_256", data).digest()),
    3: (48, lambda data: hashlib.sha384(data).digest()),
    4: (64, lambda data: hashlib.sha512(data).digest()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """What a volume says of itself, in the state of transaction ``xid``."""

    oid: int
    xid: int
    index: int
    name: bytes
    uuid: bytes
    role: int
    flags: int
    features: int
    incompatible: int
    omap: int
    root: int
    root_type: int
    snapshots: int  # the tree of snapshots
    taken: int  # how many there are
    group: bytes
    integrity: int
    extents: int
    extents_type: int
    modified: int
    stamps: tuple[tuple[bytes, int, int], ...]

    @property
    def hashed(self) -> bool:
        """Say whether keys of directory records begin with a hash."""
        return bool(self.incompatible & (CASE_INSENSITIVE | NORMALIZATION_INSENSITIVE))

    @property
    def encrypted(self) -> bool:
        """Say whether its records and files are ciphertext."""
        return not self.flags & UNENCRYPTED

    @property
    def sealed(self) -> bool:
        """Say whether its records are hashed, and its extents lie in a tree of their own."""
        return bool(self.incompatible & SEALED and self.extents)

    @property
    def label(self) -> str:
        """Return the name as text; a volume without one is called by its number."""
        return self.name.decode("utf-8", "backslashreplace") or f"volume-{self.index}"

    @property
    def role_name(self) -> str:
        """Return what it is for, empty: nothing special."""
        return _ROLES.get(self.role, f"role {self.role:#x}")

    def facts(self) -> dict[bytes, bytes]:
        """Return attributes for its root directory."""
        case = "insensitive" if self.incompatible & CASE_INSENSITIVE else "sensitive"
        words = [
            ("name", self.name.decode("utf-8", "backslashreplace")),
            ("uuid", str(UUID(bytes=self.uuid))),
            ("role", self.role_name),
            ("case", case),
            ("normalization", "insensitive" if self.hashed else "sensitive"),
            ("encryption", self.encryption),
            ("sealed", "1" if self.sealed else ""),
            ("group", str(UUID(bytes=self.group)) if any(self.group) else ""),
            ("snapshots", str(self.taken)),
            ("transaction", str(self.xid)),
            ("modified", moment(self.modified)),
        ]
        kinds = ["formatted-by", *(f"modified-by-{number}" for number in range(_STAMPS))]
        for kind, (who, when, xid) in zip(kinds, self.stamps, strict=False):
            text = who.split(b"\0")[0].decode("utf-8", "backslashreplace")
            if text or when:
                words.append((kind, f"{text}, {moment(when)}, transaction {xid}"))
        return {f"user.imgfs.volume.{name}".encode(): value.encode() for name, value in words if value}

    @property
    def encryption(self) -> str:
        """Return how it is encrypted."""
        if not self.encrypted:
            return "none"
        return "one key" if self.flags & ONEKEY else "keys of files"

    def said(self) -> str:
        """Return a line for the notes."""
        parts = [f"volume {self.label}", f"uuid {UUID(bytes=self.uuid)}"]
        if self.role_name:
            parts.append(f"role {self.role_name}")
        parts.append(f"case-{'in' if self.incompatible & CASE_INSENSITIVE else ''}sensitive")
        parts.append(f"encryption: {self.encryption}")
        if self.sealed:
            parts.append("sealed")
        if self.taken:
            parts.append(f"{self.taken} snapshots")
        if self.incompatible & INCOMPLETE_RESTORE:
            parts.append("a restore of it is incomplete")
        if self.incompatible & ENC_ROLLED:
            parts.append("its encryption was changed")
        if odd := self.incompatible & ~_KNOWN:
            parts.append(f"features {odd:#x} that are not known here")
        return ", ".join(parts)


def parsed(data: bytes, at: int) -> Volume:
    """Read the superblock of a volume, whose checksum was compared.

    Raises:
        Malformed: it is none.
    """
    fields = _SUPER.unpack_from(data, 32)
    (
        magic, index, features, _, incompatible, _, _, _, _, root_type, _, _,
        omap, root, _, snapshots, _, _, _, _, _, _, _, taken, _, _, uuid, modified, flags,
    ) = fields  # fmt: skip
    if magic != MAGIC:
        raise Malformed(f"block {at}: no superblock of a volume")
    later = _LATER.unpack_from(data, _LATER_AT)
    name, _, role, _, _, _, _, _, _, group, integrity, extents, kind, _ = later
    head = head_of(data)
    stamps = [_STAMP.unpack_from(data, _STAMPS_AT + number * _STAMP.size) for number in range(_STAMPS)]
    return Volume(
        oid=head.oid,
        xid=head.xid,
        index=index,
        name=name.split(b"\0")[0],
        uuid=uuid,
        role=role,
        flags=flags,
        features=features,
        incompatible=incompatible,
        omap=omap,
        root=root,
        root_type=root_type,
        snapshots=snapshots,
        taken=taken,
        group=group,
        integrity=integrity,
        extents=extents,
        extents_type=kind,
        modified=modified,
        stamps=tuple(stamps),
    )


def read_volume(container: Container, oid: int) -> Volume:
    """Return a volume as it is in the state that is read.

    Raises:
        EvidenceError: it cannot be read.
    """
    place = container.omap.place(oid, container.head.xid)
    data = container.blocks.read(place.at)
    checked(data, place.at, (FS,), oid)
    return parsed(data, place.at)


def read_older(container: Container, at: int) -> Volume:
    """Return a volume as the copy of its superblock in block ``at`` has it.

    Raises:
        EvidenceError: it cannot be read.
    """
    data = container.blocks.read(at)
    checked(data, at, (FS,))
    return parsed(data, at)


@dataclass(frozen=True, slots=True)
class Seal:
    """What a sealed volume's tree is compared with. ``digest`` None: with nothing."""

    digest: Callable[[bytes], bytes] | None
    root: bytes
    said: str


def read_seal(container: Container, omap: ObjectMap, volume: Volume, xid: int) -> Seal:
    """Return the seal of a volume. A broken one is said, and compares nothing."""
    none: Callable[[bytes], bytes] = lambda _: b""  # noqa: E731  # headers there are none either way
    try:
        place = omap.place(volume.integrity, xid)
        data = container.blocks.read(place.at)
        checked(data, place.at, (INTEGRITY_META,), volume.integrity)
    except EvidenceError as why:
        return Seal(none, b"", f"its seal cannot be read, and nothing is compared with it: {why.message}")
    version, flags, kind, start, broken = _SEAL.unpack_from(data, 32)
    if flags & _SEAL_BROKEN or broken:
        return Seal(none, b"", f"its seal is broken, by transaction {broken}")
    length, digest = _DIGESTS.get(kind, (0, none))
    if not length or not version or start + length > len(data):
        return Seal(none, b"", f"its seal is of an unknown kind {kind}, and nothing is compared with it")
    return Seal(digest, data[start : start + length], "sealed")


def moment(ns: int) -> str:
    """Return nanoseconds since 1970 as text, empty: none."""
    if ns >> 63:
        ns -= 1 << 64
    try:
        found = _EPOCH + timedelta(seconds=ns // 10**9)
    except OverflowError:
        return ""
    return found.strftime("%Y-%m-%dT%H:%M:%SZ") if ns else ""
