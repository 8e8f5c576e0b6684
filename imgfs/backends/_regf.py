"""A hive of the Windows registry, as far as finding the values of a key needs.

Source: Maxim Suhanov, Windows registry file format specification, 2015-2024 (CC BY 4.0): base block, hive
bins, cells, key nodes, subkey lists, key values.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from imgfs import limits
from imgfs.errors import Malformed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgfs.backends import Reader

_BASE: Final = 4096
_CELL_MAX: Final = limits.MIB
_KEYS_MAX: Final = 65_536
_VALUES_MAX: Final = 4096
_ASCII_KEY: Final = 0x20
_ASCII_VALUE: Final = 1
_INLINE: Final = 0x8000_0000


class Hive:
    """A hive that was opened. ``dirty``: it was not written completely, its logs hold more."""

    def __init__(self, reader: Reader) -> None:
        """Read the base block.

        Raises:
            Malformed: it is no hive.
        """
        head = reader.read(0, min(_BASE, reader.size))
        if len(head) < _BASE or head[:4] != b"regf":
            raise Malformed("no hive of the registry")
        one, two = struct.unpack_from("<II", head, 4)
        self.dirty = one != two
        self._root: int = struct.unpack_from("<I", head, 36)[0]
        self._reader = reader

    def values(self, path: tuple[str, ...]) -> dict[str, bytes]:
        """Return the values of a key by name; none when there is no such key.

        Raises:
            Malformed: what leads there contradicts itself.
        """
        node = self._node(self._root)
        for name in path:
            for child in self._children(node):
                if _key_name(child).casefold() == name.casefold():
                    node = child
                    break
            else:
                return {}
        count, at = struct.unpack_from("<II", node, 36)
        if not count:
            return {}
        if count > _VALUES_MAX:
            raise Malformed(f"a key of {count} values")
        rows = self._cell(at)
        if len(rows) < 4 * count:
            raise Malformed(f"a list of {len(rows)} bytes for {count} values")
        return dict(self._value(row) for (row,) in struct.iter_unpack("<I", rows[: 4 * count]))

    def _value(self, at: int) -> tuple[str, bytes]:
        cell = self._cell(at)
        if len(cell) < 20 or cell[:2] != b"vk":
            raise Malformed(f"no value at {at}")
        length, size, data, _, flags = struct.unpack_from("<HIIIH", cell, 2)
        raw = cell[20 : 20 + length]
        name = raw.decode("latin-1" if flags & _ASCII_VALUE else "utf-16-le", "replace")
        if size & _INLINE:
            return name, cell[8 : 8 + min(size & ~_INLINE, 4)]
        return name, self._cell(data)[:size] if size <= _CELL_MAX else b""

    def _children(self, node: bytes) -> Iterator[bytes]:
        count, _, at = struct.unpack_from("<III", node, 20)
        left = min(count, _KEYS_MAX)
        lists = [at] if left else []
        while lists and left > 0:
            cell = self._cell(lists.pop(0))
            kind, rows = cell[:2], struct.unpack_from("<H", cell, 2)[0]
            width = {b"lf": 8, b"lh": 8, b"li": 4, b"ri": 4}.get(bytes(kind), 0)
            if not width or len(cell) < 4 + width * rows:
                raise Malformed(f"a list of keys of kind {bytes(kind)!r}")
            found = [struct.unpack_from("<I", cell, 4 + width * row)[0] for row in range(rows)]
            left -= rows
            if kind == b"ri":
                lists += found
                continue
            for child in found:
                yield self._node(child)

    def _node(self, at: int) -> bytes:
        cell = self._cell(at)
        if len(cell) < 76 or cell[:2] != b"nk":
            raise Malformed(f"no key at {at}")
        return cell

    def _cell(self, at: int) -> bytes:
        """Return the content of a cell; ``at`` counts bytes from the end of the base block."""
        start = _BASE + at
        if start + 4 > self._reader.size:
            raise Malformed(f"a cell at {at}, behind the hive's end")
        size = -struct.unpack("<i", self._reader.read(start, 4))[0]
        if not 4 <= size <= _CELL_MAX or start + size > self._reader.size:
            raise Malformed(f"a cell of {size} bytes at {at}")
        return self._reader.read(start + 4, size - 4)


def _key_name(node: bytes) -> str:
    (flags,) = struct.unpack_from("<H", node, 2)
    (length,) = struct.unpack_from("<H", node, 72)
    return node[76 : 76 + length].decode("latin-1" if flags & _ASCII_KEY else "utf-16-le", "replace")
