"""BitLocker volumes from a known key, written from libbde's document with the reference library."""

from __future__ import annotations

import hashlib
import random
import struct
import uuid
import zlib
from dataclasses import dataclass, field
from functools import cache

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM

MIB = 1 << 20
AREA = 65536
HEADER = 8192
METHODS = {
    "cbc-128-diffuser": (0x8000, 64),
    "cbc-256-diffuser": (0x8001, 64),
    "cbc-128": (0x8002, 16),
    "cbc-256": (0x8003, 32),
    "xts-128": (0x8004, 32),
    "xts-256": (0x8005, 64),
}
MASTER = bytes(random.Random("master").randbytes(32))
PASSWORD = "correct horse"  # noqa: S105
RECOVERY = "-".join(f"{11 * number:06d}" for number in (1, 22222, 60000, 7, 0, 54321, 999, 65535))
STARTUP = bytes(random.Random("start-up").randbytes(32))
CLEAR = bytes(random.Random("clear").randbytes(32))
SALT = bytes(range(16))
TIME = 132_000_000_000_000_000
GUID = uuid.UUID("4967d63b-2e29-4ad8-8399-f6a339e3d001").bytes_le
EOW = uuid.UUID("92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8").bytes_le


def key_id(kind: int) -> uuid.UUID:
    return uuid.UUID(int=0x1000 + kind)


def entry(type_: int, value: int, data: bytes, version: int = 1) -> bytes:
    return struct.pack("<HHHH", 8 + len(data), type_, value, version) + data


def sealed(type_: int, key: bytes, plain: bytes, nonce: int) -> bytes:
    nonces = struct.pack("<QI", TIME, nonce)
    both = AESCCM(key, tag_length=16).encrypt(nonces, plain, None)
    return entry(type_, 5, nonces + both[-16:] + both[:-16])


def container(method: int, key: bytes) -> bytes:
    return struct.pack("<IHHI", 12 + len(key), 1, 0, method) + key


@cache
def stretched(secret: str, rounds: int) -> bytes:
    """Return the key of a password or a recovery password, as the document describes it."""
    if secret == RECOVERY:
        words = [int(group) // 11 for group in secret.split("-")]
        initial = hashlib.sha256(struct.pack("<8H", *words)).digest()
    else:
        initial = hashlib.sha256(hashlib.sha256(secret.encode("utf-16-le")).digest()).digest()
    state = bytearray(88)
    state[32:80] = initial + SALT
    for count in range(rounds):
        state[80:] = count.to_bytes(8, "little")
        state[:32] = hashlib.sha256(state).digest()
    return bytes(state[:32])


def protector(kind: int, rounds: int) -> bytes:
    """Return a copy of the master key."""
    if kind == 0:
        properties = entry(0, 1, struct.pack("<I", 0x2000) + CLEAR) + sealed(
            0, CLEAR, container(0x2003, MASTER), 20
        )
    elif kind == 0x200:
        properties = entry(0, 2, "ExternalKey\0".encode("utf-16-le"))
        properties += sealed(0, STARTUP, container(0x2003, MASTER), 21)
    elif kind == 0x100:
        properties = entry(0, 6, bytes(100))
    else:
        key = stretched(RECOVERY if kind == 0x800 else PASSWORD, rounds)
        inner = sealed(0, MASTER, container(0x1000, key), 22)
        properties = entry(0, 3, struct.pack("<I", 0x1000 + (kind == 0x2000)) + SALT + inner)
        properties += sealed(0, key, container(0x2000, MASTER), 23)
    return entry(2, 8, key_id(kind).bytes_le + struct.pack("<QHH", TIME, 0, kind) + properties)


def startup_file() -> bytes:
    """Return a .BEK file."""
    key = entry(0, 1, struct.pack("<I", 0x2002) + STARTUP)
    held = entry(6, 9, key_id(0x200).bytes_le + struct.pack("<Q", TIME) + key)
    length = 48 + len(held)
    return struct.pack("<4I16sIIQ", length, 1, 48, length, key_id(0x200).bytes_le, 1, 0, TIME) + held


def diffuser(words: list[int], *, near: int, far: int, turns: tuple[int, ...], cycles: int) -> None:
    """Encrypt: the inverse of what Ferguson's paper gives, step by step backwards."""
    n = len(words)
    for step in reversed(range(cycles * n)):
        i, by = step % n, turns[step % 4]
        other = words[(i + far) % n]
        other = (other << by | other >> 32 - by) % (1 << 32)
        words[i] = (words[i] - (words[(i + near) % n] ^ other)) % (1 << 32)


@dataclass
class Volume:
    """A volume of ``size`` bytes; all but the first sectors and the metadata are what the caller says."""

    size: int = 4 * MIB
    method: str = "xts-128"
    sector: int = 512
    kinds: tuple[int, ...] = (0x2000, 0x800, 0x200)
    rounds: int = 1 << 20
    state: int = 4
    encrypted: int = -1
    to_go: bool = False
    vista: bool = False
    eow: dict[int, bool] = field(default_factory=dict)  # blocks of 256 KiB
    label: str = "HOST C: 1/2/2026"

    @property
    def key(self) -> bytes:
        """Return the key of the volume as the metadata holds it."""
        number, length = METHODS[self.method]
        key = bytes(random.Random(self.method).randbytes(length))
        return key[:16] + bytes(16) + key[32:48] + bytes(16) if number == 0x8000 else key

    @property
    def at(self) -> tuple[int, int, int]:
        """Return where the metadata is."""
        return MIB, MIB + 4 * AREA, MIB + 8 * AREA

    @property
    def moved(self) -> int:
        """Return where the first sectors are."""
        return MIB + AREA

    def encipher(self, at: int, data: bytes) -> bytes:
        """Return what is stored at ``at``."""
        number, key, out = METHODS[self.method][0], self.key, bytearray()
        for place in range(0, len(data), self.sector):
            plain, where = data[place : place + self.sector], at + place
            if number >= 0x8004:
                mode = modes.XTS((where // self.sector).to_bytes(16, "little"))
                out += Cipher(algorithms.AES(key), mode).encryptor().update(plain)
                continue
            short = 16 if number in (0x8000, 0x8002) else 32
            data_key, offset = key[:short], where.to_bytes(16, "little")
            if number < 0x8002:
                block = Cipher(algorithms.AES(key[32 : 32 + short]), modes.ECB()).encryptor()  # noqa: S305
                sector_key = block.update(offset + offset[:15] + b"\x80")
                plain = bytes(a ^ sector_key[i % 32] for i, a in enumerate(plain))
                words = list(struct.unpack(f"<{len(plain) // 4}I", plain))
                diffuser(words, near=-2, far=-5, turns=(9, 0, 13, 0), cycles=5)
                diffuser(words, near=2, far=5, turns=(0, 10, 0, 25), cycles=3)
                plain = struct.pack(f"<{len(words)}I", *words)
            vector = Cipher(algorithms.AES(data_key), modes.ECB()).encryptor().update(offset)  # noqa: S305
            out += Cipher(algorithms.AES(data_key), modes.CBC(vector)).encryptor().update(plain)
        return bytes(out)

    def metadata(self) -> bytes:
        """Return one copy of the metadata."""
        number = METHODS[self.method][0]
        held = entry(7, 2, f"{self.label}\0".encode("utf-16-le"))
        held += b"".join(protector(kind, self.rounds) for kind in self.kinds)
        held += sealed(3, MASTER, container(number, self.key), 24)
        if not self.vista:
            held += entry(15, 15, struct.pack("<QQ", self.moved, HEADER) + bytes(76))
        length = 48 + len(held)
        size = -(-(64 + length) // 16)
        encrypted = self.size if self.encrypted < 0 else self.encrypted
        block = struct.pack("<8sHHHH", b"-FVE-FS-", size, 1 if self.vista else 2, self.state, self.state)
        block += bytes(16) if self.vista else struct.pack("<QII", encrypted, 0, HEADER // self.sector)
        block += struct.pack("<4Q", *self.at, 0x1234 if self.vista else self.moved)
        block += struct.pack("<4I16sIIQ", length, 1, 48, length, uuid.UUID(int=77).bytes_le, 30, number, TIME)
        block = (block + held).ljust(size * 16, b"\0")
        if self.vista:
            return block.ljust(16384, b"\0")
        digest = sealed(0, MASTER, container(0x2005, hashlib.sha256(block).digest()), 25)
        block += struct.pack("<HHI", 8 + len(digest), 2, zlib.crc32(block)) + digest
        return block.ljust(AREA, b"\0")

    def boot(self, plain: bytes) -> bytes:
        """Return the first sector."""
        raw = bytearray(512)
        raw[510:] = b"\x55\xaa"
        struct.pack_into("<HB", raw, 11, self.sector, 4096 // self.sector)
        if self.vista:
            raw[:] = plain[:512]
            raw[3:11] = b"-FVE-FS-"
            struct.pack_into("<Q", raw, 56, self.at[0] // 4096)
        elif self.to_go:
            raw[:11] = b"\xeb\x58\x90MSWIN4.1"
            struct.pack_into("<16s3Q", raw, 424, GUID, *self.at)
        else:
            raw[:11] = b"\xeb\x58\x90-FVE-FS-"
            struct.pack_into("<16s3Q", raw, 160, EOW if self.eow else GUID, *self.at)
            if self.eow:
                struct.pack_into("<2Q", raw, 200, self.size - 2 * MIB, self.size - 2 * MIB + 4096)
        return bytes(raw)

    def is_plain(self, at: int) -> bool:
        """Say whether a sector is stored as it is."""
        if self.eow:
            return not self.eow.get(at // (256 << 10), True)
        return 0 <= self.encrypted <= at

    def image(self, plain: bytes) -> bytes:
        """Return the volume whose content is ``plain``."""
        stored = bytearray(self.size)
        for at in range(0, self.size, 4096):
            part = plain[at : at + 4096]
            stored[at : at + 4096] = part if self.is_plain(at) else self.encipher(at, part)
        head = plain[:HEADER]
        if self.vista:
            stored[:HEADER] = head
        else:
            stored[self.moved : self.moved + HEADER] = (
                head if self.is_plain(self.moved) else self.encipher(self.moved, head)
            )
        for at in self.at:
            stored[at : at + (16384 if self.vista else AREA)] = self.metadata()
        stored[:512] = self.boot(plain)
        if self.eow:
            self._map(stored)
        return bytes(stored)

    def _map(self, stored: bytearray) -> None:
        """Write which blocks are encrypted: descriptors, and one map for the whole volume."""
        block, at = 256 << 10, self.size - 2 * MIB
        count = self.size // block
        bits = sum(1 << i for i in range(count) if self.eow.get(i, True)).to_bytes(-(-count // 8), "little")
        head = struct.pack("<8sHH7I2Q", b"FVE-EOW\0", 56, 64, 512, 512, block, 0, 0, 1, 0, at, at + 4096)
        head = summed(head + struct.pack("<Q", at + 8192), 36)
        stored[at : at + 64] = stored[at + 4096 : at + 4160] = head
        whole = struct.pack("<10sHIIQQQIII", b"FVE-EOWBM\0", 60, 1536, 0, 0, self.size, 0, 512, 1024, 512)
        stored[at + 8192 : at + 8704] = summed((whole + bytes(4)).ljust(512, b"\0"), 56)
        for place, sequence, held in ((512, 1, bytes(len(bits))), (1024, 2, bits)):
            record = struct.pack("<10sH6I", b"FVE-EOWBR\0", 36, 512, count, sequence, 0, 0, 0) + held
            begin = at + 8192 + place
            stored[begin : begin + 512] = summed(record.ljust(512, b"\0"), 32)

    def shown(self, plain: bytes) -> bytes:
        """Return what Windows would show: the format's own places are zeros."""
        out = bytearray(plain)
        for at in self.at:
            length = 16384 if self.vista else AREA
            out[at : at + length] = bytes(length)
        if self.vista:
            out[:512] = plain[:3] + b"NTFS    " + plain[11:56] + struct.pack("<Q", 0x1234) + plain[64:512]
        else:
            out[self.moved : self.moved + HEADER] = bytes(HEADER)
        if self.eow:
            at = self.size - 2 * MIB
            out[at : at + 16384] = b"?" * 16384  # its maps lie in the volume: whatever they decrypt to
        return bytes(out)


def summed(data: bytes, at: int) -> bytes:
    data = data[:at] + bytes(4) + data[at + 4 :]
    return data[:at] + struct.pack("<I", zlib.crc32(data)) + data[at + 4 :]


def ntfs_like(size: int, seed: str) -> bytes:
    """Return content whose first sector looks like one of NTFS."""
    out = bytearray(random.Random(seed).randbytes(size))
    out[:40] = bytes(40)
    struct.pack_into("<3s8sHB", out, 0, b"\xeb\x52\x90", b"NTFS    ", 512, 8)
    struct.pack_into("<QQQ", out, 40, size // 512 - 1, 4, 0x1234)
    out[16384:16388] = b"FILE"
    out[510:512] = b"\x55\xaa"
    return bytes(out)
