"""Physical volumes and thin metadata composed byte by byte: what no tool would write can be tried, too."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from imgfs.backends._crc32c import crc32c
from imgfs.testing.fakes import MemoryReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

EXTENT = 64 << 10
FIRST = 1 << 20  # where extents begin
AREA = 4096
BLOCK = 4096
UUID = "pv{0:04d}" + "x" * 26


def crc(data: bytes) -> int:
    return zlib.crc32(data, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def text(
    logical: Mapping[str, Sequence[str]],
    *,
    physical: int = 1,
    extents: int = 64,
    seqno: int = 5,
    name: str = "vg",
    more: str = "",
) -> bytes:
    """Return the text of a group: of each volume its segments, all that is between their brackets."""
    parts = [f'contents = "Text Format Volume Group"\nversion = 1\ncreation_host = "h" # x\n{name} {{\n']
    parts.append(
        f'id = "group-{name}"\nseqno = {seqno}\nextent_size = {EXTENT // 512}\n{more}\nphysical_volumes {{\n'
    )
    for number in range(physical):
        uuid = UUID.format(number)
        parts.append(
            f'pv{number} {{ id = "{uuid[:6]}-{uuid[6:]}" dev_size = 9000 '
            f"pe_start = {FIRST // 512} pe_count = {extents} }}\n"
        )
    parts.append("}\nlogical_volumes {\n")
    for volume, segments in logical.items():
        parts.append(
            f'{volume} {{\nid = "id-{volume}"\nstatus = ["READ", "VISIBLE"]\ncreation_time = 1600000000\n'
        )
        parts.append(f"segment_count = {len(segments)}\n")
        parts += [f"segment{number} {{\n{segment}\n}}\n" for number, segment in enumerate(segments, 1)]
        parts.append("}\n")
    parts.append("}\n}\n\0")
    return "".join(parts).encode()


def linear(start: int, count: int, name: str, extent: int) -> str:
    return (
        f'start_extent = {start}\nextent_count = {count}\ntype = "striped"\nstripe_count = 1\n'
        f'stripes = ["{name}", {extent}]'
    )


def member(
    written: bytes,
    number: int = 0,
    *,
    data: bytes = b"",
    size: int = FIRST + 64 * EXTENT,
    sector: int = 1,
    at: int = 512,
    area: int = FIRST - AREA,
) -> bytes:
    """Return a physical volume that holds a metadata text ``at`` a place of its ring, and data behind it."""
    image = bytearray(size)
    image[FIRST : FIRST + len(data)] = data
    label = bytearray(512)
    struct.pack_into("<8sQII8s", label, 0, b"LABELONE", sector, 0, 32, b"LVM2 001")
    struct.pack_into("<32sQ", label, 32, UUID.format(number).encode(), size)
    struct.pack_into("<6Q", label, 72, FIRST, 0, 0, 0, AREA, area)
    struct.pack_into("<I", label, 16, crc(label[20:]))
    image[sector * 512 : sector * 512 + 512] = label
    header = bytearray(512)
    struct.pack_into("<16sIQQ", header, 4, b" LVM2 x[5A%r0N*>", 1, AREA, area)
    if written:
        struct.pack_into("<QQII", header, 40, at, len(written), crc(written), 0)
    struct.pack_into("<I", header, 0, crc(header[4:]))
    image[AREA : AREA + 512] = header
    first = written[: area - at]
    image[AREA + at : AREA + at + len(first)] = first
    image[AREA + 512 : AREA + 512 + len(written) - len(first)] = written[len(first) :]
    return bytes(image)


def reader(written: bytes, number: int = 0, **more) -> MemoryReader:
    return MemoryReader(member(written, number, **more))


def sealed(block: bytearray, salt: int) -> bytes:
    struct.pack_into("<I", block, 0, crc32c(bytes(block[4:])) ^ 0xFFFFFFFF ^ salt)
    return bytes(block)


class Metadata:
    """Blocks of thin metadata; block 0 is the superblock."""

    def __init__(self) -> None:
        self.blocks = [b""]

    def node(self, flags: int, keys: Sequence[int], values: Sequence[bytes]) -> int:
        """Add a node of a tree; returns its number."""
        size = len(values[0]) if values else 8
        most = (BLOCK - 32) // (8 + size) // 3 * 3
        block = bytearray(BLOCK)
        struct.pack_into("<IIQIII", block, 0, 0, flags, len(self.blocks), len(keys), most, size)
        struct.pack_into(f"<{len(keys)}Q", block, 32, *keys)
        start = 32 + 8 * most
        block[start : start + size * len(values)] = b"".join(values)
        self.blocks.append(sealed(block, 121107))
        return len(self.blocks) - 1

    def tree(self, rows: Iterable[tuple[int, bytes]]) -> int:
        """Add a tree; returns its root."""
        level = list(rows)
        flags = 2
        while True:
            size = len(level[0][1]) if level else 8
            most = (BLOCK - 32) // (8 + size) // 3 * 3
            cuts = [level[at : at + most] for at in range(0, len(level), most)] or [[]]
            nodes = [(cut, self.node(flags, [k for k, _ in cut], [v for _, v in cut])) for cut in cuts]
            if len(nodes) == 1:
                return nodes[0][1]
            level = [(cut[0][0], struct.pack("<Q", number)) for cut, number in nodes]
            flags = 1

    def device(self, mappings: Mapping[int, int]) -> bytes:
        """Add the map of a device; returns its root as a value."""
        rows = ((key, struct.pack("<Q", place << 24 | 1)) for key, place in sorted(mappings.items()))
        return struct.pack("<Q", self.tree(rows))

    def done(self, devices: Mapping[int, bytes], *, block: int = EXTENT, flags: int = 0) -> bytes:
        """Return the metadata of a pool with the maps of its devices."""
        mappings = self.tree(sorted(devices.items()))
        details = self.tree((number, struct.pack("<QQII", 0, 0, 0, 0)) for number in sorted(devices))
        head = bytearray(BLOCK)
        struct.pack_into(
            "<IIQ16sQIIQQ128s128sQQIIQIII", head, 0, 0, flags, 0, b"", 27022010, 2, 1, 1, 0, b"", b"",
            mappings, details, block // 512, 8, len(self.blocks), 0, 0, 0,
        )  # fmt: skip
        self.blocks[0] = sealed(head, 160774)
        return b"".join(self.blocks)


def pool(devices: Mapping[str, int], size: int, metadata: int, data: int) -> dict[str, list[str]]:
    """Return the volumes of a pool, its metadata in the first extents and its data behind: thin ones."""
    common = f"start_extent = 0\nextent_count = {data}\n"
    kind = 'type = "thin-pool"\nmetadata = "meta"\npool = "data"\ntransaction_id = 1\n'
    volumes = {
        "meta": [linear(0, metadata, "pv0", 0)],
        "data": [linear(0, data, "pv0", metadata)],
        "pool": [f"{common}{kind}chunk_size = {EXTENT // 512}"],
    }
    for name, number in devices.items():
        own = f'type = "thin"\nthin_pool = "pool"\ndevice_id = {number}'
        volumes[name] = [f"start_extent = 0\nextent_count = {size}\n{own}"]
    return volumes
