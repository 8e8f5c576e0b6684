r"""The drive letters of a Windows system: MountedDevices in its SYSTEM hive.

Sources: see ``_regf``; Microsoft, "IOCTL_MOUNTDEV_QUERY_UNIQUE_ID"; "Mounted devices" in the documentation
of the libyal project's winreg-kb: a value of 12 bytes is the signature of an MBR and an offset in bytes, one
that starts with ``DMIO:ID:`` ends with the GUID of a slot of a GPT; others name removable media.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final
from uuid import UUID

from imgfs.backends import Backend, Role
from imgfs.backends._regf import Hive
from imgfs.model import MountRow, MountTable

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

_LETTER: Final = re.compile(r"\\DosDevices\\([A-Z]):\Z")
_GUID: Final = b"DMIO:ID:"


def open_drives(reader: Reader, options: Options) -> MountTable:
    """Read the drive letters of a SYSTEM hive.

    Raises:
        Malformed: it is no hive, or a damaged one.
    """
    del options
    hive = Hive(reader)
    notes = ["the SYSTEM hive was not written whole: its logs may hold newer drives"] if hive.dirty else []
    rows: list[MountRow] = []
    for name, data in sorted(hive.values(("MountedDevices",)).items()):
        if not (letter := _LETTER.match(name)):
            continue
        if len(data) == 12:
            signature, offset = struct.unpack("<IQ", data)
            what = f"mbr:{signature:08x}:{offset}"
        elif data.startswith(_GUID) and len(data) == len(_GUID) + 16:
            what = f"partuuid:{UUID(bytes_le=data[len(_GUID) :])}"
        else:
            notes.append(f"{letter[1]}: is no volume of a disk")
            continue
        rows.append(MountRow(what, letter[1].encode()))
    return MountTable(rows=tuple(rows), drives=True, notes=tuple(notes))


BACKEND = Backend(
    name="drives",
    title="Windows drive letters",
    role=Role.MOUNTS,
    rank=20,
    open=open_drives,
    supports="a machine's own drives in `system/`: by disk signature and offset, or by GUID",
    truth=("composed",),
)
