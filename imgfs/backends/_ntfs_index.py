"""Directory indexes of NTFS: the names in $INDEX_ROOT and in the blocks of $INDEX_ALLOCATION.

Blocks are read in the order they are stored in, and not along the tree: a damaged node hides no
other. A block counts if the bitmap says so or a node points to it.

Source: NTFS documentation of the Linux-NTFS project, "$INDEX_ROOT", "$INDEX_ALLOCATION", "$BITMAP",
"$FILE_NAME".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from imgfs.backends._ntfs_record import FILE_NAME, REFERENCE, unfixed
from imgfs.backends._tsk_layout import read_attribute, rows_of, size_of
from imgfs.errors import EvidenceError, Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends._tsk_layout import Row

_INDEX_ROOT, _INDEX_ALLOCATION, _BITMAP = 0x90, 0xA0, 0xB0
_NAME: Final = b"$I30"
_NODE = struct.Struct("<III")  # first entry, end of the last, room; from the start of this header
_ENTRY = struct.Struct("<QHHH")  # reference, lengths of the entry and of its key, flags
_HAS_CHILD, _LAST = 1, 2
_SHORT: Final = 2  # the name space of 8.3 names
_KEY, _LETTERS = 16, 82  # of an entry: its key, and the name at the end of that
_INDEX_MAX: Final = 512 << 20  # bytes of one index: about four million names
_ROOT_MAX: Final = 64 << 10
_WINDOW: Final = 256 << 10


class Name(NamedTuple):
    """One entry: the number and sequence it refers to, its name in UTF-8, whether it calls it a directory."""

    number: int
    sequence: int
    name: bytes
    is_directory: bool


class Index:
    """The index of one directory."""

    __slots__ = (
        "_at",
        "_bitmap",
        "_block",
        "_children",
        "_reader",
        "_root",
        "_rows",
        "_size",
        "_unit",
        "_window",
    )

    def __init__(self, reader: Reader, file: Any, cluster: int, volume: int) -> None:
        self._reader = reader
        self._bitmap: bytes | None = None
        self._at, self._window = 0, b""
        self._root, self._size = b"", 0
        self._rows: list[Row] = []
        for attribute in file:
            kind, size = int(attribute.info.type), size_of(attribute)
            if attribute.info.name != _NAME:
                continue
            if kind == _INDEX_ROOT and size <= _ROOT_MAX:
                self._root = read_attribute(file, attribute, 0, size)
            elif kind == _INDEX_ALLOCATION:
                self._rows, self._size = rows_of(attribute, size, cluster, volume)[0], size
            elif kind == _BITMAP and size <= _INDEX_MAX >> 12:
                self._bitmap = read_attribute(file, attribute, 0, size)
        if len(self._root) < 32 or struct.unpack_from("<I", self._root)[0] != FILE_NAME:
            raise Malformed("no index of names")
        (self._block,) = struct.unpack_from("<I", self._root, 8)
        if not 256 <= self._block <= 1 << 16 or self._block & self._block - 1:
            raise Malformed(f"index blocks of {self._block} bytes")
        # [NTFS documentation, "$INDEX_ALLOCATION"] nodes are counted in clusters, in sectors if smaller
        self._unit = cluster if self._block >= cluster else 512
        self._children: set[int] = set()

    def names(self) -> Iterator[Name | str]:
        """Yield the names, without short ones that have a long one; a string says what is missing."""
        seen: set[int] = set()
        short: list[Name] = []
        for found in self._all():
            if isinstance(found, str):
                yield found
            elif found[0] == _SHORT:
                short.append(found[1])
            else:
                seen.add(found[1].number)
                yield found[1]
        yield from (name for name in short if name.number not in seen)

    def _all(self) -> Iterator[tuple[int, Name] | str]:
        yield from self._node(self._root, 16, "index root")
        if self._size > _INDEX_MAX:
            yield f"an index of {self._size} bytes"
            return
        done: set[int] = set()
        count = self._size // self._block
        numbers = range(count) if self._bitmap is None else list(_set_bits(self._bitmap, count))
        for number in numbers:
            done.add(number)
            yield from self._numbered(number)
        while self._children - done:
            for number in sorted(self._children - done):
                done.add(number)
                if number < count:
                    yield from self._numbered(number)

    def _numbered(self, number: int) -> Iterator[tuple[int, Name] | str]:
        try:
            block = self._read(number * self._block)
            if self._bitmap is None and block[:4] != b"INDX":
                return  # nothing says that it is in use
            block = unfixed(block, b"INDX", "index block", number)
        except EvidenceError as why:
            yield why.message
            return
        yield from self._node(block, 24, f"index block {number}")

    def _read(self, at: int) -> bytes:
        """Return one block, from a window of several."""
        if not self._at <= at <= at + self._block <= self._at + len(self._window):
            self._at, self._window = at, self._fill(at)
        return self._window[at - self._at : at - self._at + self._block]

    def _fill(self, at: int) -> bytes:
        parts: list[bytes] = []
        wanted, had = _WINDOW, 0
        for logical, length, target in self._rows:
            if logical + length <= at + had:
                continue
            if logical > at + had or target < 0 or had >= wanted:
                break
            skip = at + had - logical
            take = min(length - skip, wanted - had)
            parts.append(self._reader.read(target + skip, take))
            had += take
        if had < self._block:
            raise Malformed(f"index block at {at} lies nowhere")
        return b"".join(parts)

    def _node(self, block: bytes, header: int, place: str) -> Iterator[tuple[int, Name] | str]:
        first, used, _ = _NODE.unpack_from(block, header)
        at, stop = header + first, min(header + used, len(block))
        unpack, decode = _ENTRY.unpack_from, bytes.decode
        while at + _KEY <= stop:
            reference, length, key, flags = unpack(block, at)
            if length < _KEY or at + length > stop:
                yield f"{place}: entry of {length} bytes at {at}"
                return
            if flags & _HAS_CHILD and length >= _KEY + 8:
                (child,) = struct.unpack_from("<Q", block, at + length - 8)
                self._children.add(child * self._unit // self._block)
            if flags & _LAST:
                return
            end = at + _LETTERS + (2 * block[at + 80] if length >= _LETTERS else 0)
            if key < 66 or not at + _LETTERS < end <= at + length:
                yield f"{place}: entry at {at} has no name, or one that leaves it"
            else:
                text = decode(block[at + _LETTERS : end], "utf-16-le", "surrogatepass")
                yield (
                    block[at + 81],
                    Name(
                        reference & REFERENCE,
                        reference >> 48,
                        text.encode("utf-8", "surrogatepass"),
                        bool(block[at + 75] & 0x10),
                    ),
                )
            at += length
        yield f"{place}: no last entry"


def _set_bits(bitmap: bytes, count: int) -> Iterator[int]:
    for at, byte in enumerate(bitmap):
        if byte:
            for bit in range(8):
                if byte >> bit & 1 and at * 8 + bit < count:
                    yield at * 8 + bit
