"""Ciphers that turn sectors of ciphertext into plaintext, in pool threads of the daemon.

Nothing is parsed here: lengths are ours, and whatever bytes an image holds decrypt to as many others. Keys
stay in the daemon: these are no codecs of the decoder processes, which image after image passes through.

Sources: IEEE Std 1619-2007 (XTS); the kernel's Documentation/admin-guide/device-mapper/dm-crypt.rst (initial
vectors); New methods in hard disk encryption, Clemens Fruhwirth, 2005 (ESSIV); AES-CBC + Elephant diffuser,
Niels Ferguson, 2006; vfdecrypt, Weinmann, Appelbaum and Fromme, 2006 (vectors of HMAC-SHA1).
"""

from __future__ import annotations

import zlib
from array import array
from sys import byteorder
from typing import TYPE_CHECKING, Final

from imgfs.block import gcrypt, kuznyechik, sectors
from imgfs.errors import Malformed

if TYPE_CHECKING:
    from imgfs.model import Codec, Enciphered

Parameters = dict[str, int | bytes]

_AES: Final = "aes"
_OTHERS: Final = ("serpent", "twofish", "camellia")
_OURS: Final = "kuznyechik"
_MODES: Final = ("xts", "cbc", "ecb", "elephant")
_QUICK: Final = ("aes-xts", "aes-cbc")
_KEYS: Final = (16, 24, 32)
_SECTORS: Final = range(16, 4096 * 16 + 1)
HMAC: Final = "hmac-sha1"
IVS: Final = ("plain", "plain64", "plain64be", "null", "essiv", "eboiv", "tcw", HMAC)
_SLOW: Final = (b"tcw", HMAC.encode())  # vectors that cost as much as decrypting
_HMAC_KEY: Final = 20  # bytes of the key of Apple's vectors
_TCW: Final = 32  # bytes of the seeds of TrueCrypt's CBC: of vectors, of what is added to the ciphertext


def check(claim: Enciphered) -> None:
    """Accept a claim about ciphertext.

    Raises:
        Malformed: no such cipher, a key or a sector of a size that it does not take.
    """
    cipher, mode = _parts(claim.codec)
    key = _bytes(claim.codec, "key")
    iv = _bytes(claim.codec, "iv").decode("ascii", "replace")
    if cipher not in (_AES, _OURS, *_OTHERS) or mode not in _MODES or (mode != "ecb" and iv not in IVS):
        raise Malformed(f"no cipher {claim.codec.name[:40]!r} with vectors {iv[:40]!r}")
    if mode == "elephant" and (cipher != _AES or iv != "eboiv"):
        raise Malformed("the diffuser is that of AES-CBC with vectors of the byte")
    if cipher in _OTHERS and not gcrypt.available():
        raise Malformed(f"{cipher} needs libgcrypt, which is not installed here")
    if cipher == _OURS and (mode not in ("xts", "ecb") or not kuznyechik.available()):
        raise Malformed(f"Kuznyechik is in an extension that was not built here, and not in {mode}")
    halves = 2 if mode in ("xts", "elephant") else 1
    if len(key) % halves or len(key) // halves not in (_KEYS if cipher != _OURS else (kuznyechik.KEY,)):
        raise Malformed(f"a key of {len(key)} bytes for {claim.codec.name[:40]}")
    if iv == "essiv" and len(_bytes(claim.codec, "ivkey")) not in _KEYS:
        raise Malformed("ESSIV with no key for its vectors")
    if iv == HMAC and (mode != "cbc" or len(_bytes(claim.codec, "ivkey")) != _HMAC_KEY):
        raise Malformed("vectors of HMAC-SHA1 without their key, or not in CBC")
    if iv == "tcw" and (mode != "cbc" or claim.sector != 512 or len(_bytes(claim.codec, "ivkey")) != _TCW):
        raise Malformed("TrueCrypt's CBC without its seeds, or not in sectors of 512")
    if claim.sector not in _SECTORS or claim.sector % 16 or claim.sector & (claim.sector - 1):
        raise Malformed(f"sectors of {claim.sector} bytes")


def quick(codec: Codec) -> bool:
    """Say whether decrypting costs less than handing it to another thread and back."""
    return sectors.FAST and codec.name in _QUICK and _bytes(codec, "iv") not in _SLOW


def plain_key(codec: Codec) -> bytes:
    """Return the key of a cipher whose vectors are the numbers of sectors; nothing of any other."""
    return _bytes(codec, "key") if _bytes(codec, "iv") == b"plain64" else b""


def decrypt(codec: Codec, sector: int, first: int, step: int, data: bytearray | memoryview) -> None:
    """Decrypt sectors in place; sector i of ``data`` has the number ``first`` + i * ``step``.

    Units: ``sector`` bytes, which ``data`` is a multiple of.
    """
    cipher, mode = _parts(codec)
    key = _bytes(codec, "key")
    count = len(data) // sector
    if mode == "ecb":
        if cipher == _AES:
            sectors.aes_ecb(key, data)
        else:
            data[:] = _blocks(cipher, key, data, decrypt=True)
        return
    if mode == "elephant":
        _diffused(codec, key, sector, range(first, first + count * step, step), data)
        return
    vectors = _vectors(codec, cipher, key, first, step, count, sector)
    if _bytes(codec, "iv") == b"tcw":
        _unwhiten(_bytes(codec, "ivkey"), range(first, first + count * step, step), data)
    if cipher == _AES:
        (sectors.aes_xts if mode == "xts" else sectors.aes_cbc)(key, vectors, sector, data)
    elif mode == "cbc":
        gcrypt.cbc(cipher, key, vectors, sector, data)
    else:
        half = len(key) // 2
        tweaks = _blocks(cipher, key[half:], vectors, decrypt=False)
        sectors.mask(tweaks, sector, data)
        data[:] = _blocks(cipher, key[:half], data, decrypt=True)
        sectors.mask(tweaks, sector, data)


def _diffused(codec: Codec, key: bytes, sector: int, numbers: range, data: bytearray | memoryview) -> None:
    """Decrypt sectors with BitLocker's diffuser: a key of AES-CBC, behind it one of the sector keys."""
    half = len(key) // 2
    vectors = _vectors(codec, _AES, key[:half], numbers.start, numbers.step, len(numbers), sector)
    sectors.aes_cbc(key[:half], vectors, sector, data)
    keys = bytearray(32 * len(numbers))
    for i, number in enumerate(numbers):
        keys[32 * i : 32 * i + 16] = keys[32 * i + 16 : 32 * i + 32] = (number * sector).to_bytes(
            16, "little"
        )
        keys[32 * i + 31] = 0x80
    sectors.elephant(sectors.aes_ecb_encrypted(key[half:], keys), sector, data)


def _parts(codec: Codec) -> tuple[str, str]:
    cipher, _, mode = codec.name.partition("-")
    return cipher, mode


def _bytes(codec: Codec, name: str) -> bytes:
    value = codec.parameters.get(name, b"")
    return value if isinstance(value, bytes) else b""


def _vectors(
    codec: Codec, cipher: str, key: bytes, first: int, step: int, count: int, sector: int
) -> bytearray:
    """Return the initial vectors of sectors, 16 bytes each."""
    iv = _bytes(codec, "iv")
    if iv == b"plain64" or (iv == b"plain" and first + count * step <= 1 << 32):
        return sectors.plain(first, step, count)
    if iv == b"null":
        return bytearray(16 * count)
    if iv == HMAC.encode():
        return sectors.hmac_sha1(_bytes(codec, "ivkey"), first, step, count)
    numbers = range(first, first + count * step, step)
    words = array("Q", bytes(16 * count))
    half = 0
    if iv == b"plain":
        words[::2] = array("Q", [number & 0xFFFF_FFFF for number in numbers])
    elif iv == b"tcw":
        words[::2] = words[1::2] = array("Q", [number & 0xFFFF_FFFF_FFFF_FFFF for number in numbers])
    elif iv == b"eboiv":  # of the byte, under the key itself
        words[::2] = array("Q", range(first * sector, (first + count * step) * sector, step * sector))
    else:
        half = iv == b"plain64be"
        words[half::2] = array("Q", numbers)  # below 2^64: see ``CipherMap.checked``
    if (byteorder == "big") != bool(half):
        words.byteswap()
    vectors = bytearray(words.tobytes())
    if iv in (b"essiv", b"eboiv"):
        under = _bytes(codec, "ivkey") if iv == b"essiv" else key
        vectors = bytearray(_ecb(cipher, under, vectors))
    if iv == b"tcw":
        return _added(vectors, _bytes(codec, "ivkey")[:16] * count)
    return vectors


def _added(one: bytes | bytearray | memoryview, other: bytes) -> bytearray:
    """Return the exclusive or of two strings of one length."""
    mixed = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return bytearray(mixed.to_bytes(len(one), "little"))


def _unwhiten(seeds: bytes, numbers: range, data: bytearray | memoryview) -> None:
    """Take from sectors what TrueCrypt before 4.1 added to the ciphertext: eight bytes over and over.

    They are the CRC-32 of each quarter of the seed plus the number of the sector, folded into half. Found by
    trying variants on a volume that it made, not from a specification: there is none.
    """
    for index, number in enumerate(numbers):
        seed = _added(seeds[16:], (number & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little") * 2)
        one, two, three, four = (zlib.crc32(seed[at : at + 4]) for at in (0, 4, 8, 12))
        mask = ((one ^ four) | (two ^ three) << 32).to_bytes(8, "little")
        at = index * 512
        data[at : at + 512] = _added(data[at : at + 512], mask * 64)


def _ecb(cipher: str, key: bytes, data: bytes | bytearray) -> bytes:
    """Encrypt blocks one by one."""
    if cipher == _AES:
        return sectors.aes_ecb_encrypted(key, data)
    return bytes(_blocks(cipher, key, data, decrypt=False))


def _blocks(cipher: str, key: bytes, data: bytes | bytearray | memoryview, *, decrypt: bool) -> bytearray:
    """Return blocks of a cipher that is not AES, one by one."""
    if cipher == _OURS:
        return kuznyechik.ecb(key, data, decrypt=decrypt)
    return gcrypt.ecb(cipher, key, data, decrypt=decrypt)
