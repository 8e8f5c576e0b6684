"""TrueCrypt and VeraCrypt headers: how a key is derived, which ciphers there are, what a header says.

A header is 64 bytes of salt and 448 of ciphertext. Nothing in it says how it is encrypted: whoever has the
password tries. Magic and two CRC-32 in the plaintext make a hit certain.

Sources: VeraCrypt documentation, "Technical Details": "VeraCrypt Volume Format Specification", "Header Key
Derivation, Salt, and Iteration Count", "Personal Iterations Multiplier (PIM)", "Encryption Algorithms",
"Cascades"; TrueCrypt User's Guide 7.1a, "TrueCrypt Volume Format Specification". CBC of TrueCrypt before 4.1
is as volumes made by it have it.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.model import Codec

if TYPE_CHECKING:
    from imgfs.errors import EvidenceError

SECTOR: Final = 512  # what XTS counts, whatever the sectors of the disk
HEADER: Final = 512
SALT: Final = 64
KEY: Final = 32  # of every cipher; XTS takes two
_KEYS_AT: Final = 256 - SALT
_FIELDS: Final = struct.Struct(">4sHHI16sQQQQII")  # 68 bytes
_GIVEN_ARGON: Final = 12  # the PIM of Argon2id when none is given
_MIB: Final = 1024  # KiB
_SEEDS: Final = 32  # bytes before the key, in CBC
SYSTEM: Final = 1  # flag: of the system's disk
IN_PLACE: Final = 2  # flag: encrypted where it was

# What encrypts last stands first, so that is what is decrypted first.
CIPHERS: Final = (
    ("aes",),
    ("serpent",),
    ("twofish",),
    ("camellia",),
    ("kuznyechik",),
    ("aes", "twofish"),
    ("serpent", "aes"),
    ("twofish", "serpent"),
    ("camellia", "serpent"),
    ("aes", "twofish", "serpent"),
    ("serpent", "twofish", "aes"),
    ("camellia", "kuznyechik"),
    ("kuznyechik", "aes"),
    ("kuznyechik", "twofish"),
    ("kuznyechik", "serpent", "camellia"),
)
LATER: Final = frozenset(("camellia", "kuznyechik"))  # ciphers of VeraCrypt alone
MAGICS: Final = {"VeraCrypt": b"VERA", "TrueCrypt": b"TRUE"}


@dataclass(frozen=True, slots=True)
class Derivation:
    """One way from a password to a header key. ``weight``: what it costs beside SHA-512, roughly."""

    program: str
    digest: str
    weight: float

    def rounds(self, pim: int, *, system: bool) -> int:
        """Return the iterations of PBKDF2; ``pim`` 0: none was given."""
        if self.program == "TrueCrypt":
            return 2000 if self.digest == "sha1" or (self.digest == "ripemd160" and not system) else 1000
        short = system and self.digest not in ("sha512", "whirlpool")
        if pim:
            return pim * 2048 if short else 15_000 + pim * 1000
        if self.digest == "ripemd160":
            return 327_661 if system else 655_331
        return 200_000 if short else 500_000

    def cost(self, pim: int, length: int, *, system: bool) -> float:
        """Return what a key of ``length`` bytes costs, in iterations of SHA-512."""
        if self.digest == "argon2id":
            memory, time = argon(pim)
            return memory * time * 0.8
        return self.weight * self.rounds(pim, system=system) * -(-length // _SIZES[self.digest])

    def key(self, password: bytes, salt: bytes, pim: int, length: int, *, system: bool) -> bytes:
        """Return a header key of ``length`` bytes.

        Raises:
            Malformed: nobody here knows that digest.
            MemoryError: there is not as much as Argon2id takes.
        """
        from imgfs.backends import _kdf

        if self.digest == "argon2id":
            memory, time = argon(pim)
            return _kdf.argon2(
                "argon2id", password, salt, time=time, memory=memory, lanes=1, length=length, threads=1
            )
        return _kdf.pbkdf2(self.digest, password, salt, self.rounds(pim, system=system), length)

    def said(self, pim: int, *, system: bool) -> str:
        """Return how the key was derived, in words."""
        if self.digest == "argon2id":
            memory, time = argon(pim)
            return f"argon2id, {memory // _MIB} MiB, {time} iterations"
        return f"pbkdf2-{self.digest}, {self.rounds(pim, system=system)} iterations"


def argon(pim: int) -> tuple[int, int]:
    """Return memory in KiB and iterations of Argon2id."""
    pim = pim or _GIVEN_ARGON
    time = 3 + (pim - 1) // 3 if pim <= 31 else 13 + pim - 31
    return min(64 + (pim - 1) * 32, 1024) * _MIB, time


_SIZES: Final = {
    "sha1": 20,
    "ripemd160": 20,
    "sha256": 32,
    "blake2s256": 32,
    "sha512": 64,
    "whirlpool": 64,
    "stribog512": 64,
}

DERIVATIONS: Final = (  # those of TrueCrypt cost nothing; then what people have, most common first
    Derivation("TrueCrypt", "ripemd160", 0.5),
    Derivation("TrueCrypt", "sha512", 1),
    Derivation("TrueCrypt", "whirlpool", 4),
    Derivation("TrueCrypt", "sha1", 0.5),
    Derivation("VeraCrypt", "sha512", 1),
    Derivation("VeraCrypt", "sha256", 0.6),
    Derivation("VeraCrypt", "blake2s256", 0.6),
    Derivation("VeraCrypt", "argon2id", 1),
    Derivation("VeraCrypt", "whirlpool", 4),
    Derivation("VeraCrypt", "stribog512", 8),
    Derivation("VeraCrypt", "ripemd160", 0.5),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a header says once it is decrypted. Units: bytes.

    ``at`` is where it was read; ``keys`` are the volume's: two for each of ``ciphers`` in ``mode`` xts; seeds
    and one key in cbc.
    """

    at: int
    program: str
    derivation: str
    ciphers: tuple[str, ...]
    mode: str
    version: int
    hidden: int
    size: int
    start: int
    length: int
    flags: int
    sector: int
    keys: bytes

    def codecs(self) -> list[Codec]:
        """Return the ciphers of the data area, in the order in which they decrypt."""
        if self.mode == "cbc":
            seeds, key = self.keys[:_SEEDS], self.keys[_SEEDS : _SEEDS + KEY]
            return [Codec(f"{self.ciphers[0]}-cbc", {"key": key, "iv": b"tcw", "ivkey": seeds})]
        return codecs(self.ciphers, self.keys)

    @property
    def said(self) -> str:
        """Return what it is, in words."""
        return f"{'-'.join(self.ciphers)} in {self.mode}, {self.derivation}"


def codecs(names: tuple[str, ...], keys: bytes) -> list[Codec]:
    """Return ciphers with their keys, in the order in which they decrypt.

    All primary keys come first, then all secondary ones, each in the order in which the ciphers encrypt.
    """
    half = KEY * len(names)
    found = []
    for number, name in enumerate(names):
        at = half - KEY * (number + 1)
        key = keys[at : at + KEY] + keys[half + at : half + at + KEY]
        found.append(Codec(f"{name}-xts", {"key": key, "iv": b"plain64"}))
    return found


def opened(
    stored: bytes, at: int, derivation: Derivation, key: bytes, names: tuple[str, ...], said: str
) -> Header | None:
    """Return what a header says under a key and ciphers; None: they are not its own."""
    from imgfs.block import ciphers

    data = bytearray(stored[SALT:HEADER])
    for codec in codecs(names, key):
        ciphers.decrypt(codec, len(data), 0, 1, data)
    mode = "xts"
    old = derivation.program == "TrueCrypt" and len(names) == 1 and LATER.isdisjoint(names)
    if old and data[:4] != MAGICS[derivation.program]:
        data, mode = _old(stored, key, names[0]), "cbc"
    if data[:4] != MAGICS[derivation.program]:
        return None
    fields = _FIELDS.unpack_from(data)
    _, version, _, checksum, _, hidden, size, start, length, flags, sector = fields
    keys = bytes(data[_KEYS_AT:])
    if zlib.crc32(keys) != checksum:
        return None
    whole = int.from_bytes(data[_KEYS_AT - 4 : _KEYS_AT], "big")
    if version >= 4 and zlib.crc32(bytes(data[: _KEYS_AT - 4])) != whole:
        return None
    return Header(
        at=at,
        program=derivation.program,
        derivation=said,
        ciphers=names,
        mode=mode,
        version=version,
        hidden=hidden,
        size=size if version >= 3 else 0,
        start=start,
        length=length,
        flags=flags if version >= 4 else 0,
        sector=sector if version >= 5 else SECTOR,
        keys=keys[: 2 * KEY * len(names)] if mode == "xts" else keys[: _SEEDS + KEY],
    )


def _old(stored: bytes, key: bytes, name: str) -> bytearray:
    """Return a header of TrueCrypt before 4.1 decrypted: CBC, eight bytes added to all of it, one cipher."""
    from imgfs.block import ciphers

    mask = int.from_bytes(key[8:16] * ((HEADER - SALT) // 8), "little")
    mixed = int.from_bytes(stored[SALT:HEADER], "little") ^ mask
    data = bytearray(mixed.to_bytes(HEADER - SALT, "little"))
    first = int.from_bytes(key[:16], "little")  # the vector: all the rest is chained
    codec = Codec(f"{name}-cbc", {"key": key[_SEEDS : _SEEDS + KEY], "iv": b"null"})
    ciphers.decrypt(codec, len(data), 0, 1, data)
    data[:16] = (int.from_bytes(data[:16], "little") ^ first).to_bytes(16, "little")
    return data


def random(data: bytes) -> bool:
    """Say whether 512 bytes may be a salt and ciphertext.

    Of 512 random bytes 221 values are met, give or take 5; text, code and tables stay below 190.
    """
    return len(data) == HEADER and len(set(data)) >= 190


def unreadable(why: EvidenceError, at: int) -> str:
    """Say that a header could not be read."""
    return f"the header at {at} cannot be read: {why}"
