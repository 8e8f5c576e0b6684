"""Chains of VHD, VHDX and VDI images: random writes level by level, and what the last one reads as.

The truth is kept while the levels are written, sector by sector; no table is looked at for it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from uuid import UUID

from tests.backends import test_vdi as vdi
from tests.backends import test_vhd as vhd
from tests.backends import vhdximages as vhdx

SECTOR = 512
MIB = 1 << 20
FORMS = ("vhd", "vhdx", "vdi")


def own(level: int) -> bytes:
    """Return the id of an image; level 0 is the lowest."""
    return bytes([level]) + bytes(range(15, 0, -1))


@dataclass
class Level:
    """What one image of a chain holds: its blocks, and which sectors of them are its own."""

    blocks: dict[int, bytes]
    held: dict[int, list[bool]]


def written(form: str, size: int, block: int, seed: int, depth: int) -> tuple[list[Level], bytes]:
    """Return the levels of a chain, the lowest first, and the disk."""
    rng = random.Random(seed)
    disk = bytearray(size)
    count, per = -(-size // block), block // SECTOR
    levels: list[Level] = []
    for number in range(depth):
        level = Level({}, {})
        for at in rng.sample(range(count), rng.randrange(1, count)):
            whole = not number or form == "vdi" or rng.random() < 0.3
            held = [whole or rng.random() < 0.5 for _ in range(per)]
            content = bytearray(rng.randbytes(block))
            for sector in range(per):
                where = at * block + sector * SECTOR
                if held[sector] and where < size:
                    piece = content[sector * SECTOR : (sector + 1) * SECTOR]
                    disk[where : where + SECTOR] = piece[: size - where]
            level.blocks[at], level.held[at] = bytes(content), held
        levels.append(level)
    return levels, bytes(disk)


def _msb(held: list[bool]) -> bytes:
    return int("".join("01"[bit] for bit in held), 2).to_bytes(len(held) // 8, "big")


def _lsb(held: list[bool]) -> bytes:
    return int("".join("01"[bit] for bit in reversed(held)), 2).to_bytes(len(held) // 8, "little")


def compose(form: str, level: Level, number: int, size: int, block: int, name: str = "") -> bytes:
    """Return the image of a level; ``name`` is what it calls the one below, by default its name here."""
    below = name or f"{number - 1}.{form}"
    if form == "vhd":
        bitmaps = {at: _msb(held) for at, held in level.held.items()}
        return vhd.dynamic(
            size,
            level.blocks,
            block=block,
            kind=4 if number else 3,
            bitmaps=bitmaps,
            own=own(number),
            created=100 * number,
            parent=below if number else "",
            below=(own(number - 1), 100 * number - 50) if number else (bytes(16), 0),
            locators={b"W2ru": below.encode("utf-16-le")} if number else None,
        )
    if form == "vhdx":
        linkage = f"{{{UUID(bytes_le=own(max(number, 1) - 1))}}}"
        keys = {"parent_linkage": linkage, "relative_path": below, "absolute_win32_path": f"C:\\vm\\{below}"}
        per = block // SECTOR
        bitmap = bytearray(MIB)
        states: dict[int, tuple[int, bytes]] = {}
        for at, held in level.held.items():
            states[at] = (vhdx.PRESENT if all(held) else vhdx.PARTLY, level.blocks[at])
            bitmap[at * per // 8 : (at + 1) * per // 8] = _lsb(held)
        return vhdx.compose(
            size,
            states,
            block=block,
            parent=keys if number else "",
            bitmaps={0: bytes(bitmap)} if number else None,
            own=own(number),
        )
    table, data = [vdi.FREE] * -(-size // block), b""
    for place, (at, content) in enumerate(level.blocks.items()):
        table[at] = place
        data += content
    return vdi.composed(
        table,
        data,
        size=size,
        block=block,
        kind=4 if number else 1,
        own=own(number),
        state=own(number + 100),
        parent=own(number - 1) if number else b"",
        parents_state=own(number + 99) if number else b"",
    )


def chain(form: str, seed: int, depth: int, name: str = "") -> tuple[dict[str, bytes], bytes]:
    """Return the images of a chain by name, the last one first, and the disk it makes."""
    block = MIB if form == "vhdx" else 64 << 10
    size = (5 if form == "vhdx" else 9) * block - 3 * SECTOR
    levels, disk = written(form, size, block, seed, depth)
    images = {
        f"{number}.{form}": compose(form, level, number, size, block, name)
        for number, level in reversed([*enumerate(levels)])
    }
    return images, disk
