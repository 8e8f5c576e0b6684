"""What a disk or a volume looks like at its start: tells a key that nothing vouches for from a wrong one."""

from __future__ import annotations

from typing import Final

HEAD: Final = 4096  # bytes that are looked at
_SIGNS: Final = (  # APM, GPT, MBR and FAT, HFS, HFS+, HFSX, ext, APFS, sparse image, NTFS, exFAT
    (0, b"ER"),
    (512, b"PM"),
    (512, b"EFI PART"),
    (510, b"\x55\xaa"),
    (1024, b"BD"),
    (1024, b"H+"),
    (1024, b"HX"),
    (1080, b"\x53\xef"),
    (32, b"NXSB"),
    (0, b"sprs"),
    (3, b"NTFS    "),
    (3, b"EXFAT   "),
)


def known(data: bytes | bytearray) -> bool:
    """Say whether plaintext begins as something does, or with zeros: no ciphertext decrypts to those."""
    empty = len(data) >= 512 and not any(data[:512])
    return empty or any(data[at : at + len(sign)] == sign for at, sign in _SIGNS)
