"""What a disk or a volume looks like at its start: tells a key that nothing vouches for from a wrong one.

Two bytes are not enough: of 65,536 wrong keys one gives them. So each sign is at least four, or comes with a
field that has few values.

Sources: Apple TN1150 (HFS+), Inside Macintosh: Files (HFS), Inside Macintosh: Devices (partition map); UEFI
2.10 (GPT); the kernel's documentation of ext4; APFS reference; libmodi (sparse images).
"""

from __future__ import annotations

from typing import Final

HEAD: Final = 4096  # bytes that are looked at
_SIGNS: Final = (  # GPT, HFS+, HFSX, APFS, sparse image, NTFS, exFAT, partition map in its second block
    (512, b"EFI PART"),
    (1024, b"H+\0\x04"),
    (1024, b"HX\0\x05"),
    (32, b"NXSB"),
    (0, b"sprs"),
    (3, b"NTFS    "),
    (3, b"EXFAT   "),
    (512, b"PM\0\0\0\0"),
)
_SIZES: Final = (512, 1024, 2048, 4096)


def known(data: bytes | bytearray) -> bool:
    """Say whether plaintext begins as something does, or with zeros: no ciphertext decrypts to those."""
    data = bytes(data[:HEAD]).ljust(HEAD, b"\xff")
    if not any(data[:512]) or any(data.startswith(sign, at) for at, sign in _SIGNS):
        return True
    if data[:2] == b"ER":  # driver descriptor: the size of a block
        return int.from_bytes(data[2:4], "big") in _SIZES
    if data[510:512] == b"\x55\xaa":  # MBR: is a slot active or not; FAT: a jump and the size of a sector
        slots = all(data[446 + 16 * n] in (0, 0x80) for n in range(4))
        sector = int.from_bytes(data[11:13], "little")
        return slots or (data[0] in (0xEB, 0xE9) and sector in _SIZES)
    if data[1024:1026] == b"BD":  # HFS: the size of an allocation block
        size = int.from_bytes(data[1044:1048], "big")
        return 0 < size <= 1 << 20 and size % 512 == 0
    if data[1080:1082] == b"\x53\xef":  # ext: the logarithm of the size of a block
        return int.from_bytes(data[1048:1052], "little") <= 6
    return False
