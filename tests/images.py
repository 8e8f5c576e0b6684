"""Recipes for partitioned disks: tables by real tools, and by hand where no tool makes what is needed."""

from __future__ import annotations

import json
import struct
import subprocess
import uuid
import zlib
from typing import TYPE_CHECKING

from tests.backends.tskimages import need, run

if TYPE_CHECKING:
    from pathlib import Path

    from imgfs.testing.volumes import Ranges

MIB = 1 << 20


def disk(path: Path, size: int = 64 * MIB) -> Path:
    """Make an empty disk."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


def sfdisk(path: Path, script: str) -> Path:
    """Write a table with sfdisk."""
    need("sfdisk")
    subprocess.run(
        ["sfdisk", "-q", path], input=script.encode(), capture_output=True, check=True, env={"PATH": PATH}
    )
    return path


def fdisk(path: Path, *words: str, sector: int = 512) -> Path:
    """Write a table with fdisk, one line of input after the other."""
    need("fdisk")
    command = ["fdisk", "-b", str(sector), path]
    subprocess.run(
        command,
        input="\n".join([*words, "w", ""]).encode(),
        capture_output=True,
        check=True,
        env={"PATH": PATH},
    )
    return path


def parted(path: Path, *words: str) -> Path:
    """Write a table with parted."""
    need("parted")
    subprocess.run(["parted", "-s", path, *words], capture_output=True, check=True, env={"PATH": PATH})
    return path


PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def as_sfdisk_sees(path: Path) -> Ranges:
    """Return the volumes as sfdisk lists them, by slot, in bytes."""
    need("sfdisk")
    listed = json.loads(run("sfdisk", "-J", path))["partitiontable"]
    sector = listed.get("sectorsize", 512)
    return {
        int(row["node"].removeprefix(str(path))): (
            row["start"] * sector,
            (row["start"] + row["size"]) * sector,
        )
        for row in listed.get("partitions", [])
    }


def as_tsk_sees(path: Path, kind: str, *, sector: int = 512, offset: int = 0) -> set[tuple[int, int]]:
    """Return the ranges mmls lists as slots, in bytes."""
    need("mmls")
    found = set()
    for line in run("mmls", "-t", kind, "-b", sector, "-o", offset, path).splitlines():
        words = line.split()
        if len(words) >= 5 and words[0][:3].isdigit() and words[1][:3].isdigit():
            found.add((int(words[2]) * sector, (int(words[3]) + 1) * sector))
    return found


def boot_sector(*entries: tuple[int, int, int, int], signature: int = 0) -> bytes:
    """Return a boot record with entries (status, type, first sector, sectors)."""
    table = b"".join(struct.pack("<B3xB3xII", *entry) for entry in entries)
    return bytes(440) + struct.pack("<I2x", signature) + table.ljust(64, b"\0") + b"\x55\xaa"


def gpt(count: int, *, sector: int = 512, used: int | None = None, length: int = 8) -> tuple[bytes, Ranges]:
    """Return a disk with a GUID table of ``count`` slots, the first ``used`` of ``length`` sectors each."""
    used = count if used is None else used
    table_sectors = -(-count * 128 // sector)
    first = 2 + table_sectors
    total = first + used * length + table_sectors + 1
    entries = b""
    truth = {}
    linux = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4").bytes_le
    for slot in range(used):
        start = first + slot * length
        name = f"slot {slot + 1}".encode("utf-16-le").ljust(72, b"\0")
        entries += (
            linux
            + uuid.UUID(int=slot + 1).bytes_le
            + struct.pack("<QQQ", start, start + length - 1, 0)
            + name
        )
        truth[slot + 1] = (start * sector, (start + length) * sector)
    entries = entries.ljust(table_sectors * sector, b"\0")

    def header(this: int, other: int, table: int) -> bytes:
        crc = zlib.crc32(entries[: count * 128])
        raw = struct.pack(
            "<8sIIII4Q16sQ3I", b"EFI PART", 0x10000, 92, 0, 0, this, other, first, total - table_sectors - 2,
            uuid.UUID(int=99).bytes_le, table, count, 128, crc,
        )  # fmt: skip
        return (raw[:16] + struct.pack("<I", zlib.crc32(raw)) + raw[20:]).ljust(sector, b"\0")

    head = boot_sector((0, 0xEE, 1, total - 1)).ljust(sector, b"\0")
    return (
        head
        + header(1, total - 1, 2)
        + entries
        + bytes(used * length * sector)
        + entries
        + header(total - 1, 1, total - table_sectors - 1)
    ), truth
