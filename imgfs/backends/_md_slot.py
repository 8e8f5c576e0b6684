"""Whether a superblock at the end of a disk is that of the disk, or of its last slot, or a remnant.

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
    """Say whether a slot of the disk's own table reaches over a superblock, which is then no member's.

    The array on a whole disk ends before a superblock at its end, and so does what a table in it speaks of.
    """
    try:
        boot, header = reader.read(0, 512), reader.read(512, 512)
        if boot[510:] != b"\x55\xaa":
            return False
        slots = [struct.unpack_from("<B3xB3xII", boot, entry) for entry in range(446, 510, 16)]
        if any(status & 0x7F for status, *_ in slots):
            return False  # the boot record of a file system
        ends = [(first + count) * _SECTOR for _, kind, first, count in slots if kind not in (0, 0xEE)]
        if header[:8] == b"EFI PART":
            table, count, step = struct.unpack_from("<QII", header, 72)
            if step == 128 and count <= 1024:
                rows = reader.read(table * _SECTOR, count * step)
                used = [row for row in range(0, len(rows), step) if any(rows[row : row + 16])]
                ends += [(struct.unpack_from("<Q", rows, row + 40)[0] + 1) * _SECTOR for row in used]
    except EvidenceError:
        return False
    return any(at < end <= reader.size for end in ends)
