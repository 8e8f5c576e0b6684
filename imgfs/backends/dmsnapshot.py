"""A store of changes that the device-mapper keeps for an origin: what a live system wrote over its image.

The store is opened together with its origin, where both are known: the first source is the store, the second
its origin. Alone it says nothing about any byte.

Sources: the kernel's Documentation/admin-guide/device-mapper/snapshot.rst (persistent stores); see
``_lvm2_snapshot``; livecd-tools, LiveOS_image (``LiveOS/overlay-LABEL-UUID``).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends import Backend, Role, Signature
from imgfs.backends._dm_targets import Devices, target
from imgfs.backends._lvm2_bodies import Body
from imgfs.errors import Malformed, NotMine, NotSupported
from imgfs.model import Media

if TYPE_CHECKING:
    from imgfs.backends import Options, Reader

_MAGIC: Final = b"SnAp"
_HEADER: Final = struct.Struct("<4s8xI")  # valid and version are looked at where it is read
_SECTOR: Final = 512
_LOST: Final = 64
_STORE: Final = "the store"
_ORIGIN: Final = "its origin"


def open_dmsnapshot(reader: Reader, options: Options) -> Media:
    """Lay the chunks of a store over its origin.

    Raises:
        NotMine: no store.
        NotSupported: its origin is not known.
        Malformed: it is full, or contradicts itself.
    """
    del options
    if reader.size < _SECTOR:
        raise NotMine("dmsnapshot")
    magic, chunk = _HEADER.unpack(reader.read(0, _HEADER.size))
    if magic != _MAGIC:
        raise NotMine("dmsnapshot")
    if not reader.others:
        raise NotSupported("changes to an image that is not named here: shown in system/ beside a live image")
    origin = reader.others[0]
    size = origin.size - origin.size % _SECTOR
    if not size:
        raise Malformed("an origin of no sector")
    devices = Devices(reader)
    devices.define(_STORE, Body(reader.size, [(0, reader.size, 0, 0)], 1))
    devices.define(_ORIGIN, Body(size, [(0, size, 1, 0)], 1))
    body = target("snapshot", "", [_ORIGIN, _STORE, "P", str(chunk)], size, devices)
    devices.stack.lay(body.size, body.runs)  # the last layout is the disk
    devices.stack.write(reader)
    return Media(
        layouts=tuple(devices.stack.layouts),
        notes=tuple(devices.notes),
        lost=tuple((start, stop, "the store does not say") for start, stop in body.lost()[:_LOST]),
    )


BACKEND = Backend(
    name="dmsnapshot",
    title="Device-mapper snapshot store",
    role=Role.MEDIA,
    rank=880,
    signatures=(Signature(0, _MAGIC),),
    open=open_dmsnapshot,
    imports=("imgfs.backends._kdf",),
    supports="what a live system wrote over its image, in `system/` where the medium has both",
    truth=("composed", "peer"),
)
