"""LUKS whose header lies in a file of its own: ``header`` of a key says which.

The volume holds ciphertext alone, which nothing tells from noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgfs.backends import Backend, Role
from imgfs.backends._luks1 import open_1
from imgfs.backends._luks2 import MAGIC, open_2
from imgfs.errors import NeedKey, NotMine

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader
    from imgfs.model import VolumeTable


def open_apart(reader: Reader, options: Options) -> VolumeTable:
    """Open ``reader`` with the header that is its only further member.

    Raises:
        NotMine: that is no header of LUKS.
        NeedKey: no header was named, or its key does not open it.
        NotSupported, Malformed: as ``open_1`` and ``open_2``.
    """
    if not reader.others:
        raise NeedKey("a header in a file of its own", kinds=BACKEND.keys)
    header = reader.others[-1]
    if header.size < 592 or header.read(0, 6) != MAGIC:
        raise NotMine("lukspart")
    opening = open_1 if int.from_bytes(header.read(6, 2), "big") == 1 else open_2
    return opening(reader, options, header)


BACKEND = Backend(
    name="lukspart",
    title="LUKS with a detached header",
    role=Role.VOLUMES,
    rank=6,
    open=open_apart,
    by_key=True,
    keys=("header",),
    imports=("imgfs.backends._kdf",),
    supports="as LUKS; the header's file is named in the key file",
    truth=("peer", "composed"),
)
