"""UDF volumes in forms that no tool here writes, made of volumes that the kernel wrote.

What was in a plain partition is shown through a virtual, metadata or spared one, so that the tree must stay
what it was. Source: ECMA-167 3rd edition, 3/10 and 4/14; OSTA UDF 2.60, 2.2.
"""

from __future__ import annotations

import struct
from binascii import crc_hqx
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FE, EFE, FID = 261, 266, 257


def tagged(raw: bytes, location: int | None = None) -> bytes:
    """Return a descriptor with the checksums right, and another place."""
    data = bytearray(raw)
    if location is not None:
        struct.pack_into("<I", data, 12, location)
    (length,) = struct.unpack_from("<H", data, 10)
    struct.pack_into("<H", data, 8, crc_hqx(bytes(data[16 : 16 + length]), 0))
    data[4] = 0
    data[4] = sum(data[:16]) & 0xFF
    return bytes(data)


def descriptor(kind: int, location: int, body: bytes) -> bytes:
    """Return a descriptor of its own."""
    return tagged(struct.pack("<HHBBHHHI", kind, 3, 0, 0, 1, 0, len(body), location) + body)


def regid(name: bytes, revision: int = 0x0201) -> bytes:
    """Return an entity identifier of a revision of UDF."""
    return b"\0" + name.ljust(23, b"\0") + struct.pack("<H6x", revision)


def entry(
    kind: int, location: int, data: bytes, *, flags: int = 3, size: int | None = None, **more: int
) -> bytes:
    """Return an extended file entry that holds its content or allocation descriptors."""
    icb = struct.pack("<IHHHBBIHH", 0, more.get("strategy", 4), 0, 1, 0, kind, 0, 0, flags)
    body = icb + struct.pack("<IIIHBBI", 0, 0, 0x1CE7, 1, 0, 0, 0)
    size = len(data) if size is None else size
    body += struct.pack("<QQQ", size, size, more.get("blocks", 0)) + bytes(48 + 8 + 16)
    body += struct.pack("<IIHHI", more.get("stream_length", 0), more.get("streams", 0), 0, 0, 0)
    body += bytes(32) + struct.pack("<QII", 77, 0, len(data)) + data
    return descriptor(EFE, location, body)


def name(text: bytes, block: int, ref: int, location: int, length: int) -> bytes:
    """Return a file identifier descriptor; no text: that of the parent."""
    held = b"\x08" + text if text else b""
    body = struct.pack("<HBBIIHHIH", 1, 0 if text else 8, len(held), length, block, ref, 0, 0, 0) + held
    return descriptor(FID, location, body + bytes(-(16 + len(body)) % 4))


class Disc:
    """A volume with one plain partition, whose blocks can be rewritten. Units: ``start`` blocks."""

    def __init__(self, data: bytes, sector: int) -> None:
        self.data = bytearray(data)
        self.sector = sector
        self.logical: list[int] = []
        self.partitions: list[int] = []
        anchor = self.sector * 256
        for length, start in struct.iter_unpack("<II", data[anchor + 16 : anchor + 32]):
            for at in range(start * sector, start * sector + length, sector):
                kind = int.from_bytes(data[at : at + 2], "little")
                if kind == 6:
                    self.logical.append(at)
                elif kind == 5:
                    self.partitions.append(at)
                    self.start, self.length = struct.unpack_from("<II", data, at + 188)

    def block(self, number: int) -> bytes:
        """Return a block of the partition."""
        at = (self.start + number) * self.sector
        return bytes(self.data[at : at + self.sector])

    def put(self, number: int, raw: bytes) -> None:
        """Write from a block of the partition on."""
        at = (self.start + number) * self.sector
        self.data[at : at + len(raw)] = raw

    def descriptors(self, change: Callable[[bytearray], None]) -> None:
        """Change the logical volume descriptor and its copy."""
        for at in self.logical:
            (maps,) = struct.unpack_from("<I", self.data, at + 264)
            raw = self.data[at : at + self.sector]
            change(raw)
            (grown,) = struct.unpack_from("<I", raw, 264)
            (length,) = struct.unpack_from("<H", raw, 10)
            struct.pack_into("<H", raw, 10, max(length + grown - maps, 440 + grown - 16))
            self.data[at : at + self.sector] = tagged(bytes(raw))

    def icbs(self) -> list[int]:
        """Return the blocks of all file entries."""
        found = []
        for number in range(self.length):
            raw = self.block(number)
            same = int.from_bytes(raw[12:16], "little") == number
            if int.from_bytes(raw[:2], "little") in (FE, EFE) and same and tagged(raw) == raw:
                found.append(number)
        return found

    def grow(self, length: int) -> None:
        """Let the partition have that many blocks."""
        for at in self.partitions:
            struct.pack_into("<I", self.data, at + 192, length)
            self.data[at : at + 512] = tagged(bytes(self.data[at : at + 512]))

    def add_map(self, raw: bytes) -> None:
        """Add a partition map to the plain one."""

        def change(logical: bytearray) -> None:
            length, count = struct.unpack_from("<II", logical, 264)
            logical[440 + length : 440 + length + len(raw)] = raw
            struct.pack_into("<II", logical, 264, length + len(raw), count + 1)

        self.descriptors(change)

    def through(self, moved: Callable[[int], int]) -> None:
        """Let all ICBs be named through partition map 1, by other numbers."""
        for number in self.icbs():
            raw = self.block(number)
            if raw[27] == 4:
                for places in self._names(raw):
                    self._rename(places, moved)
            raw = self.block(number)  # whose names may have been changed
            self.put(number, tagged(_attributed(raw, moved(number)), moved(number)))
        for number in range(self.length):
            raw = self.block(number)
            if int.from_bytes(raw[:2], "little") == 256:
                data = bytearray(raw)
                (root,) = struct.unpack_from("<I", data, 404)
                struct.pack_into("<IH", data, 404, moved(root), 1)
                self.put(number, tagged(bytes(data)))
                return

    def _names(self, raw: bytes) -> Iterator[list[int]]:
        """Yield the bytes of the volume where each name of a directory lies."""
        at = 176 if int.from_bytes(raw[:2], "little") == FE else 216
        attributes, length = struct.unpack_from("<II", raw, at - 8)
        at += attributes
        assert raw[34] & 7 == 1, "directories with long allocation descriptors"
        places: list[int] = []
        for size, block, _, _ in struct.iter_unpack("<IIH6s", raw[at : at + length]):
            begin = (self.start + block) * self.sector
            places += range(begin, begin + (size & 0x3FFFFFFF))
        (size,) = struct.unpack_from("<Q", raw, 56)
        offset = 0
        while offset < size:
            part = [self.data[place] for place in places[offset : offset + 38]]
            long = 38 + part[19] + int.from_bytes(bytes(part[36:38]), "little") + 3 & ~3
            yield places[offset : offset + long]
            offset += long

    def _rename(self, places: list[int], moved: Callable[[int], int]) -> None:
        raw = bytearray(self.data[place] for place in places)
        (block,) = struct.unpack_from("<I", raw, 24)
        struct.pack_into("<IH", raw, 24, moved(block), 1)
        for place, value in zip(places, tagged(bytes(raw)), strict=True):
            self.data[place] = value


def _attributed(raw: bytes, location: int) -> bytes:
    """Return a file entry whose area of extended attributes names another place."""
    at = 176 if int.from_bytes(raw[:2], "little") == FE else 216
    (length,) = struct.unpack_from("<I", raw, at - 8)
    return raw[:at] + tagged(raw[at : at + length], location) + raw[at + length :] if length else raw


def through_metadata(data: bytes, sector: int, *, lose: str = "") -> bytes:
    """Show a volume through a metadata partition that is the plain one, turned by a third.

    ``lose``: "file" damages the metadata file, "mirror" its mirror.
    """
    disc = Disc(data, sector)
    count, turn = disc.length, disc.length // 3
    disc.through(lambda block: (block - turn) % count)
    extents = struct.pack("<IIII", (count - turn) * sector, turn, turn * sector, 0)
    for block, kind, name_ in ((count - 2, 250, "file"), (count - 1, 251, "mirror")):
        raw = entry(kind, block, extents, flags=0, size=count * sector).ljust(sector, b"\0")
        disc.put(block, b"\xff" * sector if lose == name_ else raw)
    places = struct.pack("<HHIIIIHB5x", 1, 0, count - 2, count - 1, 0xFFFFFFFF, 32, 32, 0)
    disc.add_map(struct.pack("<BBH", 2, 64, 0) + regid(b"*UDF Metadata Partition") + places)
    return bytes(disc.data)


def through_table(data: bytes, sector: int, *, old: bool = False) -> bytes:
    """Show a volume through a virtual partition, whose table is the last thing on it."""
    disc = Disc(data, sector)
    numbers = disc.icbs()[::-1]
    virtual = {block: number + 3 for number, block in enumerate(numbers)}
    disc.through(lambda block: virtual.get(block, 0))  # deleted names lead nowhere
    table = struct.pack(f"<{3 + len(numbers)}I", *[0xFFFFFFFF] * 3, *numbers)
    if old:
        table += regid(b"*UDF Virtual Alloc Tbl", 0x0150) + struct.pack("<I", 0xFFFFFFFF)
    else:
        table = struct.pack("<HH128s5I", 152, 0, b"", 0xFFFFFFFF, 0, 0, 0, 0) + table
    disc.add_map(
        struct.pack("<BBH", 2, 64, 0)
        + regid(b"*UDF Virtual Partition", 0x0150 if old else 0x0201)
        + struct.pack("<HH24x", 1, 0)
    )
    held = table + bytes(-len(table) % sector)
    first = -(-len(disc.data) // sector) - disc.start
    last = first + len(held) // sector
    extent = struct.pack("<II", len(table), first)
    raw = entry(0 if old else 248, last, extent, flags=0, size=len(table))
    disc.grow(last + 1)
    return bytes(disc.data) + held + raw.ljust(sector, b"\0")


def with_moved_packet(data: bytes, sector: int) -> bytes:
    """Move the packet of the first ICB of a sparable volume into its sparing area."""
    disc = Disc(data, sector)
    at = disc.logical[0] + 440
    packet, tables, _ = struct.unpack_from("<HBxI", disc.data, at + 40)
    places = struct.unpack_from("<4I", disc.data, at + 48)[:tables]
    first = disc.icbs()[0] // packet * packet
    for place in places:
        raw = bytearray(disc.data[place * sector : place * sector + sector])
        _, mapped = struct.unpack_from("<II", raw, 56)
        struct.pack_into("<I", raw, 56, first)
        disc.data[place * sector : place * sector + sector] = tagged(bytes(raw))
    size = packet * sector
    begin = (disc.start + first) * sector
    disc.data[mapped * sector : mapped * sector + size] = disc.data[begin : begin + size]
    disc.data[begin : begin + size] = b"\xa5" * size
    return bytes(disc.data)
