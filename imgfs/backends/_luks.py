"""What LUKS versions share: cipher names, the splitter, trying keys on slots.

Sources: LUKS1 On-Disk Format Specification 1.2.3 (AF splitter: section 2.4; cipher names: table 3); LUKS2
On-Disk Format Specification 1.1.1, sections 3 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError, Malformed, NotSupported
from imgfs.model import Codec, Enciphered

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.backends import Reader

KINDS: Final = ("password", "keyfile", "volume-key")
_KEY_MOST: Final = 128  # bytes of a volume key: two of 512 bits
_STRIPES_MOST: Final = 8000
_MATERIAL_MOST: Final = 1 << 20
_IVS: Final = {"plain", "plain64", "plain64be", "null"}
NULL: Final = "cipher_null"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One key slot. Units: ``at`` and ``key`` bytes; ``memory`` KiB.

    ``derive`` turns a secret into the key of the slot's own encryption, of ``area_key`` bytes.
    """

    number: int
    key: int
    at: int
    stripes: int
    digest: str
    cipher: str
    area_key: int
    derive: Callable[[bytes], bytes]
    cost: str
    memory: int = 0


def codec(name: str, key: bytes) -> Codec:
    """Return the codec of a cipher as dm-crypt writes it: aes-xts-plain64, aes-cbc-essiv:sha256.

    Raises:
        NotSupported: no such cipher is known here.
    """
    from imgfs.backends import _kdf

    cipher, _, rest = name.partition("-")
    mode, _, iv = rest.partition("-")
    iv, _, option = iv.partition(":")
    if cipher not in ("aes", "serpent", "twofish", "camellia") or mode not in ("xts", "cbc", "ecb"):
        raise NotSupported(f"cipher {name[:60]!r} is not known here")
    parameters: dict[str, int | bytes] = {"key": key, "iv": iv.encode()}
    if mode == "ecb":
        parameters["iv"] = b"null"
    elif iv == "essiv":
        parameters["ivkey"] = _kdf.digest(option, key)
    elif iv not in _IVS:
        raise NotSupported(f"initial vectors {iv[:40]!r} of {name[:60]!r} are not known here")
    return Codec(f"{cipher}-{mode}", parameters)


def plaintext(name: str, key: bytes, sector: int, data: bytes) -> bytes:
    """Return sectors decrypted that count from 0: the area of a slot."""
    if name.startswith(NULL):
        return data
    from imgfs.block import ciphers

    how = codec(name, key)
    held = bytearray(data)
    ciphers.check(Enciphered(size=len(held), sector=sector, codec=how))
    ciphers.decrypt(how, sector, 0, 1, held)
    return bytes(held)


def merged(split: bytes, length: int, stripes: int, digest: str) -> bytes:
    """Return the key that was split into ``stripes`` pieces of ``length`` bytes."""
    block = bytes(length)
    for number in range(stripes):
        piece = split[number * length : (number + 1) * length]
        mixed = int.from_bytes(block, "big") ^ int.from_bytes(piece, "big")
        block = mixed.to_bytes(length, "big")
        if number < stripes - 1:
            block = _diffused(block, digest)
    return block


def _diffused(block: bytes, name: str) -> bytes:
    from imgfs.backends import _kdf

    size = len(_kdf.digest(name, b""))
    parts = []
    for number, at in enumerate(range(0, len(block), size)):
        piece = block[at : at + size]
        parts.append(_kdf.digest(name, number.to_bytes(4, "big") + piece)[: len(piece)])
    return b"".join(parts)


def try_slot(reader: Reader, slot: Slot, secret: bytes) -> bytes:
    """Return what a slot holds under a secret: the volume key, or as many other bytes.

    Raises:
        EvidenceError: the slot cannot be read, or contradicts itself.
        NotSupported: its cipher is not known here.
    """
    size = slot.key * slot.stripes
    if not 0 < slot.key <= _KEY_MOST or not 0 < slot.stripes <= _STRIPES_MOST or size > _MATERIAL_MOST:
        raise Malformed(f"slot {slot.number}: {slot.stripes} stripes of {slot.key} bytes")
    stored = reader.read(slot.at, -(-size // 512) * 512)
    split = plaintext(slot.cipher, slot.derive(secret), 512, stored)[:size]
    return merged(split, slot.key, slot.stripes, slot.digest)


def found(
    reader: Reader, slots: list[Slot], secrets: list[bytes], right: Callable[[bytes], bool], said: list[str]
) -> bytes | None:
    """Return the volume key that one of ``secrets`` opens; what cannot be tried is said."""
    for slot in slots:
        for secret in secrets:
            try:
                key = try_slot(reader, slot, secret)
            except (EvidenceError, NotSupported, MemoryError) as why:
                said.append(f"slot {slot.number}: {why}")
                break
            if right(key):
                return key
    return None
