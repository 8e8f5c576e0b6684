"""VMDK images composed by hand: what no tool here writes, laid out as VMware's tools lay it out."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECTOR = 512
GRAIN = 65536
NONE = 0xFFFF_FFFF
ZERO, UNMAPPED = "zero", "unmapped"  # SESparse grains that hold nothing
AT_END = (1 << 64) - 1


def descriptor(
    kind: str, lines: Sequence[str], *, cid: int = 0x1234, parent_cid: int = NONE, parent: str = ""
) -> bytes:
    text = (
        f'# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent_cid:08x}\ncreateType="{kind}"\n'
    )
    if parent:
        text += f'parentFileNameHint="{parent}"\n'
    text += "\n# Extent description\n" + "".join(f"{line}\n" for line in lines)
    return (text + '\n# The Disk Data Base\n#DDB\n\nddb.adapterType = "lsilogic"\n').encode()


def _sectors(data: bytes) -> bytes:
    return data + bytes(-len(data) % SECTOR)


def cowd(size: int, grains: Mapping[int, bytes], *, grain: int = SECTOR) -> bytes:
    """Return an ESX server extent: header, directory, the tables that are used, grains."""
    count = -(-size // grain)
    listed = -(-count // 4096)
    used = sorted({index // 4096 for index in grains})
    tables_at = 4 + -(-4 * listed // SECTOR)
    data_at = tables_at + 32 * len(used)
    directory = [0] * listed
    tables = {number: [0] * 4096 for number in used}
    for place, number in enumerate(used):
        directory[number] = tables_at + 32 * place
    data = b""
    for index, content in grains.items():
        tables[index // 4096][index % 4096] = data_at + len(data) // SECTOR
        data += content.ljust(grain, b"\0")
    free = data_at + len(data) // SECTOR
    head = struct.pack("<4s7I", b"COWD", 1, 3, size // SECTOR, grain // SECTOR, 4, listed, free)
    raw = head.ljust(4 * SECTOR, b"\0") + _sectors(struct.pack(f"<{listed}I", *directory))
    return raw + b"".join(struct.pack("<4096I", *tables[number]) for number in used) + data


def sesparse(size: int, grains: Mapping[int, bytes | str], *, replay: int = 0) -> bytes:
    """Return an SESparse extent of grains of 4 KiB and tables of 32 KiB."""
    count = -(-size // 4096)
    listed = -(-count // 4096)
    used = sorted({index // 4096 for index in grains})
    directory = [0] * listed
    tables = {number: [0] * 4096 for number in used}
    data: list[bytes] = []
    for place, number in enumerate(used):
        directory[number] = 0x1000_0000 << 32 | place
    for index, content in grains.items():
        if isinstance(content, str):
            entry = (2 if content == ZERO else 1) << 60
        else:
            entry = 3 << 60 | (len(data) & 0xFFF) << 48 | len(data) >> 12
            data.append(content.ljust(4096, b"\0"))
        tables[index // 4096][index % 4096] = entry
    directory_size = -(-8 * listed // SECTOR)
    tables_at = 8 + directory_size
    grains_at = tables_at + 64 * len(used)
    words = [0xCAFEBABE, 0x2_0000_0001, size // SECTOR, 8, 64, 0, 0, 0, 0, 0, 1, 1, 2, 1, 3, 1]
    words += [8, directory_size, tables_at, 64 * len(used), 4, 1, 5, 1, grains_at, 8 * len(data)]
    raw = struct.pack("<26Q", *words).ljust(SECTOR, b"\0")
    raw += struct.pack("<4Q", 0xCAFECAFE, 0, 0, replay).ljust(SECTOR, b"\0")
    raw = raw.ljust(8 * SECTOR, b"\0") + _sectors(struct.pack(f"<{listed}Q", *directory))
    raw += b"".join(struct.pack("<4096Q", *tables[number]) for number in used)
    return raw + b"".join(data)


def hosted_header(size: int, directory: int, *, flags: int, overhead: int, method: int = 0) -> bytes:
    fields = (3 if method else 1, flags, size // SECTOR, 128, 1, 20, 512, 0, directory, overhead, 0)
    return struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", *fields, b"\n \r\n", method).ljust(SECTOR, b"\0")


def _marker(value: int, kind: int) -> bytes:
    return struct.pack("<QII", value, 0, kind).ljust(SECTOR, b"\0")


def stream(size: int, grains: Mapping[int, bytes], *, text: bytes | None = None) -> bytes:
    """Return a stream-optimised extent: grains and tables in one pass, the directory behind them."""
    lines = [f'RW {size // SECTOR} SPARSE "disk.vmdk"']
    text = descriptor("streamOptimized", lines) if text is None else text
    raw = hosted_header(size, AT_END, flags=0x30001, overhead=21, method=1) + text.ljust(20 * SECTOR, b"\0")
    parts, at = [raw], 21
    directory = [0] * -(-size // (512 * GRAIN))
    table: list[int] = []

    def add(data: bytes) -> None:
        nonlocal at
        parts.append(_sectors(data))
        at += len(parts[-1]) // SECTOR

    for number in range(len(directory)):
        table = [0] * 512
        for index in sorted(index for index in grains if index // 512 == number):
            packed = zlib.compress(grains[index][: size - index * GRAIN])
            table[index % 512] = at
            add(struct.pack("<QI", index * GRAIN // SECTOR, len(packed)) + packed)
        if any(table):
            add(_marker(4, 1))
            directory[number] = at
            add(struct.pack("<512I", *table))
    add(_marker(-(-4 * len(directory) // SECTOR), 2))
    directory_at = at
    add(struct.pack(f"<{len(directory)}I", *directory))
    add(_marker(1, 3))
    add(hosted_header(size, directory_at, flags=0x30001, overhead=21, method=1))
    add(_marker(0, 0))
    return b"".join(parts)


def laid(size: int, grains: Mapping[int, bytes | str], grain: int, below: bytes | None = None) -> bytes:
    """Return the disk such grains make: what the composed images say by construction."""
    disk = bytearray(below if below is not None else bytes(size))
    for index, content in grains.items():
        data = b"" if isinstance(content, str) else content
        disk[index * grain : (index + 1) * grain] = data.ljust(grain, b"\0")
    return bytes(disk[:size])
