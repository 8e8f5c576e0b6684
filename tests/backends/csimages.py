"""CoreStorage volumes, written out from libfvde's document without a look at the code under test.

libfvde itself opens what comes out of it: see ``test_corestorage``.
"""

from __future__ import annotations

import base64
import hashlib
import random
import struct
import zlib
from dataclasses import dataclass, field
from uuid import UUID

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

BLOCK = 4096
UNIT = 8192
LABEL = 64 * 1024
PASSWORD, RECOVERY = b"fvde-TEST", b"35AJ-AC98-TI1H-N4M3-HDUQ-UQFG"
RECOVERY_USER = "EBC6C064-0000-11AA-AA11-00306543ECAC"
USER = "A27BFBF4-5E71-499E-A50E-0F3C9A93A65E"


def weak_crc(data: bytes) -> int:
    """CRC-32C bit by bit, as the document has it: nothing is inverted at the end."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


def _table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


TABLE = _table()


def xts(key: bytes, number: int, data: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.XTS(number.to_bytes(16, "little"))).encryptor().update(data)


def block(kind: int, data: bytes, *, transaction: int = 1, number: int = 0, oid: int = 0) -> bytes:
    """Return a block of metadata of 8 KiB."""
    head = struct.pack("<HHIQQQQII8x", 1, kind, 7, transaction, oid, number, 0, UNIT, 0)
    body = (head + data).ljust(UNIT - 8, b"\0")
    return struct.pack("<II", weak_crc(body), 0xFFFFFFFF) + body


def user_struct(password: bytes, salt: bytes, kek: bytes, rounds: int) -> bytes:
    derived = hashlib.pbkdf2_hmac("sha256", password, salt, rounds, 16)
    out = struct.pack("<II16sII24s", 3, 16, salt, 0x10, 24, aes_key_wrap(derived, kek))
    return (out.ljust(168, b"\0") + struct.pack("<I", rounds)).ljust(284, b"\0")


def volume_struct(kek: bytes, vmk: bytes) -> bytes:
    return (struct.pack("<II24s", 2, 24, aes_key_wrap(kek, vmk))).ljust(256, b"\0")


@dataclass
class Group:
    """A group with one logical volume over one or more physical ones.

    ``segments`` are (logical block, blocks, physical volume, physical block).
    """

    plain: bytes
    encrypted: bool = True
    system: bool = False  # its context is not in the metadata
    compressed: bool = False
    chained: bool = False
    base: int = 0
    rounds: int = 1000
    members: int = 1
    segments: list[tuple[int, int, int, int]] = field(default_factory=list)
    size: int = 0  # of each physical volume, in blocks
    seed: int = 3
    status: str = "NoConversion"

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        uuid = lambda: UUID(bytes=rng.randbytes(16), version=4)  # noqa: E731
        self.group, self.family, self.logical = uuid(), uuid(), uuid()
        self.physical = [uuid() for _ in range(self.members)]
        self.key = [rng.randbytes(16) for _ in range(self.members)]
        self.vmk, self.kek = rng.randbytes(16), rng.randbytes(16)
        self.salts = [rng.randbytes(16), rng.randbytes(16)]
        count = len(self.plain) // BLOCK
        self.segments = self.segments or [(0, count, 0, 256 - self.base)]
        self.size = self.size or max(at + n + self.base for _, n, _, at in self.segments) + 2
        labels = LABEL // BLOCK
        self.labels = [1, 1 + labels, 1 + 2 * labels, 1 + 3 * labels]
        self.metadata = [1 + 4 * labels, 1 + 4 * labels + 64]
        self.units = 32  # of a copy of the metadata: 64 blocks

    # --- what encrypts ------------------------------------------------------------------------------------
    def context(self) -> str:
        """Return the dictionary of encryption, with references as the kernel writes them."""

        def data(raw: bytes) -> str:
            return f"<data>{base64.b64encode(raw).decode()}</data>"

        users = ""
        for name, password, salt in (
            (USER, PASSWORD, self.salts[0]),
            (RECOVERY_USER, RECOVERY, self.salts[1]),
        ):
            users += "<dict><key>PassphraseWrappedKEKStruct</key>"
            users += data(user_struct(password, salt, self.kek, self.rounds))
            users += f"<key>UserIdent</key><string>{name}</string></dict>"
        plain = '<dict><key>VolumeKeyIndex</key><integer size="32" ID="5">0x0</integer>'
        plain += "<key>BlockAlgorithm</key><string>None</string>"
        plain += "<key>KEKWrappedVolumeKeyStruct</key><data></data></dict>"
        coded = '<dict><key>VolumeKeyIndex</key><integer size="32" ID="6">0x1</integer>'
        coded += '<key>WrapVersion</key><reference IDREF="6"/>'
        coded += "<key>BlockAlgorithm</key><string>AES-XTS</string><key>KEKWrappedVolumeKeyStruct</key>"
        coded += data(volume_struct(self.kek, self.vmk)) + "</dict>"
        if not self.encrypted:
            users = coded = ""
        return (
            f"<key>CryptoUsers</key><array>{users}</array>"
            f"<key>WrappedVolumeKeys</key><array>{plain}{coded}</array>"
            "<key>ConversionInfo</key><dict><key>ConversionStatus</key>"
            f"<string>{self.status}</string></dict>"
        )

    def wipekey(self) -> bytes:
        """Return EncryptedRoot.plist.wipekey."""
        text = '<?xml version="1.0" encoding="UTF-8"?>\n<plist version="1.0"><dict>'
        raw = (text + self.context() + "</dict></plist>").encode()
        return xts(self.key[0] + bytes(16), 0, raw + bytes(-len(raw) % 512))

    # --- metadata -----------------------------------------------------------------------------------------
    def blocks(self) -> list[bytes]:
        name = "com.apple.corestorage."
        out = [block(0x0105, struct.pack("<II", 1, 0) + struct.pack("<QQ", 9, 0), oid=2)]
        rows = b"".join(
            struct.pack("<QQI12xQ", 0, at, count, member << 48 | place)
            for at, count, member, place in self.segments
        )
        out.append(block(0x0305, struct.pack("<II", len(self.segments), 0) + rows, oid=3))
        if self.base:
            out.append(block(0x0505, struct.pack("<IIQQ", 1, 0, 0, self.base), oid=4))
        listed = (
            f"<dict><key>{name}lv.familyUUID</key><string>{str(self.family).upper()}</string>"
            f"<key>{name}lv.name</key><string>Macintosh HD</string>"
            f'<key>{name}lv.size</key><integer size="64">{len(self.plain):#x}</integer>'
            f"<key>{name}lv.uuid</key><string>{str(self.logical).upper()}</string></dict>"
        ).encode()
        data = struct.pack("<QQ16xQQ8x", 9, 3, 5, 4 if self.base else 0)
        data += struct.pack("<IIII", len(listed), len(listed), 0xB8, len(listed))
        out.append(block(0x001A, data.ljust(0xB8 - 64, b"\0") + listed, oid=9))
        if not self.system:
            out += self.context_blocks()
        out += [block(0x0016, bytes(8), oid=99)]
        return out

    def context_blocks(self) -> list[bytes]:
        listed = (
            '<dict ID="0"><key>com.apple.corestorage.lvf.encryption.context</key><dict ID="1">'
            + self.context()
            + "</dict><key>com.apple.corestorage.lvf.uuid</key>"
            + f"<string>{str(self.family).upper()}</string></dict>"
        ).encode()
        stored = zlib.compress(listed) if self.compressed else listed
        first = stored[:300] if self.chained else stored
        data = bytes(32) + struct.pack("<Q", 40 if self.chained else 0)
        data += struct.pack("<IIII", len(stored), len(listed), 0x3B0, len(first)) + bytes(8)
        out = [block(0x0019, data.ljust(0x3B0 - 64, b"\0") + first, oid=10)]
        rest, oid = stored[len(first) :], 40
        while rest:
            piece, rest = rest[:250], rest[250:]
            following = oid + 1 if rest else 0
            out.append(block(0x0024, struct.pack("<QQ", following, len(piece)) + piece, oid=oid))
            oid += 1
        return out

    def encrypted_metadata(self, member: int, blocks: list[bytes] | None = None) -> bytes:
        key = self.key[member] + self.physical[member].bytes
        out = b"".join(xts(key, n, one) for n, one in enumerate(blocks or self.blocks()))
        return out.ljust(self.units * UNIT, b"\0")

    def label(self, member: int, transaction: int) -> bytes:
        name = "com.apple.corestorage."
        members = "".join(f"<string>{str(one).upper()}</string>" for one in self.physical)
        listed = (
            f"<dict><key>{name}lvg.uuid</key><string>{str(self.group).upper()}</string>"
            f"<key>{name}lvg.name</key><string>TestLVG</string>"
            f"<key>{name}lvg.physicalVolumes</key><array>{members}</array></dict>"
        ).encode()
        data = bytearray(192)
        struct.pack_into("<I", data, 0, LABEL)
        struct.pack_into("<IIII", data, 156, UNIT, UNIT + 48, len(listed), len(listed))
        struct.pack_into("<H", data, 174, member)
        group = struct.pack("<6Q", 0, self.units * UNIT // BLOCK, 0, 2, *self.metadata)
        return (block(0x0011, bytes(data), transaction=transaction) + group + listed).ljust(LABEL, b"\0")

    def header(self, member: int) -> bytes:
        out = bytearray(512)
        struct.pack_into("<HHI", out, 8, 1, 0x0010, 7)
        struct.pack_into("<I", out, 48, 512)
        struct.pack_into("<Q", out, 64, self.size * BLOCK)
        out[88:90] = b"CS"
        struct.pack_into("<IH", out, 90, 1, 4)
        struct.pack_into("<II4Q", out, 96, BLOCK, LABEL, *self.labels)
        struct.pack_into("<II", out, 168, 16, 2)
        out[176:192], out[304:320] = self.key[member], self.physical[member].bytes
        out[320:336] = self.group.bytes
        struct.pack_into("<II", out, 0, weak_crc(bytes(out[8:])), 0xFFFFFFFF)
        return bytes(out)

    # --- all of it ----------------------------------------------------------------------------------------
    def stored(self) -> bytes:
        """Return the logical volume as it is stored, sector by sector."""
        if not self.encrypted:
            return self.plain
        key = self.vmk + hashlib.sha256(self.vmk + self.family.bytes).digest()[:16]
        return b"".join(
            xts(key, at // 512, self.plain[at : at + 512]) for at in range(0, len(self.plain), 512)
        )

    def image(self, member: int = 0) -> bytes:
        """Return a physical volume."""
        out = bytearray(self.size * BLOCK)
        out[:512] = out[-512:] = self.header(member)
        for number, at in enumerate(self.labels):
            out[at * BLOCK : at * BLOCK + LABEL] = self.label(member, 5 + number)
        metadata = self.encrypted_metadata(member)
        for at in self.metadata:
            if not member:
                out[at * BLOCK : at * BLOCK + len(metadata)] = metadata
        stored = self.stored()
        for logical, count, of, place in self.segments:
            if of == member:
                at = (place + self.base) * BLOCK
                out[at : at + count * BLOCK] = stored[logical * BLOCK : (logical + count) * BLOCK]
        return bytes(out)
