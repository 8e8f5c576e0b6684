"""File systems that are named but not read.

Source: signatures as the documentation of each file system gives them: XFS Algorithms and Data Structures,
f2fs on-disk format (kernel.org), Apple File System Reference, Squashfs 4.0 format, EROFS
documentation, ECMA-167 part 2 (UDF), JFS layout, the kernel's Documentation/filesystems for the rest.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs.backends import Role
from imgfs.backends._recognised import Label, Version, at, quoted, row
from imgfs.errors import NotMine

if TYPE_CHECKING:
    from imgfs.backends import Backend, Reader

_MINIX: Final = {0x137F: (1, 14), 0x138F: (1, 30), 0x2468: (2, 14), 0x2478: (2, 30), 0x4D5A: (3, 60)}
_PAGES: Final = (4096, 8192, 16384, 32768, 65536)
_ASLEEP: Final = (b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB000")
_REISER: Final = (b"ReIsErFs", b"ReIsEr2Fs", b"ReIsEr3Fs")


def _minix(reader: Reader) -> str:
    """Say the version. Two bytes are a weak signature: counts have to fit. Source: minix(5), superblock."""
    block = reader.read(1024, 32)
    for order in "<>":
        (magic,) = struct.unpack_from(order + "H", block, 16)
        if magic in _MINIX:
            inodes, zones, inode_maps, zone_maps, first, shift = struct.unpack_from(order + "6H", block)
            zones = zones if _MINIX[magic][0] == 1 else struct.unpack_from(order + "I", block, 20)[0]
            break
        (magic,) = struct.unpack_from(order + "H", block, 24)
        if magic == 0x4D5A:
            inodes, _, inode_maps, zone_maps, first, shift = struct.unpack_from(order + "I5H", block)
            (zones,) = struct.unpack_from(order + "I", block, 20)
            break
    else:
        raise NotMine("minix")
    if not inodes or not inode_maps or not zone_maps or shift > 3 or not 2 < first < zones:
        raise NotMine(f"minix: {inodes} inodes, {zones} zones, the first at {first}")
    version, length = _MINIX[magic]
    return f"version {version}, names of {length}"


def _journal(reader: Reader) -> str:
    """Raise NotMine unless a JFFS2 node header is right. Source: JFFS2 paper, section 3.1."""
    raw = reader.read(0, 8)
    for order, magic in (("<", b"\x85\x19"), (">", b"\x19\x85")):
        _, kind, length = struct.unpack(order + "HHI", raw)
        if (
            raw.startswith(magic)
            and kind & 0xFFF in range(1, 7)
            and kind >> 13
            and 12 <= length <= reader.size
        ):
            return ""
    raise NotMine("jffs2")


def _nilfs(reader: Reader) -> str:
    """Raise NotMine unless superblock fields fit. Source: kernel.org nilfs2.txt, struct nilfs_super_block."""
    revision, _, _, length = struct.unpack("<IHHH", reader.read(1024, 10))
    if revision != 2 or not 256 <= length <= 1024:
        raise NotMine("nilfs2")
    return f"version {revision}"


def _pool(reader: Reader) -> str:
    """Say version and pool; NotMine unless the label lists one. Source: ZFS On-Disk Specification, 1.3.

    A row of the list is its length in two words, the name with its length, a type, a count, and the value,
    all big-endian and padded to words (XDR, RFC 4506).
    """
    head = reader.read(16384, 1024)
    if b"version" not in head and b"pool_guid" not in head:
        raise NotMine("zfs")
    words = []
    if (at := head.find(b"\0\0\0\7version\0\0\0\0\x08\0\0\0\1")) >= 0:
        words.append(f"version {int.from_bytes(head[at + 20 : at + 28], 'big')}")
    if (at := head.find(b"\0\0\0\4name\0\0\0\x09\0\0\0\1")) >= 0:
        length = int.from_bytes(head[at + 16 : at + 20], "big")
        words.append(f'"{head[at + 20 : at + 20 + min(length, 256)].decode("utf-8", "backslashreplace")}"')
    return " ".join(words)


def _swap(reader: Reader) -> str:
    """Say version and label, or that a machine sleeps in it. Source: mkswap(8), the kernel's swsusp.rst."""
    for page in _PAGES:
        if reader.size < page:
            continue
        magic = reader.read(page - 10, 10)
        if magic[:9] in _ASLEEP:
            return "with a suspended machine"
        if magic == b"SWAPSPACE2":
            (version,) = struct.unpack("<I", reader.read(1024, 4))
            return " ".join(filter(None, (f"version {version}", quoted(reader, Label(1052, 16)))))
        if magic == b"SWAP-SPACE":
            return "version 0"
    return ""


def _bcachefs(reader: Reader) -> str:
    """Say the version. Source: bcachefs: Principles of Operation; versions since 1.0 keep the major apart."""
    (version,) = struct.unpack("<H", reader.read(4112, 2))
    return f"version {version >> 10}.{version & 1023}"


def _vmfs(reader: Reader, at: int = 2 << 20) -> str:
    """Say version and label. Source: the vmfs-tools wiki's description of the file system information."""
    (version,) = struct.unpack("<I", reader.read(at + 4, 4))
    said = f"volume version {version}, version {reader.read(at + 8, 1)[0]}"
    return " ".join(filter(None, (said, quoted(reader, Label(at + 0x1D, 128)))))


def _vmfs_member(reader: Reader) -> str:
    """Say what lies on a volume of one member: its file system begins 16 MiB further on."""
    at = (1 << 20) + (17 << 20)
    if reader.size >= at + 512 and reader.read(at, 4) == b"\x5e\xf1\xab\x2f":
        return "with file system " + _vmfs(reader, at)
    return ""


def _reiser(reader: Reader) -> str:
    """Say version and label. Source: Florian Buchholz, The structure of the Reiser file system."""
    if reader.read(65536, 7) == b"ReIsEr4":
        return "version 4"
    for place in (65536, 8192):
        magic = reader.read(place + 52, 9)
        if magic.startswith((b"ReIsEr2Fs", b"ReIsEr3Fs")):
            return " ".join(filter(None, ("version 3.6", quoted(reader, Label(place + 100, 16)))))
    return "version 3.5"


def _plain(
    name: str,
    title: str,
    offset: int,
    *magics: bytes,
    version: Version | None = None,
    label: Label | None = None,
) -> Backend:
    return row(name, title, Role.FILES, at(offset, *magics), version=version, label=label)


RECOGNISED: tuple[Backend, ...] = (
    _plain("xfslog", "XFS external log", 0, b"\xfe\xed\xba\xbe"),
    _plain(
        "f2fs",
        "F2FS",
        1024,
        b"\x10\x20\xf5\xf2",
        version=Version(1028, "<HH"),
        label=Label(1148, 1024, "utf-16-le"),
    ),
    row(
        "bcachefs",
        "bcachefs",
        Role.FILES,
        at(4120, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),
        label=Label(4168, 32),
        judge=_bcachefs,
    ),
    row(
        "reiserfs",
        "ReiserFS",
        Role.FILES,
        *(at(place, *_REISER) for place in (65588, 8244, 8212)),
        at(65536, b"ReIsEr4"),
        judge=_reiser,
    ),
    _plain("jfs", "JFS", 32768, b"JFS1", version=Version(32772, "<I"), label=Label(32920, 16)),
    row(
        "minix",
        "Minix",
        Role.FILES,
        at(
            1040,
            *(
                magic.to_bytes(2, order)
                for magic in (0x137F, 0x138F, 0x2468, 0x2478)
                for order in ("little", "big")
            ),
        ),
        at(1048, b"\x5a\x4d", b"\x4d\x5a"),
        judge=_minix,
    ),
    row("jffs2", "JFFS2", Role.FILES, at(0, b"\x85\x19", b"\x19\x85"), judge=_journal),
    _plain("ubi", "UBI", 0, b"UBI#", version=Version(4, ">B")),
    _plain("ubifs", "UBIFS", 0, b"\x31\x18\x10\x06", version=Version(80, "<I")),
    row("vmfs", "VMFS", Role.FILES, at(2 << 20, b"\x5e\xf1\xab\x2f"), judge=_vmfs),
    row(
        "vmfslvm",
        "VMFS volume",
        Role.FILES,
        at(1 << 20, b"\x0d\xd0\x01\xc0"),
        version=Version((1 << 20) + 4, "<I"),
        judge=_vmfs_member,
    ),
    row(
        "zfs",
        "ZFS",
        Role.FILES,
        at(16384, b"\1\1\0\0\0\0\0\0\0\0\0\1", b"\1\0\0\0\0\0\0\0\0\0\0\1"),
        judge=_pool,
    ),
    _plain("hpfs", "HPFS", 8192, b"\x49\xe8\x95\xf9"),
    row("befs", "BeFS", Role.FILES, at(32, b"1SFB", b"BFS1"), at(544, b"1SFB", b"BFS1")),
    _plain("refs", "ReFS", 3, b"ReFS\0\0\0\0", version=Version(40, "<BB")),
    row("nilfs2", "NILFS2", Role.FILES, at(1030, b"\x34\x34"), judge=_nilfs, label=Label(1192, 80)),
    row("ocfs2", "OCFS2", Role.FILES, *(at(2 * block, b"OCFSV2") for block in (512, 1024, 2048, 4096))),
    _plain("gfs2", "GFS", 65536, b"\x01\x16\x19\x70\0\0\0\1", version=Version(65560, ">I")),
    _plain("vxfs", "VxFS", 1024, b"\xf5\xfc\x01\xa5", version=Version(1028, "<I")),
    _plain("vxfsbe", "VxFS big-endian", 8192, b"\xa5\x01\xfc\xf5", version=Version(8196, ">I")),
    _plain("nss", "NetWare storage", 4096, b"SPB5"),
    _plain("zonefs", "zonefs", 0, b"SFOZ"),
    _plain("littlefs", "littlefs", 8, b"littlefs"),
    row(
        "swap",
        "Linux swap",
        Role.FILES,
        *(at(page - 10, b"SWAPSPACE2", b"SWAP-SPACE", *_ASLEEP) for page in _PAGES),
        needs="it holds pages of memory, no files",
        judge=_swap,
    ),
)
