"""SquashFS 2 and 3 put together by hand in either byte order: nothing that writes them is left.

7z reads them, and says whether they are what they are meant to be.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from dataclasses import dataclass, field

BLOCK = 4096


@dataclass
class Node:
    """A file (``data`` bytes), a link (str), a device or pipe (int), or a directory (dict)."""

    data: bytes | str | int | dict[str, Node]
    kind: int = 0
    mode: int = 0o644
    uid: int = 0  # rows of the tables of users and groups; a group of 255 is the user
    gid: int = 255
    made: int = 1_000_000_000
    fragment: bool = True
    number: int = 0
    place: int = field(default=0, init=False)


def bare(data: bytes) -> bytes:
    """Compress as vendors did: LZMA without its header."""
    filters = [{"id": lzma.FILTER_LZMA1, "lc": 3, "lp": 0, "pb": 2, "dict_size": 1 << 20}]
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters)


class Composer:
    """Writes one image."""

    def __init__(self, major: int, order: str, *, lzma1: bool = False, checked: bool = False) -> None:
        self.major = major
        self.order = order
        self.pack = bare if lzma1 else zlib.compress
        self.checked = checked
        self.head = {2: 63, 3: 119}[major]
        self.out = bytearray(self.head)
        self.inodes = bytearray()
        self.names = bytearray()
        self.fragments: list[tuple[int, int]] = []
        self.tail = bytearray()
        self.count = 0

    def bits(self, widths: tuple[int, ...], values: tuple[int, ...]) -> bytes:
        """Lay bit fields out as a compiler of that byte order does."""
        total = sum(widths)
        word = at = 0
        for width, value in zip(widths, values, strict=True):
            assert 0 <= value < 1 << width
            word |= value << (at if self.order == "<" else total - at - width)
            at += width
        return word.to_bytes(total // 8, "little" if self.order == "<" else "big")

    def image(self, root: dict[str, Node], magic: bytes, users: list[int], groups: list[int]) -> bytes:
        """Return the image. Inodes are put before the directories that name them."""
        top = Node(root, mode=0o755)
        self._place(top, 1)
        if self.tail:
            self._flush()
        inode_table, directory_table = len(self.out), 0
        self.out += self._blocks(self.inodes)
        directory_table = len(self.out)
        self.out += self._blocks(self.names)
        entry = "II" if self.major == 2 else "QII"
        rows = b"".join(
            struct.pack(self.order + entry, *((at, size) if self.major == 2 else (at, size, 0)))
            for at, size in self.fragments
        )
        at = len(self.out)
        self.out += self._blocks(rows)
        fragment_table = len(self.out)
        self.out += struct.pack(self.order + ("I" if self.major == 2 else "Q"), at)
        user_table = len(self.out)
        self.out += struct.pack(f"{self.order}{len(users)}I", *users)
        group_table = len(self.out)
        self.out += struct.pack(f"{self.order}{len(groups)}I", *groups)
        old = self.major == 2
        size = len(self.out)
        head = magic + struct.pack(
            self.order + "6IHHHH3BIQIII",
            self.count,
            *((size, user_table, group_table, inode_table, directory_table) if old else (0, 0, 0, 0, 0)),
            self.major,
            0 if old else 1,
            BLOCK if old else 0,
            BLOCK.bit_length() - 1,
            4 if self.checked else 0,
            len(users),
            len(groups),
            1_100_000_000,
            top.place,
            BLOCK,
            len(self.fragments),
            fragment_table if old else 0,
        )
        if not old:
            none = (1 << 64) - 1
            places = (size, user_table, group_table, inode_table, directory_table, fragment_table, none)
            head += struct.pack(self.order + "7Q", *places)
        assert len(head) == self.head
        self.out[: self.head] = head
        return bytes(self.out) + bytes(-len(self.out) % 4096)

    def _blocks(self, data: bytes | bytearray) -> bytes:
        """Return metadata blocks. All but the last place in them are known only when nothing is packed."""
        out = bytearray()
        for at in range(0, len(data), 8192):
            plain = bytes(data[at : at + 8192])
            packed = self.pack(plain)
            verbatim = len(packed) >= len(plain) or len(data) > 8192
            stored = plain if verbatim else packed
            out += struct.pack(self.order + "H", len(stored) % 32768 | (0x8000 if verbatim else 0))
            out += (b"\xff" if self.checked else b"") + stored
        return bytes(out)

    def _where(self, table: bytearray) -> tuple[int, int]:
        """Return the place of the next byte of a table, as verbatim blocks have it."""
        block, offset = divmod(len(table), 8192)
        return block * (8194 + self.checked), offset

    def _place(self, node: Node, parent: int) -> None:
        if isinstance(node.data, dict):
            for child in node.data.values():
                self._place(child, 0)
            listing = self._listing(node.data)
        self.count += 1
        node.number = self.count
        block, offset = self._where(self.inodes)
        node.place = block << 16 | offset
        data, third, order = node.data, self.major == 3, self.order
        kind = node.kind or (1 if isinstance(data, dict) else 2 if isinstance(data, bytes) else 3)
        made = struct.pack(order + "I", node.made)
        base = self.bits((4, 12), (kind, node.mode)) + bytes((node.uid, node.gid))
        base += made + struct.pack(order + "I", node.number) if third else b""
        links = struct.pack(order + "I", 1) if third else b""
        if isinstance(data, dict):
            start, inside, size = listing
            if third:
                body = (
                    links + self.bits((19, 13), (size + 3, inside)) + struct.pack(order + "II", start, parent)
                )
            else:
                body = (
                    self.bits((19, 13), (size, inside))
                    + made
                    + start.to_bytes(3, "little" if order == "<" else "big")
                )
        elif isinstance(data, bytes):
            start, fragment, inside, sizes = self._store(data, fragment=node.fragment)
            form = "QIII" if third else "IIII"
            body = (b"" if third else made) + struct.pack(order + form, start, fragment, inside, len(data))
            body += struct.pack(f"{order}{len(sizes)}I", *sizes)
        elif isinstance(data, str):
            body = links + struct.pack(order + "H", len(data)) + data.encode()
        else:
            body = links + (struct.pack(order + "H", data) if kind in (4, 5) else b"")
        self.inodes += base + body

    def _listing(self, names: dict[str, Node]) -> tuple[int, int, int]:
        start, inside = self._where(self.names)
        begin = len(self.names)
        rows = sorted(names.items())
        while rows:
            block = rows[0][1].place >> 16
            run = []
            while rows and rows[0][1].place >> 16 == block and len(run) < 256:
                run.append(rows.pop(0))
            first = run[0][1].number
            if self.major == 3:
                self.names += struct.pack(self.order + "BII", len(run) - 1, block, first)
            else:
                self.names += self.bits((8, 24), (len(run) - 1, block))
            for name, node in run:
                kind = node.kind or (
                    1 if isinstance(node.data, dict) else 2 if isinstance(node.data, bytes) else 3
                )
                self.names += self.bits((13, 3), (node.place & 0xFFFF, kind)) + bytes((len(name) - 1,))
                if self.major == 3:
                    self.names += struct.pack(self.order + "h", node.number - first)
                self.names += name.encode()
        return start, inside, len(self.names) - begin

    def _store(self, data: bytes, *, fragment: bool) -> tuple[int, int, int, list[int]]:
        start = len(self.out)
        tail = len(data) % BLOCK if fragment else 0
        sizes = []
        for at in range(0, len(data) - tail, BLOCK):
            plain = data[at : min(at + BLOCK, len(data) - tail)]
            if self.major == 3 and not any(plain):
                sizes.append(0)
                continue
            packed = self.pack(plain)
            verbatim = len(packed) >= len(plain)
            self.out += plain if verbatim else packed
            sizes.append(len(plain) | 1 << 24 if verbatim else len(packed))
        if not tail:
            return start, 0xFFFF_FFFF, 0, sizes
        if len(self.tail) + tail > BLOCK:
            self._flush()
        inside = len(self.tail)
        self.tail += data[len(data) - tail :]
        return start, len(self.fragments), inside, sizes

    def _flush(self) -> None:
        packed = self.pack(bytes(self.tail))
        verbatim = len(packed) >= len(self.tail)
        stored = bytes(self.tail) if verbatim else packed
        self.fragments.append((len(self.out), len(stored) | (1 << 24 if verbatim else 0)))
        self.out += stored
        self.tail.clear()
