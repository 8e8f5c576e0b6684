"""Whether a superblock of version 0.90 at the end of a disk is that of the disk, or of its last slot.

Source: UEFI Specification 2.10, sections 5.2.1 and 5.3: the records whose slots are looked at.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError

if TYPE_CHECKING:
    from imgfs.backends import Reader

_SECTOR: Final = 512


def within_a_slot(reader: Reader, at: int) -> bool:
    """Say whether a slot of the disk's own table reaches over a superblock of 0.90, which is then the slot's.

    The array on a whole disk ends before its superblock, and so does what a table in it speaks of.
    """
    try:
        boot, header = reader.read(0, 512), reader.read(512, 512)
        if boot[510:] != b"\x55\xaa":
            return False
        ends = []
        for entry in range(446, 510, 16):
            kind, first, count = struct.unpack_from("<4xB3xII", boot, entry)
            ends.append((first + count) * _SECTOR if kind not in (0, 0xEE) else 0)
        if header[:8] == b"EFI PART":
            table, count, step = struct.unpack_from("<QII", header, 72)
            if step == 128 and count <= 1024:
                rows = reader.read(table * _SECTOR, count * step)
                used = [row for row in range(0, len(rows), step) if any(rows[row : row + 16])]
                ends += [(struct.unpack_from("<Q", rows, row + 40)[0] + 1) * _SECTOR for row in used]
    except EvidenceError:
        return False
    return max(ends, default=0) > at
