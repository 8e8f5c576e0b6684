"""CoreStorage: the header of a physical volume, and the label that says where the metadata lies.

Source: libfvde, "FileVault Drive Encryption (FVDE)", sections "Volume header", "Metadata (section)", "Volume
groups descriptor"; which part of a number is the index of a physical volume: libfvde (LGPL), read for its
structures only.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs import limits
from imgfs.backends import _cs_xml
from imgfs.backends._crc32c import crc32c
from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported

if TYPE_CHECKING:
    from imgfs.backends import Reader

KINDS: Final = ("password", "recovery", "keyfile", "volume-key")
MAGIC: Final = b"CS"
MAGIC_AT: Final = 88
BLOCK: Final = 8192  # bytes of a block of metadata
_HEADER: Final = 512
_TYPE: Final = 0x0010
_LABEL: Final = 0x0011
_COPIES: Final = 4
_METHODS: Final = {2: "AES-XTS"}
_BLOCK_HEADER: Final = struct.Struct("<IIHHI4QI12x")  # 64 bytes
_LABEL_MOST: Final = 64 * limits.MIB
_METADATA_MOST: Final = 64 * limits.MIB
_PLIST_MOST: Final = 64 * limits.KIB
_MEMBERS_MOST: Final = 64
_NUMBER: Final = (1 << 48) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A physical volume. Units: ``sector``, ``block`` (of volumes), ``size`` and ``labels`` bytes."""

    sector: int
    block: int
    size: int
    label_size: int
    labels: tuple[int, ...]
    key: bytes
    uuid: bytes
    group: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What the labels of a physical volume say of its group.

    Units: ``size`` bytes of encrypted metadata, which lies in ``places``: index of a physical volume, bytes.
    ``members`` are the identifiers of all physical volumes, by their index.
    """

    transaction: int
    size: int
    places: tuple[tuple[int, int], ...]
    members: tuple[bytes, ...]
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A physical volume: which ticket, and what it says of itself."""

    ticket: int
    reader: Reader
    header: Header


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of metadata: its header, and ``data`` behind it. ``object`` numbers what it describes."""

    type: int
    transaction: int
    object: int
    data: bytes


def block_of(raw: bytes, *, checked: bool = False) -> Block | None:
    """Return a block of metadata; None: damaged, or wiped. ``checked``: its checksum is right."""
    stored, initial, version, kind, _, transaction, number, _, _, size = _BLOCK_HEADER.unpack_from(raw)
    if raw[:8] == b"LVFwiped" or initial != 0xFFFF_FFFF or version != 1 or size != BLOCK:
        return None
    if not checked and crc32c(raw[8:BLOCK]) ^ 0xFFFF_FFFF != stored:
        return None
    return Block(type=kind, transaction=transaction, object=number, data=raw[_BLOCK_HEADER.size :])


def read_header(reader: Reader, notes: list[str]) -> Header:
    """Read the header, or its copy at the end.

    Raises:
        NotMine: neither has the signature.
        Malformed: those that have are damaged.
        NotSupported: its metadata is encrypted in a way that is not known here.
    """
    seen = False
    for at in (0, (reader.size - _HEADER) // _HEADER * _HEADER):
        if at < 0 or at + _HEADER > reader.size:
            continue
        raw = reader.read(at, _HEADER)
        if raw[MAGIC_AT : MAGIC_AT + 2] != MAGIC or raw[10:12] != _TYPE.to_bytes(2, "little"):
            continue
        seen = True
        try:
            found = _header(raw)
        except Malformed as why:
            notes.append(f"header at {at}: {why.message}")
            continue
        if at:
            notes.append("the first header is damaged or missing: its copy is used")
        return found
    if seen:
        raise Malformed("; ".join(notes))
    raise NotMine("corestorage")


def _header(raw: bytes) -> Header:
    stored, initial = struct.unpack_from("<II", raw)
    if initial != 0xFFFF_FFFF or crc32c(raw[8:]) ^ 0xFFFF_FFFF != stored:
        raise Malformed("its checksum is wrong")
    (sector,) = struct.unpack_from("<I", raw, 48)
    (size,) = struct.unpack_from("<Q", raw, 64)
    block, label_size = struct.unpack_from("<II", raw, 96)
    labels = struct.unpack_from("<4Q", raw, 104)
    key_size, method = struct.unpack_from("<II", raw, 168)
    if method not in _METHODS or key_size != 16:
        raise NotSupported(
            f"CoreStorage with metadata encrypted by method {method}, keys of {key_size} bytes"
        )
    if sector not in (512, 1024, 2048, 4096) or block % sector or not sector <= block <= limits.MIB:
        raise Malformed(f"blocks of {block} bytes, sectors of {sector}")
    if not BLOCK <= label_size <= _LABEL_MOST or any(at * block > limits.MAX_SIZE for at in labels):
        raise Malformed(f"labels of {label_size} bytes at blocks {labels}")
    return Header(
        sector=sector,
        block=block,
        size=size,
        label_size=label_size,
        labels=tuple(at * block for at in labels),
        key=raw[176:192],
        uuid=raw[304:320],
        group=raw[320:336],
    )


def read_label(reader: Reader, header: Header, notes: list[str]) -> Label:
    """Read the copies of the label; the last written of those that are intact counts.

    Raises:
        Malformed: none is.
    """
    found: list[Label] = []
    for number, at in enumerate(header.labels[:_COPIES], 1):
        try:
            found.append(_label(reader, header, at))
        except EvidenceError as why:
            notes.append(f"label {number} of {_COPIES} is damaged: {why.message}")
    if not found:
        raise Malformed("; ".join(["no label is intact", *notes]))
    return max(found, key=lambda label: label.transaction)


def _label(reader: Reader, header: Header, at: int) -> Label:
    block = block_of(reader.read(at, BLOCK))
    if block is None or block.type != _LABEL:
        raise Malformed("no label, or its checksum is wrong", start=at, stop=at + BLOCK)
    (size,) = struct.unpack_from("<I", block.data)
    group_at, xml_at, xml_size = struct.unpack_from("<III", block.data, 156)
    if size != header.label_size or group_at + 48 > size or xml_at + xml_size > size:
        raise Malformed(f"{size} bytes, places {group_at} and {xml_at}", start=at, stop=at + BLOCK)
    _, count, _, _, *copies = struct.unpack("<6Q", reader.read(at + group_at, 48))
    if not 0 < count * header.block <= _METADATA_MOST:
        raise Malformed(f"{count} blocks of metadata", start=at, stop=at + BLOCK)
    # The size that is stated may be less than the list: it ends with a zero.
    raw = reader.read(at + xml_at, min(size - xml_at, max(xml_size, _PLIST_MOST)))
    listed = _cs_xml.parse(raw)
    given = listed.get("com.apple.corestorage.lvg.physicalVolumes")
    members = [_uuid(one) for one in given] if isinstance(given, list) else []
    if len(members) > _MEMBERS_MOST:
        raise Malformed(f"{len(members)} physical volumes")
    return Label(
        transaction=block.transaction,
        size=count * header.block,
        places=tuple((copy >> 48, (copy & _NUMBER) * header.block) for copy in copies),
        members=tuple(members) or (header.uuid,),
        name=_cs_xml.text(listed, "com.apple.corestorage.lvg.name"),
    )


def _uuid(text: object) -> bytes:
    try:
        return UUID(text if isinstance(text, str) else "").bytes
    except ValueError:
        return b""
