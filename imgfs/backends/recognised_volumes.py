"""Encrypted volumes, members of sets, and tables that are named but not read.

Source: LUKS1 1.2.3 and LUKS2 on-disk formats; libbde documentation (signatures); LVM2 metadata format; SNIA
DDF 2.0; DRBD 9 metadata; bcache and S/390 DASD in the kernel's documentation; AHDI 3 (Atari); Amiga RKRM:
Devices, "RigidDiskBlock".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from imgfs.backends import Role
from imgfs.backends._recognised import Version, at, row, seen
from imgfs.errors import NotMine

if TYPE_CHECKING:
    from imgfs.backends import Backend, Reader

_MEMBER = "its set has to be assembled first"
_ATARI = (b"GEM", b"BGM", b"XGM", b"RAW", b"LNX", b"SWP", b"MIX", b"MAC", b"UNX", b"F32")
_ATARI_AT = (454, 466, 478, 490)


def _dynamic(reader: Reader) -> str:
    """Say the revision. Source: libvsgpt documentation of the LDM private header, bytes 12..16 big-endian."""
    place = 3072 if seen(reader, at(3072, b"PRIVHEAD")[0]) else reader.size - 512
    return "version " + ".".join(map(str, struct.unpack(">HH", reader.read(place + 12, 4))))


def _atari(reader: Reader) -> str:
    """Raise NotMine unless an entry lies on the disk its table describes. Source: AHDI 3, root sector."""
    root = reader.read(0, 512)
    (disk,) = struct.unpack_from(">I", root, 450)
    for place in _ATARI_AT:
        flag, kind, first, count = struct.unpack_from(">B3sII", root, place)
        if flag & 1 and kind in _ATARI and first and count and first + count <= disk:
            return ""
    raise NotMine("atari")


RECOGNISED: tuple[Backend, ...] = (
    row("lvm1", "LVM1 physical volume", Role.VOLUMES, at(0, b"HM\1\0", b"HM\2\0"), needs=_MEMBER),
    row(
        "ddf", "DDF RAID member", Role.VOLUMES, at(-512, b"\xde\x11\xde\x11"), needs=_MEMBER, exclusive=False
    ),
    row(
        "hostraid",
        "Host RAID member",
        Role.VOLUMES,
        at(-1024, b"Intel Raid ISM Cfg Sig. "),
        at(-512, b"\x37\xfc\x4d\x1e", b"$XIDE$", b"JM\0\0", b"JM\1\0"),
        at(-5632, b"\xf3\x16\x78\x5a", b"\xfd\x16\x78\x5a"),
        at(-1024, b"NVIDIA  "),
        needs=_MEMBER,
        exclusive=False,
    ),
    row(
        "drbd",
        "DRBD",
        Role.VOLUMES,
        at(-4036, b"\x83\x74\x02\x6b", b"\x83\x74\x02\x6d"),
        needs=_MEMBER,
        exclusive=False,
    ),
    row(
        "bcache",
        "bcache",
        Role.VOLUMES,
        at(4120, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),
        needs=_MEMBER,
    ),
    row("vdo", "VDO", Role.VOLUMES, at(0, b"dmvdo001")),
    row("stratis", "Stratis", Role.VOLUMES, at(516, b"!Stra0tis\x86\xff\x02^\x41rh"), needs=_MEMBER),
    row("bluestore", "Ceph BlueStore", Role.VOLUMES, at(0, b"bluestore block device"), needs=_MEMBER),
    row("oracleasm", "Oracle ASM", Role.VOLUMES, at(32, b"ORCLDISK"), needs=_MEMBER),
    row("verity", "dm-verity tree", Role.VOLUMES, at(0, b"verity\0\0"), version=Version(8, "<I")),
    row("integrity", "dm-integrity", Role.VOLUMES, at(0, b"integrt\0"), version=Version(8, "<B")),
    row("spaces", "Storage Spaces", Role.VOLUMES, at(0, b"SPACEDB "), at(4096, b"SPACEDB "), needs=_MEMBER),
    row(
        "ldm",
        "Windows dynamic disk",
        Role.VOLUMES,
        at(3072, b"PRIVHEAD"),
        at(-512, b"PRIVHEAD"),
        judge=_dynamic,
        exclusive=False,
    ),
    row("rdb", "Amiga rigid disk", Role.VOLUMES, *(at(block * 512, b"RDSK") for block in range(16))),
    row(
        "dasd",
        "S-390 DASD",
        Role.VOLUMES,
        *(
            at(2 * block, *(text.encode("cp037") for text in ("VOL1", "LNX1", "CMS1")))
            for block in (512, 1024, 2048, 4096)
        ),
    ),
    row(
        "atari",
        "Atari partitions",
        Role.VOLUMES,
        *(at(place + 1, *_ATARI) for place in _ATARI_AT),
        judge=_atari,
    ),
)
