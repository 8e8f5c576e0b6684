"""Encrypted Apple disk images, written from vfdecrypt and RFC 3217 without a look at the code under test."""

from __future__ import annotations

import hashlib
import hmac
import random
import struct

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

AES, DES3 = 0x80000001, 17
PASSWORD = b"vault of files"


def pad(data: bytes, size: int) -> bytes:
    count = size - len(data) % size
    return data + bytes([count]) * count


def cbc(key: bytes, iv: bytes, data: bytes, algorithm: int = AES) -> bytes:
    how = TripleDES(key) if algorithm == DES3 else algorithms.AES(key)
    return Cipher(how, modes.CBC(iv)).encryptor().update(data)


class Writer:
    """One image: its keys, and how they are wrapped."""

    def __init__(
        self, bits: int = 256, block: int = 512, wrap: int = DES3, rounds: int = 1000, seed: int = 5
    ):
        rng = random.Random(seed)
        self.bits, self.block, self.wrap, self.rounds = bits, block, wrap, rounds
        self.aes, self.mac = rng.randbytes(bits // 8), rng.randbytes(20)
        self.salt, self.iv = rng.randbytes(20), rng.randbytes(8)
        self.uuid = rng.randbytes(16)

    @property
    def keys(self) -> bytes:
        return self.aes + self.mac

    def encrypted(self, plain: bytes, first: int = 0) -> bytes:
        """Return ciphertext in whole blocks, each under its own vector."""
        plain += bytes(-len(plain) % self.block)
        out = b""
        for at in range(0, len(plain), self.block):
            number = struct.pack(">I", first + at // self.block)
            vector = hmac.new(self.mac, number, hashlib.sha1).digest()[:16]
            out += cbc(self.aes, vector, plain[at : at + self.block])
        return out

    def wrapped(self, password: bytes = PASSWORD) -> bytes:
        """Return a key slot of version 2."""
        derived = hashlib.pbkdf2_hmac("sha1", password, self.salt, self.rounds, 24)
        size = 8 if self.wrap == DES3 else 16
        blob = cbc(derived, self.iv.ljust(size, b"\0"), pad(self.keys + b"CKIE\0", size), self.wrap)
        head = struct.pack(">IQI32sI32s", 103, self.rounds, 20, self.salt, 8, self.iv)
        return head + struct.pack(">5I", 192, self.wrap, 7, 6, len(blob)) + blob

    def header(
        self, length: int, *passwords: bytes, data_at: int = 0x1DE00, others: tuple[int, ...] = ()
    ) -> bytes:
        """Return the header of version 2, up to the data: certificates, then a slot for each password."""
        slots = [(kind, b"\0" * 300) for kind in others]
        slots += [(1, self.wrapped(password)) for password in passwords or (PASSWORD,)]
        head = struct.pack(">8s7I16s", b"encrcdsa", 2, 16, 5, AES, self.bits, 91, 160, self.uuid)
        head += struct.pack(">IQQI", self.block, length, data_at, len(slots))
        at = len(head) + 20 * len(slots)
        places, held = b"", b""
        for kind, slot in slots:
            places += struct.pack(">IQQ", kind, at + len(held), len(slot))
            held += slot
        return (head + places + held).ljust(data_at, b"\0")

    def second(self, plain: bytes, *passwords: bytes, **more) -> bytes:
        return self.header(len(plain), *passwords, **more) + self.encrypted(plain)

    def first(self, plain: bytes, password: bytes = PASSWORD) -> bytes:
        """Return an image with the trailer of version 1."""
        derived = hashlib.pbkdf2_hmac("sha1", password, self.salt, self.rounds, 24)

        def twice(key: bytes) -> bytes:
            inner = cbc(derived, self.iv, pad(bytes(4) + key, 8), DES3)
            return cbc(derived, bytes.fromhex("4adda22c79e82105"), pad((self.iv + inner)[::-1], 8), DES3)

        def slot(algorithm: int, bits: int, key: bytes) -> bytes:
            held = twice(key)
            return struct.pack(">II32sI256s", algorithm, bits, bytes(32), len(held), held)

        data = self.encrypted(plain)
        out = self.uuid + struct.pack(">5I", self.block, DES3, 7, 6, 192) + struct.pack(">II", 8, 103)
        out += struct.pack(">QI32s", self.rounds, 20, self.salt) + struct.pack(">II", 16, 5)
        out += slot(AES, self.bits, self.aes) + slot(91, 160, self.mac) + slot(91, 160, bytes(20))
        out += struct.pack(">I256s", 0, b"") + struct.pack(">QI8s", len(data), 1, b"cdsaencr")
        assert len(out) == 1276
        return data + out
