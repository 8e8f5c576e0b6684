"""Metadata blocks: 8 KiB each once decoded, read as one stream of bytes.

Source: "Squashfs Binary Format" (dr-emann.github.io/squashfs), Packing Metadata.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends.squashfs.superblock import Superblock
    from imgfs.backends.squashfs.unpacking import Compressor

BLOCK: Final = 8192
_VERBATIM: Final = 0x8000
_KEPT: Final = 1024  # decoded blocks: 8 MiB of a worker's memory

Place = tuple[int, int]  # where a metadata block is stored, a byte of what it decodes to


class Metadata:
    """The decoded metadata blocks of one file system, the last ones of which are kept."""

    __slots__ = ("_checked", "_compressor", "_header", "_kept", "_order", "_reader")

    def __init__(self, reader: Reader, superblock: Superblock, compressor: Compressor, order: str) -> None:
        """Take what decodes them. ``order`` is that of their lengths, which need not be that of the rest."""
        self._reader = reader
        self._compressor = compressor
        self._header = struct.Struct(order + "H")
        self._order = superblock.order
        self._checked = superblock.checked
        self._kept: OrderedDict[int, tuple[bytes, int]] = OrderedDict()

    def block(self, at: int) -> tuple[bytes, int]:
        """Return what the block stored at byte ``at`` decodes to, and where the next one is stored.

        Raises:
            EvidenceError: it leaves the source, is too long, or does not decode.
        """
        held = self._kept.get(at)
        if held is None:
            held = self._kept[at] = self._read(at)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(at)
        return held

    def _read(self, at: int) -> tuple[bytes, int]:
        reader = self._reader
        try:  # one read brings header and bytes
            raw = reader.read(at, min(3 + BLOCK, max(reader.size - at, 2)))
        except EvidenceError:  # what is damaged may lie behind the block
            raw = b""
        (word,) = self._header.unpack(raw[:2] or reader.read(at, 2))
        size = word & ~_VERBATIM
        if not 0 < size <= BLOCK:
            raise Malformed(f"a metadata block of {size} bytes", start=at, stop=at + 2)
        head = 3 if self._checked else 2
        stop = at + head + size
        stored = raw[head : head + size] if len(raw) >= head + size else reader.read(at + head, size)
        if word & _VERBATIM:
            return stored, stop
        try:
            return self._compressor.decode(stored, BLOCK), stop
        except EvidenceError as why:
            raise Malformed(f"metadata: {why.message}", start=at, stop=stop) from why

    def read(self, place: Place, length: int) -> bytes:
        """Return exactly ``length`` bytes from a place on, across blocks.

        Raises:
            EvidenceError: they cannot be decoded, or a block on the way is short.
        """
        at, offset = place if place[1] < BLOCK else self.moved(place, 0)  # what follows an inode may
        data, following = self.block(at)
        if offset + length <= len(data):
            return data[offset : offset + length]
        parts = [data[offset:]]
        missing = length - len(parts[0])
        if offset > len(data):
            raise Malformed(f"byte {offset} of a metadata block of {len(data)}", start=at, stop=following)
        while missing > 0:
            if len(data) != BLOCK:
                raise Malformed("a metadata block ends the stream too soon", start=at, stop=following)
            at = following
            data, following = self.block(at)
            parts.append(data[:missing])
            missing -= len(parts[-1])
        return b"".join(parts)

    def window(self, place: Place, wanted: int) -> tuple[bytes, int]:
        """Return bytes and where in them a place is: ``wanted`` behind it if the stream has as many.

        Raises:
            EvidenceError: the place itself cannot be decoded.
        """
        at, offset = place
        data, following = self.block(at)
        if offset >= len(data):
            raise Malformed(f"byte {offset} of a metadata block of {len(data)}", start=at, stop=following)
        if offset + wanted <= len(data) or len(data) != BLOCK:
            return data, offset
        try:
            more = self.block(following)[0]
        except EvidenceError:
            return data, offset  # the last block: what is behind it is no block
        return data[offset:] + more[:wanted], 0

    def moved(self, place: Place, length: int) -> Place:
        """Return the place ``length`` bytes further on.

        Raises:
            EvidenceError: a block on the way cannot be decoded.
        """
        at, offset = place
        offset += length
        while offset >= BLOCK:
            data, at = self.block(at)
            if len(data) != BLOCK:
                raise Malformed("a metadata block ends the stream too soon", start=at, stop=at)
            offset -= BLOCK
        return at, offset

    def table(self, at: int, count: int, size: int, pointer: str) -> list[int]:
        """Return where the blocks of a table of ``count`` entries of ``size`` bytes are stored.

        Raises:
            EvidenceError: the list of them leaves the source.
        """
        blocks = -(-count * size // BLOCK)
        form = struct.Struct(f"{self._order}{blocks}{pointer}")
        return list(form.unpack(self._reader.read(at, form.size)))
