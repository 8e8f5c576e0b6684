"""NTFS, read from its MFT records and indexes.

Source: NTFS documentation of the Linux-NTFS project; [MS-FSCC] 2.1.2 (reparse points), 2.6 (file
attributes); [MS-DTYP] 2.4 (security descriptors); [MS-XCA] 2.2 (XPRESS), 2.5 (LZNT1); [MS-PATCH] 2 (LZX).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends.ntfs.boot import MAGIC, read_boot
from imgfs.backends.ntfs.files import ROOT, NtfsFiles
from imgfs.backends.ntfs.record import VOLUME_NAME, parse
from imgfs.backends.ntfs.volume import Volume
from imgfs.errors import EvidenceError
from imgfs.model import FilesInfo, TreeInfo

if TYPE_CHECKING:
    from imgfs.backends import Files, Options, Reader

_VOLUME: Final = 3  # the record of $Volume


def open_ntfs(reader: Reader, _options: Options) -> Files:
    """Open an NTFS volume.

    Raises:
        NotMine: no NTFS boot sector.
        Malformed: the sizes in the boot sector are impossible, or it leads to no table of files.
    """
    boot = read_boot(reader)
    volume = Volume(reader, boot)
    notes: tuple[str, ...] = ()
    if reader.size < boot.size:
        notes = (f"the volume has {reader.size} bytes, the file system {boot.size}",)
    info = FilesInfo(
        type="ntfs",
        trees=(TreeInfo("root", ROOT), TreeInfo("deleted", ROOT, deleted=True)),
        block=boot.cluster,
        size=boot.size,
        label=_label(volume),
        uuid=f"{boot.serial:016X}",
        notes=notes,
    )
    return NtfsFiles(volume, info)


def _label(volume: Volume) -> str:
    try:
        found = [a.content for a in parse(volume.mft.record(_VOLUME)) if a.type == VOLUME_NAME]
    except EvidenceError:
        return ""
    return found[0].decode("utf-16-le", "replace") if found else ""


BACKEND = Backend(
    name="ntfs",
    title="NTFS",
    role=Role.FILES,
    rank=20,  # before fat: the boot sectors share their jump and 55AA
    signatures=(Signature(3, MAGIC),),
    open=open_ntfs,
    supports=(
        "streams, sparse, LZNT1, WOF (XPRESS, LZX), resident, links, WSL, security identifiers, "
        "deleted files, orphans; no EFS, no WIMBoot, no deduplicated files"
    ),
    imports=("pyfwnt",),
    truth=("peer", "tsk", "corpus"),
)
