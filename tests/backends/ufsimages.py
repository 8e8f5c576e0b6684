"""UFS images made by makefs, and deletions in them as FreeBSD's kernel writes them.

Source: FreeBSD ``sys/ufs/ufs/dir.h`` (deletion), ``sys/ufs/ffs/fs.h`` (struct fs, struct cg),
``sys/ufs/ufs/dinode.h``.
"""

from __future__ import annotations

import random
import struct
from array import array
from typing import TYPE_CHECKING, Literal

from imgfs.model import Linear
from tests.backends.tskimages import need, run

if TYPE_CHECKING:
    from pathlib import Path

    from imgfs.model import Layout

BLOCK, FRAGMENT = 4096, 512
Fate = Literal["kept", "cleared", "open", "linked"]


def data(number: int) -> bytes:
    """Return the content of file ``number``; those from 60 on need an indirect block."""
    return random.Random(number).randbytes(number * 100 if number < 60 else 52_000)


def make(folder: Path, version: int, order: str) -> Path:
    """Make a file system with forty small files, two larger ones and a directory full of files."""
    need("makefs")
    tree, image = folder / "tree", folder / "ufs.img"
    (tree / "dir").mkdir(parents=True)
    (tree / "gone").mkdir()
    for number in (*range(1, 25), 60, 61):
        (tree / "dir" / f"file{number:02}").write_bytes(data(number))
    (tree / "dir" / "twin09").hardlink_to(tree / "dir" / "file09")
    for number in range(20):
        (tree / "gone" / f"x{number:02}").write_bytes(b"%d\n" % number)
    (tree / "dir" / "link").symlink_to("a/short/target")
    (tree / "dir" / "long").symlink_to("target/" * 40)
    run(
        "makefs", "-t", "ffs", "-B", order, "-s", "4m",
        "-o", f"version={version},bsize={BLOCK},fsize={FRAGMENT}", image, tree,
    )  # fmt: skip
    return image


class Disk:
    """An image under the hands of a deleter. One superblock at 8,192, one cylinder group."""

    def __init__(self, image: Path, version: int, order: str) -> None:
        self.image = image
        self.raw = bytearray(image.read_bytes())
        self.two = version == 2
        self.o = "<" if order == "le" else ">"
        self.head = self.o + "IHBB"
        cylinder, table = struct.unpack_from(self.o + "2i", self.raw, 8192 + 12)
        self.group, self.table = cylinder * FRAGMENT, table * FRAGMENT
        used, free = struct.unpack_from(self.o + "2I", self.raw, self.group + 92)
        self.used, self.free = self.group + used, self.group + free

    def save(self) -> None:
        self.image.write_bytes(self.raw)

    def inode_at(self, number: int) -> int:
        return self.table + number * (256 if self.two else 128)

    def pointers(self, number: int) -> tuple[int, ...]:
        form, at = ("15q", 112) if self.two else ("15i", 40)
        return struct.unpack_from(self.o + form, self.raw, self.inode_at(number) + at)

    def size(self, number: int) -> int:
        return struct.unpack_from(self.o + "Q", self.raw, self.inode_at(number) + (16 if self.two else 8))[0]

    def fragments(self, number: int) -> list[int]:
        """Return the fragments of data, then those of the indirect block."""
        pointers, left = self.pointers(number), -(-self.size(number) // FRAGMENT)
        blocks = list(pointers[:12])
        if pointers[12]:
            form = "512q" if self.two else "1024i"
            blocks += struct.unpack_from(self.o + form, self.raw, pointers[12] * FRAGMENT)
        found = []
        for block in blocks:
            take = min(left, BLOCK // FRAGMENT)
            found += list(range(block, block + take))
            left -= take
        return found + (list(range(pointers[12], pointers[12] + 8)) if pointers[12] else [])

    def records(self, directory: int) -> list[tuple[int, int, int, bytes]]:
        """Return byte on the disk, place in its block of 512, inode and name of all records."""
        found = []
        for first in range(0, self.size(directory), 512):
            start = at = self.pointers(directory)[0] * FRAGMENT + first
            while at < start + 512:
                number, length, *_, size = struct.unpack_from(self.head, self.raw, at)
                found.append((at, at - start, number, bytes(self.raw[at + 8 : at + 8 + size])))
                at += length
        return found

    def lookup(self, path: str) -> int:
        number = 2
        for part in path.split("/"):
            number = next(x[2] for x in self.records(number) if x[2] and x[3] == part.encode())
        return number

    def set_bit(self, at: int, bit: int, *, value: bool) -> None:
        self.raw[at + bit // 8] &= ~(1 << bit % 8)
        self.raw[at + bit // 8] |= value << bit % 8

    def remove(self, path: str, fate: Fate = "kept") -> int:
        """Remove a name; what becomes of its inode is its fate. Returns the inode number."""
        above, _, name = path.rpartition("/")
        directory = self.lookup(above) if above else 2
        number = self.lookup(path)
        before = 0
        for at, place, inode, found in self.records(directory):
            if inode and found == name.encode():
                if place:
                    had, more = (struct.unpack_from(self.o + "H", self.raw, x + 4)[0] for x in (before, at))
                    struct.pack_into(self.o + "H", self.raw, before + 4, had + more)
                else:
                    struct.pack_into("I", self.raw, at, 0)
            before = at
        at = self.inode_at(number)
        if fate == "linked":
            return number
        struct.pack_into(self.o + "H", self.raw, at + 2, 0)
        if fate == "open":
            return number
        for fragment in self.fragments(number) if self.pointers(number)[0] < 8192 else []:
            self.set_bit(self.free, fragment, value=True)
        self.set_bit(self.used, number, value=False)
        if fate == "cleared":
            struct.pack_into("H", self.raw, at, 0)
            for start, length in ((16, 16), (112, 120)) if self.two else ((8, 8), (40, 60), (104, 4)):
                self.raw[at + start : at + start + length] = bytes(length)
        return number

    def untype(self) -> None:
        """Write the lengths of names as 4.3BSD did, and say so in the superblock."""
        for directory in (2, self.lookup("dir"), self.lookup("gone")):
            for at, _, _, name in self.records(directory):
                struct.pack_into(self.o + "H", self.raw, at + 6, len(name))
        self.raw[8192 + 1320 : 8192 + 1328] = bytes(4) + b"\xff" * 4  # fs_maxsymlinklen, fs_old_inodefmt
        self.head = self.o + "IHH"

    def wipe(self, path_name: bytes) -> None:
        """Overwrite a name that was removed, as an entry put in its place does."""
        at = self.raw.index(path_name + b"\0")
        self.raw[at - 8 : at + len(path_name)] = bytes(8 + len(path_name))

    def take(self, fragment: int, filling: bytes) -> None:
        """Give a free fragment to somebody else."""
        self.set_bit(self.free, fragment, value=False)
        self.raw[fragment * FRAGMENT : (fragment + 1) * FRAGMENT] = filling[:FRAGMENT].ljust(FRAGMENT, b"x")


def rows_of(layout: Layout) -> list[tuple[int, int, int]]:
    """Return logical place, length and target of the runs of a layout."""
    assert isinstance(layout, Linear)
    return list(zip(*(array("q", x) for x in (layout.logical, layout.length, layout.target)), strict=True))
