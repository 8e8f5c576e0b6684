"""HFS+ and HFSX, through TSK.

Source: Apple Technical Note TN1150, "HFS Plus Volume Format": Volume Header, B-Trees, Catalog File.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._tsk import mapped, open_fs, volume_size
from imgfs.backends._tsk_files import TskFiles, trees
from imgfs.backends._tsk_format import DEFAULT, Format
from imgfs.backends._tsk_layout import read_attribute, size_of
from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported
from imgfs.limits import MAX_XATTRS
from imgfs.model import FilesInfo

if TYPE_CHECKING:
    from imgfs.backends import Files, Options, Reader

_DATA, _RESOURCE, _EXTENDED = 0x1100, 0x1101, 0x1102  # TSK_FS_ATTR_TYPE_HFS_*
_HEADER_AT: Final = 1024
_ALL_XATTRS: Final = 8 << 20  # of one file: half a message
_CATALOG_FORK: Final = 272  # within the volume header
_NAMESPACE: Final = UUID("b3e20f39-f292-11d6-97a4-00306543ecac")  # the one macOS and blkid hash under


def open_hfs(reader: Reader, _options: Options) -> Files:
    """Open an HFS+ or HFSX volume.

    Raises:
        NotMine: no volume header, or TSK finds no file system behind it.
        NotSupported: HFS without plus, or HFS+ wrapped in it.
        Malformed: a block size the specification excludes.
    """
    if reader.size < _HEADER_AT + 512:
        raise NotMine("hfs")
    header = reader.read(_HEADER_AT, 512)
    if header[:2] == b"BD":
        raise NotSupported("HFS wrapper around HFS+" if header[124:126] == b"H+" else "HFS (Mac OS Standard)")
    if header[:2] not in {b"H+", b"HX"}:
        raise NotMine("hfs")
    block, blocks = struct.unpack_from(">II", header, 40)
    if block < 512 or block & block - 1 or block > 1 << 30:
        raise Malformed(f"blocks of {block} bytes", start=_HEADER_AT + 40, stop=_HEADER_AT + 44)
    fs = open_fs(reader, "HFS")
    volume = volume_size(fs, reader)
    form = Format(
        content=frozenset({_DATA, DEFAULT}),
        named=frozenset({_EXTENDED}),
        named_above=MAX_XATTRS,  # what is no larger is an extended attribute
        suffix={_RESOURCE: b"rsrc"},
        xattrs=_xattrs,
    )
    info = FilesInfo(
        type="hfsx" if header[:2] == b"HX" else "hfs+",
        trees=trees(int(fs.info.root_inum), deleted=False),  # TSK finds no deleted entries in HFS+
        block=block,
        size=block * blocks,
        label=_label(reader, header, block),
        uuid=_uuid(header[104:112]),
    )
    return TskFiles(fs, form, info, volume)


def _uuid(unique: bytes) -> str:
    if not any(unique):
        return ""
    digest = hashlib.md5(_NAMESPACE.bytes + unique, usedforsecurity=False).digest()
    return str(UUID(bytes=digest, version=3))


def _label(reader: Reader, header: bytes, block: int) -> str:
    """Return the name in the first key of the catalog: the root folder's, whose parent is 1."""
    first, count = struct.unpack_from(">II", header, _CATALOG_FORK + 16)
    try:
        root = reader.read(first * block, 256)
        first_leaf, _, node = struct.unpack_from(">IIH", root, 14 + 10)
        if node < 512 or (first_leaf + 1) * node > count * block:
            return ""
        leaf = reader.read(first * block + first_leaf * node, node)
    except EvidenceError:
        return ""
    (key_at,) = struct.unpack_from(">H", leaf, node - 2)
    if key_at + 8 > node:
        return ""
    _, parent, length = struct.unpack_from(">HIH", leaf, key_at)
    if parent != 1 or length > 255 or key_at + 8 + 2 * length > node:
        return ""
    return leaf[key_at + 8 : key_at + 8 + 2 * length].decode("utf-16-be", "replace")


def _xattrs(file: Any) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    room = _ALL_XATTRS
    with mapped("xattrs"):
        for attribute in file:
            name, size = attribute.info.name, size_of(attribute)
            if int(attribute.info.type) == _EXTENDED and name and size <= min(room, MAX_XATTRS):
                found[bytes(name)] = read_attribute(file, attribute, 0, size)
                room -= size
    return found


BACKEND = Backend(
    name="hfs",
    title="HFS+, HFSX",
    role=Role.FILES,
    rank=30,
    signatures=tuple(Signature(_HEADER_AT, magic) for magic in (b"H+", b"HX", b"BD")),
    open=open_hfs,
    imports=("pytsk3",),
    supports="resource forks, compressed files, hard links, extended attributes; no deleted files",
    truth=("peer", "tsk", "corpus"),
)
