"""The bytes of files: blocks one behind the other, and the end of many of them in a fragment.

Source: "Squashfs Binary Format" (dr-emann.github.io/squashfs), File Inodes, Data and Fragment Blocks.
"""

from __future__ import annotations

import struct
from array import array
from collections import OrderedDict
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from imgfs.backends._layouts import linear
from imgfs.backends.squashfs.inode import NO_FRAGMENT
from imgfs.backends.squashfs.tables import LENGTH, VERBATIM, Fragment, Fragments
from imgfs.errors import BadUnit, Malformed
from imgfs.limits import MAX_RUNS, MIB
from imgfs.model import (
    HOLE,
    LOST,
    PACKED_CODED,
    PACKED_HOLE,
    PACKED_PLAIN,
    PACKED_ROW,
    Codec,
    Foreign,
    Inline,
    Kind,
    Linear,
    Packed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader
    from imgfs.backends.squashfs.inode import Inode
    from imgfs.backends.squashfs.metadata import Metadata, Place
    from imgfs.backends.squashfs.superblock import Superblock
    from imgfs.backends.squashfs.unpacking import Compressor
    from imgfs.model import Layout

EMPTY: Final = (Inline(b""),)
_LISTED: Final = 16  # blocks of a file whose layout travels with its name
_ONE: Final = struct.Struct("=q")
_ZERO: Final = _ONE.pack(0)
_FIRST: Final = struct.pack("=H", 1)  # the first layout of the reply, behind the only ticket
_MOST: Final = 500_000  # blocks of a file whose table fits a message, as runs too: 64 GiB of the usual size
_KEPT: Final = 8  # decoded blocks of foreign bytes

Row = tuple[int, int, int]


class Contents:
    """Where the bytes of files lie."""

    __slots__ = ("_compressor", "_fragments", "_kept", "_last", "_metadata", "_reader", "_superblock")

    def __init__(
        self, reader: Reader, metadata: Metadata, superblock: Superblock, compressor: Compressor
    ) -> None:
        self._reader = reader
        self._metadata = metadata
        self._superblock = superblock
        self._compressor = compressor
        self._fragments = Fragments(reader, metadata, superblock, compressor)
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._last: tuple[Place, list[int], list[int], Fragment | None, int] | None = None

    def listed(self, inode: Inode) -> tuple[Layout, ...] | None:
        """Return the layout of a file of few blocks, None: whoever opens it has to ask."""
        return self.layout(inode) if inode.size <= _LISTED * self._superblock.block else None

    def layout(self, inode: Inode) -> tuple[Layout, ...]:
        """Say where the content lies. What is no regular file has none.

        Raises:
            EvidenceError: the inode contradicts itself, or its fragment is damaged.
        """
        if inode.kind is not Kind.REG or not inode.size:
            return EMPTY
        codec = self._compressor.codec
        sizes, fragment, full = self._parts(inode)
        if fragment is not None and not full and not fragment.verbatim:
            run = Linear(  # what most files are
                size=inode.size,
                logical=_ZERO,
                length=_ONE.pack(inode.size),
                target=_ONE.pack(inode.offset),
                which=_FIRST,
            )
            return self._fragments.packed(fragment, codec), run
        if len(sizes) > _MOST:
            return (Foreign(size=inode.size, why=f"a table of {len(sizes)} blocks"),)
        coded = any(size and not size & VERBATIM for size in sizes)
        coded = coded or (fragment is not None and not fragment.verbatim)
        if not coded:
            return (linear(inode.size, self._runs(inode, sizes, fragment, full)),)
        layouts: list[Layout] = [self._packed(full, sizes, inode.start, codec)] if sizes else []
        if fragment is None:
            return tuple(layouts)
        layouts.append(self._fragments.packed(fragment, codec))
        rows = [(0, full, 0)] if sizes else []
        rows.append((full, inode.size - full, inode.offset))
        return *layouts, Linear.of(inode.size, rows, range(1, len(layouts) + 1))

    def fragment(self, number: int) -> Fragment:
        """Return a fragment; raises as ``Fragments.get``."""
        return self._fragments.get(number)

    def read(self, inode: Inode, offset: int, length: int) -> bytes:
        """Return bytes of a file that only a worker can decode.

        Raises:
            EvidenceError: they do not decode.
        """
        block, stop = self._superblock.block, offset + length
        if self._last is None or self._last[0] != inode.behind:  # who reads a part will read the next one
            sizes, fragment, full = self._parts(inode)
            places = list(accumulate((size & LENGTH for size in sizes), initial=inode.start))
            self._last = inode.behind, sizes, places, fragment, full
        _, sizes, places, fragment, full = self._last
        first = offset // block
        parts: list[bytes] = []
        for index in range(first, -(-min(stop, len(sizes) * block) // block)):
            size, begin = sizes[index], index * block
            held = min(block, inode.size - begin)
            data = self._block(places[index], size, held)
            if len(data) != held:
                raise BadUnit(f"a block holds {len(data)} bytes, {held} expected")
            parts.append(data[max(offset - begin, 0) : stop - begin])
        if fragment is not None and stop > full:
            size = fragment.stored | (VERBATIM if fragment.verbatim else 0)
            data = self._block(fragment.start, size, self._superblock.block)
            low = inode.offset + max(offset - full, 0)
            parts.append(data[low : inode.offset + stop - full])
        found = b"".join(parts)
        if len(found) != length:
            raise Malformed(f"inode {inode.number}: no bytes [{offset}, {stop})")
        return found

    def _block(self, at: int, size: int, most: int) -> bytes:
        if not size:
            return bytes(most)
        if size & VERBATIM:
            return self._reader.read(at, size & LENGTH)[:most]
        data = self._kept.get(at)
        if data is None or len(data) > most:
            data = self._kept[at] = self._compressor.decode(self._reader.read(at, size & LENGTH), most)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return data

    def _parts(self, inode: Inode) -> tuple[list[int], Fragment | None, int]:
        """Return the sizes of the blocks, the fragment, and where what lies in it begins."""
        block = self._superblock.block
        count, tail = divmod(inode.size, block)
        fragment = None
        if inode.fragment != NO_FRAGMENT and tail:
            fragment = self._fragments.get(inode.fragment)
            if inode.offset + tail > fragment.length:
                raise Malformed(
                    f"bytes [{inode.offset}, {inode.offset + tail}) of a fragment of {fragment.length}"
                )
        elif tail:
            count += 1
        if count > MAX_RUNS:
            raise Malformed(f"a file in {count} blocks")
        raw = self._metadata.read(inode.behind, 4 * count) if count else b""
        sizes = list(struct.unpack(f"{self._superblock.order}{count}I", raw))
        return sizes, fragment, inode.size - tail if fragment is not None else inode.size

    def _packed(self, size: int, sizes: list[int], start: int, codec: Codec) -> Packed:
        words = array("Q", bytes(PACKED_ROW * len(sizes)))
        words[::2] = array("Q", accumulate([start, *[word & LENGTH for word in sizes[:-1]]]))
        wide, flags = max(MIB // self._superblock.block, 1), list[int]()
        for at in range(0, len(sizes), wide):  # verbatim blocks among others are decoded as one strip
            some = sizes[at : at + wide]
            plain = PACKED_PLAIN if any(word and not word & VERBATIM for word in some) else 0
            flags += [plain if word & VERBATIM else PACKED_CODED if word else PACKED_HOLE for word in some]
        words[1::2] = array(
            "Q", [word & LENGTH | flag << 32 for word, flag in zip(sizes, flags, strict=True)]
        )
        return Packed(size=size, unit=self._superblock.block, codec=codec, table=words.tobytes())

    def _runs(self, inode: Inode, sizes: list[int], fragment: Fragment | None, full: int) -> list[Row]:
        """Return runs of what is stored verbatim, and holes; neighbours are joined."""
        rows: list[Row] = []
        for begin, length, word, place in self._stretches(inode, sizes, fragment, full):
            if not word:
                target = HOLE
            elif (word & LENGTH) < length or place + length > self._reader.size:
                target = LOST
            else:
                target = place
            if rows:
                logical, before, last = rows[-1]
                if last == target if target < 0 else last >= 0 and last + before == target:
                    rows[-1] = (logical, before + length, last)
                    continue
            rows.append((begin, length, target))
        return rows

    def _stretches(
        self, inode: Inode, sizes: list[int], fragment: Fragment | None, full: int
    ) -> Iterator[tuple[int, int, int, int]]:
        """Yield the parts of a file: first byte, length, word of the table of sizes, where it is stored."""
        block, place = self._superblock.block, inode.start
        for begin, word in zip(range(0, full, block), sizes, strict=True):
            yield begin, min(block, full - begin), word, place
            place += word & LENGTH
        if fragment is not None:
            word = VERBATIM | fragment.length - inode.offset if fragment.verbatim else fragment.stored
            yield full, inode.size - full, word, fragment.start + inode.offset
