"""What liblzo2 makes of bytes, where it is installed: with squashfs-tools it is."""

from __future__ import annotations

import ctypes

import pytest

_WORK = 1 << 19  # bytes: LZO1X_999_MEM_COMPRESS of lzo1x.h


def compressed(data: bytes, way: str = "lzo1x_1") -> bytes:
    try:
        library = ctypes.CDLL("liblzo2.so.2")
    except OSError:
        pytest.skip("not installed: liblzo2")
    room = len(data) + len(data) // 16 + 67  # as the library's examples count
    out, length = ctypes.create_string_buffer(room), ctypes.c_ulong(room)
    work = ctypes.create_string_buffer(_WORK)
    done = getattr(library, f"{way}_compress")(
        data, ctypes.c_ulong(len(data)), out, ctypes.byref(length), work
    )
    assert done == 0
    return out.raw[: length.value]
