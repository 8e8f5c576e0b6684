"""A hive of the Windows registry, composed: one root key, one key below it, its values.

As Maxim Suhanov's specification has it; hivexget reads the same in the tests that use it.
"""

from __future__ import annotations

import struct

_NONE = 0xFFFF_FFFF


def _cell(content: bytes) -> bytes:
    size = -(-(len(content) + 4) // 8) * 8
    return struct.pack("<i", -size) + content.ljust(size - 4, b"\0")


def _key(name: bytes, parent: int, *, root: bool, keys: tuple[int, int], values: tuple[int, int]) -> bytes:
    flags = 0x20 | (0x0C if root else 0)
    head = struct.pack("<2sHQII", b"nk", flags, 0, 0, parent)
    head += struct.pack("<IIII", keys[0], 0, keys[1], _NONE)
    head += struct.pack("<IIII", values[0], values[1], _NONE, _NONE)
    head += struct.pack("<IIIIIHH", 0, 0, 0, 0, 0, len(name), 0)
    return head + name


def hive(key: str, values: dict[str, bytes], *, written: tuple[int, int] = (1, 1)) -> bytes:
    """Return a hive whose key ``key`` has binary ``values``; ``written``: its two sequence numbers."""
    cells = bytearray()

    def put(content: bytes) -> int:
        at = 32 + len(cells)
        cells.extend(_cell(content))
        return at

    rows = []
    for name, data in values.items():
        where = put(data)
        raw = name.encode("latin-1")
        rows.append(put(struct.pack("<2sHIIIHH", b"vk", len(raw), len(data), where, 3, 1, 0) + raw))
    listed = put(struct.pack(f"<{len(rows)}I", *rows)) if rows else _NONE
    root = 32 + len(cells)
    size = -(-(4 + 76 + 4) // 8) * 8
    below = root + size
    child = _key(key.encode(), root, root=False, keys=(0, _NONE), values=(len(rows), listed))
    listing = below + len(_cell(child))
    put(_key(b"ROOT", _NONE, root=True, keys=(1, listing), values=(0, _NONE)))
    put(child)
    put(struct.pack("<2sH", b"lf", 1) + struct.pack("<I4s", below, key.encode()[:4]))
    size = -(-(32 + len(cells)) // 4096) * 4096
    rest = size - 32 - len(cells)
    if rest:
        cells.extend(struct.pack("<i", rest).ljust(rest, b"\0"))
    bins = struct.pack("<4sIIQQI", b"hbin", 0, size, 0, 0, 0) + bytes(cells)
    head = bytearray(4096)
    struct.pack_into("<4sIIQIIIIII", head, 0, b"regf", *written, 0, 1, 3, 0, 1, root, size)
    struct.pack_into("<I", head, 44, 1)
    words = struct.unpack_from("<127I", head)
    check = 0
    for word in words:
        check ^= word
    struct.pack_into("<I", head, 508, check)
    return bytes(head) + bins
