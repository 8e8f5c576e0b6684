"""What is looked up by number: owners and fragments.

Source: "Squashfs Binary Format" (dr-emann.github.io/squashfs), Fragment Table, ID Table; versions 2 and 3
have plain tables of owners, and version 2 has words of 32 bits where the others have 64.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.squashfs.metadata import BLOCK
from imgfs.backends.squashfs.superblock import NONE
from imgfs.errors import EvidenceError, Malformed
from imgfs.model import PACKED_CODED, Codec, Packed

if TYPE_CHECKING:
    from imgfs.backends import Reader
    from imgfs.backends.squashfs.metadata import Metadata
    from imgfs.backends.squashfs.superblock import Superblock
    from imgfs.backends.squashfs.unpacking import Compressor

VERBATIM: Final = 1 << 24  # of the size of a data block
LENGTH: Final = VERBATIM - 1
_KEPT: Final = 4096  # of fragments, what is known of them
_ROW: Final = struct.Struct("<QII")


def ids_of(reader: Reader, metadata: Metadata, superblock: Superblock) -> tuple[list[int], list[int]]:
    """Return owners by their number: users and groups, which version 4 has in one table.

    Raises:
        EvidenceError: the table cannot be read.
    """
    order, users, groups = superblock.order, superblock.users, superblock.groups
    if superblock.major < 4:
        raw = reader.read(superblock.id_table, 4 * users) if users else b""
        more = reader.read(superblock.group_table, 4 * groups) if groups else b""
        return list(struct.unpack(f"{order}{users}I", raw)), list(struct.unpack(f"{order}{groups}I", more))
    places = metadata.table(superblock.id_table, users, 4, "Q")
    raw = b"".join(metadata.block(place)[0] for place in places)
    if len(raw) < 4 * users:
        raise Malformed(f"squashfs: a table of {len(raw)} bytes for {users} owners")
    ids = list(struct.unpack_from(f"{order}{users}I", raw))
    return ids, ids


class Fragment(NamedTuple):
    """Where the ends of several files lie together. Units: bytes; ``length`` is what it decodes to."""

    start: int
    stored: int
    verbatim: bool
    length: int


class Fragments:
    """The fragment table of one file system."""

    __slots__ = ("_compressor", "_entry", "_kept", "_metadata", "_places", "_reader", "_superblock")

    def __init__(
        self, reader: Reader, metadata: Metadata, superblock: Superblock, compressor: Compressor
    ) -> None:
        self._reader = reader
        self._metadata = metadata
        self._superblock = superblock
        self._compressor = compressor
        self._entry = struct.Struct(superblock.order + ("II" if superblock.major == 2 else "QII"))
        self._places: list[int] | None = None
        self._kept: OrderedDict[int, Fragment | EvidenceError] = OrderedDict()

    def get(self, number: int) -> Fragment:
        """Return a fragment; its decoded length is found out by decoding where nothing says it.

        Raises:
            EvidenceError: there is none of that number, or it is damaged.
        """
        held = self._kept.get(number)
        if held is None:
            try:
                held = self._read(number)
            except EvidenceError as why:
                held = why
            self._kept[number] = held
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        if isinstance(held, EvidenceError):
            raise held.with_traceback(None)
        return held

    def _read(self, number: int) -> Fragment:
        superblock = self._superblock
        if number >= superblock.fragments or superblock.fragment_table == NONE:
            raise Malformed(f"fragment {number} of {superblock.fragments}")
        entry = self._entry
        if self._places is None:
            pointer = "I" if superblock.major == 2 else "Q"
            self._places = self._metadata.table(
                superblock.fragment_table, superblock.fragments, entry.size, pointer
            )
        block, offset = divmod(number * entry.size, BLOCK)
        start, size = entry.unpack(self._metadata.read((self._places[block], offset), entry.size))[:2]
        stored, verbatim = size & LENGTH, bool(size & VERBATIM)
        if not 0 < stored <= superblock.block or start + stored > self._reader.size:
            raise Malformed(f"fragment {number}: {stored} bytes at {start}")
        length = stored if verbatim else self._length(start, stored)
        return Fragment(start, stored, verbatim, length)

    def _length(self, start: int, stored: int) -> int:
        data = self._reader.read(start, stored)
        most = self._superblock.block
        said = self._compressor.length(data) if self._compressor.length is not None else 0
        return said if 0 < said <= most else len(self._compressor.decode(data, most))

    def packed(self, fragment: Fragment, codec: Codec) -> Packed:
        """Return a fragment as a unit: all files that end in it name the same one."""
        table = _ROW.pack(fragment.start, fragment.stored, 0 if fragment.verbatim else PACKED_CODED)
        return Packed(size=fragment.length, unit=fragment.length, codec=codec, table=table)
