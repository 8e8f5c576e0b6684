"""SGI volume header.

Source: IRIX vh(7M), dvhtool(1M) and <sys/dvh.h> as documented there: struct volume_header, big-endian.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.errors import Malformed, NotMine
from imgfs.model import SlotKind, Volume, VolumeTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

_MAGIC: Final = b"\x0b\xe5\xa9\x41"
_SLOTS_AT: Final = 312
_WHOLE: Final = 6
_TYPES: Final = {
    0: "SGI volume header",
    1: "SGI track replacement",
    2: "SGI sector replacement",
    3: "SGI raw",
    4: "SGI BSD",
    5: "SGI System V",
    6: "SGI volume",
    7: "SGI EFS",
    8: "SGI logical volume",
    9: "SGI raw logical volume",
    10: "SGI XFS",
    11: "SGI XFS log",
    12: "SGI XLV",
    0x82: "Linux swap",
    0x83: "Linux",
    0x8E: "Linux LVM",
    0xFD: "Linux RAID",
}


def open_sgilabel(reader: Reader, options: Options) -> VolumeTable:
    """Read the volume header in sector 0.

    Raises:
        NotMine: there is none.
        Malformed: its checksum is wrong.
    """
    sector = options.sector or 512
    if reader.size < 512:
        raise NotMine("sgilabel")
    header = reader.read(0, 512)
    if not header.startswith(_MAGIC):
        raise NotMine("sgilabel")
    if sum(struct.unpack(">128I", header)) & 0xFFFF_FFFF:
        raise Malformed("header checksum", start=0, stop=512)
    volumes: list[Volume] = []
    for index, (count, first, kind) in enumerate(
        struct.iter_unpack(">III", header[_SLOTS_AT : _SLOTS_AT + 192])
    ):
        if not count:
            continue
        volumes.append(
            Volume(
                slot=index + 1,
                kind=SlotKind.METADATA if kind == _WHOLE else SlotKind.ALLOCATED,
                start=first * sector,
                stop=(first + count) * sector,
                type_id=f"{kind:02x}",
                type_name=_TYPES.get(kind, ""),
            )
        )
    return VolumeTable(scheme="sgi", sector=sector, volumes=tuple(volumes))


BACKEND = Backend(
    name="sgilabel",
    title="SGI volume header",
    role=Role.VOLUMES,
    rank=35,
    signatures=(Signature(0, _MAGIC),),
    open=open_sgilabel,
    supports="all slots",
    truth=("peer", "corpus"),
)
