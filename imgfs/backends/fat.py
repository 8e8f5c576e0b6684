"""FAT12, FAT16 and FAT32, through TSK.

Source: Microsoft FAT specification 1.03 (fatgen103).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._fat_boot import FatBoot, label_text, parse_fat, root_label, serial_text
from imgfs.backends._fat_names import FatFiles
from imgfs.backends._fat_orphans import Slots
from imgfs.backends._fat_time import localiser, use_utc
from imgfs.backends._tsk import VIRTUAL_DIR, open_fs, volume_size
from imgfs.backends._tsk_files import trees
from imgfs.backends._tsk_format import Format
from imgfs.errors import EvidenceError, NotMine
from imgfs.model import FilesInfo

if TYPE_CHECKING:
    from imgfs.backends import Files, Options, Reader

_LABEL: Final = b" (Volume Label Entry)"
_ROOT_MAX: Final = 1 << 20


def open_fat(reader: Reader, options: Options) -> Files:
    """Open a FAT volume.

    Raises:
        NotMine: the boot sector is none, or TSK finds no file system behind it.
    """
    if reader.size < 512:
        raise NotMine("fat")
    boot = parse_fat(reader.read(0, 512))
    use_utc()
    fs = open_fs(reader, "FAT32" if boot.type == "fat32" else "FAT_DETECT")
    repair, note = localiser(options.tz)
    volume = volume_size(fs, reader)
    slots = Slots(reader, boot.data_at, boot.sector, exfat=False)
    form = Format(keep=keep_file, repair=repair, next_orphan=slots.next_orphan)
    info = FilesInfo(
        type=boot.type,
        trees=trees(int(fs.info.root_inum)),
        block=boot.cluster,
        size=boot.size,
        label=label_text(_label(reader, boot), boot.label, options.codepage),
        uuid=serial_text(boot.serial),
        notes=(note,) if note else (),
    )
    return FatFiles(fs, form, info, volume, reader=reader, start=boot.data_at)


def keep_file(file: Any) -> bool:
    """Leave out ``$OrphanFiles`` and the volume label, which TSK shows as a file without a short name."""
    name = file.info.name
    if int(name.type) == VIRTUAL_DIR:
        return False
    return not (bytes(name.name or b"").endswith(_LABEL) and not name.shrt_name)


def _label(reader: Reader, boot: FatBoot) -> bytes | None:
    stop = min(boot.root_at + min(boot.root_length, _ROOT_MAX), reader.size)
    if not 0 < boot.root_at < stop:
        return None
    try:
        return root_label(reader.read(boot.root_at, stop - boot.root_at))
    except EvidenceError:
        return None


BACKEND = Backend(
    name="fat",
    title="FAT12, FAT16, FAT32",
    role=Role.FILES,
    rank=40,  # after ntfs and exfat, and after every partition table: all of them end in 55AA
    signatures=(Signature(510, b"\x55\xaa"),),
    open=open_fat,
    imports=("pytsk3",),
    supports="long names, deleted files, orphans; times in the zone the analyst names",
    truth=("peer", "tsk", "corpus"),
)
