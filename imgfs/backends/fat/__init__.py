"""FAT12, FAT16 and FAT32, read by our own reader, deleted entries too.

Source: Microsoft FAT specification 1.03 (fatgen103).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._fat_boot import FatBoot, label_text, parse_fat, root_label, serial_text
from imgfs.backends._fat_time import clock_of
from imgfs.backends.fat.entries import FatForm
from imgfs.backends.fat.files import TREES, SlotFiles, Special
from imgfs.backends.fat.table import Table
from imgfs.backends.fat.volume import Volume
from imgfs.errors import EvidenceError, Malformed, NotMine
from imgfs.model import FilesInfo

if TYPE_CHECKING:
    from imgfs.backends import Files, Options, Reader

_ROOT_MAX: Final = 1 << 20
_BITS: Final = {"fat12": 12, "fat16": 16, "fat32": 28}


def open_fat(reader: Reader, options: Options) -> Files:
    """Open a FAT volume.

    Raises:
        NotMine: the boot sector is none.
        Malformed: it names a root that does not exist.
    """
    if reader.size < 512:
        raise NotMine("fat")
    boot = parse_fat(reader.read(0, 512))
    clock, note = clock_of(options.tz)
    table = Table(reader, boot.tables, boot.table_length, _BITS[boot.type], boot.clusters)
    volume = Volume(
        reader,
        table,
        table,
        data_at=boot.data_at,
        heap_at=boot.heap_at,
        cluster=boot.cluster,
        size=boot.size,
    )
    wide = boot.type == "fat32"
    if wide and not volume.holds(boot.root_cluster):
        raise Malformed(f"fat32: a root in cluster {boot.root_cluster}", start=44, stop=48)
    notes: tuple[str, ...] = (note,) if note else ()
    if reader.size < boot.size:
        notes += (f"the volume has {reader.size} bytes, the file system {boot.size}",)
    info = FilesInfo(
        type=boot.type,
        trees=TREES,
        block=boot.cluster,
        size=boot.size,
        label=label_text(_label(reader, boot), boot.label, options.codepage),
        uuid=serial_text(boot.serial),
        notes=notes,
    )
    form = FatForm(options.codepage, clock, wide=wide)
    fixed = None if wide else [(0, boot.root_length, boot.root_at)] if boot.root_length else []
    return SlotFiles(volume, form, info, _specials(boot, volume), first=boot.root_cluster, fixed=fixed)


def _specials(boot: FatBoot, volume: Volume) -> tuple[Special, ...]:
    """Return the boot sector and the tables as TSK shows them, numbered behind the last slot."""
    number = volume.number(boot.size)
    found = [Special(b"$MBR", number, 0, boot.sector)]
    for index in range(boot.fats):
        at = boot.table_at + index * boot.table_length
        found.append(Special(b"$FAT%d" % (index + 1), number + 1 + index, at, boot.table_length))
    return tuple(found)


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
    supports="long names, code pages, deleted files, orphans; times in the zone the analyst names",
    truth=("kernel", "peer", "tsk", "corpus"),
)
