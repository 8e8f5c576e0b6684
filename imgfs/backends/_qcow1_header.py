"""The header of QCOW, the first version.

Source: the QCOW image format as its documentation describes it (Mark McLoughlin, "The QCOW Image
Format"); Joachim Metz, "QEMU Copy-On-Write file format", version 1. Numbers are big-endian.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.backends._qcow2_header import MAGIC, Header, backing_name
from imgfs.backends._qcow_tables import Tables
from imgfs.errors import Malformed, NotMine, NotSupported

if TYPE_CHECKING:
    from imgfs.backends import Reader

_HEADER: Final = struct.Struct(">4sIQIIQBB2xIQ")


def read_first(reader: Reader) -> tuple[Header, Tables]:
    """Read the header of version 1 and say where its tables are.

    Raises:
        NotMine: no such signature.
        NotSupported: encrypted.
        Malformed: sizes are impossible.
    """
    if reader.size < _HEADER.size:
        raise NotMine("qcow")
    magic, version, name_at, name_length, _, size, bits, l2_bits, cipher, l1_at = _HEADER.unpack(
        reader.read(0, _HEADER.size)
    )
    if magic != MAGIC or version != 1:
        raise NotMine("qcow")
    if not 9 <= bits <= 16 or not 6 <= l2_bits <= 13 or size > limits.MAX_SIZE:
        raise Malformed(f"a disk of {size} bytes in clusters of 2^{bits}, tables of 2^{l2_bits} entries")
    if cipher:
        raise NotSupported(
            f"QCOW version 1, encrypted ({'AES' if cipher == 1 else f'method {cipher}'}): imgfs cannot read "
            "it yet; with its key, qemu-img convert makes a raw image of it"
        )
    span = 1 << bits + l2_bits
    header = Header(version=1, size=size, cluster=1 << bits, l1_at=l1_at, l1_entries=-(-size // span))
    if name_at:
        header.backing = backing_name(reader, name_at, name_length, header.notes)
    return header, Tables(
        size=size,
        cluster=header.cluster,
        l1_at=l1_at,
        l1_entries=header.l1_entries,
        l2_entries=1 << l2_bits,
        data_size=reader.size,
        one=True,
    )
