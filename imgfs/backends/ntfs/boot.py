"""The boot sector of NTFS.

Source: NTFS documentation of the Linux-NTFS project, "$Boot".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from imgfs.errors import Malformed, NotMine

if TYPE_CHECKING:
    from imgfs.backends import Reader

MAGIC = b"NTFS    "


class Boot(NamedTuple):
    """Geometry of a volume. Units: bytes."""

    cluster: int
    record: int
    index_block: int
    size: int
    mft_at: int
    mirror_at: int
    serial: int


def read_boot(reader: Reader) -> Boot:
    """Read the boot sector.

    Raises:
        NotMine: no NTFS boot sector.
        Malformed: its sizes are impossible.
    """
    if reader.size < 512:
        raise NotMine("ntfs")
    boot = reader.read(0, 512)
    if boot[3:11] != MAGIC:
        raise NotMine("ntfs")
    (sector,) = struct.unpack_from("<H", boot, 11)
    code = boot[13]
    cluster = sector * (1 << 256 - code if code > 128 else code)
    if sector not in {256, 512, 1024, 2048, 4096} or not 0 < cluster <= 2 << 20 or cluster & cluster - 1:
        raise Malformed(f"cluster of {cluster} bytes", start=11, stop=14)
    record, index_block = (_size(boot, at, cluster) for at in (64, 68))
    if not 256 <= record <= 65536 or record & record - 1:
        raise Malformed(f"MFT record of {record} bytes", start=64, stop=65)
    sectors, mft, mirror = struct.unpack_from("<3Q", boot, 40)
    (serial,) = struct.unpack_from("<Q", boot, 72)
    return Boot(cluster, record, index_block, sectors * sector, mft * cluster, mirror * cluster, serial)


def _size(boot: bytes, at: int, cluster: int) -> int:
    """Return a size that is counted in clusters, or below zero as a power of two."""
    code: int = struct.unpack_from("<b", boot, at)[0]
    return 1 << -code if code < 0 else code * cluster
