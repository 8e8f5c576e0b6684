"""Containers as Apple's reference describes them, for what no tool here writes: sealed, encrypted, packed.

Source: Apple File System Reference, 2020-06-22. libfsapfs reads what comes out, where it knows it.
"""

from __future__ import annotations

import hashlib
import struct
import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from imgfs.backends._crc32c import crc32c
from imgfs.backends.apfs.objects import fletcher

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK = 4096
CONTAINER_UUID = UUID("11111111-2222-3333-4444-555555555555").bytes
PERSONAL = UUID("ebc6c064-0000-11aa-aa11-00306543ecac").bytes
XID = 7
AREA, AREA_BLOCKS = 1, 8
PHYSICAL, EPHEMERAL = 0x4000_0000, 0x8000_0000
REG, DIR, LNK = 0o100644, 0o40755, 0o120755
Record = tuple[int, bytes, bytes]  # how it is sorted, key, value
Extents = list[tuple[int, int, int, int]]  # logical, length, block, what its cipher counts from
Places = list[tuple[int, int, int, int]]  # number, transaction, flags, block


def der(tag: int, value: bytes) -> bytes:
    length = len(value)
    head = bytes([length]) if length < 128 else b"\x81" + bytes([length])
    return bytes([tag]) + head + value


def packed_key(uuid: bytes, wrapped: bytes, rounds: int = 0, salt: bytes = b"", method: int = 0) -> bytes:
    inner = der(0x80, b"\0") + der(0x81, uuid) + der(0x82, struct.pack("<II", method, 0)) + der(0x83, wrapped)
    if rounds:
        inner += der(0x84, rounds.to_bytes(4, "big")) + der(0x85, salt)
    return der(0x30, der(0x80, b"\0") + der(0x81, bytes(32)) + der(0x82, bytes(8)) + der(0xA3, inner))


def xts(key: bytes, first: int, data: bytes) -> bytes:
    """Encrypt sectors of 512 bytes that count from ``first``; the halves of the key may be the same."""
    ecb = Cipher(algorithms.AES(key[: len(key) // 2]), modes.ECB()).encryptor()  # noqa: S305
    tweaks = Cipher(algorithms.AES(key[len(key) // 2 :]), modes.ECB()).encryptor()  # noqa: S305
    out = bytearray()
    for sector in range(0, len(data), 512):
        tweak = int.from_bytes(tweaks.update((first + sector // 512).to_bytes(16, "little")), "little")
        masks = []
        for _ in range(32):
            masks.append(tweak.to_bytes(16, "little"))
            tweak = (tweak << 1) ^ (0x87 | 1 << 128 if tweak >> 127 else 0)
        mask = int.from_bytes(b"".join(masks), "little")
        plain = int.from_bytes(data[sector : sector + 512], "little") ^ mask
        sealed = int.from_bytes(ecb.update(plain.to_bytes(512, "little")), "little") ^ mask
        out += sealed.to_bytes(512, "little")
    return bytes(out)


def summed(data: bytes) -> bytes:
    return fletcher(data) + data[8:]


def head(oid: int, kind: int, subtype: int = 0, xid: int = XID) -> bytes:
    return struct.pack("<8xQQII", oid, xid, kind, subtype)


def node(
    oid: int,
    kind: int,
    subtype: int,
    records: Sequence[Record],
    *,
    level: int = 0,
    root: bool = False,
    fixed: bool = False,
    flags: int = 0,
    info: bytes = b"",
    plain: bool = True,
) -> bytes:
    """Return a node; ``plain`` False: without a header."""
    room = BLOCK - 56 - (40 if root else 0)
    step = 4 if fixed else 8
    length = (BLOCK - 96) // 36 * 4 // 8 * 8 + 8 if fixed and not level else -(-len(records) * step // 8) * 8
    toc = b""
    keys = values = b""
    for _, key, value in records:
        values = value + values if not fixed else value + bytes(-len(value) % 8) + values
        place = (len(keys), len(values))
        toc += (
            struct.pack("<HH", *place)
            if fixed
            else struct.pack("<4H", place[0], len(key), place[1], len(value))
        )
        keys += key
    free = room - length - len(keys) - len(values)
    assert free >= 0, f"{len(records)} records do not fit"
    flags |= (1 if root else 0) | (0 if level else 2) | (4 if fixed else 0)
    body = struct.pack(
        "<HHIHHHHHHHH", flags, level, len(records), 0, length, len(keys), free, 0xFFFF, 0, 0xFFFF, 0
    )
    data = body + toc.ljust(length, b"\0") + keys + bytes(free) + values + (info if root else b"")
    if not plain:
        return bytes(32) + data
    return summed(head(oid, kind, subtype) + data)


def split(records: Sequence[Record], room: int) -> list[list[Record]]:
    """Return records in groups that fit a node."""
    groups: list[list[Record]] = [[]]
    used = 0
    for record in records:
        size = 8 + len(record[1]) + len(record[2]) + 16
        if groups[-1] and used + size > room:
            groups.append([])
            used = 0
        groups[-1].append(record)
        used += size
    return groups


@dataclass
class File:
    """A file, folder or link. ``extents`` overrule where ``data`` lies: logical, length, block, tweak."""

    number: int
    parent: int
    name: str
    mode: int = REG
    data: bytes = b""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    flags: int = 0
    links: int = 1
    times: tuple[int, int, int, int] = (10**18 + 1, 10**18 + 2, 10**18 + 3, 10**18 + 4)
    owner: tuple[int, int] = (501, 20)
    fields: dict[int, bytes] = field(default_factory=dict)
    size: int = -1
    extents: Extents | None = None
    private: int = 0
    further: list[tuple[int, str]] = field(default_factory=list)  # other names: folder, name


@dataclass
class Volume:
    name: str
    files: list[File]
    uuid: bytes = UUID("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee").bytes
    role: int = 0
    incompatible: int = 1
    vek: bytes = b""  # plain: no encryption
    moved: int = 0  # blocks that files were moved after they were encrypted
    sealed: bool = False
    virtual: bool = False  # the tree of a sealed volume's extents is found through the object map
    broken: int = 0
    users: list[tuple[bytes, str, str]] = field(default_factory=list)  # uuid, password, hint
    kek: bytes = bytes(range(32, 64))
    index: int = 0

    @property
    def hashed(self) -> bool:
        return bool(self.incompatible & 9)


class Composer:
    """A container in the making."""

    def __init__(
        self, volumes: Sequence[Volume], *, blocks: int = 2048, software: bool = True, first: int = 64
    ) -> None:
        self.blocks: dict[int, bytes] = {}
        self.count = blocks
        self._next = self.first = first
        self._oid = 2000
        self.volumes = volumes
        self.software = software
        self.keybag: list[tuple[bytes, int, bytes]] = []
        self.places: Places = []
        for index, volume in enumerate(volumes):
            volume.index = index
            self.places.append((1026 + index, XID, 0, self._volume(1026 + index, volume)))
        self.omap = self._omap(self.places)
        self.locker = self._bag(self.keybag, CONTAINER_UUID, 0x6B657973) if self.keybag else (0, 0)

    def alloc(self, count: int = 1) -> int:
        at, self._next = self._next, self._next + count
        assert self._next <= self.count
        return at

    def put(self, at: int, data: bytes) -> None:
        for step in range(0, len(data), BLOCK):
            self.blocks[at + step // BLOCK] = data[step : step + BLOCK].ljust(BLOCK, b"\0")

    def image(self, *, states: int = 2) -> bytes:
        """Return the image; ``states`` superblocks lie in the checkpoint area, the newest last."""
        for step in range(states):
            entries = struct.pack("<IIIIQQQ", EPHEMERAL | 5, 0, BLOCK, 0, 0, 1024, 40)
            entries += struct.pack("<IIIIQQQ", EPHEMERAL | 17, 0, BLOCK, 0, 0, 1025, 41)
            at = AREA + 2 * step
            data = head(at, PHYSICAL | 12, 0, XID - states + 1 + step) + struct.pack("<II", 1, 2) + entries
            self.put(at, summed(data.ljust(BLOCK, b"\0")))
            self.put(AREA + 1 + 2 * step, self.superblock(XID - states + 1 + step))
        self.put(40, summed((head(1024, EPHEMERAL | 5) + struct.pack("<I", BLOCK)).ljust(BLOCK, b"\0")))
        self.put(41, summed(head(1025, EPHEMERAL | 17).ljust(BLOCK, b"\0")))
        self.put(0, self.superblock(XID))
        return b"".join(self.blocks.get(at, bytes(BLOCK)) for at in range(self.count))

    def superblock(self, xid: int = XID, *, incompatible: int = 2, flags: int | None = None) -> bytes:
        data = bytearray(BLOCK)
        data[:32] = head(1, EPHEMERAL | 1, 0, xid)
        struct.pack_into(
            "<4sI4Q16sQQ",
            data,
            32,
            b"NXSB",
            BLOCK,
            self.count,
            0,
            0,
            incompatible,
            CONTAINER_UUID,
            9999,
            xid + 1,
        )
        struct.pack_into("<IIQQ", data, 104, AREA_BLOCKS, 8, AREA, AREA + AREA_BLOCKS)
        struct.pack_into("<QQQII", data, 152, 1024, self.omap, 1025, 0, 100)
        struct.pack_into(f"<{len(self.volumes)}Q", data, 184, *range(1026, 1026 + len(self.volumes)))
        struct.pack_into("<Q", data, 1264, (4 if self.software else 0) if flags is None else flags)
        struct.pack_into("<QQ", data, 1296, *self.locker)
        return summed(bytes(data))

    def _omap(self, places: Places) -> int:
        """Write an object map of (oid, xid, flags, block) and return its block."""
        records = [
            (oid << 64 | xid, struct.pack("<QQ", oid, xid), struct.pack("<IIQ", flags, BLOCK, at))
            for oid, xid, flags, at in sorted(places)
        ]
        tree = self.physical(records, 11, fixed=(16, 16))
        at = self.alloc()
        self.put(
            at,
            summed(
                (
                    head(at, PHYSICAL | 11)
                    + struct.pack("<IIIIQQQQQ", 0, 0, PHYSICAL | 2, PHYSICAL | 2, tree, 0, 0, 0, 0)
                ).ljust(BLOCK, b"\0")
            ),
        )
        return at

    def physical(self, records: Sequence[Record], subtype: int, fixed: tuple[int, int] = (0, 0)) -> int:
        """Write a tree whose nodes are named by their blocks, and return the root's."""
        rows, level, nodes = records, 0, 1
        while len(groups := split(rows, BLOCK - 496)) > 1:
            above: list[Record] = []
            for group in groups:
                at = self.alloc()
                self.put(at, node(at, PHYSICAL | 3, subtype, group, level=level, fixed=bool(fixed[0])))
                above.append((group[0][0], group[0][1], struct.pack("<Q", at)))
            rows, level, nodes = above, level + 1, nodes + len(groups)
        info = self._info(0x12 if fixed[0] else 0x52, fixed, records, nodes)
        at = self.alloc()
        data = node(
            at, PHYSICAL | 2, subtype, groups[0], level=level, root=True, fixed=bool(fixed[0]), info=info
        )
        self.put(at, data)
        return at

    @staticmethod
    def _info(flags: int, fixed: tuple[int, int], records: Sequence[Record], nodes: int) -> bytes:
        longest = [max((len(record[part]) for record in records), default=fixed[part - 1]) for part in (1, 2)]
        return struct.pack("<IIIIIIQQ", flags, BLOCK, *fixed, *longest, len(records), nodes)

    def virtual(self, records: Sequence[Record], subtype: int, places: Places, volume: Volume) -> int:
        """Write a tree whose nodes an object map finds; returns the root's number."""
        root, rows, level = self._oid, records, 0
        self._oid += 1
        while len(groups := split(rows, BLOCK - 596)) > 1:
            above: list[Record] = []
            for number, group in enumerate(groups, self._oid):
                self._place(number, node(number, 3, subtype, group, level=level), places, volume)
                above.append((group[0][0], group[0][1], struct.pack("<Q", number)))
            self._oid += len(groups)
            rows, level = above, level + 1
        info = self._info(0x42, (0, 0), records, self._oid - root)
        self._place(
            root, node(root, 2, subtype, groups[0], level=level, root=True, info=info), places, volume
        )
        return root

    def sealed(self, records: Sequence[Record], places: Places, volume: Volume) -> tuple[int, bytes]:
        """Write a hashed tree without headers; returns the root's number and hash."""
        groups = split(records, BLOCK - 696)
        info = self._info(0x1C2, (0, 0), records, len(groups) + 1)
        root = self._oid
        self._oid += len(groups) + 1
        above = []
        for number, group in enumerate(groups, 1):
            data = node(0, 3, 14, group, flags=0x18, plain=False)
            self._place(root + number, data, places, volume)
            above.append(
                (group[0][0], group[0][1], struct.pack("<Q", number) + hashlib.sha256(data).digest())
            )
        data = node(0, 2, 14, above, level=1, root=True, flags=0x18, info=info, plain=False)
        self._place(root, data, places, volume)
        return root, hashlib.sha256(data).digest()

    def _place(self, oid: int, data: bytes, places: Places, volume: Volume) -> None:
        at = self.alloc()
        self.put(at, xts(_extended(volume), at * (BLOCK // 512), data) if volume.vek else data)
        bare = data[:32] == bytes(32)  # no header
        places.append((oid, XID, (4 if volume.vek else 0) | (8 if bare else 0), at))

    def _bag(self, entries: Sequence[tuple[bytes, int, bytes]], uuid: bytes, kind: int) -> tuple[int, int]:
        body = b""
        for owner, tag, data in entries:
            one = struct.pack("<16sHH4x", owner, tag, len(data)) + data
            body += one + bytes(-len(one) % 16)
        locker = struct.pack("<HHI8x", 2, len(entries), 16 + len(body)) + body
        at = self.alloc()
        data = summed((head(at, kind) + locker).ljust(BLOCK, b"\0"))
        self.put(at, xts(2 * uuid, at * (BLOCK // 512), data))
        return at, 1

    def _keys(self, volume: Volume) -> None:
        """Wrap the keys of a volume as it has users."""
        size = 16 if len(volume.vek) == 16 else 32
        entries = []
        for number, (uuid, password, hint) in enumerate(volume.users):
            salt = bytes([number]) * 16
            derived = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1000, 32)
            entries.append((uuid, 3, packed_key(uuid, aes_key_wrap(derived, volume.kek), 1000, salt)))
            if hint:
                entries.append((uuid, 4, hint.encode()))
        place = self._bag(entries, volume.uuid, 0x72656373)
        wrapped = aes_key_wrap(volume.kek[:size], volume.vek)
        self.keybag.append((volume.uuid, 2, packed_key(volume.uuid, wrapped)))
        self.keybag.append((volume.uuid, 3, struct.pack("<QQ", *place)))

    def _volume(self, oid: int, volume: Volume) -> int:
        records: list[Record] = []
        runs: list[Record] = []
        for file in volume.files:
            records += self._file(volume, file, runs)
        records.sort(key=lambda record: (record[0], _among(volume, record)))
        places: Places = []
        seal = fext = 0
        if volume.sealed:
            root, digest = self.sealed(records, places, volume)
            if volume.virtual:
                fext = self.virtual(sorted(runs), 0x1F, places, volume)
            else:
                fext = self.physical(sorted(runs), 0x1F, fixed=(16, 16))
            seal = self._oid
            self._oid += 1
            meta = (
                struct.pack("<IIIIQ", 2, 1 if volume.broken else 0, 1, 128, volume.broken).ljust(96, b"\0")
                + digest
            )
            self._place(seal, summed((head(seal, 0x1E) + meta).ljust(BLOCK, b"\0")), places, volume)
        else:
            root = self.virtual(records, 14, places, volume)
        if volume.vek and volume.users:
            self._keys(volume)
        snapshots, references = self.physical([], 16), self.physical([], 15)
        at = self.alloc()
        data = bytearray(BLOCK)
        data[:32] = head(oid, 13)
        struct.pack_into(
            "<4sIQQQ",
            data,
            32,
            b"APSB",
            volume.index,
            2,
            0,
            volume.incompatible | (32 if volume.sealed else 0),
        )
        kinds = [file.mode >> 12 for file in volume.files[2:]]
        counts = (kinds.count(8), kinds.count(4), kinds.count(10), 0, 0)
        struct.pack_into("<HHIIIHH", data, 96, 5, 0, 0, 6, 0, 1, 0)
        struct.pack_into("<6Q", data, 176, max(file.number for file in volume.files) + 1, *counts)
        struct.pack_into("<III", data, 116, 2, PHYSICAL | 2, PHYSICAL | 2)
        struct.pack_into("<QQQQ", data, 128, self._omap(places), root, references, snapshots)
        struct.pack_into("<16sQQ", data, 240, volume.uuid, 10**18, 8 if volume.vek else 1)
        struct.pack_into("<32sQQ", data, 272, b"composed by tests", 10**18, 2)
        struct.pack_into("<256sIH", data, 704, volume.name.encode(), 3, volume.role)
        struct.pack_into("<QQI", data, 1024, seal, fext, 2 if volume.virtual else PHYSICAL | 2)
        self.put(at, summed(bytes(data)))
        return at

    def _stream(
        self, volume: Volume, number: int, data: bytes, extents: Extents | None, runs: list[Record]
    ) -> list[Record]:
        """Store the bytes of a stream; returns the records of where they lie."""
        if extents is None:
            extents = []
            if data:
                whole = data + bytes(-len(data) % BLOCK)
                at = self.alloc(len(whole) // BLOCK)
                tweak = at + volume.moved
                self.put(at, xts(_extended(volume), tweak * (BLOCK // 512), whole) if volume.vek else whole)
                extents.append((0, len(whole), at, tweak if volume.vek else 0))
        if volume.sealed:
            runs += [
                (number << 64 | logical, struct.pack("<QQ", number, logical), struct.pack("<QQ", length, at))
                for logical, length, at, _ in extents
            ]
            return []
        key = number | 8 << 60
        return [
            (number << 4 | 8, struct.pack("<QQ", key, logical), struct.pack("<QQQ", length, at, tweak))
            for logical, length, at, tweak in extents
        ]

    def _file(self, volume: Volume, file: File, runs: list[Record]) -> list[Record]:
        number, private = file.number, file.private or file.number
        records = self._stream(volume, private, file.data, file.extents, runs)
        size = len(file.data) if file.size < 0 else file.size
        fields = {4: file.name.encode() + b"\0", **file.fields}
        if file.mode >> 12 == 8 and (size or file.extents):
            fields[8] = struct.pack("<QQQQQ", size, -(-size // BLOCK) * BLOCK, 0, 0, 0)
            records.append((private << 4 | 6, struct.pack("<Q", private | 6 << 60), struct.pack("<I", 1)))
        body = struct.pack(
            "<QQQQQQQiIIIIIHHQ", file.parent, private, *(time & (1 << 64) - 1 for time in file.times), 0x8000,
            file.links, 0, 1, file.flags, *file.owner, file.mode, 0, 0,
        )  # fmt: skip
        records.append((number << 4 | 3, struct.pack("<Q", number | 3 << 60), body + extended(fields)))
        for place, (name, value) in enumerate(sorted(file.xattrs.items())):
            key = struct.pack("<QH", number | 4 << 60, len(name) + 1) + name.encode() + b"\0"
            if len(value) <= 3804:
                flags = 6 if name == "com.apple.fs.symlink" else 2
                held = struct.pack("<HH", flags, len(value)) + value
            else:
                stream = 100_000 + number * 100 + place
                records += self._stream(volume, stream, value, None, runs)
                told = struct.pack("<QQQQQQ", stream, len(value), -(-len(value) // BLOCK) * BLOCK, 0, 0, 0)
                held = struct.pack("<HH", 1, len(told)) + told
            records.append((number << 4 | 4, key, held))
        names = [(file.parent, file.name), *file.further] if file.parent else []
        records += [_named(volume, file, folder, name) for folder, name in names]
        return records


def _extended(volume: Volume) -> bytes:
    if len(volume.vek) == 16:
        return volume.vek + hashlib.sha256(volume.vek + volume.uuid).digest()[:16]
    return volume.vek


def extended(fields: dict[int, bytes]) -> bytes:
    """Return extended fields."""
    heads = b"".join(
        struct.pack("<BBH", kind, {4: 2, 8: 32}.get(kind, 0), len(value)) for kind, value in fields.items()
    )
    values = b"".join(value + bytes(-len(value) % 8) for value in fields.values())
    return struct.pack("<HH", len(fields), len(values)) + heads + values


def _among(volume: Volume, record: Record) -> tuple[int, bytes]:
    """Return how names of one folder are sorted: by their hashes, if they have any."""
    if record[0] & 15 != 9:
        return 0, b""
    return (int.from_bytes(record[1][8:12], "little") >> 10 if volume.hashed else 0), record[1][10:]


def _named(volume: Volume, file: File, folder: int, name: str) -> Record:
    raw = name.encode() + b"\0"
    if volume.hashed:
        plain = unicodedata.normalize("NFD", name)
        if volume.incompatible & 1:
            plain = plain.casefold()
        digest = ~crc32c(plain.encode("utf-32-le")) & 0xFFFF_FFFF
        key = struct.pack("<QI", folder | 9 << 60, len(raw) | (digest & 0x3FFFFF) << 10) + raw
    else:
        key = struct.pack("<QH", folder | 9 << 60, len(raw)) + raw
    value = struct.pack("<QQH", file.number, 10**18, file.mode >> 12)
    return folder << 4 | 9, key, value


def roots() -> list[File]:
    """Return the root and the folder of files that were deleted while they were open."""
    return [File(2, 1, "root", DIR), File(3, 1, "private-dir", DIR)]


def implanted(base: bytes, composer: Composer) -> bytes:
    """Return a container that a tool made, with the only volume of another in place of its own.

    Everything else a reader may look for (space manager, reaper, checkpoints) is the tool's.
    """
    image = bytearray(base)
    for at in range(0, len(image), BLOCK):
        data = image[at : at + BLOCK]
        if any(data) and fletcher(bytes(data)) == data[:8]:
            struct.pack_into("<Q", data, 16, XID)
            if struct.unpack_from("<I", data, 24)[0] & 0xFFFF == 2 and data[28] == 11:
                _repoint(data, composer)
            image[at : at + BLOCK] = summed(bytes(data))
    for at, data in composer.blocks.items():
        if at >= composer.first:
            assert not any(image[at * BLOCK : (at + 1) * BLOCK]), "a block that the tool uses"
            image[at * BLOCK : (at + 1) * BLOCK] = data
    return bytes(image)


def _repoint(data: bytearray, composer: Composer) -> None:
    """Let a map of one row that names the volume name the other one."""
    _, _, count, start, length = struct.unpack_from("<HHIHH", data, 32)
    key, value = struct.unpack_from("<HH", data, 56 + start)
    oid = struct.unpack_from("<Q", data, 56 + start + length + key)[0]
    if count == 1 and oid == 1026:
        struct.pack_into("<Q", data, 56 + start + length + key + 8, XID)
        struct.pack_into("<Q", data, BLOCK - 40 - value + 8, composer.places[0][3])
