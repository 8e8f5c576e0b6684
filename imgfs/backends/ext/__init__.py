"""ext2, ext3 and ext4, read by our own reader, deleted entries too.

Source: Linux Documentation/filesystems/ext4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._deleted import SHIFT
from imgfs.backends.ext import journal
from imgfs.backends.ext.deleted import ROOT
from imgfs.backends.ext.files import ExtFiles
from imgfs.backends.ext.inode import read_inode
from imgfs.backends.ext.superblock import AT, MAGIC, RECOVER, Superblock, copies, read_superblock
from imgfs.backends.ext.tables import Tables
from imgfs.errors import EvidenceError, Malformed, NotFound
from imgfs.model import FilesInfo, Kind, TreeInfo

if TYPE_CHECKING:
    from imgfs.backends import Files, Options, Reader


def open_ext(reader: Reader, options: Options) -> Files:
    """Open a file system by its superblock, or by a copy when the primary leads to no root.

    Raises:
        NotMine: no superblock is plausible.
        NotSupported: an external journal.
        Malformed: no copy leads to a root directory.
    """
    del options  # nothing in ext depends on zone, code page or sector
    superblock = read_superblock(reader)
    tables = _with_root(reader, superblock)
    if tables is None:
        later = (_with_root(reader, copy) for copy in copies(reader) if copy != superblock)
        tables = next((found for found in later if found is not None), None)
    if tables is None:
        raise Malformed("ext: there is no root directory at inode 2")
    superblock = tables.superblock
    notes = superblock.notes
    if superblock.incompat & RECOVER and superblock.journal_inode:
        notes += (f"journal: {journal.said(tables)}",)
    if reader.size < superblock.size:
        notes += (f"the volume has {reader.size} bytes, the file system {superblock.size}",)
    info = FilesInfo(
        type=superblock.type,
        trees=(TreeInfo("root", ROOT), TreeInfo("deleted", ROOT << SHIFT, deleted=True)),
        block=superblock.block,
        size=superblock.size,
        label=superblock.label,
        uuid=superblock.uuid,
        notes=notes,
    )
    return ExtFiles(tables, info)


def _with_root(reader: Reader, superblock: Superblock) -> Tables | None:
    tables = Tables(reader, superblock)
    try:
        return tables if read_inode(tables, ROOT).kind == Kind.DIR else None
    except (EvidenceError, NotFound):
        return None


BACKEND = Backend(
    name="ext",
    title="ext2, ext3, ext4",
    role=Role.FILES,
    rank=25,  # before fat and hfs, whose marks are weaker, behind ntfs and exfat
    signatures=(Signature(AT + 56, MAGIC),),
    open=open_ext,
    supports=(
        "inline data, extended attributes, deleted files, orphans; unreplayed transactions counted;"
        " not: fscrypt content"
    ),
    truth=("kernel", "tsk", "corpus"),
)
