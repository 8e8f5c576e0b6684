"""From what the analyst knows to the key of a BitLocker volume.

Imported by the template before the sandbox is entered, so that OpenSSL has looked up what it uses.
Source: Joachim Metz, BitLocker Drive Encryption (BDE) format, "Keys", "Encryption methods"; RFC 3610 (CCM).
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

from imgfs.backends._bde import CCM, CLEAR, EXTERNAL, KEY, PASSWORD, RECOVERY, STARTUP, STRETCH, entries
from imgfs.block import sectors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgfs.backends._bde import Entry, Protector
    from imgfs.model import Secret

ROUNDS: Final = 1 << 20
STRETCHES_MOST: Final = 64  # a second each: what a header with hundreds of protectors may cost
_GROUPS: Final = 8
_CONTAINER: Final = 12  # bytes before a key: its size, version, method
_MASTER: Final = 32

# bytes of key that the methods of encryption take, and how they are spelled
METHODS: Final = {
    0x8000: (64, "aes-cbc-128 with diffuser"),
    0x8001: (64, "aes-cbc-256 with diffuser"),
    0x8002: (16, "aes-cbc-128"),
    0x8003: (32, "aes-cbc-256"),
    0x8004: (32, "aes-xts-128"),
    0x8005: (64, "aes-xts-256"),
}


def stretched(initial: bytes, salt: bytes) -> bytes:
    """Return the key that a digest of a password becomes: a million rounds of SHA-256, up to a second."""
    return sectors.chained(initial + salt, ROUNDS)


def password_digest(text: str) -> bytes:
    """Return what is stretched of a password."""
    return hashlib.sha256(hashlib.sha256(text.encode("utf-16-le", "surrogatepass")).digest()).digest()


def recovery_digest(text: str) -> bytes:
    """Return what is stretched of a recovery password: eight groups of six digits; empty: it is none."""
    digits = "".join(letter for letter in text if letter.isdigit() and letter.isascii())
    if len(digits) != 6 * _GROUPS or set(text) - set("0123456789- \t"):
        return b""
    groups = [int(digits[at : at + 6]) for at in range(0, len(digits), 6)]
    if any(group % 11 or group // 11 > 0xFFFF for group in groups):
        return b""
    return hashlib.sha256(struct.pack("<8H", *(group // 11 for group in groups))).digest()


def external(file: bytes) -> tuple[str, bytes]:
    """Return the identifier and the key of a .BEK file; an empty key: it is none.

    Source: the same document, "BitLocker External Key (BEK) file".
    """
    if len(file) >= 48:
        length, version, begin, _ = struct.unpack_from("<4I", file)
        if version == 1 and 48 <= begin <= length <= len(file):
            for entry in entries(file[begin:length]):
                if entry.value == EXTERNAL and len(entry.data) > 24:
                    key = next((plain_key(e) for e in entry.nested(24) if e.value == KEY), b"")
                    return str(UUID(bytes_le=entry.data[:16])), key
    return "", b""


def plain_key(entry: Entry) -> bytes:
    """Return a key that is stored as it is; empty: it is of no size that there is."""
    return entry.data[4:] if len(entry.data) == 4 + _MASTER else b""


def unsealed(key: bytes, entry: Entry) -> bytes:
    """Return what an entry encrypted with AES-CCM holds; empty: not under this key."""
    if len(entry.data) < 28 + 1 or len(key) not in (16, 24, 32):
        return b""
    nonce, tag, text = entry.data[:12], entry.data[12:28], entry.data[28:]
    try:
        return AESCCM(key, tag_length=16).decrypt(nonce, text + tag, None)
    except InvalidTag:
        return b""


def contained(key: bytes, entry: Entry) -> tuple[int, bytes]:
    """Return method and bytes of a key that is encrypted with another; no bytes: not with this one."""
    plain = unsealed(key, entry)
    if len(plain) <= _CONTAINER:
        return 0, b""
    size, method = struct.unpack_from("<I4xI", plain)
    return method & 0xFFFF, plain[_CONTAINER : min(size, len(plain))]


def cleared(protectors: Iterable[Protector]) -> bytes:
    """Return the volume master key where the volume itself says how to open it; else nothing."""
    for protector in protectors:
        key = protector.one(KEY)
        if protector.kind == CLEAR and key is not None and (master := _master(protector, plain_key(key))):
            return master
    return b""


def opened(protectors: list[Protector], secrets: Iterable[Secret], said: list[str]) -> bytes:
    """Return the volume master key that one of ``secrets`` opens; empty: none does."""
    left = STRETCHES_MOST
    for secret in secrets:
        initial, wanted = b"", -1
        match secret.kind:
            case "password":
                wanted = PASSWORD
                initial = password_digest(secret.value.decode("utf-8", "surrogateescape"))
            case "recovery":
                wanted = RECOVERY
                initial = recovery_digest(secret.value.decode("utf-8", "replace"))
                if not initial:
                    said.append("a recovery password is eight groups of six digits, multiples of 11")
            case "keyfile":
                if key := _started(protectors, secret.value, said):
                    return key
            case _:
                pass
        for protector in protectors if initial else ():
            salt = protector.one(STRETCH)
            if protector.kind != wanted or salt is None or len(salt.data) < 20:
                continue
            if not left:
                said.append(f"{STRETCHES_MOST} attempts were made: no more are")
                return b""
            left -= 1
            if key := _master(protector, stretched(initial, salt.data[4:20])):
                return key
    return b""


def _started(protectors: list[Protector], file: bytes, said: list[str]) -> bytes:
    identity, key = external(file)
    if not key:
        said.append("a key file is no .BEK file")
        return b""
    same = [one for one in protectors if one.id == identity]
    for protector in same or [one for one in protectors if one.kind == STARTUP]:
        if master := _master(protector, key):
            return master
    if not same:
        said.append(f"the key file is for the protector {identity}, which this volume does not have")
    return b""


def _master(protector: Protector, key: bytes) -> bytes:
    for entry in protector.properties:
        if entry.value == CCM:
            master = contained(key, entry)[1]
            if len(master) == _MASTER:
                return master
    return b""


def _ready() -> None:
    """Let OpenSSL do once what it does the first time."""
    sealed = AESCCM(bytes(32), tag_length=16).encrypt(bytes(12), b"x", None)
    AESCCM(bytes(32), tag_length=16).decrypt(bytes(12), sealed, None)
    sectors.chained(b"", 1)


_ready()
