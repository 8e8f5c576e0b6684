"""Passwords and key files of TrueCrypt and VeraCrypt: what together opens a volume.

Source: VeraCrypt documentation, "Technical Details", "Keyfiles": each byte of a key file goes into a running
CRC-32 whose state, without the final complement, is added byte by byte, modulo 256, to a pool; the pool is
added to the password. Only the first MiB of a key file counts.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgfs.model import Secret

KINDS: Final = ("password", "keyfile")
_POOL: Final = 64  # of TrueCrypt; of VeraCrypt for passwords up to as long
_POOL_LONG: Final = 128
_KEYFILE: Final = 1 << 20
MOST: Final = 32  # combinations that are tried
_TABLE: Final = array("L")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One combination of a password and key files; ``pim`` 0: none was given."""

    value: bytes
    pim: int
    said: str

    def __repr__(self) -> str:
        """Return what may be logged."""
        return f"Candidate({self.said})"


def candidates(keys: Iterable[Secret]) -> list[Candidate]:
    """Return what to try: each password alone, with all key files, with each of them; key files alone."""
    keys = list(keys)
    files = [mixed(one.value) for one in keys if one.kind == "keyfile"]
    sets: list[tuple[list[list[int]], str]] = []
    if files:
        sets.append((files, "all key files" if len(files) > 1 else "key file"))
    if len(files) > 1:
        sets += [([one], f"key file {number}") for number, one in enumerate(files, 1)]
    passwords = [(one.value, one.pim) for one in keys if one.kind == "password"]
    alone = next((one.pim for one in keys if one.kind == "keyfile" and one.pim), 0)
    found = [Candidate(value, pim, f"password {n}") for n, (value, pim) in enumerate(passwords, 1) if value]
    for pools, named in sets:
        found += [
            Candidate(applied(value, pools), pim or alone, f"password {n} with {named}")
            for n, (value, pim) in enumerate(passwords, 1)
        ]
    found += [Candidate(applied(b"", pools), alone, f"{named} alone") for pools, named in sets]
    unique = {(one.value, one.pim): one for one in reversed(found)}
    return [one for one in found if unique[one.value, one.pim] is one]


def mixed(data: bytes) -> list[int]:
    """Return what a key file adds at each step: positions are taken modulo the pool that it goes into.

    Two pools at once, one behind the other: of 64 bytes, then of 128.
    """
    table = _crc_table()
    short, long = [0] * _POOL, [0] * _POOL_LONG
    state, at, far = 0xFFFF_FFFF, 0, 0
    for byte in data[:_KEYFILE]:
        state = table[(state ^ byte) & 0xFF] ^ state >> 8
        for shift in (24, 16, 8, 0):
            value = state >> shift & 0xFF
            short[at] += value
            long[far] += value
            at = (at + 1) % _POOL
            far = (far + 1) % _POOL_LONG
    return short + long


def applied(password: bytes, pools: list[list[int]]) -> bytes:
    """Return a password with key files added."""
    size = _POOL if len(password) <= _POOL else _POOL_LONG
    start = 0 if size == _POOL else _POOL
    padded = password[:size].ljust(size, b"\0")
    return bytes((padded[at] + sum(pool[start + at] for pool in pools)) & 0xFF for at in range(size))


def _crc_table() -> array[int]:
    """Return the table of CRC-32 of ISO 3309, reflected: bytes are looked up one by one, states are kept."""
    if not _TABLE:
        for number in range(256):
            row = number
            for _ in range(8):
                row = row >> 1 ^ (0xEDB8_8320 if row & 1 else 0)
            _TABLE.append(row)
    return _TABLE
