"""Directory indexes of NTFS: the names in $INDEX_ROOT and in the blocks of $INDEX_ALLOCATION.

Blocks are read in the order they are stored in, and not along the tree: a damaged node hides no
other. A block counts if the bitmap says so or a node points to it. Names that were removed stay behind
the last entry of a node, and in blocks that no longer count, until something is written over them.

Source: NTFS documentation of the Linux-NTFS project, "$INDEX_ROOT", "$INDEX_ALLOCATION", "$BITMAP",
"$FILE_NAME".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from imgfs.backends.ntfs.describe import INDEX_NAME
from imgfs.backends.ntfs.record import (
    BITMAP,
    FILE_NAME,
    INDEX_ALLOCATION,
    INDEX_ROOT,
    REFERENCE,
    SHORT,
    filetime,
    unfixed,
)
from imgfs.backends.ntfs.volume import parts_of
from imgfs.errors import EvidenceError, Malformed, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends.ntfs.runs import Extents
    from imgfs.backends.ntfs.volume import File, Volume

_NODE = struct.Struct("<III")  # first entry, end of the last, room; from the start of this header
_ENTRY = struct.Struct("<QHHH")  # reference, lengths of the entry and of its key, flags
_HAS_CHILD, _LAST = 1, 2
_KEY, _LETTERS = 16, 82  # of an entry: its key, and the name at the end of that
_SPACE, _SPACES = 81, 3  # where the name space stands; the last one
_INDEX_MAX: Final = 512 << 20  # bytes of one index: about four million names
_ROOT_MAX: Final = 64 << 10
_WINDOW: Final = 256 << 10
_STEP: Final = 8  # entries begin at multiples of it


Parents = tuple[int, tuple[int, ...]]  # the number of a directory, and the sequences that mean it


class Name(NamedTuple):
    """One entry: the number and sequence it refers to, its name in UTF-8, whether it calls it a directory.

    Units: ``at`` bytes of the root and, ``_ROOT_MAX`` behind its start, of the allocation.
    """

    number: int
    sequence: int
    name: bytes
    is_directory: bool
    at: int


class Former(NamedTuple):
    """A name in space that holds none any more; times are what it said of the file."""

    name: Name
    short: bool
    times: tuple[int | None, int | None, int | None, int | None]  # born, modified, changed, accessed


class Index:
    """The index of one directory."""

    __slots__ = (
        "_allocation",
        "_at",
        "_bitmap",
        "_block",
        "_children",
        "_missing",
        "_root",
        "_size",
        "_unit",
        "_window",
    )

    def __init__(self, volume: Volume, directory: File) -> None:
        self._at, self._window = 0, b""
        self._allocation: Extents | None = None
        self._missing = directory.damaged
        self._root = self._value(volume, directory, INDEX_ROOT, _ROOT_MAX) or b""
        self._bitmap = self._value(volume, directory, BITMAP, _INDEX_MAX >> 12)
        try:
            parts = parts_of(directory, INDEX_ALLOCATION, INDEX_NAME)
            if parts and not parts[0].resident:
                self._allocation = volume.extents(parts)
        except EvidenceError as why:
            self._missing = self._missing or why.message
        self._size = 0 if self._allocation is None else self._allocation.size
        self._block = volume.index_block
        if len(self._root) >= 32 and struct.unpack_from("<I", self._root)[0] == FILE_NAME:
            (self._block,) = struct.unpack_from("<I", self._root, 8)
        elif self._size:
            self._root, self._missing = b"", self._missing or "no index root"
        else:
            raise Malformed(self._missing or "no index of names")
        if not 256 <= self._block <= 1 << 16 or self._block & self._block - 1:
            raise Malformed(f"index blocks of {self._block} bytes")
        # [NTFS documentation, "$INDEX_ALLOCATION"] nodes are counted in clusters, in sectors if smaller
        self._unit = volume.cluster if self._block >= volume.cluster else 512
        self._children: set[int] = set()

    def names(self) -> Iterator[Name | str]:
        """Yield the names, without short ones that have a long one; a string says what is missing."""
        seen: set[int] = set()
        short: list[Name] = []
        for found in self._all():
            if isinstance(found, str):
                yield found
            elif found[0] == SHORT:
                short.append(found[1])
            else:
                seen.add(found[1].number)
                yield found[1]
        yield from (name for name in short if name.number not in seen)

    def former(self, parents: Parents, *, whole: bool = False) -> Iterator[Former | None]:
        """Yield names that were removed, None now and then; ``whole``: all names, removed or not.

        Whatever lies in such space is a name only if it states this directory as its parent.
        """
        needle = parents[0].to_bytes(6, "little")
        for base, block, header, used in self._nodes():
            yield None
            end = 16 if whole or not used else max(_NODE.unpack_from(block, header)[1], 16)
            at = block.find(needle, header + end + _KEY)
            while at >= 0:
                found = former_at(block, at - _KEY, base, parents)
                if found is not None:
                    yield found
                at = block.find(needle, at + 1)

    def at(self, position: int, parents: Parents) -> Former:
        """Return the former name at a position. Raises NotFound when there is none."""
        try:
            if position < _ROOT_MAX:
                base, block = 0, self._root
            else:
                number = (position - _ROOT_MAX) // self._block
                base, block = _ROOT_MAX + number * self._block, self._fixed(number)
        except EvidenceError as why:
            raise NotFound(f"name at {position}: {why.message}") from None
        found = former_at(block, position - base, base, parents)
        if found is None:
            raise NotFound(f"no name at {position}")
        return found

    def _nodes(self) -> Iterator[tuple[int, bytes, int, bool]]:
        """Yield position, bytes and header of each node, and whether it is in use."""
        if self._root:
            yield 0, self._root, 16, True
        count = min(self._size, _INDEX_MAX) // self._block
        used = None if self._bitmap is None else set(_set_bits(self._bitmap, count))
        for number in range(count):
            try:
                block = self._fixed(number)
            except EvidenceError:
                continue
            yield _ROOT_MAX + number * self._block, block, 24, used is None or number in used

    def _value(self, volume: Volume, directory: File, kind: int, limit: int) -> bytes | None:
        """Return an attribute, empty: it cannot be read, None: there is none."""
        try:
            parts = parts_of(directory, kind, INDEX_NAME)
            return volume.value(parts, limit) if parts else None
        except EvidenceError as why:
            self._missing = self._missing or why.message
            return b""

    def _all(self) -> Iterator[tuple[int, Name] | str]:
        if self._missing:
            yield self._missing
        if self._root:
            yield from self._node(self._root, 16, "index root", 0)
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
            if self._bitmap is None and self._read(number * self._block)[:4] != b"INDX":
                return  # nothing says that it is in use
            block = self._fixed(number)
        except EvidenceError as why:
            yield why.message
            return
        yield from self._node(block, 24, f"index block {number}", _ROOT_MAX + number * self._block)

    def _fixed(self, number: int) -> bytes:
        return unfixed(self._read(number * self._block), b"INDX", "index block", number)

    def _read(self, at: int) -> bytes:
        """Return one block, from a window of several."""
        if not self._at <= at <= at + self._block <= self._at + len(self._window):
            extents = self._allocation
            if extents is None or not 0 <= at <= self._size - self._block:
                raise Malformed(f"index block at {at} lies nowhere")
            stored = min(extents.stored(at), _WINDOW, self._size - at)
            self._window = extents.read(at, max(stored, self._block))
            self._at = at
        return self._window[at - self._at : at - self._at + self._block]

    def _node(self, block: bytes, header: int, place: str, base: int) -> Iterator[tuple[int, Name] | str]:
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
                    block[at + _SPACE],
                    Name(
                        reference & REFERENCE,
                        reference >> 48,
                        text.encode("utf-8", "surrogatepass"),
                        bool(block[at + 75] & 0x10),
                        base + at,
                    ),
                )
            at += length
        yield f"{place}: no last entry"


def former_at(block: bytes, at: int, base: int, parents: Parents) -> Former | None:
    """Return the name an entry at ``at`` of a node would have, None: no name of this directory lies there."""
    if not 0 <= at <= len(block) - _LETTERS or at % _STEP:
        return None
    reference, length, key, _ = _ENTRY.unpack_from(block, at)
    letters, space = block[at + 80], block[at + _SPACE]
    end = at + _LETTERS + 2 * letters
    if not letters or space > _SPACES or end > len(block) or not reference & REFERENCE:
        return None
    parent, born, modified, changed, accessed = struct.unpack_from("<5Q", block, at + _KEY)
    if parent & REFERENCE != parents[0] or parent >> 48 not in parents[1]:
        return None
    if key != end - at - _KEY or length % _STEP or length < end - at:
        return None
    try:
        text = block[at + _LETTERS : end].decode("utf-16-le").encode()
    except UnicodeDecodeError:
        return None
    if b"\0" in text or b"/" in text or text in {b".", b".."}:
        return None
    times = filetime(born), filetime(modified), filetime(changed), filetime(accessed)
    name = Name(reference & REFERENCE, reference >> 48, text, bool(block[at + 75] & 0x10), base + at)
    return Former(name, space == SHORT, times)


def _set_bits(bitmap: bytes, count: int) -> Iterator[int]:
    for at, byte in enumerate(bitmap):
        if byte:
            for bit in range(8):
                if byte >> bit & 1 and at * 8 + bit < count:
                    yield at * 8 + bit
