"""(In a worker) from what the analyst knows to a key: digests and key derivation, by libraries made for them.

Imported by the template before the sandbox is entered: libraries are loaded, and OpenSSL and libgcrypt have
read what they read once. Sources: RFC 8018 (PBKDF2), RFC 9106 (Argon2).
"""

from __future__ import annotations

import hashlib
from typing import Final

from _argon2_cffi_bindings import ffi, lib
from argon2.exceptions import HashingError
from argon2.low_level import Type, core

from imgfs.block import ciphers, gcrypt, sectors
from imgfs.errors import Malformed
from imgfs.model import Codec, Enciphered

ARGON_KIB_MOST: Final = 4 << 20  # what any header may ask for; less where there is less memory
ARGON_TIME_MOST: Final = 200
ARGON_LANES_MOST: Final = 32
ROUNDS_MOST: Final = 100_000_000  # of PBKDF2: a minute and a half of SHA-256

_NAMES: Final = {"rmd160": "ripemd160", "ripemd160": "ripemd160", "whirlpool": "whirlpool"}
_ARGON: Final = {"argon2i": Type.I, "argon2id": Type.ID}


def digest(name: str, data: bytes) -> bytes:
    """Return a digest by a name of dm-crypt: sha256, ripemd160, wp256 (whirlpool cut to 256 bits).

    Raises:
        Malformed: nobody here knows that digest.
    """
    if name.startswith("wp") and name[2:].isdigit():
        return gcrypt.digest("whirlpool", data)[: int(name[2:]) // 8]
    try:
        return hashlib.new(name, data).digest()
    except ValueError:
        found = gcrypt.digest(_NAMES.get(name, name), data)
        if not found:
            raise Malformed(f"no digest {name[:40]!r} here") from None
        return found


def pbkdf2(name: str, secret: bytes, salt: bytes, rounds: int, length: int) -> bytes:
    """Return a key of ``length`` bytes.

    Raises:
        Malformed: nobody here knows that digest, or it asks for absurd work.
    """
    if not 0 < rounds <= ROUNDS_MOST or not 0 < length <= 1024:
        raise Malformed(f"PBKDF2 of {rounds} rounds for {length} bytes")
    try:
        return hashlib.pbkdf2_hmac(name, secret, salt, rounds, length)
    except ValueError:
        found = gcrypt.pbkdf2(_NAMES.get(name, name), secret, salt, rounds, length)
        if not found:
            raise Malformed(f"no digest {name[:40]!r} here") from None
        return found


def argon2(
    kind: str, secret: bytes, salt: bytes, *, time: int, memory: int, lanes: int, length: int, threads: int
) -> bytes:
    """Return a key of ``length`` bytes; ``memory`` KiB, so many lanes at a time as there may be threads.

    Raises:
        Malformed: the parameters are none, or ask for more than is allowed here.
    """
    if (
        kind not in _ARGON
        or not 0 < time <= ARGON_TIME_MOST
        or not 8 * lanes <= memory <= ARGON_KIB_MOST
        or not 0 < lanes <= ARGON_LANES_MOST
        or not 8 <= len(salt) <= 1024
        or not 0 < length <= 1024
    ):
        raise Malformed(f"{kind[:20]} with {time} iterations, {memory} KiB and {lanes} lanes")
    out, given, salted = (
        ffi.new("uint8_t[]", length),
        ffi.new("uint8_t[]", secret),
        ffi.new("uint8_t[]", salt),
    )
    context = ffi.new(
        "argon2_context *",
        {
            "version": 0x13,
            "out": out,
            "outlen": length,
            "pwd": given,
            "pwdlen": len(secret),
            "salt": salted,
            "saltlen": len(salt),
            "secret": ffi.NULL,
            "secretlen": 0,
            "ad": ffi.NULL,
            "adlen": 0,
            "t_cost": time,
            "m_cost": memory,
            "lanes": lanes,
            "threads": min(lanes, max(threads, 1)),
            "allocate_cbk": ffi.NULL,
            "free_cbk": ffi.NULL,
            "flags": lib.ARGON2_DEFAULT_FLAGS,
        },
    )
    code = core(context, _ARGON[kind].value)
    if code == lib.ARGON2_MEMORY_ALLOCATION_ERROR:
        raise MemoryError(f"{memory} KiB for {kind}")
    if code:
        raise Malformed(f"{kind}: error {code}") from HashingError()
    return bytes(ffi.buffer(out, length))


def ready() -> None:
    """Let every library do once what it does the first time."""
    codec = Codec("aes-xts", {"key": bytes(range(64)), "iv": b"plain64"})
    ciphers.check(Enciphered(size=512, sector=512, codec=codec))
    ciphers.decrypt(codec, 512, 0, 1, bytearray(512))
    sectors.aes_cbc(bytes(16), bytearray(16), 512, bytearray(512))
    hashlib.pbkdf2_hmac("sha512", b"", b"salt", 1, 16)
    if gcrypt.available():
        gcrypt.digest("whirlpool", b"")
        gcrypt.pbkdf2("ripemd160", b"x", b"salt", 1, 16)
        gcrypt.ecb("serpent", bytes(32), bytes(16), decrypt=True)
        gcrypt.ecb("twofish", bytes(32), bytes(16), decrypt=True)


ready()
