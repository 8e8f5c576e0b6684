"""Encrypted Apple disk images: what the header of version 2 and the trailer of version 1 say of the cipher.

Decryption, once there are keys, is a container of its own below the others: units of ``Cipher.block`` bytes
from ``data_at`` on give the image inside (UDIF, sparse or raw), which is then recognised as any other.

Source: Apple publishes none; the fields are those commonly described, with CSSM's numbers of algorithms.
No real image was at hand to compare them with: they are told to the analyst, and nothing rests on them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.errors import Malformed, Truncated

if TYPE_CHECKING:
    from imgfs.backends import Reader

MAGIC: Final = b"encrcdsa"
MAGIC_1: Final = b"cdsaencr"
_HEADER: Final = struct.Struct(">8s7I16sIQQI")  # 76 bytes, then the places of the keys
_PLACE: Final = struct.Struct(">IQQ")
_WRAPPED: Final = struct.Struct(">4I")  # of a key under a passphrase: KDF, its PRF, rounds, bytes of salt
_TRAILER_1: Final = 1276
_ROUNDS_1_AT: Final = 48
_MOST_KEYS: Final = 64
_MOST_ROUNDS: Final = 100_000_000
_PASSPHRASE: Final = 1
_CIPHERS: Final = {17: "3DES", 0x8000_0001: "AES"}
_MODES: Final = {5: "CBC", 6: "CBC"}
_KINDS: Final = {1: "passphrase", 2: "certificate", 3: "baseband"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cipher:
    """How an image is encrypted. Units: bytes; ``bits`` of the key; ``rounds`` of PBKDF2, 0: not known.

    ``keys`` are what opens it: passphrase, certificate.
    """

    version: int
    name: str
    bits: int
    block: int
    data_at: int
    data_length: int
    rounds: int
    keys: tuple[str, ...]


def cipher(reader: Reader) -> Cipher:
    """Read what an image says of its encryption.

    Raises:
        Malformed: it has neither signature.
        EvidenceError: header or trailer are cut short.
    """
    if reader.size >= 8 and reader.read(0, 8) == MAGIC:
        return _second(reader)
    if reader.size >= _TRAILER_1 and reader.read(reader.size - 8, 8) == MAGIC_1:
        start = reader.size - _TRAILER_1
        rounds = int.from_bytes(reader.read(start + _ROUNDS_1_AT, 4), "big")
        return Cipher(
            version=1,
            name="AES CBC",
            bits=128,
            block=4096,
            data_at=0,
            data_length=start,
            rounds=rounds if rounds <= _MOST_ROUNDS else 0,
            keys=("passphrase",),
        )
    raise Malformed("no signature of an encrypted image")


def _second(reader: Reader) -> Cipher:
    fields = _HEADER.unpack(reader.read(0, _HEADER.size))
    _, version, _, mode, algorithm, bits, _, _, _, block, data_length, data_at, count = fields
    kinds: list[str] = []
    rounds = 0
    for number in range(min(count, _MOST_KEYS)):
        try:
            kind, at, _ = _PLACE.unpack(reader.read(_HEADER.size + number * _PLACE.size, _PLACE.size))
            kinds.append(_KINDS.get(kind, f"key of kind {kind}"))
            if kind == _PASSPHRASE:
                _, _, rounds, _ = _WRAPPED.unpack(reader.read(at, _WRAPPED.size))
        except Truncated:
            break
    name = f"{_CIPHERS.get(algorithm, f'cipher {algorithm:#x}')} {_MODES.get(mode, f'mode {mode}')}"
    return Cipher(
        version=version,
        name=name,
        bits=bits,
        block=block,
        data_at=data_at,
        data_length=data_length,
        rounds=rounds if rounds <= _MOST_ROUNDS else 0,
        keys=tuple(dict.fromkeys(kinds)),
    )


def said(reader: Reader) -> str:
    """Return what an analyst wants to know of an encrypted image in one line."""
    found = cipher(reader)
    words = [f"version {found.version}", f"{found.name} with {found.bits} bits in blocks of {found.block}"]
    words.append(f"PBKDF2 of {found.rounds} rounds" if found.rounds else "rounds of PBKDF2 not said")
    words.append("keys: " + (", ".join(found.keys) or "none"))
    return ", ".join(words)
