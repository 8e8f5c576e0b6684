"""zlib through ctypes: a raw deflated stream, stopped at the ends of its blocks.

Python's own module inflates and cannot stop there, which is what a point of entry needs. libz is part of
every distribution this runs on; where it is missing, there are no points of entry.

Source: zlib 1.2.13 manual (zlib.h): inflate, Z_BLOCK, data_type.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

_WINDOW_BITS: Final = -15  # raw
_Z_BLOCK: Final = 5
_OK, _STREAM_END, _BUF_ERROR = 0, 1, -5
_BOUNDARY, _LAST, _UNUSED = 128, 64, 7  # of data_type


class _Stream(ctypes.Structure):
    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )


@cache
def library() -> ctypes.CDLL | None:
    """Return libz; None: there is none."""
    try:
        found = ctypes.CDLL("libz.so.1")
        found.zlibVersion.restype = ctypes.c_char_p
        found.inflateInit2_.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        found.inflate.argtypes = [ctypes.c_void_p, ctypes.c_int]
        found.inflateReset.argtypes = found.inflateEnd.argtypes = [ctypes.c_void_p]
    except (OSError, AttributeError):
        return None
    return found


class Blocks:
    """Inflates one stream into ``room``, block by block.

    ``boundary`` is true where a block has ended and another follows, ``unused`` the number of bits of the
    last byte taken that belong to that one; ``ended``: the stream has.
    """

    def __init__(self, room: ctypes.Array[ctypes.c_char]) -> None:
        libz = library()
        if libz is None:
            raise OSError("libz.so.1 is missing")
        self._libz = libz
        self._stream = _Stream()
        self._out = ctypes.addressof(room)
        self._room = room
        version = libz.zlibVersion()
        code = libz.inflateInit2_(
            ctypes.byref(self._stream), _WINDOW_BITS, version, ctypes.sizeof(self._stream)
        )
        if code != _OK:
            raise MemoryError
        self.boundary = self.ended = False
        self.unused = 0

    def reset(self) -> None:
        """Begin another stream."""
        self._libz.inflateReset(ctypes.byref(self._stream))
        self.boundary = self.ended = False
        self.unused = 0

    def inflate(self, data: bytes, skip: int, start: int, stop: int) -> tuple[int, int] | None:
        """Inflate ``data[skip:]`` into bytes [start, stop) of the room, up to the end of a block at most.

        Returns:
            How many bytes were taken and given; None: it is no deflated stream.
        """
        stream = self._stream
        address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        stream.next_in, stream.avail_in = address + skip, len(data) - skip
        stream.next_out, stream.avail_out = self._out + start, stop - start
        code = self._libz.inflate(ctypes.byref(stream), _Z_BLOCK)
        if code not in (_OK, _STREAM_END, _BUF_ERROR):
            return None
        self.ended = code == _STREAM_END
        kind = stream.data_type
        self.boundary = bool(kind & _BOUNDARY) and not kind & _LAST and not self.ended
        self.unused = kind & _UNUSED
        return len(data) - skip - stream.avail_in, stop - start - stream.avail_out

    def close(self) -> None:
        """Give its memory back."""
        if self._stream.state:
            self._libz.inflateEnd(ctypes.byref(self._stream))

    __del__ = close


library()  # now: it opens a file, which the sandbox does not allow
