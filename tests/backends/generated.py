"""python3 generated.py ROOT: fill a folder with a tree that meets every boundary of a file system.

It needs the standard library alone, and of that what a minimal installation has: guests run it, too. The same
arguments give the same tree. What is made is not the truth: that is what the kernel shows of it (see
``seen``).
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import random
import socket
import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

try:
    import fcntl
except ImportError:  # a guest without it makes no clones
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOWS = '"*/:<>?\\|' + "".join(map(chr, range(1, 32)))  # what no name of Microsoft's file systems holds
# the kernel's form: version 2, then tag, permissions and number of each entry
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, who)
    for tag, permissions, who in (
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 7, 70_001),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 7, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    )
)
CAPABILITY = struct.pack("<5I", 0x02000001, 0x2000, 0, 0x400, 0)
LABEL = b"system_u:object_r:etc_t:s0\0"
_REFUSALS = {
    getattr(errno, name)
    for name in ("EPERM", "EACCES", "EOPNOTSUPP", "ENOSYS", "EINVAL", "EILSEQ", "ENAMETOOLONG", "EMLINK")
} | {errno.E2BIG, errno.ERANGE, errno.EFBIG, errno.ENOTTY, errno.EXDEV, errno.ENODATA}
_KEEP, _PUNCH, _ZERO = 1, 3, 16  # flags of fallocate(2)
_CLONE = 0x40049409  # FICLONE of linux/fs.h


@dataclass(frozen=True)
class Limits:
    """What a file system holds; what it does not hold is not tried.

    Units: bytes; ``name_units`` UTF-16 units (0: bytes count); ``earliest`` and ``latest`` seconds since
    1970; ``grain`` nanoseconds. ``raw``: any byte but / and 0, else UTF-8. ``forbidden``: no name holds
    these. ``planes``: letters beyond 16 bits. ``plain_ends``: names begin and end with neither blanks nor
    dots. ``cases``, ``normal``: names that differ in case, or in composed and decomposed letters, are two.
    ``special_links``: links and pipes may have several names. ``symlink``: longest target, 0: no links.
    ``owners``: largest, 0: none are kept. ``xattr_names``: most of one file. ``clones``: files share extents.
    """

    name_bytes: int = 255
    name_units: int = 0
    raw: bool = True
    forbidden: str = ""
    plain_ends: bool = False
    planes: bool = True
    cases: bool = True
    normal: bool = True
    depth: int = 44
    file_bytes: int = 5 << 30
    sparse: bool = True
    clones: bool = False
    links: bool = True
    special_links: bool = True
    symlink: int = 4095
    nodes: bool = True
    rdev: tuple[int, int] = (4095, (1 << 20) - 1)
    owners: int = (1 << 32) - 2
    modes: bool = True
    xattrs: tuple[str, ...] = ("user", "trusted", "security")
    xattr_bytes: int = 65_536
    xattr_names: int = 1000
    acls: bool = True
    earliest: int = -(1 << 31)
    latest: int = (1 << 34) - (1 << 31) - 1
    grain: int = 1


_EXT = Limits(xattr_bytes=3800, xattr_names=60)
_SMALL = dataclasses.replace(_EXT, xattr_bytes=700, xattr_names=10, symlink=1023)
_BARE = Limits(
    clones=False, links=False, symlink=0, nodes=False, owners=0, modes=False, xattrs=(), acls=False, raw=False
)  # fmt: skip
_UNIX = dataclasses.replace(_BARE, links=True, symlink=1023, nodes=True, owners=(1 << 32) - 2, modes=True)
_SECONDS = 10**9
LIMITS: dict[str, Limits] = {
    "ext4": _EXT,
    "ext4-1k": _SMALL,
    "ext3": _EXT,  # of 256 bytes an inode, as mkfs makes them
    "ext2": _SMALL,
    "xfs": Limits(symlink=1023, clones=True, rdev=(511, 262_143)),
    "btrfs": Limits(xattr_bytes=16_000, xattr_names=250, clones=True),
    "squashfs": Limits(
        file_bytes=64 << 20, earliest=0, latest=(1 << 32) - 1, grain=_SECONDS, acls=False,
        special_links=False,
    ),
    "packed": dataclasses.replace(  # what tools take from a folder: seconds of 32 bits
        _EXT, file_bytes=64 << 20, latest=(1 << 31) - 1, grain=_SECONDS, special_links=False,
    ),
    "erofs": Limits(name_bytes=254, file_bytes=64 << 20, xattr_bytes=3800, xattr_names=60),
    "ufs": dataclasses.replace(_UNIX, raw=True, grain=_SECONDS, file_bytes=64 << 20, rdev=(255, 255)),
    "iso9660": dataclasses.replace(
        _UNIX, raw=True, name_bytes=240, sparse=False, file_bytes=64 << 20, grain=_SECONDS, earliest=0,
        latest=(1 << 31) - 1,
    ),
    "iso9660-bridge": dataclasses.replace(  # with Joliet and UDF, as genisoimage writes them
        _UNIX, name_units=60, planes=False, sparse=False, file_bytes=64 << 20, grain=_SECONDS, earliest=0,
        latest=(1 << 31) - 1, forbidden=WINDOWS + ";\x7f", special_links=False, cases=False, symlink=200,
    ),
    "udf": dataclasses.replace(_UNIX, name_bytes=254, name_units=127, file_bytes=64 << 20, grain=1000),
    "hfsplus": dataclasses.replace(
        _UNIX, name_bytes=765, name_units=255, cases=False, normal=False, sparse=False, forbidden=":",
        earliest=0, latest=(1 << 31) - 1, grain=_SECONDS, file_bytes=64 << 20, xattrs=("user",),
        xattr_bytes=3000, xattr_names=40,
    ),
    "apfs": dataclasses.replace(
        _UNIX, name_bytes=765, name_units=255, cases=False, normal=False, xattrs=("user",), xattr_bytes=3000,
    ),
    "ntfs": dataclasses.replace(  # ntfs-3g shows no fractions before 1970
        _BARE, name_bytes=765, name_units=255, forbidden=WINDOWS, plain_ends=True, links=True, cases=False,
        grain=100, earliest=0, xattrs=("user",),
    ),
    "exfat": dataclasses.replace(
        _BARE, name_bytes=765, name_units=255, forbidden=WINDOWS, plain_ends=True, cases=False, sparse=False,
        file_bytes=64 << 20, earliest=315_619_200, latest=4_107_542_399, grain=2 * _SECONDS,
    ),
    "fat": dataclasses.replace(
        _BARE, name_bytes=765, name_units=255, forbidden=WINDOWS, plain_ends=True, cases=False, sparse=False,
        depth=40, file_bytes=64 << 20, earliest=315_619_200, latest=4_300_000_000, grain=2 * _SECONDS,
    ),
}  # fmt: skip
LIMITS["fat-packed"] = dataclasses.replace(LIMITS["fat"], name_bytes=255)  # what a folder here can hold of it
SIZES = sorted(
    {0, 1, 2, 100, 300, 700, 3000, 3800, 4000, 6000, 12_288, 20_000, 100_000}
    | {size + near for size in (60, 128, 156, 256, 512, 1024, 2048, 4096, 8192) for near in (-1, 0, 1)}
    | {size + near for size in (16_384, 32_768, 65_536, 131_072, 262_144, 1 << 20) for near in (-1, 0, 1)}
)
TARGETS = sorted(
    {1, 2, 7, 30, 100, 200, 300, 400, 470, 500, 700, 960, 970, 1500, 2000, 2047, 2048, 3000, 3900, 4000}
    | {size + near for size in (60, 128, 156, 256, 336, 512, 1023, 4094) for near in (-1, 0, 1)}
)
VALUES = (
    0, 1, 2, 15, 32, 100, 254, 255, 256, 257, 700, 1000, 1020, 2000, 3000, 3800, 4040, 4041, 8000, 15_900,
    20_000, 40_000, 65_535, 65_536,
)  # fmt: skip
MOMENTS = (
    0, -1, 1, -5_000_000, -(1 << 31), (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 315_619_200,
    951_782_400, 4_102_444_800, (3 << 32) - (1 << 31), (1 << 34) - (1 << 31) - 1,
)  # fmt: skip
ODD: tuple[bytes, ...] = (
    b"-", b"--help", b" ", b"  two", b"end ", b".hidden", b"...", b"..a", b"dot.", b"new\nline", b"tab\t",
    b"\x01", b"\x7f", b"'\"", b"back\\slash", b"*?[]", b"a:b", b"~", b"#", b"$", b"%s", b"a;1", b"CON",
    b"nul.txt", b"com1", b"a,b=c+d", b"trailing~1", b"PROGRA~1", b"program files", b"x.tar.gz",
    b"many.dots.in.a.name", b"\xff\xfe", b"\x80", b"caf\xe9", b"\xc0\xaf", b"\xed\xa0\x80",
    b"\xf5\x80\x80\x80", b"\xe6\x97",
    *(text.encode() for text in (
        "Größe", "STRASSE", "straße", "日本語", "עברית", "😀", "😀" * 60, "é" * 127, "€" * 80, "\u017f", "s",
        "İ", "\u0131", "Ǆ", "ǅ", "Σίσυφος", "ά", "\u202egnp", "a\u200db", "\ufeffbom", "\u00a0", "ﬁ",
        "가", "각",
    )),
)  # fmt: skip
CASES = (b"name", b"Name", b"NAME", b"nAmE", "größe".encode(), "GRÖSSE".encode(), "GRÖßE".encode())
DECOMPOSED = ("cafe\u0301", "u\u0308", "\u1100\u1161", "A\u030a", "\u212b", "o\u0323\u0307", "o\u0307\u0323")
COMPOSED = ("caf\u00e9", "\u00fc", "\uac00", "\u00c5")


class Made(NamedTuple):
    """How many paths were made, and how often the file system refused what."""

    made: int
    refused: dict[str, int]


def xfs_alike(count: int) -> list[bytes]:
    """Return names of one hash in XFS: what differs in four letters is undone by the next four."""
    bits = max(count - 1, 1).bit_length()
    return [
        b"".join((b"xxxaxxxb", b"xxxqxxxc")[number >> bit & 1] for bit in range(bits))
        for number in range(count)
    ]


def _crc32c(data: bytes, crc: int) -> int:
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


def _crc_row(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC = [_crc_row(byte) for byte in range(256)]


def btrfs_alike(count: int, prefix: bytes = b"alike ") -> list[bytes]:
    """Return names of one hash in btrfs (CRC-32C from 0xFFFFFFFE): the last four bytes make it zero."""
    back = {row >> 24: byte for byte, row in enumerate(_CRC)}
    found: list[bytes] = []
    number = 0
    while len(found) < count:
        head = b"%s%d " % (prefix, number)
        number += 1
        crc, rows, state = _crc32c(head, 0xFFFFFFFE), [], 0
        for _ in range(4):  # which rows of the table lead to zero
            rows.append(back[state >> 24])
            state = (state ^ _CRC[rows[-1]]) << 8 & 0xFFFFFFFF
        tail = b""
        for row in reversed(rows):
            tail += bytes([(crc ^ row) & 0xFF])
            crc = _CRC[row] ^ crc >> 8
        if b"/" not in tail and b"\0" not in tail:
            found.append(head + tail)
    return found


def make(root: str | os.PathLike[str], *, files: int = 10_000, limits: str = "ext4", seed: int = 1) -> Made:
    """Fill a folder with ``files`` paths (about 2,000 at least) and return what came of it."""
    tree = _Tree(os.fsencode(root), LIMITS[limits], seed)
    for part in (
        tree.names,
        tree.sizes,
        tree.sparse,
        tree.xattrs,
        tree.links,
        tree.nodes,
        tree.gaps,
        tree.deep,
    ):
        part()
    tree.wide(max(files * 3 // 10, 300))
    tree.mixed(files)
    tree.times()
    return Made(len(tree.paths), tree.refused)


class _Tree:
    def __init__(self, root: bytes, limits: Limits, seed: int) -> None:
        self.root, self.limits, self.seed = root, limits, seed
        self.rng = random.Random(seed)
        self.noise = random.Random(seed + 1).randbytes(3 << 20)
        self.text = b"".join(b"line %d of a text that packs well\n" % n for n in range(50_000))
        self.paths: list[bytes] = []
        self.taken: set[tuple[bytes, str]] = set()
        self.refused: dict[str, int] = {}
        self.root_user = os.geteuid() == 0

    # --- what everything is made of ---
    def allowed(self, name: bytes) -> bool:
        limits = self.limits
        if len(name) > limits.name_bytes:
            return False
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return limits.raw
        if limits.name_units and len(text.encode("utf-16-le")) > 2 * limits.name_units:
            return False
        if not limits.planes and max(text, default="") > "\uffff":
            return False
        if limits.plain_ends and (text != text.strip(" .\u00a0") or not text):
            return False
        return not any(letter in limits.forbidden for letter in text)

    def path(self, folder: bytes, name: bytes) -> bytes | None:
        """Return the path of a new name, None: not here."""
        if not self.allowed(name):
            return None
        text = name.decode("utf-8", "surrogateescape")
        key = (folder, text if self.limits.cases else text.upper().casefold())
        if key in self.taken:
            return None
        self.taken.add(key)
        return os.path.join(folder, name)

    def attempt(self, what: str, action: Callable[..., object], *words: object, **named: object) -> bool:
        """Do what a file system may refuse."""
        try:
            action(*words, **named)
        except OSError as why:
            full = why.errno in (errno.ENOSPC, errno.EDQUOT) and what.startswith("xattr")
            if why.errno not in _REFUSALS and not full:
                raise
            key = f"{what} {errno.errorcode[why.errno or 0]}"
            self.refused[key] = self.refused.get(key, 0) + 1
            return False
        return True

    def folder(self, path: bytes) -> bytes:
        os.mkdir(os.path.join(self.root, path))
        self.paths.append(path)
        return path

    def file(self, path: bytes | None, data: bytes = b"") -> bool:
        if path is None or not self.attempt("name", self.write, path, data):
            return False
        self.paths.append(path)
        return True

    def write(self, path: bytes, data: bytes) -> None:
        handle = os.open(os.path.join(self.root, path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            while data:
                data = data[os.write(handle, data) :]
        finally:
            os.close(handle)

    def data(self, size: int, kind: int) -> bytes:
        """Return bytes: text, noise, both in turns, or zeros with a few bytes."""
        at = self.rng.randrange(1 << 20)
        if kind == 0:
            return self.text[at : at + size] if size <= 512_000 else (self.text * 2)[:size]
        if kind == 1:
            return self.noise[at : at + size]
        if kind == 2:
            return (self.text[at : at + size // 2] + self.noise[at : at + size])[:size]
        return (b"\1" + bytes(size))[:size]

    def xattr(self, path: bytes, name: str | bytes, value: bytes) -> None:
        space = os.fsdecode(name).split(".")[0]
        if space in self.limits.xattrs and (space == "user" or self.root_user):
            full = os.path.join(self.root, path)
            self.attempt("xattr", os.setxattr, full, name, value, follow_symlinks=False)

    # --- the parts ---
    def names(self) -> None:
        top = self.folder(b"names")
        for length in range(1, max(self.limits.name_bytes, 255) + 1):
            if length <= 255 or length % 3 == 0:
                letters = b"abcdefghijklmnopqrstuvwxyz0123456789" if length <= 255 else "語".encode()
                name = (b"%d " % length + letters * 8)[:length] if length <= 255 else letters * (length // 3)
                self.file(self.path(top, name), b"%d\n" % length)
        odd = self.folder(b"names/odd")
        for name in ODD:
            self.file(self.path(odd, name), name)
        cases = self.folder(b"names/cases")
        for name in CASES:
            self.file(self.path(cases, name), name)
        if self.limits.normal:
            forms = self.folder(b"names/forms")
            for text in (*COMPOSED, *DECOMPOSED):
                self.file(self.path(forms, text.encode()), text.encode())
        hashes = self.folder(b"names/alike")
        for name in [*xfs_alike(200), *btrfs_alike(60)]:
            self.file(self.path(hashes, name), name)

    def sizes(self) -> None:
        top = self.folder(b"sizes")
        for size in SIZES:
            for kind, name in enumerate((b"text", b"noise", b"mixed", b"zeros")):
                if size <= 70_000 or kind == 1 or (kind == 0 and size <= 1 << 20):
                    self.file(self.path(top, b"%s %d" % (name, size)), self.data(size, kind))

    def sparse(self) -> None:
        top = self.folder(b"sparse")
        if not self.limits.sparse:
            return
        most = self.limits.file_bytes
        for name, size, places in (
            ("only", 3_000_000, ()),
            ("begin", 1_000_000, ((700_001, 299_999),)),
            ("middle", 2_000_000, ((0, 5000), (1_500_000, 70_000))),
            ("end", 2_500_000, ((0, 100_001),)),
            ("one byte", 1 << 20, ((512_345, 1),)),
            ("last byte", 50_000_000, ((49_999_999, 1),)),
            ("large", most, ((most // 2, 9000), (most - 5000, 5000))),
            ("turns", 700 * 8192, tuple((at * 8192, 4096) for at in range(700))),
            ("steps", 150 * 12_288, tuple((at * 12_288, 1 + 41 * at) for at in range(150))),
            ("backwards", 200 * 16_384, tuple((at * 16_384, 3000) for at in reversed(range(200)))),
        ):
            if size <= most and self.file(self.path(top, name.encode())):
                with open(os.path.join(self.root, top, name.encode()), "r+b", buffering=0) as file:
                    file.truncate(size)
                    for at, length in places:
                        os.pwrite(file.fileno(), self.data(length, 1), at)
        for name, size, calls in (
            ("reserved behind", 10_000, ((_KEEP, 0, 1_000_000),)),
            ("reserved empty", 0, ((_KEEP, 0, 300_000),)),
            ("reserved", 5000, ((0, 0, 400_000),)),
            ("punched", 500_000, ((_PUNCH, 40_960, 81_920), (_PUNCH, 200_001, 100_000))),
            ("punched end", 300_000, ((_PUNCH, 100_000, 200_000),)),
            ("zeroed", 300_000, ((_ZERO, 65_536, 65_536),)),
            ("sieve", 800_000, tuple((_PUNCH, at * 16_384, 8192) for at in range(48))),
        ):
            path = self.path(top, name.encode())
            if self.file(path, self.data(size, 1)):
                full = os.path.join(self.root, path or b"")
                self.settle(full)  # what is punched lies somewhere
                for flags, at, length in calls:
                    self.attempt("fallocate", _fallocate, full, flags, at, length)
        if self.limits.clones:
            for number, source in enumerate((b"turns", b"middle", b"punched", b"reserved behind")):
                path = self.path(top, b"clone %d" % number)
                if self.file(path):
                    self.attempt("clone", self.clone, os.path.join(top, source), path)

    def settle(self, path: bytes) -> None:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    def clone(self, source: bytes, path: bytes) -> None:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no fcntl")
        with (
            open(os.path.join(self.root, source), "rb") as old,
            open(os.path.join(self.root, path), "r+b") as new,
        ):
            fcntl.ioctl(new.fileno(), _CLONE, old.fileno())
            for at in (8192, 100_000, 300_007):  # shared no more
                os.pwrite(new.fileno(), self.data(5000, 1), at)

    def xattrs(self) -> None:
        top, limits = self.folder(b"xattrs"), self.limits
        for size in VALUES:
            if size <= limits.xattr_bytes and self.file(
                path := self.path(top, b"value %d" % size), b"x" * size
            ):
                for space in ("user", "trusted", "security"):
                    self.xattr(
                        path or b"", f"{space}.value", self.data(size, 1)[: max(size - len(space) * 9, 0)]
                    )
                self.xattr(path or b"", "user.full", self.data(size, 0))
        for count in (1, 2, 5, 10, 30, 60, 250, 1000):
            if count <= limits.xattr_names and self.file(
                path := self.path(top, b"count %d" % count), b"many"
            ):
                for number in range(count):
                    self.xattr(path or b"", f"user.number {number}", b"%d" % number * (number % 4))
        for length in (1, 2, 100, 200, 249, 250):  # XATTR_NAME_MAX with the prefix
            if self.file(path := self.path(top, b"name %d" % length), b""):
                self.xattr(path or b"", "user." + "n" * length, b"value")
        if self.file(path := self.path(top, b"alike")) and limits.raw:
            for name in btrfs_alike(12, b"user.alike "):
                self.xattr(path or b"", name, name)
        for kind in (b"file", b"folder", b"link", b"pipe"):
            path = os.path.join(top, b"of a " + kind)
            self.special(path, kind)
            if path in self.paths:
                for space in ("trusted", "user", "security")[: 3 if kind in (b"file", b"folder") else 1]:
                    self.xattr(path, f"{space}.kind", kind)
                self.xattr(path, "security.selinux", LABEL)
                if kind in (b"file", b"folder") and limits.acls:
                    self.acl(path, "access")
                if kind == b"folder" and limits.acls:
                    self.acl(path, "default")
        if self.file(path := self.path(top, b"capable"), b"#!"):
            self.xattr(path or b"", "security.capability", CAPABILITY)

    def acl(self, path: bytes, which: str) -> None:
        full, name = os.path.join(self.root, path), f"system.posix_acl_{which}"
        searched = not self.root_user and os.path.isdir(full)  # its owner must be able to look into it
        self.attempt("acl", os.setxattr, full, name, ACL[:6] + b"\7\0" + ACL[8:] if searched else ACL)

    def special(self, path: bytes, kind: bytes) -> None:
        full = os.path.join(self.root, path)
        if kind == b"file":
            self.file(path, b"content")
        elif kind == b"folder":
            self.folder(path)
        elif kind == b"link" and self.limits.symlink:
            self.node("symlink", path, os.symlink, b"../somewhere", full)
        elif kind == b"pipe" and self.limits.nodes:
            self.node("pipe", path, os.mkfifo, full, 0o640)

    def node(self, what: str, path: bytes, action: Callable[..., object], *words: object) -> None:
        if self.attempt(what, action, *words):
            self.paths.append(path)

    def links(self) -> None:
        top, limits = self.folder(b"links"), self.limits
        targets = [length for length in TARGETS if length <= limits.symlink]
        for length in targets:
            path = os.path.join(top, b"to %d" % length)
            letters = b"abc/defgh/" if limits.raw else b"abcdefghij/"
            target = (letters * 500)[: length - 1] + b"z"
            self.node("symlink", path, os.symlink, target, os.path.join(self.root, path))
        for number, target in enumerate(
            (b"/etc/passwd", b"../../..", b".", b"\xff\xfe", b"new\nline", b"./a//b/")
        ):
            if targets and (limits.raw or target.isascii()):
                path = os.path.join(top, b"odd %d" % number)
                self.node("symlink", path, os.symlink, target, os.path.join(self.root, path))
        if not limits.links:
            return
        other = self.folder(b"links/other")
        for count in (2, 3, 17, 300):
            self.file(self.path(top, b"file of %d" % count), b"%d names" % count)
            for number in range(1, count):
                path = os.path.join((top, other)[number % 2], b"%d of %d" % (number, count) + b"x" * 60)
                source = os.path.join(self.root, top, b"file of %d" % count)
                self.node("link", path, os.link, source, os.path.join(self.root, path))
        for source, name in ((b"to 60", b"of a link"), (b"pipe", b"of a pipe"))[: 2 * limits.special_links]:
            full = os.path.join(self.root, top, source)
            if name == b"of a pipe":
                self.special(os.path.join(top, source), b"pipe")
            if os.path.lexists(full):
                path = os.path.join(other, name)
                self.node(
                    "link",
                    path,
                    lambda a, b: os.link(a, b, follow_symlinks=False),
                    full,
                    os.path.join(self.root, path),
                )

    def nodes(self) -> None:
        top, limits = self.folder(b"nodes"), self.limits
        if limits.nodes:
            self.special(b"nodes/pipe", b"pipe")
            self.node("socket", b"nodes/socket", self.bind, os.path.join(self.root, top), b"socket")
        for major, minor in (
            (1, 3),
            (8, 17),
            (255, 255),
            (255, 256),
            (256, 0),
            (300, 70_000),
            (4095, 1048575),
        ):
            if limits.nodes and self.root_user and major <= limits.rdev[0] and minor <= limits.rdev[1]:
                for name, kind in ((b"block", 0o60640), (b"char", 0o20600)):
                    path = os.path.join(top, b"%s %d,%d" % (name, major, minor))
                    full = os.path.join(self.root, path)
                    self.node("device", path, os.mknod, full, kind, os.makedev(major, minor))
        for owner in (0, 1, 1000, 65_534, 65_535, 65_536, 70_000, (1 << 31) + 5, (1 << 32) - 2):
            if (
                self.root_user
                and owner <= limits.owners
                and limits.owners
                and self.file(b"nodes/owner %d" % owner)
            ):
                path = os.path.join(self.root, b"nodes/owner %d" % owner)
                os.chown(path, owner, limits.owners - owner)
        for mode in (0, 0o1, 0o111, 0o400, 0o644, 0o666, 0o777, 0o1755, 0o2755, 0o4755, 0o6711, 0o7777):
            if limits.modes and (self.root_user or mode & 0o400):
                path = b"nodes/mode %04o" % mode
                self.file(path)
                os.chmod(os.path.join(self.root, path), mode)
                path = self.folder(b"nodes/folder %04o" % mode)
                os.chmod(os.path.join(self.root, path), mode if self.root_user else mode | 0o700)

    def bind(self, folder: bytes, name: bytes) -> None:
        back = os.open(".", os.O_RDONLY)
        os.chdir(folder)  # the address of a socket is short
        try:
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(name)
        finally:
            os.fchdir(back)
            os.close(back)

    def gaps(self) -> None:
        """Make directories of sizes around those of a block, and one that lost most of its names."""
        top = self.folder(b"gaps")
        for count in (0, 1, 2, 3, 10, 12, 13, 60, 700):
            folder = self.folder(b"gaps/%d" % count)
            for number in range(count):
                path = os.path.join(folder, b"%d" % number + b"n" * (number % 150))
                self.write(path, b"")
                if count == 700 and number % 3:
                    continue
                self.paths.append(path)
        for number in range(700):
            if number % 3:
                os.unlink(os.path.join(self.root, top, b"700", b"%d" % number + b"n" * (number % 150)))

    def deep(self) -> None:
        path = self.folder(b"deep")
        for level in range(self.limits.depth):
            path = self.folder(os.path.join(path, (b"%d" % level + b"level" * 10)[: 2 + level % 50]))
            for number in range(2):
                self.file(os.path.join(path, b"%d" % number), b"%d %d" % (level, number))

    def wide(self, count: int) -> None:
        top = self.folder(b"wide")
        for number in range(count):
            name = b"%05d" % number + b"w" * self.rng.choice((0, 3, 3, 3, 8, 20, 70))
            if number % 97 == 96:
                self.folder(os.path.join(top, name))
            else:
                self.file(os.path.join(top, name), b"%d" % number * (number % 5))

    def mixed(self, files: int) -> None:
        """Make the rest: sizes, attributes, owners and modes drawn by chance."""
        top, rng, limits = self.folder(b"mixed"), self.rng, self.limits
        folder = top
        pool = [self.data(rng.choice((3, 20, 90)), 1) for _ in range(8)]
        while len(self.paths) < files:
            if len(self.paths) % 100 == 0 or folder == top:
                folder = self.folder(os.path.join(top, b"%05d" % len(self.paths)))
            path = os.path.join(folder, b"%d.%s" % (len(self.paths), rng.choice((b"txt", b"c", b"jpeg"))))
            self.file(path, self.data(int(2 ** (rng.random() * 15)) - 1, rng.choice((0, 0, 1, 2, 3))))
            full = os.path.join(self.root, path)
            if rng.random() < 0.3 and limits.owners and self.root_user:
                os.chown(full, rng.choice((0, 1000, 1001)), rng.randrange(limits.owners))
            if rng.random() < 0.3 and limits.modes:
                os.chmod(full, rng.randrange(0o1000) | 0o400)
            if rng.random() < 0.15:
                for number in range(rng.randrange(1, 4)):
                    self.xattr(path, f"user.{number}", rng.choice(pool))
            if rng.random() < 0.03 and limits.acls and limits.xattrs:
                self.acl(path, "access")

    def times(self) -> None:
        """Set the times of everything, the deepest first."""
        limits = self.limits
        moments = [moment for moment in MOMENTS if limits.earliest <= moment <= limits.latest]
        for number, path in enumerate(reversed(self.paths)):
            pair = []
            for _ in range(2):
                second = self.rng.choice((1_600_000_000, 1_700_000_000)) + self.rng.randrange(10**7)
                if number % 4 == 0:
                    second = self.rng.choice(moments)
                moment = second * _SECONDS + self.rng.randrange(_SECONDS)
                pair.append(min(moment, limits.latest * _SECONDS) // limits.grain * limits.grain)
            full = os.path.join(self.root, path)
            os.utime(full, ns=(pair[0], pair[1]), follow_symlinks=False)


def _fallocate(path: bytes, flags: int, at: int, length: int) -> None:
    """Call fallocate(2), or the program of that name where Python cannot."""
    try:
        import ctypes  # not in a minimal installation
    except ImportError:
        words = {_KEEP: ["-n"], _PUNCH: ["-p"], _ZERO: ["-z"], 0: []}[flags]
        try:
            done = subprocess.run(  # noqa: PLW1510
                ["fallocate", *words, "-o", str(at), "-l", str(length), path],
                capture_output=True,
            )
        except OSError:
            raise OSError(errno.ENOSYS, "no fallocate") from None
        if done.returncode:
            raise OSError(errno.EOPNOTSUPP, done.stderr.decode(errors="replace")) from None
        return
    handle = os.open(path, os.O_RDWR)
    try:
        call = ctypes.CDLL(None, use_errno=True).fallocate
        call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        if call(handle, flags, at, length):
            raise OSError(ctypes.get_errno(), "fallocate")
    finally:
        os.close(handle)


def main() -> None:
    """Fill the folder of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--limits", choices=sorted(LIMITS), default="ext4")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    made = make(asked.root, files=asked.files, limits=asked.limits, seed=asked.seed)
    print(json.dumps(made._asdict()))  # who called it reads this


if __name__ == "__main__":
    main()
