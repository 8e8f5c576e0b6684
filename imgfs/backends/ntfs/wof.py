"""Files compressed by the Windows Overlay Filter: chunks of one size in the stream WofCompressedData.

The stream begins with where each chunk but the first begins, counted from the end of that table; a chunk as
long as what it stands for is stored as it is. It is what WIM archives keep a file in, without their header.

Source: Windows SDK, ntifs.h and wofapi.h (WOF_EXTERNAL_INFO, FILE_PROVIDER_EXTERNAL_INFO_V1); "Windows
Imaging File Format" (chunk tables of resources).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends import _lzx, _xpress
from imgfs.backends._units import Units
from imgfs.backends.ntfs.record import DATA, REPARSE
from imgfs.backends.ntfs.volume import parts_of
from imgfs.errors import BadUnit, EvidenceError, Malformed, NotSupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgfs.backends.ntfs.volume import File, Volume

TAG: Final = 0x80000017
STREAM: Final = b"WofCompressedData"
_HEAD = struct.Struct("<IHH4I")  # tag, length, -, version, provider; version and format of provider 2
_VERSION: Final = 1  # of the overlay, and of provider 2
_WIM, _FILE = 1, 2  # providers
_WINDOW: Final = 64 << 10  # bytes
_SHORT: Final = 0xFFFFFFFF  # bytes a file may have while entries of its table have four


class Form(NamedTuple):
    """How the chunks of a file are kept. Units: ``unit`` bytes a chunk stands for."""

    name: str
    unit: int
    decompress: Callable[[bytes, int], bytes]


_FORMS: Final = {
    0: Form("XPRESS4K", 4096, _xpress.decompress),
    1: Form("LZX", _lzx.CHUNK, _lzx.decompress),
    2: Form("XPRESS8K", 8192, _xpress.decompress),
    3: Form("XPRESS16K", 16_384, _xpress.decompress),
}


def overlaid(volume: Volume, file: File) -> Overlaid | None:
    """Return a file to be read from its compressed stream, None: the overlay filter has not compressed it.

    Raises:
        NotSupported: as ``form`` does.
        EvidenceError: a part of it is missing or contradicts another.
    """
    found = parts_of(file, REPARSE, b"")
    point = volume.value(found, _HEAD.size) if found else b""
    if int.from_bytes(point[:4], "little") != TAG:
        return None
    how = form(point)
    content, stream = parts_of(file, DATA, b""), parts_of(file, DATA, STREAM)
    if not content or not stream:
        raise Malformed(f"file {file.number} has no stream {STREAM.decode()}")
    first = stream[0]
    read = volume.extents(stream).read if not first.resident else _within(first.content)
    return Overlaid(how, content[0].size, read, first.size)


def _within(data: bytes) -> Callable[[int, int], bytes]:
    return lambda at, length: data[at : at + length]


def form(reparse: bytes) -> Form:
    """Return what a reparse point says of its file.

    Raises:
        NotSupported: the content is kept in an archive, or in a form nobody knows.
        Malformed: it is cut off.
    """
    if len(reparse) < _HEAD.size:
        raise Malformed(f"overlay of {len(reparse)} bytes")
    _, _, _, version, provider, inner, number = _HEAD.unpack_from(reparse)
    if provider == _WIM:
        raise NotSupported("the content is in a WIM archive elsewhere (Windows Overlay Filter, provider 1)")
    if version != _VERSION or provider != _FILE or inner != _VERSION:
        raise NotSupported(f"Windows Overlay Filter version {version}, provider {provider}.{inner}")
    if number not in _FORMS:
        raise NotSupported(f"compressed by the Windows Overlay Filter in format {number}")
    return _FORMS[number]


class _Window:
    """A stretch of a stream kept for who reads on: a trip for each chunk costs more than its decoding."""

    __slots__ = ("_at", "_data", "_read", "_room")

    def __init__(self, read: Callable[[int, int], bytes], room: int) -> None:
        self._read = read
        self._room = room
        self._at, self._data = 0, b""

    def read(self, at: int, length: int) -> bytes:
        """Return ``length`` bytes that lie in the stream. Raises EvidenceError: they are lost."""
        inside = at - self._at
        if not 0 <= inside <= len(self._data) - length:
            try:
                self._data = self._read(at, min(max(length, _WINDOW), self._room - at))
            except EvidenceError:  # something behind them may be lost, and they may be there
                return self._read(at, length)
            self._at, inside = at, 0
        return self._data[inside : inside + length]


class Overlaid:
    """A file that is read from its compressed stream. Units: ``size`` bytes of the file."""

    __slots__ = ("_chunks", "_form", "_places", "_room", "_table", "_units", "_width", "size")

    def __init__(self, how: Form, size: int, read: Callable[[int, int], bytes], room: int) -> None:
        """Keep what reads the ``room`` bytes of the stream. Raises Malformed: too few for its table."""
        self._form = how
        self._chunks = _Window(read, room)
        self._room = room
        self._units = Units(how.unit)
        self._width = 4 if size <= _SHORT else 8
        self._table = max(-(-size // how.unit) - 1, 0) * self._width
        self._places = _Window(read, self._table)
        self.size = size
        if self._table >= room and size:
            raise Malformed(f"{room} bytes of chunks, and a table of {self._table}")

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes.

        Raises:
            EvidenceError: clusters are lost, or a chunk does not decode.
        """
        return self._units.read(offset, length, self._decoded)

    def _decoded(self, index: int) -> bytes:
        wanted = min(self._form.unit, self.size - index * self._form.unit)
        start, stop = self._place(index)
        if not 0 < stop - start <= wanted or stop > self._room:
            raise BadUnit(f"chunk {index} at [{start}, {stop}) of {self._room}")
        data = self._chunks.read(start, stop - start)
        if len(data) == wanted:
            return data
        try:
            return self._form.decompress(data, wanted)
        except BadUnit as why:
            raise BadUnit(f"chunk {index} at {start}: {why.message}") from None

    def _place(self, index: int) -> tuple[int, int]:
        """Return where a chunk lies in the stream, as its table says."""
        width, count = self._width, self._table // self._width
        first, last = max(index - 1, 0), min(index + 1, count)
        raw = self._places.read(first * width, (last - first) * width)
        found = [int.from_bytes(raw[at : at + width], "little") for at in range(0, len(raw), width)]
        if not index:
            found.insert(0, 0)
        if index == count:
            found.append(self._room - self._table)
        return self._table + found[0], self._table + found[1]
