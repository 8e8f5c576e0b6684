"""FAT boot sectors: where everything lies, and whether there is one at all.

Source: Microsoft FAT specification 1.03 (fatgen103), sections 3 (boot sector) and 3.5 (FAT type);
exFAT file system specification, section 3.1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from imgfs.errors import NotMine

_BPB = struct.Struct("<HBHBHHBHHHII")  # from byte 11
_SECTORS: Final = {512, 1024, 2048, 4096}
_MEDIA: Final = {0xF0, *range(0xF8, 0x100)}
_NO_NAME: Final = b"NO NAME    "


@dataclass(frozen=True, slots=True, kw_only=True)
class FatBoot:
    """Geometry of a FAT volume.

    ``tables`` are where the copies of the table begin, the one to believe first. ``root_cluster`` is 0
    where the root is no chain. ``data_at`` is where TSK begins to count slots, ``heap_at`` where cluster 2
    begins. Units: bytes.
    """

    type: str
    sector: int
    cluster: int
    size: int
    serial: int
    label: bytes
    root_at: int
    root_length: int
    root_cluster: int
    data_at: int
    heap_at: int
    clusters: int
    fats: int
    table_at: int
    tables: tuple[int, ...]
    table_length: int


def parse_fat(boot: bytes) -> FatBoot:
    """Read a FAT boot sector.

    Raises:
        NotMine: a field has a value no FAT volume has.
    """
    if len(boot) < 512 or boot[0] not in {0xEB, 0xE9, 0x60} or boot[510:512] != b"\x55\xaa":
        raise NotMine("fat: no jump or no 55AA")
    sector, per_cluster, reserved, fats, roots, short, media, fat16, _, _, _, long = _BPB.unpack_from(
        boot, 11
    )
    if sector not in _SECTORS or not per_cluster or per_cluster & per_cluster - 1:
        raise NotMine(f"fat: {per_cluster} sectors of {sector} bytes a cluster")
    if not reserved or not 1 <= fats <= 4 or media not in _MEDIA:
        raise NotMine(f"fat: {reserved} reserved sectors, {fats} tables, media {media:#x}")
    table = fat16 or struct.unpack_from("<I", boot, 36)[0]
    total = short or long
    root_sectors = (roots * 32 + sector - 1) // sector
    first = reserved + fats * table + root_sectors
    if not table or total <= first:
        raise NotMine(f"fat: {total} sectors, {first} of them before the first cluster")
    clusters = (total - first) // per_cluster
    kind = "fat32" if not fat16 else "fat12" if clusters < 4085 else "fat16"
    tail = 64 if kind == "fat32" else 36
    extended = boot[tail + 2]  # 0x29: serial and label follow, 0x28: only the serial
    root_cluster, active = 0, 0
    if kind == "fat32":
        root_cluster = struct.unpack_from("<I", boot, 44)[0]
        root_at = (first + (root_cluster - 2) * per_cluster) * sector
        root_length = per_cluster * sector
        (flags,) = struct.unpack_from("<H", boot, 40)
        if flags & 0x80 and flags & 0x0F < fats:  # not mirrored: only one table is kept up to date
            active = flags & 0x0F
    else:
        root_at, root_length = (reserved + fats * table) * sector, roots * 32
    tables = tuple((reserved + number * table) * sector for number in range(fats))
    return FatBoot(
        type=kind,
        sector=sector,
        cluster=per_cluster * sector,
        size=total * sector,
        serial=struct.unpack_from("<I", boot, tail + 3)[0] if extended in {0x28, 0x29} else 0,
        label=boot[tail + 7 : tail + 18] if extended == 0x29 else b"",
        root_at=root_at,
        root_length=root_length,
        root_cluster=root_cluster,
        data_at=(reserved + fats * table) * sector,
        heap_at=first * sector,
        clusters=clusters,
        fats=fats,
        table_at=reserved * sector,
        tables=(tables[active],) if active else tables,
        table_length=table * sector,
    )


def root_label(root: bytes) -> bytes | None:
    """Return the volume label among directory entries, None: there is none."""
    for at in range(0, len(root) - 31, 32):
        if not root[at]:
            return None
        if root[at] != 0xE5 and root[at + 11] & 0x3F != 0x0F and root[at + 11] & 0x18 == 0x08:
            return root[at : at + 11]
    return None


def label_text(in_root: bytes | None, in_boot: bytes, codepage: str) -> str:
    """Return the label as users see it: the root's, else the boot sector's, unless it says NO NAME."""
    raw = in_root if in_root is not None else in_boot
    if raw == _NO_NAME:
        return ""
    if raw[:1] == b"\x05":  # stands for E5, which would mean deleted
        raw = b"\xe5" + raw[1:]
    return raw.decode(codepage, "replace").rstrip(" \0")


def serial_text(serial: int) -> str:
    """Return a volume serial as XXXX-XXXX, empty: none."""
    return f"{serial >> 16:04X}-{serial & 0xFFFF:04X}" if serial else ""
