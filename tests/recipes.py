"""Recipes: images made by real tools, with the truth where no peer can be asked."""

from __future__ import annotations

import os
import socket
import stat
import struct
import subprocess
import zlib
from pathlib import Path

from tests.backends.tskimages import noise, run

MIB = 1 << 20
# every byte a name may hold, in names of at most 255 bytes
ODD_NAMES = [bytes([b]) for b in range(1, 256) if bytes([b]) not in (b"/", b".")]
ODD_NAMES += [
    bytes(b for b in range(1, 128) if b != 47),
    bytes(range(128, 256)),
    b"x" * 255,
    b"%2F",
    b"a%2fb",
]
ODD_NAMES += [b"...", b" ", b"-rf", b"new\nline", b"trailing.", b"name@", b"\xff\xfe", b"%"]


def sized(path: Path, size: int) -> Path:
    """Make a sparse file."""
    path.touch()
    os.truncate(path, size)
    return path


def plant(root: Path) -> None:
    """Write content of every shape a file system stores in its own way; needs no privilege."""
    (root / "empty").touch()
    for size in (1, 59, 60, 61, 155, 156, 200, 4095, 4096, 4097, 12 * 1024 + 1, 70_000, 300_001):
        (root / f"bytes{size}").write_bytes(noise(size, size))
    with (root / "sparse").open("wb") as file:
        for at in (0, 3 * MIB, 9 * MIB + 77):
            file.seek(at)
            file.write(noise(5000, at))
        file.truncate(12 * MIB + 5)
    with (root / "hole").open("wb") as file:
        file.truncate(5 * MIB)
    pieces = root / "pieces"  # one block out of two: an extent tree of more than a level
    with pieces.open("wb") as file:
        for number in range(700):
            file.seek(number * 8192)
            file.write(noise(4096, number))
    folder = root / "dir"
    folder.mkdir()
    (folder / "hard").write_bytes(b"two names\n")
    (folder / "other name").hardlink_to(folder / "hard")
    (root / "short link").symlink_to("dir/hard")
    (root / "long link").symlink_to("x" * 200)
    (root / "absolute link").symlink_to("/dir/hard")
    deep = root
    for number in range(30):
        deep = deep / f"level{number}"
        deep.mkdir()
    (deep / "bottom").write_bytes(b"bottom\n")


def plant_posix(root: Path) -> None:
    """Write what only root and a POSIX file system can: owners, nodes, attributes, odd names, many names."""
    plant(root)
    odd = os.path.join(os.fsencode(root), b"odd")
    os.mkdir(odd)
    for name in ODD_NAMES:
        with open(os.path.join(odd, name), "wb") as file:
            file.write(name)
    many = root / "many"
    many.mkdir()
    for number in range(5000):
        (many / f"a file with number {number:05d}").touch()
    for number, kind in enumerate((stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK)):
        os.mknod(root / f"node{number}", kind | 0o640, os.makedev(8, number + 1))
    os.mknod(root / "node large", stat.S_IFCHR | 0o600, os.makedev(300, 70_000))
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(root / "socket"))
    owned = root / "owned"
    owned.write_bytes(b"owned\n")
    os.chown(owned, 70_001, 4_000_000_001)
    owned.chmod(0o6755)
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    for path in (owned, root / "dir"):
        os.setxattr(path, "user.note", b"value \x00\xff")
        os.setxattr(path, "trusted.secret", b"t" * 300)
        os.setxattr(path, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.setxattr(root / "dir", "user.large", noise(350))
    os.setxattr(root / "short link", "trusted.of a link", b"yes", follow_symlinks=False)
    run("setfacl", "-m", "u:1001:rwx,g:1002:r", owned)
    run("setfacl", "-d", "-m", "u:1001:rx", root / "dir")
    for number, ns in enumerate(
        (0, 1, 999_999_999, 2**31 * 10**9 + 5, 2**33 * 10**9 + 123_456_789, -(10**9))
    ):
        path = root / f"time{number}"
        path.touch()
        os.utime(path, ns=(ns + 7, ns))


def ext(image: Path, source: Path, kind: str = "ext4", size: int = 32 * MIB, *options: str) -> Path:
    """Make ext2, 3 or 4 holding a folder, without a mount."""
    run("mke2fs", "-q", "-t", kind, "-d", source, *options, sized(image, size))
    return image


def fat(image: Path, source: Path, bits: int, size: int, *options: str) -> Path:
    """Make FAT holding the files of a folder."""
    run("mkfs.vfat", "-F", bits, *options, "-C", image, size // 1024)
    if inside := sorted(source.iterdir()):
        run("mcopy", "-s", "-p", "-m", "-i", image, *inside, "::")
    return image


# --- tables ---------------------------------------------------------------------------------------
def sfdisk(image: Path, script: str) -> Path:
    """Write a table with sfdisk."""
    command = ["sfdisk", "-q", "--no-reread", "--no-tell-kernel", image]
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    done = subprocess.run(
        command, input=script, text=True, capture_output=True, env=os.environ | {"PATH": path}, check=False
    )
    assert done.returncode == 0, done.stderr
    return image


def gpt_bytes(
    size: int,
    entries: list[tuple[int, int]],
    *,
    count: int | None = None,
    step: int = 128,
    last: int | None = None,
) -> bytes:
    """Return the head of a GPT disk of 512-byte sectors as no tool would write it, checksums right.

    Args:
        size: of the disk in bytes, as the header claims.
        entries: first and last sector of each slot.
        count: of slots as claimed.
        step: bytes per slot.
        last: usable sector as claimed.
    """
    table = b"".join(
        (bytes([1]) * 16 + number.to_bytes(16, "little") + struct.pack("<3Q", first, end, 0)).ljust(
            step, b"\0"
        )
        for number, (first, end) in enumerate(entries, 1)
    )
    count = len(entries) if count is None else count
    table = table.ljust(min(count, 20_000) * step, b"\0")
    sectors = size // 512
    header = bytearray(
        struct.pack(
            "<8sIIII4Q16sQ3I",
            b"EFI PART",
            0x10000,
            92,
            0,
            0,
            1,
            sectors - 1,
            34,
            sectors - 34 if last is None else last,
            bytes(range(16)),
            2,
            count,
            step,
            zlib.crc32(table),
        )
    )
    header[16:20] = struct.pack("<I", zlib.crc32(bytes(header)))
    return protective() + bytes(header).ljust(512, b"\0") + table


def protective() -> bytes:
    """Return a protective master boot record."""
    return mbr_bytes([(0xEE, 1, 0xFFFF_FFFF)])


def mbr_bytes(slots: list[tuple[int, int, int]]) -> bytes:
    """Return one boot record with slots (type, first sector, sectors)."""
    table = b"".join(struct.pack("<4xB3xII", kind, first, length) for kind, first, length in slots)
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"
