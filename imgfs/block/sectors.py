"""AES over many sectors: by our extension in one call, else by the library, sector by sector."""

from __future__ import annotations

import hashlib
import struct
from array import array
from sys import byteorder
from typing import Final

try:
    from imgfs.block import _vectors as _fast_vectors
except ImportError:
    _fast_vectors = None  # type: ignore[assignment]

try:
    from imgfs.block import _ciphers as _fast
except ImportError:  # no compiler when imgfs was installed: slower, same results
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    _fast = None  # type: ignore[assignment]

FAST: Final = _fast is not None


def plain(first: int, step: int, count: int) -> bytearray:
    """Return the vectors of sectors: their numbers, below 2^64, in 16 bytes each, little-endian."""
    if _fast is not None:
        return _fast.plain(first, step, count)
    words = array("Q", bytes(16 * count))
    words[::2] = array("Q", range(first, first + count * step, step))
    if byteorder == "big":
        words.byteswap()
    return bytearray(words.tobytes())


def aes_xts(key: bytes, vectors: bytearray, sector: int, data: bytearray | memoryview) -> None:
    """Decrypt sectors in place; ``vectors`` holds 16 bytes for each and is used up."""
    if _fast is not None:
        _fast.aes_xts(key, vectors, sector, data)
        return
    _slowly(modes.XTS, key, vectors, sector, data)


def aes_cbc(key: bytes, vectors: bytearray, sector: int, data: bytearray | memoryview) -> None:
    """Decrypt sectors in place, each a chain that starts from its 16 bytes of ``vectors``."""
    if _fast is not None:
        _fast.aes_cbc(key, vectors, sector, data)
        return
    _slowly(modes.CBC, key, vectors, sector, data)


def _slowly(
    mode: type[modes.XTS | modes.CBC],
    key: bytes,
    vectors: bytearray,
    sector: int,
    data: bytearray | memoryview,
) -> None:
    for number, at in enumerate(range(0, len(data), sector)):
        vector = bytes(vectors[16 * number : 16 * number + 16])
        plain = Cipher(algorithms.AES(key), mode(vector)).decryptor().update(bytes(data[at : at + sector]))
        data[at : at + sector] = plain


def aes_ecb(key: bytes, data: bytearray | memoryview) -> None:
    """Decrypt blocks in place, one by one."""
    if _fast is not None:
        _fast.aes_ecb(key, data, False)
        return
    data[:] = Cipher(algorithms.AES(key), modes.ECB()).decryptor().update(bytes(data))  # noqa: S305  # the image's choice


def aes_ecb_encrypted(key: bytes, data: bytes | bytearray) -> bytes:
    """Encrypt blocks, one by one: what initial vectors are made by."""
    if _fast is not None:
        out = bytearray(data)
        _fast.aes_ecb(key, out, True)
        return bytes(out)
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(bytes(data))  # noqa: S305  # a step of ESSIV


def hmac_sha1(key: bytes, first: int, step: int, count: int) -> bytearray:
    """Return the start of HMAC-SHA1 of the numbers of sectors, 16 bytes each; they are below 2^32."""
    if _fast_vectors is not None:
        return _fast_vectors.hmac_sha1(key, first, step, count)
    inner, outer = (hashlib.sha1(bytes(byte ^ pad for byte in key.ljust(64, b"\0"))) for pad in (0x36, 0x5C))  # noqa: S324  # the image's choice
    vectors = bytearray(16 * count)
    for index in range(count):
        one, two = inner.copy(), outer.copy()
        one.update((first + index * step).to_bytes(4, "big"))
        two.update(one.digest())
        vectors[16 * index : 16 * index + 16] = two.digest()[:16]
    return vectors


def mask(tweaks: bytes | bytearray, sector: int, data: bytearray | memoryview) -> None:
    """Add the tweaks of XTS to sectors in place; ``tweaks`` holds 16 bytes for each sector."""
    if _fast is not None:
        _fast.mask(tweaks, sector, data)
        return
    for number, at in enumerate(range(0, len(data), sector)):
        tweak = int.from_bytes(tweaks[16 * number : 16 * number + 16], "little")
        words = []
        for _ in range(sector // 16):
            words.append(tweak.to_bytes(16, "little"))
            tweak = tweak << 1 ^ (0x87 | 1 << 128 if tweak >> 127 else 0)
        spread = int.from_bytes(b"".join(words), "little")
        block = int.from_bytes(data[at : at + sector], "little") ^ spread
        data[at : at + sector] = block.to_bytes(sector, "little")


def elephant(keys: bytes | bytearray, sector: int, data: bytearray | memoryview) -> None:
    """Undo BitLocker's diffuser in place; ``keys`` holds 32 bytes for each sector.

    Source: Niels Ferguson, AES-CBC + Elephant diffuser, 2006, section 4: B, then A, then the sector key.
    """
    if _fast is not None:
        _fast.elephant(keys, sector, data)
        return
    count = sector // 4
    form = struct.Struct(f"<{count}I")
    for number, at in enumerate(range(0, len(data), sector)):
        words = list(form.unpack_from(data, at))
        _added(words, 2, 5, (0, 10, 0, 25), 3)
        _added(words, -2, -5, (9, 0, 13, 0), 5)
        key = bytes(keys[32 * number : 32 * number + 32])
        plain = int.from_bytes(form.pack(*words), "little")
        spread = int.from_bytes((key * (sector // 32 + 1))[:sector], "little")
        data[at : at + sector] = (plain ^ spread).to_bytes(sector, "little")


def _added(words: list[int], near: int, far: int, turns: tuple[int, ...], cycles: int) -> None:
    """Add to each word two others, one of them turned: half a diffuser."""
    count = len(words)
    for number in range(cycles * count):
        at, turn = number % count, turns[number & 3]
        other = words[(at + far) % count]
        other = (other << turn | other >> 32 - turn) & 0xFFFF_FFFF
        words[at] = words[at] + (words[(at + near) % count] ^ other) & 0xFFFF_FFFF


def chained(tail: bytes, rounds: int) -> bytes:
    """Return the last of ``rounds`` SHA-256, each of the last one (first: zeros), ``tail`` and its number."""
    if _fast is not None:
        return _fast.chained(tail, rounds)
    last, pack = bytes(32), struct.Struct("<Q").pack
    for number in range(rounds):
        last = hashlib.sha256(last + tail + pack(number)).digest()
    return last
