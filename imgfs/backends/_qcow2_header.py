"""The header of QCOW2 and its extensions.

Source: QEMU docs/interop/qcow2.txt, "Header", "Header extensions". Numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._qcow_tables import Tables
from imgfs.errors import Malformed, NotMine, NotSupported

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

MAGIC: Final = b"QFI\xfb"
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_THIRD: Final = struct.Struct(">QQQII")  # what version 3 adds
_COMPRESSION_AT: Final = 104

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION, _EXTENDED = (1 << bit for bit in range(5))
_KNOWN: Final = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION | _EXTENDED
_END, _BACKING_FORMAT, _NAMES, _DATA_NAME = 0, 0xE2792ACA, 0x6803F857, 0x44415441
_CODECS: Final = {0: "deflate", 1: "zstd"}
_CIPHERS: Final = {1: "AES", 2: "LUKS"}

_MAX_EXTENSIONS: Final = 64  # four are defined
_MAX_NAME: Final = 1023  # bytes of the backing file's name, by the specification


@dataclass(slots=True, kw_only=True)
class Header:
    """What is needed to read the disk. Units: ``size``, ``cluster`` and ``l1_at`` bytes.

    ``backing`` and ``data_file`` are names as they are stored; None: there is no such file. ``snapshots`` are
    how many there are, and where their list is.
    """

    version: int
    size: int
    cluster: int
    l1_at: int
    l1_entries: int
    codec: str = "deflate"
    extended: bool = False
    backing: bytes | None = None
    backing_format: str = ""
    data_file: bytes | None = None
    snapshots: tuple[int, int] = (0, 0)
    notes: list[str] = field(default_factory=list)


def read_second(reader: Reader) -> tuple[Header, Tables]:
    """Read the header of version 2 or 3 and say where its tables are; raises as ``read_header``."""
    header = read_header(reader)
    return header, tables_of(header, reader.size)


def tables_of(header: Header, data_size: int) -> Tables:
    """Say where the tables of a header are whose clusters lie in a file of ``data_size`` bytes."""
    return Tables(
        size=header.size,
        cluster=header.cluster,
        l1_at=header.l1_at,
        l1_entries=header.l1_entries,
        l2_entries=header.cluster // (16 if header.extended else 8),
        data_size=data_size,
        zeros=header.version >= 3,
        extended=header.extended,
    )


def read_header(reader: Reader) -> Header:
    """Read a header of version 2 or 3.

    Raises:
        NotMine: no QCOW2 signature.
        NotSupported: encrypted, or a feature this reader does not know.
        Malformed: sizes are impossible.
    """
    if reader.size < _HEADER.size:
        raise NotMine("qcow2")
    raw = reader.read(0, min(reader.size, 4096))
    magic, version, name_at, name_length, bits, size, cipher, entries, l1_at, _, _, snapshots, listed_at = (
        _HEADER.unpack_from(raw)
    )
    if magic != MAGIC or version not in (2, 3):
        raise NotMine("qcow2")
    if not 9 <= bits <= 21 or size > limits.MAX_SIZE:
        raise Malformed(f"a disk of {size} bytes in clusters of 2^{bits}", start=0, stop=_HEADER.size)
    header = Header(version=version, size=size, cluster=1 << bits, l1_at=l1_at, l1_entries=entries)
    features, length = 0, _HEADER.size
    if version == 3:
        if reader.size < _HEADER.size + _THIRD.size:
            raise Malformed("the header is cut short", start=0, stop=reader.size)
        features, _, _, _, length = _THIRD.unpack_from(raw, _HEADER.size)
        if not _HEADER.size + _THIRD.size <= length <= header.cluster:
            raise Malformed(f"a header of {length} bytes", start=0, stop=header.cluster)
    extensions = dict(_extensions(reader, header, length))
    if cipher:
        by = _CIPHERS.get(cipher, f"method {cipher}")
        raise NotSupported(
            f"QCOW2 version {version}, encrypted ({by}): imgfs cannot read it yet; "
            "with its key, qemu-img convert makes a raw image of it"
        )
    _judge(header, features, raw, length, extensions)
    if features & _DATA_FILE:
        header.data_file = extensions.get(_DATA_NAME, b"")
    if name_at:
        header.backing = backing_name(reader, name_at, name_length, header.notes)
        header.backing_format = extensions.get(_BACKING_FORMAT, b"").decode("latin-1")
    header.snapshots = (snapshots, listed_at)
    return header


def backing_name(reader: Reader, at: int, length: int, notes: list[str]) -> bytes:
    """Return the name of a backing file, which all versions store alike; empty: nobody can say it."""
    if length > _MAX_NAME or at + length > reader.size:
        notes.append(f"a backing file whose name is said to be {length} bytes at {at}")
        return b""
    return reader.read(at, length)


def _judge(header: Header, features: int, raw: bytes, length: int, extensions: dict[int, bytes]) -> None:
    """Take in the features a reader must know.

    Raises:
        NotSupported: it does not know one.
    """
    if unknown := features & ~_KNOWN:
        names = extensions.get(_NAMES, b"")
        words = {row[1]: row[2:].rstrip(b"\0").decode("latin-1") for row in _rows(names) if row[0] == 0}
        found = [words.get(bit, f"bit {bit}") for bit in range(64) if unknown >> bit & 1]
        raise NotSupported(f"QCOW2 with a feature imgfs does not know: {', '.join(found)}")
    if features & _DIRTY:
        header.notes.append("marked dirty: it was not closed, reference counts may be wrong")
    if features & _CORRUPT:
        header.notes.append("marked corrupt by its writer")
    if features & _COMPRESSION:
        kind = raw[_COMPRESSION_AT] if length > _COMPRESSION_AT and len(raw) > _COMPRESSION_AT else 0
        if kind not in _CODECS:
            raise NotSupported(f"QCOW2 with compression of type {kind}: imgfs knows zlib and zstd")
        header.codec = _CODECS[kind]
    header.extended = bool(features & _EXTENDED)
    if header.extended and header.cluster < 1 << 14:
        raise Malformed(f"subclusters in clusters of {header.cluster} bytes")


def _rows(names: bytes) -> list[bytes]:
    return [names[at : at + 48] for at in range(0, min(len(names), 48 * 192) - 47, 48)]


def _extensions(reader: Reader, header: Header, at: int) -> Iterator[tuple[int, bytes]]:
    """Return the header extensions: they end with the first cluster at the latest."""
    stop = min(header.cluster, reader.size)
    for _ in range(_MAX_EXTENSIONS):
        if at + 8 > stop:
            return
        kind, length = struct.unpack(">II", reader.read(at, 8))
        if kind == _END:
            return
        if at + 8 + length > stop:
            header.notes.append(f"a header extension of {length} bytes leaves the first cluster")
            return
        yield kind, reader.read(at + 8, length)
        at += 8 + (length + 7 & ~7)
