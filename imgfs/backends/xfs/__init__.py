"""XFS, versions 4 and 5, read by our own reader.

Source: XFS Algorithms and Data Structures, 3rd edition (SGI, Darrick J. Wong and others).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends.xfs.files import XfsFiles
from imgfs.backends.xfs.inode import read_inode
from imgfs.backends.xfs.log import remark
from imgfs.backends.xfs.superblock import LENGTH, MAGIC, NO_INODE, Superblock, parse, places
from imgfs.backends.xfs.volume import Volume
from imgfs.errors import EvidenceError, Malformed, NotFound, NotMine, NotSupported
from imgfs.model import FilesInfo, Kind, TreeInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Files, Options, Reader

_HEAD: Final = 64 << 10  # bytes that hold the superblock and the header of free space, whatever a sector is
_SECTOR: Final = 32 << 10  # the largest


def open_xfs(reader: Reader, options: Options) -> Files:
    """Open a file system by its superblock, or by that of another allocation group.

    Raises:
        NotMine: no superblock is plausible.
        NotSupported: a feature without which nothing can be read.
        Malformed: no superblock leads to a root directory.
    """
    del options  # nothing in XFS depends on zone, code page or sector
    if reader.size < LENGTH:
        raise NotMine("xfs")
    raw = _read(reader, 0, _HEAD)
    first = parse(raw)
    found, unread = None, ""
    for candidate in _candidates(reader, raw, first):
        unread = unread or candidate.unread
        found = _rooted(reader, candidate)
        if found is not None or unread:
            break
    if unread:
        raise NotSupported(f"xfs: features this version cannot read: {unread}")
    if found is None:
        if first is None:
            raise NotMine("xfs: no plausible superblock")
        raise Malformed("xfs: there is no root directory")
    volume, root = found
    sb = volume.superblock
    notes = (*sb.notes, *filter(None, (remark(volume),)))
    if reader.size < sb.size:
        notes += (f"the volume has {reader.size} bytes, the file system {sb.size}",)
    info = FilesInfo(
        type="xfs",
        trees=(TreeInfo("root", root),),
        block=sb.block,
        size=sb.size,
        label=sb.label,
        uuid=sb.uuid,
        version=str(sb.version),
        notes=notes,
    )
    return XfsFiles(volume, info)


def _read(reader: Reader, start: int, length: int) -> bytes:
    """Return what there is of a range: a file system may be smaller than its largest header."""
    try:
        return reader.read(start, min(length, reader.size - start))
    except EvidenceError:
        return reader.read(start, LENGTH)


def _candidates(reader: Reader, raw: bytes, first: Superblock | None) -> Iterator[Superblock]:
    """Yield superblocks, the best first: one whose checksum differs comes behind the intact copies."""
    if first is not None and first.intact:
        yield first
    for group, at in places(raw, reader.size):
        try:
            copy = parse(_read(reader, at, _SECTOR), group)
        except EvidenceError:
            continue
        if copy is not None and copy.intact and group * copy.group_blocks * copy.block == at:
            yield copy
    if first is not None and not first.intact:
        yield first


def _rooted(reader: Reader, superblock: Superblock) -> tuple[Volume, int] | None:
    """Return the file system and its root directory, None: there is none."""
    volume = Volume(reader, superblock)
    try:
        root = superblock.root
        if root in (0, NO_INODE):  # mkfs writes it into some of the copies only
            root = volume.first_inode()
        return (volume, root) if read_inode(volume, root).kind == Kind.DIR else None
    except (EvidenceError, NotFound):
        return None


# The header of free space of the first group, behind a superblock that is lost.
_GROUP: Final = b"XAGF\0\0\0\1\0\0\0\0"

BACKEND = Backend(
    name="xfs",
    title="XFS",
    role=Role.FILES,
    rank=24,  # a strong mark in the first sector
    signatures=(
        Signature(0, MAGIC),
        *(Signature(at, _GROUP) for at in (512, 1024, 2048, 4096)),
    ),
    open=open_xfs,
    supports="versions 4 and 5, checked metadata, extended attributes, ACLs, reflinks; not: real-time files",
    truth=("kernel", "peer", "corpus"),
)
