"""exFAT, read by our own reader, deleted entries too.

Source: Microsoft exFAT file system specification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._fat_boot import serial_text
from imgfs.backends._fat_time import clock_of
from imgfs.backends.exfat.entries import ExfatForm
from imgfs.backends.exfat.volume import Bitmap, parse_exfat, read_root
from imgfs.backends.fat.files import TREES, SlotFiles, Special
from imgfs.backends.fat.table import Table
from imgfs.backends.fat.volume import Volume
from imgfs.errors import Malformed, NotMine
from imgfs.model import FilesInfo

if TYPE_CHECKING:
    from imgfs.backends import Files, Options, Reader


def open_exfat(reader: Reader, options: Options) -> Files:
    """Open an exFAT volume.

    Raises:
        NotMine: no exFAT boot sector.
        Malformed: fields that the specification excludes.
    """
    if reader.size < 512:
        raise NotMine("exfat")
    boot = parse_exfat(reader.read(0, 512))
    clock, note = clock_of(options.tz)
    table = Table(reader, boot.tables, boot.table_length, 32, boot.clusters)
    bitmap = Bitmap(reader, boot)
    volume = Volume(
        reader,
        table,
        bitmap,
        data_at=boot.heap_at,
        heap_at=boot.heap_at,
        cluster=boot.cluster,
        size=boot.size,
    )
    if not volume.holds(boot.root_cluster):
        raise Malformed(f"exfat: a root in cluster {boot.root_cluster}", start=96, stop=100)
    label, maps = read_root(reader, volume, boot)
    notes: tuple[str, ...] = (note,) if note else ()
    notes += bitmap.use(volume, maps, boot.active)
    if reader.size < boot.size:
        notes += (f"the volume has {reader.size} bytes, the file system {boot.size}",)
    info = FilesInfo(
        type="exfat",
        trees=TREES,
        block=boot.cluster,
        size=boot.size,
        label=label,
        uuid=serial_text(boot.serial),
        notes=notes,
    )
    number = volume.number(boot.size)
    specials = [Special(b"$MBR", number, 0, boot.sector)]
    specials += [
        Special(
            b"$FAT%d" % (index + 1),
            number + 1 + index,
            boot.table_at + index * boot.table_length,
            boot.table_length,
        )
        for index in range(boot.fats)
    ]
    return SlotFiles(volume, ExfatForm(clock), info, tuple(specials), first=boot.root_cluster)


BACKEND = Backend(
    name="exfat",
    title="exFAT",
    role=Role.FILES,
    rank=20,
    signatures=(Signature(3, b"EXFAT   "),),
    open=open_exfat,
    supports="deleted files, valid data length, orphans",
    truth=("kernel", "peer", "tsk", "corpus"),
)
