"""What lies at a place of a media, judged by what all back-ends declare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imgfs.backends import Role, discover
from imgfs.backends._fat_boot import parse_fat
from imgfs.errors import EvidenceError, NotMine

if TYPE_CHECKING:
    from imgfs.backends import Reader

_STRONG: Final = 4  # bytes of a signature that nothing else has tested
_BOOT: Final = b"\x55\xaa"
_BOOT_NAMES: Final = (b"NTFS    ", b"EXFAT   ", b"-FVE-FS-", b"ReFS\0\0\0\0")  # at byte 3


def content_at(reader: Reader, start: int = 0, *, boot: bool = False) -> str:
    """Return the title of the file system or set that begins at ``start``, empty: none is known.

    Args:
        reader: the media.
        start: where its content would begin, in bytes.
        boot: also take any sector that ends like a boot record.
    """
    for backend in discover().values():
        if backend.role is Role.MEDIA or backend.by_trial:
            continue
        if backend.role is Role.VOLUMES and not backend.recognised:
            continue  # a table inside the first sectors says nothing about whose they are
        for signature in backend.signatures:
            magic, at = signature.magic, start + signature.offset
            if signature.offset < 0 or at + len(magic) > reader.size or (magic == _BOOT and not boot):
                continue
            if backend.recognised and len(magic) < _STRONG:
                continue
            try:
                if reader.read(at, len(magic)) == magic:
                    return backend.title
            except EvidenceError:
                continue  # lost bytes match nothing
    return ""


def boot_record(sector: bytes) -> int:
    """Return the size in bytes of the file system whose boot record this is, 0: it is none.

    Partition tables and the boot records of FAT, exFAT, NTFS and HPFS end in the same two bytes.
    """
    if sector[3:11] in _BOOT_NAMES:
        per_sector = int.from_bytes(sector[11:13], "little") or 512  # exFAT leaves it empty
        at = 72 if sector[3:8] == b"EXFAT" else 40
        return max(int.from_bytes(sector[at : at + 8], "little") * per_sector, 512)
    try:
        return parse_fat(sector).size
    except NotMine:
        return 0
