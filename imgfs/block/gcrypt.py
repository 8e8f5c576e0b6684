"""Serpent, Twofish, Camellia and old digests, by libgcrypt (LGPL), which is on every Debian and Fedora.

Source: The Libgcrypt Reference Manual, "Symmetric cryptography", "Hashing", "Key Derivation".
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Final

from imgfs.errors import BadUnit

if TYPE_CHECKING:
    from collections.abc import Iterator

_ECB: Final = 1
_CBC: Final = 3
_PBKDF2: Final = 34
_NAMES: Final = {
    ("serpent", 16): b"SERPENT128",
    ("serpent", 24): b"SERPENT192",
    ("serpent", 32): b"SERPENT256",
    ("twofish", 16): b"TWOFISH128",
    ("twofish", 32): b"TWOFISH",
    ("camellia", 16): b"CAMELLIA128",
    ("camellia", 24): b"CAMELLIA192",
    ("camellia", 32): b"CAMELLIA256",
}


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libgcrypt.so.20")  # its interface since 2011
    except OSError:
        return None
    library.gcry_check_version.restype = ctypes.c_char_p
    library.gcry_check_version(None)  # initialises it
    library.gcry_control(38, 0)  # GCRYCTL_INITIALIZATION_FINISHED
    pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    library.gcry_cipher_open.argtypes = (ctypes.POINTER(pointer), ctypes.c_int, ctypes.c_int, ctypes.c_uint)
    library.gcry_cipher_close.argtypes = (pointer,)
    library.gcry_cipher_setkey.argtypes = (pointer, text, size)
    library.gcry_cipher_setiv.argtypes = (pointer, text, size)
    library.gcry_cipher_encrypt.argtypes = (pointer, pointer, size, pointer, size)
    library.gcry_cipher_decrypt.argtypes = (pointer, pointer, size, pointer, size)
    library.gcry_md_map_name.argtypes = (text,)
    library.gcry_md_get_algo_dlen.restype = ctypes.c_uint
    library.gcry_md_hash_buffer.argtypes = (ctypes.c_int, pointer, text, size)
    library.gcry_md_hash_buffer.restype = None
    library.gcry_kdf_derive.argtypes = (
        *(text, size, ctypes.c_int, ctypes.c_int),
        *(text, size, ctypes.c_ulong, size, pointer),
    )
    return library


def available() -> bool:
    """Say whether the library is there."""
    return _library() is not None


@contextmanager
def _cipher(name: str, key: bytes, mode: int) -> Iterator[tuple[ctypes.CDLL, ctypes.c_void_p]]:
    """Hold a cipher with a key.

    Raises:
        BadUnit: there is none of that name and length.
    """
    library, known = _library(), _NAMES.get((name, len(key)))
    if library is None or known is None:
        raise BadUnit(f"no {name} with a key of {8 * len(key)} bits here")
    handle = ctypes.c_void_p()
    if library.gcry_cipher_open(ctypes.byref(handle), library.gcry_cipher_map_name(known), mode, 0):
        raise BadUnit(f"libgcrypt has no {name}")
    try:
        if library.gcry_cipher_setkey(handle, key, len(key)):
            raise BadUnit(f"libgcrypt refuses the key of {name}")
        yield library, handle
    finally:
        library.gcry_cipher_close(handle)


def ecb(name: str, key: bytes, data: bytes | bytearray | memoryview, *, decrypt: bool) -> bytearray:
    """Return blocks decrypted or encrypted, one by one.

    Raises:
        BadUnit: the library does not do it.
    """
    out = bytearray(data)
    if not out:
        return out
    with _cipher(name, key, _ECB) as (library, handle):
        room = (ctypes.c_char * len(out)).from_buffer(out)
        run = library.gcry_cipher_decrypt if decrypt else library.gcry_cipher_encrypt
        if run(handle, room, len(out), None, 0):
            raise BadUnit(f"libgcrypt does not decrypt {len(out)} bytes of {name}")
        del room
    return out


def cbc(name: str, key: bytes, vectors: bytes | bytearray, sector: int, data: bytearray | memoryview) -> None:
    """Decrypt sectors in place, each a chain that starts from its 16 bytes of ``vectors``.

    Raises:
        BadUnit: the library does not do it.
    """
    with _cipher(name, key, _CBC) as (library, handle):
        for number, at in enumerate(range(0, len(data), sector)):
            vector = bytes(vectors[16 * number : 16 * number + 16])
            room = (ctypes.c_char * sector).from_buffer(data, at)
            if library.gcry_cipher_setiv(handle, vector, 16) or library.gcry_cipher_decrypt(
                handle, room, sector, None, 0
            ):
                raise BadUnit(f"libgcrypt does not decrypt a sector of {name}")
            del room


def digest(name: str, data: bytes) -> bytes:
    """Return a digest; empty: the library has none of that name."""
    library = _library()
    number = library.gcry_md_map_name(name.encode()) if library is not None else 0
    if library is None or not number:
        return b""
    out = ctypes.create_string_buffer(library.gcry_md_get_algo_dlen(number))
    library.gcry_md_hash_buffer(number, out, data, len(data))
    return out.raw


def pbkdf2(name: str, secret: bytes, salt: bytes, rounds: int, length: int) -> bytes:
    """Return a key; empty: the library has no digest of that name, or refuses an empty secret."""
    library = _library()
    number = library.gcry_md_map_name(name.encode()) if library is not None else 0
    if library is None or not number:
        return b""
    out = ctypes.create_string_buffer(length)
    wrong = library.gcry_kdf_derive(
        secret, len(secret), _PBKDF2, number, salt, len(salt), rounds, length, out
    )
    return b"" if wrong else out.raw
