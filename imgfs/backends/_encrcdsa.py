"""Encrypted Apple disk images: what the header of version 2 and the trailer of version 1 say of the cipher.

Blocks of AES-CBC from ``Header.data_at`` on give the image inside (UDIF, sparse or raw), or the bands of a
sparse bundle.

Source: Apple publishes none. The fields are those of vfdecrypt (Weinmann, Appelbaum, Fromme, 2006), with
CSSM's numbers of algorithms; that rounds have 64 bits in version 2, and what the trailer of version 1 holds
between its keys, is Willem Hengeveld's description ("encrypteddmg", 2019). What recent systems write, keys
under AES with a vector that zeros fill up, is told in dmgwiz's and John the Ripper's notes on such images.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError, Malformed, NotMine, NotSupported, Truncated
from imgfs.model import Protector

if TYPE_CHECKING:
    from imgfs.backends import Reader

MAGIC: Final = b"encrcdsa"
MAGIC_1: Final = b"cdsaencr"
KINDS: Final = ("password", "volume-key")
PASSPHRASE: Final = 1
_HEADER: Final = struct.Struct(">8s7I16sIQQI")  # 76 bytes, then the places of the keys
_PLACE: Final = struct.Struct(">IQQ")
_WRAPPED: Final = struct.Struct(">IQI32sI32s5I")  # of a key under a passphrase: 104 bytes, then the key
_TRAILER_1: Final = struct.Struct(">16s7IQI32s4I32sI256s2I32sI256s2I32sI256sI256sQI8s")
TRAILER_1: Final = 1276
_MOST_KEYS: Final = 64
_MOST_WRAPPED: Final = 512
_TRIPLE: Final = 17
_AES: Final = 0x8000_0001
_CIPHERS: Final = {_TRIPLE: "3DES", _AES: "AES"}
_MODES: Final = {5: "CBC", 6: "CBC"}
_NAMED: Final = {1: "password", 2: "certificate", 3: "keybag"}
_SHA1: Final = 91
_PBKDF2: Final = 103
_BITS: Final = (128, 192, 256)
HMAC: Final = 20  # bytes of the key that vectors are made by


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """One key that is wrapped by another. Units: ``bits`` of the wrapping key; ``rounds`` of PBKDF2.

    ``parts`` are what is wrapped: in version 1 the keys of data and vectors one by one. ``algorithm``,
    ``padding`` and ``mode`` are CSSM's numbers.
    """

    kind: int
    kdf: int = 0
    rounds: int = 0
    salt: bytes = b""
    iv: bytes = b""
    bits: int = 0
    algorithm: int = 0
    padding: int = 0
    mode: int = 0
    parts: tuple[bytes, ...] = ()

    @property
    def supported(self) -> bool:
        """Say whether a passphrase can be tried on it."""
        if self.kind != PASSPHRASE or (self.kdf, self.padding, self.mode) != (_PBKDF2, 7, 6):
            return False
        return self.bits in {_AES: _BITS, _TRIPLE: (192,)}.get(self.algorithm, ())

    @property
    def triple(self) -> bool:
        """Say whether it is wrapped by 3DES, and not by AES."""
        return self.algorithm == _TRIPLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """How an image is encrypted. Units: bytes; ``bits`` of the key of the data."""

    version: int
    algorithm: int
    mode: int
    bits: int
    digest: int
    block: int
    data_at: int
    data_length: int
    uuid: str
    keys: tuple[Wrapped, ...]
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Return version and cipher as an analyst is told them."""
        name = f"{_CIPHERS.get(self.algorithm, f'cipher {self.algorithm:#x}')}"
        mode = _MODES.get(self.mode, f"mode {self.mode}")
        return f"version {self.version}, {name} {mode} with {self.bits} bits in blocks of {self.block}"

    @property
    def protectors(self) -> tuple[Protector, ...]:
        """Return what can open it."""
        return tuple(_shown(number, key) for number, key in enumerate(self.keys))

    def check(self) -> None:
        """Accept a cipher that is known here.

        Raises:
            NotSupported: it is none that is.
            Malformed: its blocks are none.
        """
        if self.algorithm != _AES or self.mode != 5 or self.bits not in (128, 256) or self.digest != _SHA1:
            raise NotSupported(f"Encrypted Apple disk image {self.title}: a cipher that is not known here")
        if self.block % 16 or not 16 <= self.block <= 65536 or self.block & (self.block - 1):
            raise Malformed(f"blocks of {self.block} bytes")


def _shown(number: int, key: Wrapped) -> Protector:
    cost = f"pbkdf2-sha1, {key.rounds} iterations" if key.kind == PASSPHRASE else ""
    return Protector(str(number), _NAMED.get(key.kind, f"kind {key.kind}"), "", cost)


def read_header(reader: Reader) -> Header:
    """Read what an image says of its encryption.

    Raises:
        NotMine: it has neither signature.
        EvidenceError: header or trailer are cut short.
    """
    if reader.size >= 8 and reader.read(0, 8) == MAGIC:
        return _second(reader)
    if reader.size >= TRAILER_1 and reader.read(reader.size - 8, 8) == MAGIC_1:
        return _first(reader)
    raise NotMine("encrcdsa")


def _first(reader: Reader) -> Header:
    start = reader.size - TRAILER_1
    fields = _TRAILER_1.unpack(reader.read(start, TRAILER_1))
    uuid, block, algorithm, padding, mode, bits, _, kdf = fields[:8]
    rounds, salted, salt, _, data_mode, data_algorithm, data_bits = fields[8:15]
    _, data_held, data_key, digest, _, _, vector_held, vector_key = fields[15:23]
    data_length, version, _ = fields[-3:]
    if version != 1:
        raise Malformed(f"a trailer of version {version}", start=start, stop=reader.size)
    moved = data_length != start
    notes = (f"the trailer says it lies at {data_length}, it lies at {start}",) if moved else ()
    key = Wrapped(
        kind=PASSPHRASE,
        kdf=kdf,
        rounds=rounds,
        salt=salt[:salted],
        bits=bits,
        algorithm=algorithm,
        padding=padding,
        mode=mode,
        parts=(data_key[:data_held], vector_key[:vector_held]),
    )
    return Header(
        version=1,
        algorithm=data_algorithm,
        mode=data_mode,
        bits=data_bits,
        digest=digest,
        block=block,
        data_at=0,
        data_length=min(data_length, start),
        uuid=uuid.hex(),
        keys=(key,),
        notes=notes,
    )


def _second(reader: Reader) -> Header:
    fields = _HEADER.unpack(reader.read(0, _HEADER.size))
    _, version, _, mode, algorithm, bits, digest, _, uuid, block, data_length, data_at, count = fields
    if version != 2:
        raise NotSupported(f"Encrypted Apple disk image with a header of version {version}")
    keys: list[Wrapped] = []
    notes: list[str] = []
    for number in range(min(count, _MOST_KEYS)):
        try:
            place = reader.read(_HEADER.size + number * _PLACE.size, _PLACE.size)
        except Truncated:
            notes.append(f"key {number} and those behind it lie outside the image")
            break
        kind, at, length = _PLACE.unpack(place)
        try:
            keys.append(_wrapped(reader, at, length) if kind == PASSPHRASE else Wrapped(kind=kind))
        except EvidenceError as why:
            notes.append(f"key {number}: {why}")
    if count > _MOST_KEYS:
        notes.append(f"{count} keys: the first {_MOST_KEYS} are looked at")
    return Header(
        version=2,
        algorithm=algorithm,
        mode=mode,
        bits=bits,
        digest=digest,
        block=block,
        data_at=data_at,
        data_length=data_length,
        uuid=uuid.hex(),
        keys=tuple(keys),
        notes=tuple(notes),
    )


def _wrapped(reader: Reader, at: int, length: int) -> Wrapped:
    fields = _WRAPPED.unpack(reader.read(at, _WRAPPED.size))
    kdf, rounds, salted, salt, iv_held, iv, bits, algorithm, padding, mode, held = fields
    if not 0 < held <= _MOST_WRAPPED or salted > len(salt) or iv_held > len(iv):
        raise Malformed(f"{held} wrapped bytes, salt of {salted}, vector of {iv_held} in {length} bytes")
    return Wrapped(
        kind=PASSPHRASE,
        kdf=kdf,
        rounds=rounds,
        salt=salt[:salted],
        iv=iv[:iv_held],
        bits=bits,
        algorithm=algorithm,
        padding=padding,
        mode=mode,
        parts=(reader.read(at + _WRAPPED.size, held),),
    )
