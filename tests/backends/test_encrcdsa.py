"""Encrypted Apple disk images and NDIF: named, with what an analyst needs to know to open them elsewhere."""

from __future__ import annotations

import struct

import pytest

from imgfs.backends import Options, discover
from imgfs.backends._encrcdsa import cipher
from imgfs.errors import EvidenceError, NotSupported
from imgfs.testing.fakes import MemoryReader


def second(*keys: tuple[int, int], bits: int = 256, rounds: int = 164_000, size: int = 4096) -> bytes:
    """Return an image of version 2 with keys of these kinds, each at its place."""
    head = struct.pack(
        ">8s7I16sIQQI",
        b"encrcdsa",
        2,
        16,
        5,
        0x80000001,
        bits,
        91,
        160,
        bytes(16),
        512,
        1 << 20,
        122_368,
        len(keys),
    )
    head += b"".join(struct.pack(">IQQ", kind, at, 616) for kind, at in keys)
    out = bytearray(head.ljust(size, b"\0"))
    for kind, at in keys:
        if kind == 1 and at + 16 <= size:
            struct.pack_into(">4I", out, at, 103, 0, rounds, 20)
    return bytes(out)


def refused(data: bytes, name: str = "encrcdsa") -> str:
    with pytest.raises(NotSupported) as why:
        discover()[name].open(MemoryReader(data), Options())
    return str(why.value)


def test_version_2_is_said() -> None:
    said = refused(second((1, 408), (2, 1024)))
    assert said == (
        "Encrypted Apple disk image version 2, AES CBC with 256 bits in blocks of 512, "
        "PBKDF2 of 164000 rounds, "
        "keys: passphrase, certificate: imgfs cannot read it yet; its passphrase would open it, "
        "or the private key of a certificate it was made for"
    )
    found = cipher(MemoryReader(second((1, 408), bits=128)))
    assert (found.bits, found.data_at, found.data_length) == (128, 122_368, 1 << 20)


def test_version_1_is_said() -> None:
    trailer = bytes(48) + struct.pack(">I", 1000)
    image = bytes(8192) + trailer.ljust(1276 - 8, b"\0") + b"cdsaencr"
    assert "version 1, AES CBC with 128 bits in blocks of 4096, PBKDF2 of 1000 rounds" in refused(image)
    assert cipher(MemoryReader(image)).data_length == 8192


def test_a_hostile_header_is_said_too() -> None:
    assert "keys: none" in refused(second())
    many = second(*[(9, 0)] * 100)
    assert "key of kind 9" in refused(many)
    assert "rounds of PBKDF2 not said" in refused(second((1, 1 << 40)))
    assert "rounds of PBKDF2 not said" in refused(second((1, 408), rounds=0xFFFF_FFFF))
    for cut in (b"encrcdsa", second((1, 408))[:70]):
        with pytest.raises(EvidenceError):
            discover()["encrcdsa"].open(MemoryReader(cut), Options())


def test_ndif_in_macbinary_is_named() -> None:
    assert "NDIF" in refused((bytes(65) + b"rohdddsk").ljust(4096, b"\0"), "ndif")
